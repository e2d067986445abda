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
    let definition = flags.over(base);
    let Err(misfit) = definition.check() else { return Ok(definition) };
    let place = file.map(|file| format!("{}: ", file.place(&misfit))).unwrap_or_default();
    Err(CliError::new(Failure::Usage, format!("{place}{}: {}", misfit.field, misfit.message))
        .hint("see `popf run --help`"))
}

/// What a VM that is kept was run with.
fn kept(name: &Name, registry: &Registry) -> Result<(DefinitionFile, Definition), CliError> {
    let directory = registry.kept(name).map_err(|error| {
        CliError::from(error).hint(format!("to make it, say what to run: popf run --name {name} IMAGE"))
    })?;
    DefinitionFile::read(&directory.join(vms::DEFINITION))
}
