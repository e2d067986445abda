//! What is looked at when a machine's life has ended and all of it is still there.

use std::fs::File;
use std::io::Seek;
use std::sync::Arc;

use board::insight::Ask;
use board::machine::LastLook;
use vms::Name;

use crate::definition::Definition;
use crate::error::CliError;
use crate::trace::perf;
use crate::trace::session::Session;

/// For perf, if that is wanted: the map is written then, to a file that is opened now, before the sandbox.
pub fn look(definition: &Definition, name: &Name) -> Result<Option<LastLook>, CliError> {
    if !definition.perf_map.unwrap_or(false) {
        return Ok(None);
    }
    let (path, name) = (perf::path(std::process::id()), name.clone());
    let file = perf::create(&path)?;
    Ok(Some(Arc::new(move |ask: &mut Ask<'_>| {
        if let Err(error) = write(&file, &name, ask) {
            tracing::warn!("{}", error.message());
        }
    })))
}

/// After a reset the engine has begun anew, and so does the map.
fn write(mut file: &File, name: &Name, ask: &mut Ask<'_>) -> Result<(), CliError> {
    let begun = file.set_len(0).and_then(|()| file.rewind());
    begun.map_err(|error| {
        CliError::new(crate::exit::Failure::Host, "cannot write perf's map").because(error)
    })?;
    perf::write(&mut Session::direct(name, ask), file)
}
