//! The far end of a serial line, in its kinds.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use host::{RawMode, terminal};

use crate::SerialError;
use crate::handlers::Handlers;
use crate::input::{InputWaker, Reader};
use crate::log::{LOG_LIMIT, Log};
use crate::output::{Queue, SerialOutput, Target};

/// What a serial line leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialKind {
    /// Standard input and output. An input that is a terminal is put into raw mode and has the escape key.
    Stdio,
    /// Standard error; no input.
    Stderr,
    /// Nowhere.
    Null,
    /// A file, made anew; no input.
    File(PathBuf),
    /// A file that is added to, and begins anew when it has grown to [`crate::LOG_LIMIT`]; no input.
    Log(PathBuf),
}

impl FromStr for SerialKind {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        match text {
            "stdio" => Ok(Self::Stdio),
            "stderr" => Ok(Self::Stderr),
            "null" => Ok(Self::Null),
            _ => match text.strip_prefix("file:") {
                Some(path) if !path.is_empty() => Ok(Self::File(path.into())),
                _ => Err(SerialError::Kind(text.to_owned())),
            },
        }
    }
}

/// The far end of one serial line.
///
/// Dropping it ends input at once, writes what the guest has sent to the last byte, waiting for as long as the
/// host takes (see [`Serial::abandon_output`]), and puts the terminal back.
pub struct Serial {
    queue: Arc<Queue>,
    waker: InputWaker,
    handlers: Arc<OnceLock<Handlers>>,
    /// Until [`Serial::start`].
    source: Option<Source>,
    reader: Option<JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
    raw: Option<RawMode>,
}

struct Source {
    file: File,
    terminal: bool,
}

impl Serial {
    /// Opens the far end. Output is written from now on, input is read once it is started.
    pub fn open(kind: &SerialKind) -> Result<Self, SerialError> {
        match kind {
            SerialKind::Null => Self::new(None, Target::Null, None),
            SerialKind::Stderr => Self::new(None, Target::File(duplicate(&io::stderr())?), None),
            SerialKind::File(path) => {
                let create = |source| SerialError::Create { path: path.clone(), source };
                Self::new(None, Target::File(File::create(path).map_err(create)?), None)
            }
            SerialKind::Log(path) => {
                let create = |source| SerialError::Create { path: path.clone(), source };
                Self::new(None, Target::Log(Log::open(path, LOG_LIMIT).map_err(create)?), None)
            }
            SerialKind::Stdio => {
                let (source, raw) = open_stdin()?;
                Self::new(source, Target::File(duplicate(&io::stdout())?), raw)
            }
        }
    }

    /// A line to a terminal or pipes of the caller's: raw mode and escape key as for [`SerialKind::Stdio`] if
    /// `input` is a terminal.
    pub fn on_descriptors(input: Option<OwnedFd>, output: OwnedFd) -> Result<Self, SerialError> {
        let (source, raw) = match input {
            Some(input) => open_input(input.into())?,
            None => (None, None),
        };
        Self::new(source, Target::File(output.into()), raw)
    }

    /// A line whose far end is this program, for tests.
    pub fn memory() -> Result<(Self, MemoryPeer), SerialError> {
        let (reader, writer): (PipeReader, PipeWriter) = io::pipe().map_err(SerialError::Stream)?;
        let output = Arc::new(Mutex::new(Vec::new()));
        let source = Source { file: OwnedFd::from(reader).into(), terminal: false };
        let serial = Self::new(Some(source), Target::Memory(Arc::clone(&output)), None)?;
        Ok((serial, MemoryPeer { input: writer, output }))
    }

    fn new(source: Option<Source>, target: Target, raw: Option<RawMode>) -> Result<Self, SerialError> {
        let handlers = Arc::new(OnceLock::new());
        let nowhere = matches!(target, Target::Null);
        let queue = Queue::new(nowhere)?;
        let writer = if nowhere {
            None
        } else {
            let (queue, handlers) = (Arc::clone(&queue), Arc::clone(&handlers));
            Some(spawn("serial-output", move || queue.run(target, &handlers))?)
        };
        let waker = InputWaker::new()?;
        Ok(Self { queue, waker, handlers, source, reader: None, writer, raw })
    }

    /// The device's end of the output.
    pub fn output(&self) -> SerialOutput {
        SerialOutput::new(&self.queue)
    }

    /// How the device says that it has room for input.
    pub fn input_waker(&self) -> InputWaker {
        self.waker.clone()
    }

    /// Whether a raw terminal is at the far end.
    pub fn is_terminal(&self) -> bool {
        self.raw.is_some()
    }

    /// Begins to read input and to call back. A second call changes nothing.
    pub fn start(&mut self, handlers: Handlers) -> Result<(), SerialError> {
        if self.handlers.set(handlers).is_err() {
            return Ok(());
        }
        if let Some(Source { file, terminal }) = self.source.take() {
            let reader = Reader {
                source: file,
                terminal,
                waker: self.waker.clone(),
                handlers: Arc::clone(&self.handlers),
                output: Arc::clone(&self.queue),
            };
            self.reader = Some(spawn("serial-input", move || reader.run())?);
        }
        // Room that came before there was anybody to be told.
        self.queue.tell_of_room(&self.handlers);
        Ok(())
    }

    /// Gives up output that the host has not taken, now and later: for a way out that must not wait.
    pub fn abandon_output(&self) {
        self.queue.abandon();
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        self.waker.stop();
        join(self.reader.take());
        // The reader first: its help is output, too.
        self.queue.close();
        join(self.writer.take());
        // The terminal last: what was written was meant for a raw one.
        self.raw = None;
    }
}

impl std::fmt::Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serial").field("raw", &self.raw).finish_non_exhaustive()
    }
}

/// The far end of [`Serial::memory`].
#[derive(Debug)]
pub struct MemoryPeer {
    /// What is written here the device receives. Closing it ends the input.
    pub input: PipeWriter,
    output: Arc<Mutex<Vec<u8>>>,
}

impl MemoryPeer {
    /// What has come out so far. All of it has, once the [`Serial`] is dropped.
    pub fn output(&self) -> Vec<u8> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn open_stdin() -> Result<(Option<Source>, Option<RawMode>), SerialError> {
    // A closed standard input is opened as /dev/null by Rust's runtime: the end of input, nothing worse.
    open_input(duplicate(&io::stdin())?)
}

fn open_input(file: File) -> Result<(Option<Source>, Option<RawMode>), SerialError> {
    if !terminal::is_terminal(file.as_fd()) {
        return Ok((Some(Source { file, terminal: false }), None));
    }
    match RawMode::enter(&file) {
        Ok(raw) => Ok((Some(Source { file, terminal: true }), Some(raw))),
        // Reading would stop us; the machine runs without input instead.
        Err(host::HostError::Background) => {
            tracing::warn!("in the background of its terminal: the serial port gets no input");
            Ok((None, None))
        }
        Err(error) => Err(error.into()),
    }
}

fn duplicate(stream: &impl AsFd) -> Result<File, SerialError> {
    let owned = stream.as_fd().try_clone_to_owned().map_err(SerialError::Stream)?;
    Ok(owned.into())
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, SerialError> {
    thread::Builder::new().name(name.into()).spawn(run).map_err(SerialError::Thread)
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread {
        // A panic there was reported by the panic hook.
        let _ = thread.join();
    }
}
