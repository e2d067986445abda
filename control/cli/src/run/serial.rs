//! Where a guest's serial ports and its console device go, and the signals that end popf.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use board::machine::Control;
use board::serial::SerialLine;
use board::stop::StopReason;
use board::virtio::{Console, ConsoleError, NamedPort};
use board::{Serial, SerialError, SerialEvent, SerialKind};

use crate::definition::SerialArg;
use crate::error::CliError;
use crate::exit::Failure;
use crate::spec::port::PortSpec;
use crate::stats;
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
pub struct Lines(Arc<Mutex<Vec<Open>>>);

/// What is open.
enum Open {
    Line(Arc<SerialLine>),
    Console(Arc<Console>),
}

impl Lines {
    /// Opens a line. `log` says where the console's log is to be.
    pub fn open(
        &self,
        line: Line,
        control: &Control,
        log: impl FnOnce() -> Result<PathBuf, CliError>,
    ) -> Result<Arc<SerialLine>, CliError> {
        let end = ends(control);
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
        self.lock().push(Open::Line(line.clone()));
        Ok(line)
    }

    /// Opens the far ends of a console device and its ports.
    pub fn open_console(
        &self,
        console: &SerialArg,
        ports: &[PortSpec],
        control: &Control,
    ) -> Result<Arc<Console>, CliError> {
        let port = |port: &PortSpec| NamedPort { name: port.name.to_string(), kind: port.to.0.clone() };
        let ports: Vec<_> = ports.iter().map(port).collect();
        let opened = Console::open(&console.kind(), &ports, ends(control)).map_err(|error| {
            let failure = if matches!(error, ConsoleError::TooMany) { Failure::Usage } else { Failure::Host };
            CliError::new(failure, "cannot open the console device").because(error)
        })?;
        let console = Arc::new(opened);
        tell_size(&console);
        self.lock().push(Open::Console(console.clone()));
        Ok(console)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The terminal has another size.
    fn resized(&self) {
        for open in &*self.lock() {
            if let Open::Console(console) = open {
                tell_size(console);
            }
        }
    }

    /// Gives up output that the host does not take: who ought to take it may be what hangs.
    pub fn abandon(&self) {
        for open in &*self.lock() {
            match open {
                Open::Line(line) => line.abandon_output(),
                Open::Console(console) => console.abandon_output(),
            }
        }
    }

    /// Lets go of them: the last owner writes what is left and gives the terminal back.
    pub fn close(&self) {
        self.lock().clear();
    }
}

/// What a line has to say ends the machine.
fn ends(control: &Control) -> impl Fn(SerialEvent) + Send + Sync + 'static {
    let control = control.clone();
    move |event| match event {
        SerialEvent::Quit => control.stop(StopReason::Quit),
        SerialEvent::OutputFailed(error) => control.stop(StopReason::OutputFailed(error)),
        // The guest may have more to say.
        SerialEvent::InputEnded => {}
    }
}

/// The guest's console is as large as the terminal that shows it.
fn tell_size(console: &Console) {
    if console.is_terminal()
        && let Some((columns, rows)) = host::terminal::window_size(io::stdout().as_fd())
    {
        console.set_size(columns, rows);
    }
}

/// Ends the guest at a signal; its unwritten output is given up. A window's new size is passed on, and SIGUSR1 has the
/// counters printed.
pub fn catch_signals(control: Control, lines: Lines, window: Window) -> Result<host::Signals, CliError> {
    use host::Signal::{HangUp, Interrupt, Quit, Terminate, User1, WindowChange};
    host::Signals::deliver(&[Interrupt, Terminate, HangUp, Quit, WindowChange, User1], move |signal| {
        match signal {
            WindowChange => {
                lines.resized();
                return window.changed();
            }
            User1 => return stats::print_now(&control),
            Interrupt | Terminate | HangUp | Quit => {}
        }
        lines.abandon();
        control.stop(StopReason::Signal(signal.number()));
    })
    .map_err(|error| CliError::new(Failure::Host, "cannot catch signals").because(error))
}
