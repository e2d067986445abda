//! The answering side: a thread in the VM's process.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use host::event::{EventFd, Wait, poll};
use serde_json::Value;

use super::{Reply, Request, decode, encode};
use crate::{End, Memory, Record};

/// The longest request with its end; they are a few dozen bytes.
const REQUEST: usize = 4096;
/// How many may be connected at once.
pub(super) const CONNECTIONS: usize = 64;
/// How long nobody is let in after the host has refused a descriptor for it.
const REFUSED: Duration = Duration::from_secs(1);

/// What a VM does when it is asked. Called on the server's thread; none may take long.
pub trait Handler: Send + Sync {
    /// [`Request::Status`].
    fn status(&self) -> Record;
    /// [`Request::PowerButton`]; whether the guest listens.
    fn power_button(&self) -> bool;
    /// [`Request::Kill`].
    fn kill(&self);
    /// [`Request::Memory`] and, with bytes, [`Request::TakeMemory`].
    fn memory(&self, take: Option<u64>) -> Memory;
    /// [`Request::Inspect`]; or why there is no answer.
    fn inspect(&self, question: Value) -> Result<Value, String>;
}

/// Why a VM cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The socket cannot be made.
    #[error("cannot listen on {path}")]
    Listen {
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The host has no thread or descriptor for it.
    #[error("cannot start the control socket's thread")]
    Thread(#[source] io::Error),
    /// The same.
    #[error("cannot wake the control socket's thread")]
    Event(#[from] host::HostError),
}

/// Answers on a control socket for as long as it lives.
#[derive(Debug)]
pub struct Server {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<Vec<Connection>>>,
}

/// Those who wait for the VM's end, and have been told. Their connections close when this is dropped, which says that
/// the name is free.
#[derive(Debug)]
pub struct Told(#[expect(dead_code, reason = "held for their drop")] Vec<Connection>);

impl Server {
    /// Makes the socket, which must not be there, and begins to answer.
    pub fn start(path: &Path, handler: Arc<dyn Handler>) -> Result<Self, ServerError> {
        let listen = |source| ServerError::Listen { path: path.display().to_string(), source };
        let listener = UnixListener::bind(path).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let stop = Arc::new(EventFd::new()?);
        let mut answering =
            Answering { listener, handler, stop: stop.clone(), connections: Vec::new(), refused: false };
        let thread = thread::Builder::new().name("control".into());
        let run = move || {
            answering.run();
            answering.connections
        };
        let thread = thread.spawn(run).map_err(ServerError::Thread)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it, and tells those who wait how the VM ended.
    pub fn end(mut self, end: &End) -> Told {
        let mut connections = self.join();
        connections.retain_mut(|connection| connection.waits && connection.say(&Reply::Ended(end.clone())));
        Told(connections)
    }

    fn join(&mut self) -> Vec<Connection> {
        self.stop.notify();
        // A panic there was reported by the panic hook.
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.join();
    }
}

struct Answering {
    listener: UnixListener,
    handler: Arc<dyn Handler>,
    stop: Arc<EventFd>,
    connections: Vec<Connection>,
    /// The host has no descriptor for one more.
    refused: bool,
}

impl Answering {
    fn run(&mut self) {
        loop {
            let mut waits = vec![Wait::readable(&*self.stop)];
            waits.extend(self.connections.iter().map(|connection| Wait::readable(&connection.stream)));
            if !self.refused {
                waits.push(Wait::readable(&self.listener));
            }
            // It fails for want of kernel memory only; looking again is right then, too.
            let ready = poll(&mut waits, self.refused.then_some(REFUSED)).unwrap_or(false);
            if !ready {
                self.refused = false;
                continue;
            }
            let ready: Vec<bool> = waits.iter().map(Wait::ready).collect();
            let [stop, rest @ ..] = &ready[..] else { return };
            if *stop {
                return;
            }
            let (connections, listener) = rest.split_at(self.connections.len());
            let mut ready = connections.iter();
            let handler = &*self.handler;
            self.connections.retain_mut(|connection| {
                !ready.next().is_some_and(|ready| *ready) || connection.serve(handler)
            });
            if listener == [true] {
                self.accept();
            }
        }
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                if self.connections.len() >= CONNECTIONS {
                    // Who has been here longest without waiting for the end has had time to ask.
                    match self.connections.iter().position(|connection| !connection.waits) {
                        Some(oldest) => drop(self.connections.remove(oldest)),
                        None => return,
                    }
                }
                self.connections.push(Connection { stream, line: Vec::new(), waits: false });
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!("nobody can connect to the control socket now: {error}");
                self.refused = true;
            }
        }
    }
}

/// Somebody who asks.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    /// What has come of a request.
    line: Vec<u8>,
    /// Wants to be told of the end.
    waits: bool,
}

impl Connection {
    /// Takes what has come and answers; `false` if the connection is at its end.
    fn serve(&mut self, handler: &dyn Handler) -> bool {
        let mut bytes = [0; REQUEST];
        let count = match self.stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        for piece in bytes[..count].split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + piece.len() > REQUEST {
                self.say(&Reply::Error(format!("a request of more than {REQUEST} bytes")));
                return false;
            }
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let reply = self.answer(&line, handler);
                if reply.is_some_and(|reply| !self.say(&reply)) {
                    return false;
                }
            }
        }
        true
    }

    fn answer(&mut self, line: &[u8], handler: &dyn Handler) -> Option<Reply> {
        Some(match decode(line) {
            Ok(Request::Status) => Reply::Status(Box::new(handler.status())),
            Ok(Request::PowerButton) => Reply::Pressed { listening: handler.power_button() },
            Ok(Request::Kill) => {
                handler.kill();
                Reply::Ending
            }
            Ok(Request::Memory) => Reply::Memory(handler.memory(None)),
            Ok(Request::TakeMemory(bytes)) => Reply::Memory(handler.memory(Some(bytes))),
            Ok(Request::Inspect(question)) => match handler.inspect(question) {
                Ok(answer) => Reply::Inspected(answer),
                Err(error) => Reply::Error(error),
            },
            Ok(Request::Wait) => {
                self.waits = true;
                return None;
            }
            Err(error) => Reply::Error(error),
        })
    }

    /// Sends a reply; `false` to somebody who does not read.
    fn say(&mut self, reply: &Reply) -> bool {
        let line = encode(reply);
        matches!(self.stream.write(&line), Ok(count) if count == line.len())
    }
}
