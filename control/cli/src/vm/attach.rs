//! A program in a guest on this process's standard streams.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use agent::protocol::{Refusal, Size};
use agent::{Event, Program, Sender, Session};
use backends::escape::{self, Escape};
use host::{RawMode, Signal, Signals};

use crate::error::CliError;
use crate::exit::{Failure, signal_status};

/// SIGPIPE: nobody reads.
const SIGPIPE: i32 = 13;
/// What a shell says of a program that it cannot execute, or that there is not.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// How long an agent may take to answer, and its `poweroff` to pass the word on.
pub const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(10);
/// A terminal that does not say how large it is.
const USUAL: Size = Size { rows: 24, columns: 80 };

/// What the program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// This process's standard input.
    Standard,
    /// Nothing, unless it gets a terminal.
    None,
}

/// Who is to know that this process's terminal has another size; nobody, at first.
#[derive(Clone, Debug, Default)]
pub struct Window(Arc<OnceLock<Sender>>);

impl Window {
    /// From now on it is this program, if it has a terminal.
    pub fn belongs_to(&self, attached: &Attached) {
        if attached.terminal {
            // It has but one program.
            let _ = self.0.set(attached.session.sender.clone());
        }
    }

    /// Tells it.
    pub fn changed(&self) {
        if let Some(sender) = self.0.get() {
            // One that cannot be told any more has ended.
            let _ = sender.resize(size());
        }
    }
}

/// A program that runs in a guest, before anything of it is shown.
pub struct Attached {
    session: Session,
    terminal: bool,
    input: Input,
    /// The user has had enough of it.
    let_go: Arc<AtomicBool>,
}

/// Starts a program in the guest at the other end. It gets a terminal if this process has one for input and output.
pub fn start(stream: UnixStream, arguments: &[OsString], input: Input) -> Result<Attached, CliError> {
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let term = std::env::var_os("TERM").filter(|_| terminal);
    let program = Program {
        arguments: arguments.to_vec(),
        environment: term.map(|term| ("TERM".into(), term)).into_iter().collect(),
        terminal: terminal.then(size),
        ..Program::default()
    };
    let session = Session::start(stream, &program)?;
    Ok(Attached { session, terminal, input, let_go: Arc::default() })
}

fn size() -> Size {
    let size = host::terminal::window_size(io::stdout().as_fd());
    size.map_or(USUAL, |(columns, rows)| Size { rows, columns })
}

impl Attached {
    /// Passes signals on to the program, and the terminal's size. A second signal of those that end programs lets go of
    /// one that goes on.
    pub fn pass_signals(&self) -> Result<Signals, CliError> {
        use Signal::{HangUp, Interrupt, Quit, Terminate, WindowChange};
        let (sender, let_go) = (self.session.sender.clone(), self.let_go.clone());
        let asked = AtomicBool::new(false);
        Signals::deliver(&[Interrupt, Terminate, HangUp, Quit, WindowChange], move |signal| {
            // One that cannot be told any more has ended.
            let _ = match signal {
                WindowChange => sender.resize(size()),
                _ if asked.swap(true, Ordering::Relaxed) => {
                    let_go.store(true, Ordering::Relaxed);
                    sender.hang_up();
                    Ok(())
                }
                _ => sender.signal(signal.number() as u8),
            };
        })
        .map_err(|error| CliError::new(Failure::Host, "cannot catch signals").because(error))
    }

    /// Carries the streams to the program's end; its status as a shell has it.
    pub fn carry(self) -> Result<u8, CliError> {
        let Self { session: Session { sender, mut receiver }, terminal, input, let_go } = self;
        let raw = if terminal {
            let failed = |error| CliError::new(Failure::Host, "cannot set the terminal up").because(error);
            Some(RawMode::enter(io::stdin()).map_err(failed)?)
        } else {
            None
        };
        if terminal || input == Input::Standard {
            let let_go = let_go.clone();
            let feeder = move || feed(sender, terminal, &let_go);
            // It may wait for the user when all else is over, and ends with the process then.
            thread::Builder::new()
                .name("input".into())
                .spawn(feeder)
                .map_err(|error| CliError::new(Failure::Host, "cannot start a thread").because(error))?;
        } else {
            sender.end_input()?;
        }
        let status = loop {
            let written = match receiver.next_event() {
                Ok(Event::Output(bytes)) => put(&mut io::stdout().lock(), &bytes),
                Ok(Event::Errors(bytes)) => put(&mut io::stderr().lock(), &bytes),
                Ok(Event::Exited(status)) => break Ok(status),
                Ok(Event::Killed(signal)) => break Ok(signal_status(signal.into())),
                Err(_) if let_go.load(Ordering::Relaxed) => {
                    break Err(CliError::new(Failure::Quit, "let go of the guest's program"));
                }
                Err(error) => break refused(error),
            };
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break Ok(signal_status(SIGPIPE)),
                Err(error) => {
                    break Err(
                        CliError::new(Failure::Host, "cannot write the program's output").because(error)
                    );
                }
            }
        };
        // Before there is something to say.
        drop(raw);
        status
    }
}

fn put(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// Passes standard input on to its end.
fn feed(mut sender: Sender, terminal: bool, let_go: &AtomicBool) {
    let mut stdin = io::stdin().lock();
    let (mut escape, mut buffer) = (Escape::default(), vec![0; 16 << 10]);
    loop {
        let count = match stdin.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(count @ 1..) => count,
            Ok(0) | Err(_) => {
                // A program that has ended needs no telling.
                let _ = sender.end_input();
                return;
            }
        };
        let mut typed = Vec::new();
        if terminal {
            escape.sift(&buffer[..count], &mut typed, |command| match command {
                escape::Command::Quit => {
                    let_go.store(true, Ordering::Relaxed);
                    sender.hang_up();
                }
                escape::Command::Help => {
                    let _ = put(&mut io::stderr().lock(), escape::HELP.as_bytes());
                }
            });
        } else {
            typed.extend_from_slice(&buffer[..count]);
        }
        if sender.write_all(&typed).is_err() {
            return;
        }
    }
}

/// The status, or failure, of a program that did not run to its end.
fn refused(error: agent::Error) -> Result<u8, CliError> {
    let status = match &error {
        agent::Error::Refused(Refusal::NotFound) => NOT_FOUND,
        agent::Error::Refused(Refusal::NotExecutable) => NOT_EXECUTABLE,
        _ => return Err(error.into()),
    };
    // As a shell would; with standard error closed the status has to do.
    let _ = writeln!(io::stderr(), "popf: {error}");
    Ok(status)
}

/// Has the agent behind a VM's vsock socket turn the guest off, if it does as it is told in this time.
pub fn power_off(socket: &Path, within: Duration) -> Result<(), agent::Error> {
    let program = Program { arguments: vec!["poweroff".into()], directory: "/".into(), ..Program::default() };
    let deadline = Instant::now() + within;
    let stream = agent::connect(socket, deadline)?;
    // No time at all would be refused.
    let patience = within.max(Duration::from_millis(1));
    stream.set_read_timeout(Some(patience)).map_err(agent::Error::Lost)?;
    let mut session = Session::start(stream, &program)?;
    // The program ends with the session, so it is let come to its end; but the guest does not say how long that is.
    loop {
        match session.receiver.next_event() {
            Ok(Event::Output(_) | Event::Errors(_)) if Instant::now() < deadline => {}
            Err(error @ agent::Error::Refused(_)) => return Err(error),
            // It may be gone before it could say more.
            _ => return Ok(()),
        }
    }
}

impl From<agent::Error> for CliError {
    fn from(error: agent::Error) -> Self {
        use agent::Error as E;
        let failure = match &error {
            E::NoAnswer | E::Lost(_) => Failure::Unavailable,
            E::Program(_) => Failure::Usage,
            E::Protocol(_) | E::Refused(_) => Failure::Software,
            _ => Failure::Host,
        };
        let message = error.to_string();
        match std::error::Error::source(&error) {
            Some(source) => Self::new(failure, message).because(source.to_string()),
            None => Self::new(failure, message),
        }
    }
}
