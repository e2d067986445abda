//! `popf run IMAGE -- COMMAND` where the image's guest has an agent: the guest starts, the agent runs the command, and
//! with the command's end the VM's comes. A VM that is kept shuts down, so that its disk is whole; another one is
//! stopped as it is, as nothing of it is left.

use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use board::machine::Control;
use board::stop::StopReason;

use crate::definition::Definition;
use crate::error::CliError;
use crate::exit::Failure;
use crate::vm::attach::{self, Input, Window};

/// How long a guest may take until its agent answers: longer than any boot that has been seen on a busy host.
const BOOT_LIMIT: Duration = Duration::from_secs(600);

/// The command, from before the guest starts.
pub struct Command {
    thread: JoinHandle<Result<u8, CliError>>,
}

impl Command {
    /// Waits for the agent behind `socket`, and ends the VM after the command.
    pub fn start(
        definition: &Definition,
        socket: PathBuf,
        control: &Control,
        window: Window,
    ) -> Result<Self, CliError> {
        let arguments = definition.command.clone();
        let input = if definition.stdin.unwrap_or(false) { Input::Standard } else { Input::None };
        let (kept, control) = (definition.name.is_some(), control.clone());
        let run = move || {
            let status = agent::connect(&socket, Instant::now() + BOOT_LIMIT)
                .map_err(CliError::from)
                .and_then(|stream| attach::start(stream, &arguments, input))
                .and_then(|attached| {
                    window.belongs_to(&attached);
                    attached.carry()
                });
            let shuts_down =
                kept && status.is_ok() && attach::power_off(&socket, attach::POWER_OFF_TIMEOUT).is_ok();
            if !shuts_down {
                control.stop(StopReason::Killed);
            }
            status
        };
        let thread = thread::Builder::new().name("command".into()).spawn(run);
        let failed = |error| CliError::new(Failure::Host, "cannot start a thread").because(error);
        Ok(Self { thread: thread.map_err(failed)? })
    }

    /// After the VM's end: the command's status. `None` if the guest ended before it.
    pub fn status(self, reason: &StopReason) -> Option<Result<u8, CliError>> {
        let bug =
            |_| Err(CliError::new(Failure::Software, "a bug in popf ended the guest; please report it"));
        match self.thread.join().unwrap_or_else(bug) {
            Err(_) if !matches!(reason, StopReason::Killed) => None,
            status => Some(status),
        }
    }
}
