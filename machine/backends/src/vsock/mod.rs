//! A guest's sockets on the host: Unix sockets, in the way of Firecracker's hybrid vsock.
//!
//! A program of the host connects to `vsock.sock`, sends `CONNECT PORT\n` and is answered `OK PORT\n` once the guest
//! has accepted, the second port being the connection's own on the host's side; everything after that is the stream.
//! Where the guest refuses, the connection is closed without a word. A guest that connects to port `P` of the host
//! reaches whoever listens at `vsock.sock_P`.
//!
//! All of it is done by one thread, which waits for the sockets and for the guest: [`VsockBell`] wakes it, and it asks
//! [`Guest::next`] what there is. No lock is held across a call to the guest, and none of the guest's across a system
//! call.
//!
//! # Bounds
//! A program that does not read holds its guest's connection up: bytes that a socket does not take are kept, no more
//! than the guest has credit for, and it gets new credit as they go. A guest that does not read holds its program
//! up: what has been read from a socket and not been taken, at most [`CHUNK`], is offered before more is read.
//! Programs beyond [`MOST_STREAMS`] wait to be accepted. There are no time limits; a program that has lost patience
//! closes its socket, and the guest is told.
//!
//! The listening socket is made by [`Vsock::listen`], before the process is shut in; afterwards the thread needs
//! `accept4`, and `socket` and `connect` for Unix sockets that the guest may reach.

mod hub;
mod stream;

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use host::{EventFd, HostError};

use crate::listen;
use hub::Hub;

/// How much is moved at a time.
pub const CHUNK: usize = 64 << 10;
/// How many sockets there can be at once, with those on which nothing has been asked for yet.
pub const MOST_STREAMS: usize = 512;

/// The guest, as the thread sees it. Connections have numbers that are never used twice; a call for one that has ended
/// does nothing.
pub trait Guest: Send {
    /// What it has done next; bytes of [`Event::Data`] replace what is in `data`. After `None` the bell is rung when
    /// there is more, or room for what was not taken.
    fn next(&self, data: &mut Vec<u8>) -> Option<Event>;
    /// Asks it to accept a connection at this port; `None` if it cannot be asked.
    fn open(&self, port: u32) -> Option<u64>;
    /// Its connection has been made.
    fn accept(&self, connection: u64);
    /// Bytes for it; says how many it took.
    fn send(&self, connection: u64, bytes: &[u8]) -> usize;
    /// So many of its bytes have been passed on.
    fn consumed(&self, connection: u64, bytes: usize);
    /// No more bytes will come for it.
    fn finish(&self, connection: u64);
    /// Its connection was refused or has ended.
    fn close(&self, connection: u64);
}

/// What a guest has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It has begun anew: none of its connections is there any more.
    Reset,
    /// It wants a connection to a port of the host.
    Connect {
        /// The new connection.
        connection: u64,
        /// The host's port.
        port: u32,
    },
    /// It has accepted a connection.
    Opened {
        /// Which.
        connection: u64,
        /// The port that the connection has on the host's side.
        port: u32,
    },
    /// It has sent bytes.
    Data {
        /// On which.
        connection: u64,
    },
    /// It will send no more, or receive no more.
    Shutdown {
        /// On which.
        connection: u64,
        /// It still sends.
        sends: bool,
        /// It still receives.
        receives: bool,
    },
    /// It has ended or refused a connection.
    Closed {
        /// Which.
        connection: u64,
    },
    /// Nothing that concerns the host.
    Nothing,
}

/// Why there are no sockets for a guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VsockError {
    /// The socket cannot be made.
    #[error("cannot listen on {path} for connections to the guest", path = path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host refuses a descriptor.
    #[error("the guest's sockets cannot be set up")]
    Host(#[from] HostError),
    /// No thread.
    #[error("no thread for the guest's sockets")]
    Thread(#[source] io::Error),
}

/// Wakes the thread. May be called with the device locked, and from any thread.
#[derive(Clone, Debug)]
pub struct VsockBell {
    signal: Arc<Signal>,
}

#[derive(Debug)]
struct Signal {
    event: EventFd,
    stop: AtomicBool,
}

impl VsockBell {
    /// There is something to ask the guest for.
    pub fn ring(&self) {
        self.signal.event.notify();
    }
}

/// A guest's sockets. Dropping it closes all and removes the listening one.
#[derive(Debug)]
pub struct Vsock {
    path: PathBuf,
    bell: VsockBell,
    /// Until [`Vsock::start`].
    listener: Option<UnixListener>,
    thread: Option<JoinHandle<()>>,
}

impl Vsock {
    /// Listens at `path`. A socket that a process left behind there when it was killed is replaced.
    pub fn listen(path: &Path) -> Result<Self, VsockError> {
        let failed = |source| VsockError::Listen { path: path.to_owned(), source };
        let listener = listen::bind(path).map_err(failed)?;
        let signal = Arc::new(Signal { event: EventFd::new()?, stop: AtomicBool::new(false) });
        Ok(Self { path: path.to_owned(), bell: VsockBell { signal }, listener: Some(listener), thread: None })
    }

    /// Where its socket is, and those are that the guest may call.
    pub fn directory(&self) -> &Path {
        // A socket has a name, so its path has a parent; a relative one's may be empty.
        self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// By which the device calls.
    pub fn bell(&self) -> VsockBell {
        self.bell.clone()
    }

    /// Begins to serve. A second call changes nothing.
    pub fn start(&mut self, guest: Box<dyn Guest>) -> Result<(), VsockError> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let hub = Hub::new(self.bell.signal.clone(), listener, self.path.clone(), guest)?;
        let thread = thread::Builder::new().name("vsock".into());
        self.thread = Some(thread.spawn(move || hub.run()).map_err(VsockError::Thread)?);
        Ok(())
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.bell.signal.stop.store(true, Ordering::Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
        // Its directory may be gone already.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests;
