//! The thread between a guest and its sockets.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use host::epoll::{Epoll, Interest, Ready};
use host::{HostError, socket};

use super::stream::{Outcome, Stream};
use super::{CHUNK, Event, Guest, MOST_STREAMS, Signal};

/// Tokens of the descriptors that are no streams'.
const SIGNAL: u64 = 0;
const LISTENER: u64 = 1;
/// The first stream's; each has its own.
const FIRST: u64 = 2;
/// How much of what the guest has done is dealt with before sockets have their turn.
const BATCH: usize = 256;
/// When to try again to accept a connection for which there was no descriptor.
const REFUSED: Duration = Duration::from_secs(1);

pub(super) struct Hub {
    signal: Arc<Signal>,
    listener: UnixListener,
    /// Programs may be waiting that cannot be let in now.
    full: bool,
    path: PathBuf,
    guest: Box<dyn Guest>,
    epoll: Epoll,
    streams: HashMap<u64, Stream>,
    /// By the guest's numbers.
    connections: HashMap<u64, u64>,
    next: u64,
    /// Streams that have something to do.
    busy: VecDeque<u64>,
    /// Streams for whose bytes the guest had no room.
    stalled: Vec<u64>,
    buffer: Box<[u8; CHUNK]>,
}

impl Hub {
    pub(super) fn new(
        signal: Arc<Signal>,
        listener: UnixListener,
        path: PathBuf,
        guest: Box<dyn Guest>,
    ) -> Result<Self, HostError> {
        let epoll = Epoll::new()?;
        epoll.add(&signal.event, SIGNAL, Interest::Readable)?;
        epoll.add(&listener, LISTENER, Interest::Readable)?;
        Ok(Self {
            signal,
            listener,
            full: false,
            path,
            guest,
            epoll,
            streams: HashMap::new(),
            connections: HashMap::new(),
            next: FIRST,
            busy: VecDeque::new(),
            stalled: Vec::new(),
            buffer: Box::new([0; CHUNK]),
        })
    }

    /// Serves until stopped.
    pub(super) fn run(mut self) {
        let mut ready = Vec::new();
        let mut data = Vec::new();
        // The guest may have done something before there was anybody to be told.
        let mut more = true;
        while !self.signal.stop.load(Ordering::Acquire) {
            let timeout = match more || !self.busy.is_empty() {
                true => Some(Duration::ZERO),
                false => self.full.then_some(REFUSED),
            };
            if let Err(error) = self.epoll.wait(&mut ready, timeout) {
                // It fails for want of kernel memory only; going round again is all one can do.
                tracing::debug!(%error, "waiting for the guest's sockets");
                continue;
            }
            let mut called = more;
            for &Ready { token, readable, writable } in &ready {
                match token {
                    SIGNAL => called |= self.signal.event.take(),
                    LISTENER => self.accept(),
                    token => {
                        if let Some(stream) = self.streams.get_mut(&token) {
                            stream.ready(readable, writable);
                            self.busy.push_back(token);
                        }
                    }
                }
            }
            if self.full {
                self.accept();
            }
            if called {
                self.busy.extend(self.stalled.drain(..));
                more = self.serve_guest(&mut data);
            }
            // Those that have more to do after this wait for the next turn.
            for _ in 0..self.busy.len() {
                if let Some(token) = self.busy.pop_front() {
                    self.work(token);
                }
            }
        }
    }

    /// Lets programs in, as many as there is room for.
    fn accept(&mut self) {
        let full = loop {
            if self.streams.len() >= MOST_STREAMS {
                break true;
            }
            match self.listener.accept() {
                Ok((socket, _)) => {
                    if socket.set_nonblocking(true).is_ok() {
                        self.add(Stream::greeting(socket));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    tracing::debug!(%error, "no connection to the guest can be accepted");
                    break true;
                }
            }
        };
        if std::mem::replace(&mut self.full, full) != full {
            let interest = if full { Interest::Nothing } else { Interest::Readable };
            if let Err(error) = self.epoll.change(&self.listener, LISTENER, interest) {
                tracing::debug!(%error, "listening for connections to the guest");
            }
        }
    }

    fn add(&mut self, stream: Stream) {
        let token = self.next;
        self.next += 1;
        if let Err(error) = self.epoll.add(&stream, token, Interest::Edges) {
            tracing::debug!(%error, "a socket of the guest's cannot be waited for");
            if let Some(connection) = stream.connection() {
                self.guest.close(connection);
            }
            return;
        }
        if let Some(connection) = stream.connection() {
            self.connections.insert(connection, token);
        }
        self.streams.insert(token, stream);
        self.busy.push_back(token);
    }

    /// Does what the guest has done; says whether there may be more.
    fn serve_guest(&mut self, data: &mut Vec<u8>) -> bool {
        for _ in 0..BATCH {
            let Some(event) = self.guest.next(data) else { return false };
            match event {
                Event::Reset => self.reset(),
                Event::Connect { connection, port } => self.connect(connection, port),
                Event::Opened { connection, port } => {
                    self.on_stream(connection, |stream, _| stream.opened(port));
                }
                Event::Data { connection } => {
                    self.on_stream(connection, |stream, guest| stream.write(guest, data));
                }
                Event::Shutdown { connection, sends, receives } => {
                    self.on_stream(connection, |stream, _| {
                        stream.shutdown(sends, receives);
                        true
                    });
                }
                Event::Closed { connection } => {
                    self.on_stream(connection, |stream, _| {
                        stream.leave();
                        true
                    });
                    self.connections.remove(&connection);
                }
                Event::Nothing => {}
            }
        }
        true
    }

    /// Has a stream see something, which leaves it with work to do; `false` says that its program is gone.
    fn on_stream(&mut self, connection: u64, see: impl FnOnce(&mut Stream, &dyn Guest) -> bool) {
        let Some(&token) = self.connections.get(&connection) else { return };
        let Some(stream) = self.streams.get_mut(&token) else { return };
        if see(stream, &*self.guest) {
            self.busy.push_back(token);
        } else {
            self.guest.close(connection);
            self.end(token, Some(connection));
        }
    }

    fn connect(&mut self, connection: u64, port: u32) {
        if self.streams.len() >= MOST_STREAMS {
            self.guest.close(connection);
            return;
        }
        let path = path_of(&self.path, port);
        match socket::connect_unix(&path) {
            Ok(socket) => {
                self.guest.accept(connection);
                self.add(Stream::open(socket, connection));
            }
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "nobody to connect the guest to");
                self.guest.close(connection);
            }
        }
    }

    /// Ends what the guest knows of; programs that have not said yet what they want may still say it.
    fn reset(&mut self) {
        for token in std::mem::take(&mut self.connections).into_values() {
            self.streams.remove(&token);
        }
    }

    fn end(&mut self, token: u64, connection: Option<u64>) {
        self.streams.remove(&token);
        if let Some(connection) = connection {
            self.connections.remove(&connection);
        }
    }

    /// Gives a stream its turn.
    fn work(&mut self, token: u64) {
        let Some(stream) = self.streams.get_mut(&token) else { return };
        let before = stream.connection();
        let outcome = stream.work(&*self.guest, &mut self.buffer);
        if let (None, Some(connection)) = (before, stream.connection()) {
            self.connections.insert(connection, token);
        }
        match outcome {
            Outcome::Waits => {}
            Outcome::Stalled if self.stalled.contains(&token) => {}
            Outcome::Stalled => self.stalled.push(token),
            Outcome::Again if self.busy.contains(&token) => {}
            Outcome::Again => self.busy.push_back(token),
            Outcome::Ended => self.end(token, before),
        }
    }
}

/// Where the program listens that has a port of the host.
fn path_of(path: &Path, port: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!("_{port}"));
    name.into()
}
