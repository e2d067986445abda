//! From the command line to one definition: flags, laid over the file or the VM that they name.

use std::path::Path;

use vms::{Name, Registry};

use crate::args::RunArgs;
use crate::definition::{Definition, DefinitionFile};
use crate::error::CliError;
use crate::exit::Failure;

/// What is to be run. Its fields go together.
pub fn resolve(args: &RunArgs, registry: &Registry) -> Result<Definition, CliError> {
    let mut flags = args.definition.clone();
    let (file, base) = match (&flags.image, &flags.kernel, &flags.name) {
        (Some(word), ..) if DefinitionFile::is_named_by(word) => {
            let (file, base) = DefinitionFile::read(Path::new(word))?;
            flags.image = None;
            (Some(file), base)
        }
        (None, None, Some(name)) => {
            let (file, base) = kept(name, registry)?;
            (Some(file), base)
        }
        _ => (None, Definition::default()),
    };
    let definition = flags.over(without_what_flags_end(&args.definition, base));
    let Err(misfit) = definition.check() else { return Ok(definition) };
    let place = file.map(|file| format!("{}: ", file.place(&misfit))).unwrap_or_default();
    Err(CliError::new(Failure::Usage, format!("{place}{}: {}", misfit.field, misfit.message))
        .hint("see `popf run --help`"))
}

/// A run of one command and one that leaves its VM running take each other's place: a flag says which it is now.
fn without_what_flags_end(flags: &Definition, base: Definition) -> Definition {
    if flags.command_mode() {
        return Definition { detach: None, ..base };
    }
    if flags.detached() {
        return Definition { command: Vec::new(), stdin: None, ..base };
    }
    base
}

/// What a VM that is kept was run with.
fn kept(name: &Name, registry: &Registry) -> Result<(DefinitionFile, Definition), CliError> {
    let path = registry.setting(name, vms::DEFINITION).map_err(|error| {
        CliError::from(error).hint(format!("to make it, say what to run: popf run --name {name} IMAGE"))
    })?;
    DefinitionFile::read(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_and_leaving_the_vm_running_take_each_others_place() {
        let run = |flags: Definition, base: &Definition| {
            let definition = flags.clone().over(without_what_flags_end(&flags, base.clone()));
            assert_eq!(definition.check(), Ok(()));
            definition
        };
        let left = Definition { image: Some("debian".into()), detach: Some(true), ..Definition::default() };
        let command = Definition { command: vec!["ls".into()], stdin: Some(true), ..Definition::default() };
        let commanded = run(command, &left);
        assert!(commanded.command_mode() && !commanded.detached());
        let again = run(Definition { detach: Some(true), ..Definition::default() }, &commanded);
        assert!(again.detached() && !again.command_mode());
        assert_eq!(run(Definition::default(), &left), left);
        assert_eq!(run(Definition::default(), &commanded), commanded);
    }
}
