//! What the end of a guest means for popf's.

use std::io;

use board::machine::{BuildError, End};
use board::stop::StopReason;

use super::memory::too_much;
use crate::error::CliError;
use crate::exit::{Failure, KILLED, signal_status};

/// SIGPIPE: nobody reads.
const SIGPIPE: i32 = 13;

/// In a few words, for `popf ps -a`.
pub fn words(reason: &StopReason) -> String {
    match reason {
        StopReason::PowerOff => "powered off".to_owned(),
        StopReason::Reset => "reset".to_owned(),
        StopReason::DebugExit(value) => format!("exited with {}", *value as u8),
        StopReason::TripleFault(_) => "triple fault".to_owned(),
        StopReason::Dead => "halted for good".to_owned(),
        StopReason::Killed => "killed".to_owned(),
        StopReason::Quit => "quit by the escape key".to_owned(),
        StopReason::Signal(number) => format!("ended by signal {number}"),
        StopReason::Failed(_) | StopReason::NoThread(_) | StopReason::OutputFailed(_) | StopReason::Bug => {
            "failed".to_owned()
        }
    }
}

/// Why there was no guest.
pub fn build_error(error: BuildError) -> CliError {
    let failure = match &error {
        BuildError::HostMemory { wanted, total } => return too_much(*wanted, *total),
        BuildError::Size(_) => Failure::Usage,
        BuildError::Read { .. } => Failure::NoInput,
        BuildError::Load(_) => Failure::Data,
        BuildError::Memory(_)
        | BuildError::Engine { .. }
        | BuildError::Timers(_)
        | BuildError::Sandbox(_) => Failure::Host,
        _ => Failure::Software,
    };
    let hint = match &error {
        BuildError::Load(_) => {
            Some("popf boots Linux bzImages, and ELF with a PVH note or a multiboot header")
        }
        BuildError::Memory(_) => Some("give the guest less with --memory, or see `popf doctor`"),
        BuildError::Engine { .. } => Some("`popf doctor` shows what this host offers"),
        BuildError::Sandbox(_) => {
            Some("`popf doctor` shows what this host offers; --no-sandbox does without")
        }
        _ => None,
    };
    let error = CliError::new(failure, "cannot start the guest").because(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// popf's exit status, or what it has to say.
pub fn status(end: End, command_mode: bool) -> Result<u8, CliError> {
    let fail = |failure, message: &str| Err(CliError::new(failure, message));
    match end.reason {
        StopReason::DebugExit(value) => Ok(value as u8),
        StopReason::PowerOff if command_mode => {
            fail(Failure::Software, "the guest turned itself off before the command had ended")
        }
        StopReason::Reset if command_mode => fail(
            Failure::Software,
            "the guest's kernel gave up before the command had ended; what it said is above",
        ),
        StopReason::PowerOff | StopReason::Reset => Ok(0),
        StopReason::Signal(number) => Ok(signal_status(number)),
        StopReason::Killed => Ok(KILLED),
        StopReason::Quit => fail(Failure::Quit, "quit by the escape key"),
        StopReason::TripleFault(report) => Err(CliError::new(
            Failure::TripleFault,
            format!("the guest's processor shut down after a triple fault ({report})"),
        )),
        StopReason::Dead => fail(Failure::Dead, "the guest halted all its processors with interrupts off"),
        StopReason::Failed(failure) => {
            Err(CliError::new(Failure::Software, "the guest cannot go on").because(failure))
        }
        StopReason::NoThread(error) => {
            Err(CliError::new(Failure::Host, "cannot start a thread").because(error))
        }
        StopReason::OutputFailed(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(signal_status(SIGPIPE))
        }
        StopReason::OutputFailed(error) => {
            Err(CliError::new(Failure::Host, "cannot write the guest's output").because(error))
        }
        StopReason::Bug => fail(Failure::Software, "a bug in popf ended the guest; please report it"),
    }
}
