//! The socket a debugger connects to, and the connection.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use board::yard::Yard;
use gdbstub::conn::Connection;

/// How long a debugger may take no byte of an answer before it is taken for gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a debugger connects. Whoever can does as they like with the guest.
#[derive(Debug)]
pub enum Listener {
    /// A port of the host's loopback, which every user of the host reaches.
    Tcp(TcpListener),
    /// A socket with the rights of its file.
    Unix(UnixListener),
}

impl Listener {
    /// Listens on a port of the host's loopback; port 0 is any that is free.
    pub fn loopback(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener))
    }

    /// Where a debugger finds it, as it is told GDB.
    pub fn address(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Self::Unix(listener) => {
                let address = listener.local_addr()?;
                Ok(address.as_pathname().unwrap_or(std::path::Path::new("")).display().to_string())
            }
        }
    }

    /// Takes who waits; none if nobody does after all.
    pub(crate) fn accept(&self) -> io::Result<Option<Stream>> {
        let stream = match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        };
        match stream {
            Ok(stream) => stream.prepared().map(Some),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// A debugger's end.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn prepared(self) -> io::Result<Self> {
        match &self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(PATIENCE))?;
            }
            Self::Unix(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_write_timeout(Some(PATIENCE))?;
            }
        }
        Ok(self)
    }

    /// What has come, once something has; empty at the end.
    pub(crate) fn read<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let read = match self {
            Self::Tcp(stream) => (&*stream).read(buffer),
            Self::Unix(stream) => (&*stream).read(buffer),
        };
        Ok(&buffer[..read?])
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// What the protocol writes to: an answer goes out whole.
pub(crate) struct Output {
    stream: Arc<Stream>,
    yard: Arc<Yard>,
    buffer: Vec<u8>,
}

impl Output {
    pub(crate) fn new(stream: Arc<Stream>, yard: Arc<Yard>) -> Self {
        Self { stream, yard, buffer: Vec::new() }
    }
}

impl Connection for Output {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.buffer.push(byte);
        if self.buffer.len() < 64 << 10 {
            return Ok(());
        }
        // An answer without end does not keep a machine that has ended.
        if self.yard.ending().is_some() { Err(io::ErrorKind::ConnectionAborted.into()) } else { self.flush() }
    }

    fn flush(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        match &*self.stream {
            Stream::Tcp(stream) => (&*stream).write_all(&buffer),
            Stream::Unix(stream) => (&*stream).write_all(&buffer),
        }
    }
}
