//! Where a guest's serial ports go, and the signals that end popf.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use board::machine::Control;
use board::serial::SerialLine;
use board::stop::StopReason;
use board::{Serial, SerialError, SerialEvent, SerialKind};

use crate::error::CliError;
use crate::exit::Failure;
use crate::vm::attach::Window;

/// Where a serial port goes.
pub enum Line {
    /// What the back-end knows.
    Kind(SerialKind),
    /// Standard output, without input.
    Output,
    /// The log of a detached VM.
    ConsoleLog,
}

/// The lines that are open, for those who end the guest without waiting for who reads them.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<Arc<SerialLine>>>>);

impl Lines {
    /// Opens a line. `log` says where the console's log is to be.
    pub fn open(
        &self,
        line: Line,
        control: &Control,
        log: impl FnOnce() -> Result<PathBuf, CliError>,
    ) -> Result<Arc<SerialLine>, CliError> {
        let control = control.clone();
        let end = move |event| match event {
            SerialEvent::Quit => control.stop(StopReason::Quit),
            SerialEvent::OutputFailed(error) => control.stop(StopReason::OutputFailed(error)),
            // The guest may have more to say.
            SerialEvent::InputEnded => {}
        };
        // A log is not what a VM is for: it runs on without.
        let warn = |event| {
            if let SerialEvent::OutputFailed(error) = event {
                tracing::warn!("the console is logged no more: {error}");
            }
        };
        let opened = match line {
            Line::Kind(kind) => SerialLine::open(&kind, end),
            Line::ConsoleLog => SerialLine::open(&SerialKind::Log(log()?), warn),
            Line::Output => io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map_err(SerialError::Stream)
                .and_then(|output| Serial::on_descriptors(None, output))
                .and_then(|serial| SerialLine::start(serial, end)),
        };
        let line = opened
            .map_err(|error| CliError::new(Failure::Host, "cannot open a serial port").because(error))?;
        let line = Arc::new(line);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
        Ok(line)
    }

    /// Gives up output that the host does not take: who ought to take it may be what hangs.
    pub fn abandon(&self) {
        for line in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            line.abandon_output();
        }
    }

    /// Lets go of them: the last owner writes what is left and gives the terminal back.
    pub fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Ends the guest at a signal; its unwritten output is given up. A window's new size is passed on.
pub fn catch_signals(control: Control, lines: Lines, window: Window) -> Result<host::Signals, CliError> {
    use host::Signal::{HangUp, Interrupt, Quit, Terminate, WindowChange};
    host::Signals::deliver(&[Interrupt, Terminate, HangUp, Quit, WindowChange], move |signal| {
        if signal == WindowChange {
            return window.changed();
        }
        lines.abandon();
        control.stop(StopReason::Signal(signal.number()));
    })
    .map_err(|error| CliError::new(Failure::Host, "cannot catch signals").because(error))
}
