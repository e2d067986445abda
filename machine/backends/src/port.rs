//! A named port of a console device on a Unix socket, for one program at a time.
//!
//! Whoever connects to the socket is at the far end of the port; who connects meanwhile waits. Without anybody what
//! the guest sends is dropped, as the guest is told. One thread does it all.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use host::event::{EventFd, Wait, poll};

use crate::handlers::Receive;
use crate::listen;

/// How much is moved at a time, and how much is kept in either direction.
const CHUNK: usize = 64 << 10;

/// What a named port leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A socket that is made there.
    Unix(PathBuf),
    /// A file, made anew; no input.
    File(PathBuf),
}

impl FromStr for PortKind {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(PortError::Kind(text.to_owned())),
        }
    }
}

/// Why a port has no far end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The text names no kind.
    #[error("unknown end of a port {0:?}; known are unix:PATH and file:PATH")]
    Kind(String),
    /// The socket cannot be made.
    #[error("cannot listen on {path} for a port of the guest", path = path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host refuses a descriptor.
    #[error("a port of the guest cannot be set up")]
    Host(#[from] host::HostError),
    /// No thread.
    #[error("no thread for a port of the guest")]
    Thread(#[source] io::Error),
}

/// What is called, on a thread of the port's own and without a lock of its own.
pub struct PortHandlers {
    /// Input for the guest: takes some from the front and says how many. The rest is offered again after
    /// [`PortOutput::room`].
    pub receive: Receive,
    /// [`PortOutput::write`] has room again, after it took less than it was given.
    pub drained: Box<dyn Fn() + Send + Sync>,
    /// A program has come, or gone.
    pub opened: Box<dyn Fn(bool) + Send + Sync>,
}

/// A port's socket. Dropping it closes and removes it.
#[derive(Debug)]
pub struct PortSocket {
    path: PathBuf,
    output: PortOutput,
    /// Until [`PortSocket::start`].
    listener: Option<UnixListener>,
    thread: Option<JoinHandle<()>>,
}

/// The device's end.
#[derive(Clone, Debug)]
pub struct PortOutput {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    event: EventFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Somebody is there to read them.
    open: bool,
    /// The device was refused a byte and has to be told of room.
    starved: bool,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds this lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PortOutput {
    /// Takes as many of `bytes` as there is room for, and says how many.
    pub fn write(&self, bytes: &[u8]) -> usize {
        let mut state = self.shared.lock();
        if !state.open {
            return bytes.len();
        }
        let taken = bytes.len().min(CHUNK.saturating_sub(state.bytes.len()));
        state.starved |= taken < bytes.len();
        let wake = state.bytes.is_empty() && taken > 0;
        state.bytes.extend(&bytes[..taken]);
        if wake {
            self.shared.event.notify();
        }
        taken
    }

    /// The guest has room for input. May be called with the device locked.
    pub fn room(&self) {
        self.shared.event.notify();
    }
}

impl PortSocket {
    /// Listens at `path`; a socket that was left behind there is replaced.
    pub fn listen(path: &Path) -> Result<Self, PortError> {
        let failed = |source| PortError::Listen { path: path.to_owned(), source };
        let listener = listen::bind(path).map_err(failed)?;
        let shared = Arc::new(Shared { event: EventFd::new()?, state: Mutex::default() });
        Ok(Self {
            path: path.to_owned(),
            output: PortOutput { shared },
            listener: Some(listener),
            thread: None,
        })
    }

    /// The device's end.
    pub fn output(&self) -> PortOutput {
        self.output.clone()
    }

    /// Begins to let programs in. A second call changes nothing.
    pub fn start(&mut self, handlers: PortHandlers) -> Result<(), PortError> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let shared = self.output.shared.clone();
        let thread = thread::Builder::new().name("port".into());
        let server = Server { listener, shared, handlers };
        self.thread = Some(thread.spawn(move || server.run()).map_err(PortError::Thread)?);
        Ok(())
    }
}

impl Drop for PortSocket {
    fn drop(&mut self) {
        self.output.shared.lock().stop = true;
        self.output.shared.event.notify();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
        // Its directory may be gone already.
        let _ = fs::remove_file(&self.path);
    }
}

/// The thread.
struct Server {
    listener: UnixListener,
    shared: Arc<Shared>,
    handlers: PortHandlers,
}

impl Server {
    fn run(self) {
        while let Some(program) = self.accept() {
            self.shared.lock().open = true;
            (self.handlers.opened)(true);
            if let Err(error) = self.serve(program) {
                tracing::debug!(%error, "a program at a port is gone");
            }
            let mut state = self.shared.lock();
            state.open = false;
            state.bytes.clear();
            drop(state);
            (self.handlers.opened)(false);
        }
    }

    fn stopped(&self) -> bool {
        self.shared.event.take();
        self.shared.lock().stop
    }

    /// Waits for the next program; `None` when there is to be none.
    fn accept(&self) -> Option<UnixStream> {
        while !self.stopped() {
            let mut waits = [Wait::readable(&self.shared.event), Wait::readable(&self.listener)];
            // poll fails for want of kernel memory only; going round again is all one can do.
            let _ = poll(&mut waits, None);
            // One that is gone again already, or cannot be let in, is waited for anew.
            if let Ok((program, _)) = self.listener.accept()
                && program.set_nonblocking(true).is_ok()
            {
                return Some(program);
            }
        }
        None
    }

    /// Moves bytes until the program sends no more or is gone.
    fn serve(&self, mut program: UnixStream) -> io::Result<()> {
        let mut held = VecDeque::new();
        let mut buffer = vec![0; CHUNK];
        while !self.stopped() {
            self.offer(&mut held);
            let output = self.write(&mut program)?;
            let mut waits = vec![Wait::readable(&self.shared.event)];
            // Without both of them a program that has hung up would be ready for ever.
            if held.is_empty() {
                waits.push(Wait::readable(&program));
            }
            if output {
                waits.push(Wait::writable(&program));
            }
            let _ = poll(&mut waits, None);
            if !held.is_empty() {
                continue;
            }
            match program.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => held.extend(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn offer(&self, held: &mut VecDeque<u8>) {
        while !held.is_empty() {
            let (front, _) = held.as_slices();
            let taken = (self.handlers.receive)(front).min(front.len());
            held.drain(..taken);
            if taken == 0 {
                return;
            }
        }
    }

    /// Writes what the guest has sent, as far as the program takes it; says whether there is more.
    fn write(&self, program: &mut UnixStream) -> io::Result<bool> {
        let mut state = self.shared.lock();
        while !state.bytes.is_empty() {
            let (front, _) = state.bytes.as_slices();
            match program.write(front) {
                Ok(count) => drop(state.bytes.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let (starved, more) = (std::mem::take(&mut state.starved), !state.bytes.is_empty());
        if more {
            state.starved = starved;
            return Ok(true);
        }
        drop(state);
        if starved {
            // The device answers by writing, which wakes this thread again.
            (self.handlers.drained)();
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    #[derive(Debug, PartialEq, Eq)]
    enum Call {
        Received(Vec<u8>),
        Drained,
        Opened(bool),
    }

    #[test]
    fn one_program_after_the_other_is_served() {
        let path = std::env::temp_dir().join(format!("popf-port-{}", std::process::id()));
        let mut socket = PortSocket::listen(&path).unwrap();
        let output = socket.output();
        let (sender, calls) = mpsc::channel();
        let room = Arc::new(Mutex::new(3_usize));
        let (receives, drains, opens, taking) = (sender.clone(), sender.clone(), sender, room.clone());
        socket
            .start(PortHandlers {
                receive: Box::new(move |bytes| {
                    let taken = bytes.len().min(*taking.lock().unwrap());
                    *taking.lock().unwrap() -= taken;
                    if taken > 0 {
                        receives.send(Call::Received(bytes[..taken].to_vec())).unwrap();
                    }
                    taken
                }),
                drained: Box::new(move || drains.send(Call::Drained).unwrap()),
                opened: Box::new(move |open| opens.send(Call::Opened(open)).unwrap()),
            })
            .unwrap();
        let call = || calls.recv_timeout(LONG).unwrap();
        // Nobody is there: what is sent is gone.
        assert_eq!(output.write(b"lost"), 4);
        let mut first = UnixStream::connect(&path).unwrap();
        first.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(call(), Call::Opened(true));
        first.write_all(b"hello").unwrap();
        assert_eq!(call(), Call::Received(b"hel".to_vec()));
        *room.lock().unwrap() = 100;
        output.room();
        assert_eq!(call(), Call::Received(b"lo".to_vec()));
        // More than the socket and the queue hold: the rest is refused until the program has read.
        let chunk = vec![7; CHUNK];
        let mut sent = 0;
        loop {
            let taken = output.write(&chunk);
            sent += taken;
            if taken < chunk.len() {
                break;
            }
            assert!(sent < 64 << 20);
        }
        let mut bytes = vec![0; sent];
        first.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 7));
        assert_eq!(call(), Call::Drained);
        let mut second = UnixStream::connect(&path).unwrap();
        second.write_all(b"next").unwrap();
        drop(first);
        assert_eq!([call(), call()], [Call::Opened(false), Call::Opened(true)]);
        assert_eq!(call(), Call::Received(b"next".to_vec()));
        drop(socket);
        assert_eq!(call(), Call::Opened(false));
        assert!(!path.exists());
    }

    #[test]
    fn kinds_are_read() {
        assert_eq!("unix:/a:b".parse::<PortKind>().unwrap(), PortKind::Unix("/a:b".into()));
        assert_eq!("file:x".parse::<PortKind>().unwrap(), PortKind::File("x".into()));
        for text in ["", "unix", "unix:", "file:", "tcp:1"] {
            assert!(text.parse::<PortKind>().is_err(), "{text}");
        }
    }
}
