//! The asking side.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use std::os::fd::{AsFd, BorrowedFd};

use serde_json::Value;

use super::{LINE, Reply, Request, decode, encode};
use crate::{End, Memory, Record};

/// How long a VM may take to answer: it has nothing to wait for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Its socket is not there, or nobody listens.
    #[error("cannot connect to its control socket")]
    Connect(#[source] io::Error),
    /// The connection broke.
    #[error("the connection to its control socket broke")]
    Stream(#[source] io::Error),
    /// It refused.
    #[error("it says: {0}")]
    Refused(String),
    /// It said something else than what it was asked for.
    #[error("its answer makes no sense: {0}")]
    Nonsense(String),
    /// It has ended in the meantime.
    #[error("it has ended")]
    Gone,
}

/// A connection to a VM.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to a control socket.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(ClientError::Connect)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(ClientError::Stream)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// What it is.
    pub fn status(&mut self) -> Result<Record, ClientError> {
        match self.ask(Request::Status)? {
            Reply::Status(record) => Ok(*record),
            other => Err(nonsense(&other)),
        }
    }

    /// Presses its power button; whether the guest listens to that.
    pub fn power_button(&mut self) -> Result<bool, ClientError> {
        match self.ask(Request::PowerButton)? {
            Reply::Pressed { listening } => Ok(listening),
            other => Err(nonsense(&other)),
        }
    }

    /// Ends it.
    pub fn kill(&mut self) -> Result<(), ClientError> {
        match self.ask(Request::Kill)? {
            Reply::Ending => Ok(()),
            other => Err(nonsense(&other)),
        }
    }

    /// How its memory is, as far as its guest has said; which it is asked for anew, so that the next answer is newer.
    pub fn memory(&mut self) -> Result<Memory, ClientError> {
        self.ask_for_memory(Request::Memory)
    }

    /// Has its guest give up so many bytes, or give back what is more. It takes its time, and what it will.
    pub fn take_memory(&mut self, bytes: u64) -> Result<Memory, ClientError> {
        self.ask_for_memory(Request::TakeMemory(bytes))
    }

    /// Looks into its machine; what can be asked is the machine's affair.
    pub fn inspect(&mut self, question: Value) -> Result<Value, ClientError> {
        match self.ask(Request::Inspect(question))? {
            Reply::Inspected(answer) => Ok(answer),
            other => Err(nonsense(&other)),
        }
    }

    fn ask_for_memory(&mut self, request: Request) -> Result<Memory, ClientError> {
        match self.ask(request)? {
            Reply::Memory(memory) => Ok(memory),
            other => Err(nonsense(&other)),
        }
    }

    /// A connection on which the VM's end will be told.
    pub fn wait(mut self) -> Result<Waiting, ClientError> {
        self.send(Request::Wait)?;
        Ok(Waiting { stream: self.stream })
    }

    fn ask(&mut self, request: Request) -> Result<Reply, ClientError> {
        self.send(request)?;
        self.stream.get_ref().set_read_timeout(Some(PATIENCE)).map_err(ClientError::Stream)?;
        match receive(&mut self.stream)? {
            Some(Reply::Error(text)) => Err(ClientError::Refused(text)),
            Some(reply) => Ok(reply),
            None => Err(ClientError::Gone),
        }
    }

    fn send(&mut self, request: Request) -> Result<(), ClientError> {
        self.stream.get_mut().write_all(&encode(request)).map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => ClientError::Gone,
            _ => ClientError::Stream(error),
        })
    }
}

/// Waits for a VM's end.
#[derive(Debug)]
pub struct Waiting {
    stream: BufReader<UnixStream>,
}

impl Waiting {
    /// How it ended, once its process is gone and its name is free; `None` inside if the process was killed, `None`
    /// outside if it has not ended in this time.
    pub fn ended(&mut self, within: Duration) -> Result<Option<Option<End>>, ClientError> {
        let deadline = Instant::now() + within;
        let mut end = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.get_ref().set_read_timeout(Some(left)).map_err(ClientError::Stream)?;
            match receive(&mut self.stream) {
                Ok(Some(Reply::Ended(how))) => end = Some(how),
                Ok(Some(Reply::Error(text))) => return Err(ClientError::Refused(text)),
                Ok(Some(other)) => return Err(nonsense(&other)),
                Ok(None) => return Ok(Some(end)),
                Err(ClientError::Stream(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Waiting {
    /// Readable when the VM has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

/// The next reply, or `None` if the other side is gone.
fn receive(stream: &mut BufReader<UnixStream>) -> Result<Option<Reply>, ClientError> {
    let mut line = Vec::new();
    match stream.take(LINE as u64).read_until(b'\n', &mut line) {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(ClientError::Stream(error)),
    }
    match line.strip_suffix(b"\n") {
        Some(line) => decode(line).map(Some).map_err(ClientError::Nonsense),
        None if line.len() == LINE => Err(ClientError::Nonsense("a line without end".to_owned())),
        // It died while it spoke.
        None => Ok(None),
    }
}

fn nonsense(reply: &Reply) -> ClientError {
    ClientError::Nonsense(format!("{reply:?}"))
}
