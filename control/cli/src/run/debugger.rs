//! `--gdb`: the socket on which a debugger is waited for. It is opened before the sandbox closes.

use std::io::Write as _;
use std::sync::Arc;

use board::machine::{Control, End};
use board::stop::StopReason;
use board::yard::{Ending, Yard};
use debugger::{Debugger, Listener, Shape};

use crate::definition::Definition;
use crate::error::CliError;
use crate::exit::{Failure, KILLED};
use crate::spec::gdb::{GdbArch, GdbEnd};

/// SIGABRT: what a guest that did not end by itself is said to have died of.
const ABORT: u8 = 6;

/// The debugger's half of a machine, and the half that runs.
pub struct Debugged {
    pub yard: Arc<Yard>,
    debugger: Debugger,
}

impl Debugged {
    /// Listens, if that is asked for, and says where.
    pub fn open(definition: &Definition, control: &Control) -> Result<Option<Self>, CliError> {
        let Some(spec) = &definition.gdb else { return Ok(None) };
        let refuse = |error: std::io::Error| {
            CliError::new(Failure::Host, format!("cannot wait for a debugger at {spec}"))
                .because(error)
                .hint("choose another port or path with --gdb; port 0 is any that is free")
        };
        let listener = match &spec.at {
            GdbEnd::Port(port) => Listener::loopback(*port),
            GdbEnd::Unix(path) => backends::listen_privately(path).map(Listener::Unix),
        };
        let listener = listener.map_err(refuse)?;
        let place = listener.address().map_err(refuse)?;
        let yard = Yard::new(spec.wait).map_err(|error| refuse(std::io::Error::other(error)))?;
        let yard = Arc::new(yard);
        let shape = spec.arch.map(|arch| match arch {
            GdbArch::X86_64 => Shape::Wide,
            GdbArch::I386 => Shape::Narrow,
        });
        let control = control.clone();
        let kill = move || control.stop(StopReason::Killed);
        let debugger = Debugger::start(listener, yard.clone(), shape, kill).map_err(refuse)?;
        let waits = if spec.wait { "; the guest waits for it" } else { "" };
        // With standard error closed the user does without.
        let _ = writeln!(std::io::stderr(), "popf: for a debugger: gdb -ex 'target remote {place}'{waits}");
        Ok(Some(Self { yard, debugger }))
    }

    /// Tells whoever debugs it how the machine has ended.
    pub fn end<E>(self, ended: &Result<End, E>) {
        self.debugger.end(match ended.as_ref().map(|end| &end.reason) {
            Ok(StopReason::PowerOff | StopReason::Reset) => Ending::Exited(0),
            Ok(StopReason::DebugExit(status)) => Ending::Exited(*status as u8),
            Ok(StopReason::Signal(number)) => Ending::Killed(u8::try_from(*number).unwrap_or(ABORT)),
            // As a shell tells of it: the signal's number is above 128.
            Ok(StopReason::Killed) => Ending::Killed(KILLED & 0x7f),
            _ => Ending::Killed(ABORT),
        });
    }
}
