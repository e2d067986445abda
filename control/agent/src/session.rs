//! A program in the guest: started, fed, listened to.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::protocol::{
    HEAD_SIZE, INPUT_WINDOW, Kind, PAYLOAD_LIMIT, Refusal, Request, Size, head, parse_head,
};

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments; none: the login shell.
    pub arguments: Vec<OsString>,
    /// Variables besides, or instead of, the agent's own.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it starts; nothing: in root's home.
    pub directory: OsString,
    /// The size of its terminal; without, it has pipes.
    pub terminal: Option<Size>,
}

impl Program {
    fn request(&self) -> Result<Vec<u8>> {
        let count = u16::try_from(self.arguments.len())
            .map_err(|_| Error::Program("it has more than 65535 arguments"))?;
        let mut request = Request::head(self.terminal, count).to_vec();
        let mut push = |parts: &[&[u8]]| {
            if parts.iter().any(|part| part.contains(&0)) {
                return Err(Error::Program("an argument or variable contains a NUL byte"));
            }
            request.extend(parts.concat());
            request.push(0);
            Ok(())
        };
        push(&[self.directory.as_bytes()])?;
        for argument in &self.arguments {
            push(&[argument.as_bytes()])?;
        }
        for (name, value) in &self.environment {
            if name.is_empty() || name.as_bytes().contains(&b'=') {
                return Err(Error::Program("a variable's name is empty or contains '='"));
            }
            push(&[name.as_bytes(), b"=", value.as_bytes()])?;
        }
        if request.len() > PAYLOAD_LIMIT {
            return Err(Error::Program("its arguments and environment take more than 64 KiB"));
        }
        Ok(request)
    }
}

/// What the guest has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Standard output, or what the terminal shows.
    Output(Vec<u8>),
    /// Standard error.
    Errors(Vec<u8>),
    /// The program has ended with this status; nothing follows.
    Exited(u8),
    /// This signal has ended the program; nothing follows.
    Killed(u8),
}

/// A program in the guest. Dropping both halves ends it.
#[derive(Debug)]
pub struct Session {
    /// What goes to it.
    pub sender: Sender,
    /// What comes from it.
    pub receiver: Receiver,
}

impl Session {
    /// Asks the agent at the other end to run a program.
    pub fn start(stream: UnixStream, program: &Program) -> Result<Self> {
        let request = program.request()?;
        let (reading, control) =
            (stream.try_clone().map_err(Error::Lost)?, stream.try_clone().map_err(Error::Lost)?);
        let window = Arc::new(Window {
            state: Mutex::new(State { free: INPUT_WINDOW, over: false }),
            changed: Condvar::new(),
        });
        let sender = Sender {
            stream: Arc::new(Mutex::new(stream)),
            control: Arc::new(control),
            window: Arc::clone(&window),
        };
        sender.send(Kind::Exec, &request)?;
        Ok(Self { sender, receiver: Receiver { stream: reading, window } })
    }
}

/// How much input may be sent.
#[derive(Debug)]
struct Window {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Nobody takes any more.
    over: bool,
}

impl Window {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room, and takes up to `wanted` of it; 0 when the session is over.
    fn take(&self, wanted: usize) -> usize {
        let mut state = self.state();
        while state.free == 0 && !state.over {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let taken = if state.over { 0 } else { wanted.min(state.free) };
        state.free -= taken;
        taken
    }

    fn give_back(&self, count: usize) -> Result<()> {
        let mut state = self.state();
        let free = state.free.checked_add(count).filter(|free| *free <= INPUT_WINDOW);
        state.free = free.ok_or(Error::Protocol("it has taken more input than there was"))?;
        self.changed.notify_all();
        Ok(())
    }

    fn close(&self) {
        self.state().over = true;
        self.changed.notify_all();
    }
}

/// The half of a session that goes to the program. Clones share it.
#[derive(Clone, Debug)]
pub struct Sender {
    stream: Arc<Mutex<UnixStream>>,
    /// The same connection.
    control: Arc<UnixStream>,
    window: Arc<Window>,
}

impl Sender {
    /// The terminal has another size.
    pub fn resize(&self, size: Size) -> Result<()> {
        self.send(Kind::Resize, &size.to_bytes())
    }

    /// Sends a signal to the program and what it has started.
    pub fn signal(&self, number: u8) -> Result<()> {
        self.send(Kind::Signal, &[number])
    }

    /// Breaks the connection, which ends the program.
    pub fn hang_up(&self) {
        // Not by the lock, which a writer may hold that waits for the guest.
        _ = self.control.shutdown(Shutdown::Both);
    }

    /// The program's standard input has ended.
    pub fn end_input(&self) -> Result<()> {
        self.send(Kind::Input, &[])
    }

    fn send(&self, kind: Kind, payload: &[u8]) -> Result<()> {
        let frame = [&head(kind, payload.len()), payload].concat();
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).write_all(&frame).map_err(Error::Lost)
    }
}

/// Standard input. A write waits until the guest has room, and fails when the program has ended.
impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            // As a frame it would be the end.
            return Ok(0);
        }
        let count = self.window.take(bytes.len().min(PAYLOAD_LIMIT));
        if count == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.send(Kind::Input, &bytes[..count]).map_err(io::Error::other)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The half of a session that comes from the program.
#[derive(Debug)]
pub struct Receiver {
    stream: UnixStream,
    window: Arc<Window>,
}

impl Receiver {
    /// Waits for what comes next.
    pub fn next_event(&mut self) -> Result<Event> {
        let event = self.read_event();
        if !matches!(event, Ok(Event::Output(_) | Event::Errors(_))) {
            // Whoever waits to send input need not.
            self.window.close();
        }
        event
    }

    fn read_event(&mut self) -> Result<Event> {
        loop {
            let mut head = [0; HEAD_SIZE];
            self.stream.read_exact(&mut head).map_err(Error::Lost)?;
            let (kind, length) = parse_head(head).ok_or(Error::Protocol("a frame is of no known kind"))?;
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).map_err(Error::Lost)?;
            return match (kind, payload.as_slice()) {
                (Kind::Taken, &[a, b, c, d]) => {
                    self.window.give_back(u32::from_le_bytes([a, b, c, d]) as usize)?;
                    continue;
                }
                (Kind::Output, _) => Ok(Event::Output(payload)),
                (Kind::Errors, _) => Ok(Event::Errors(payload)),
                (Kind::Exited, &[status]) => Ok(Event::Exited(status)),
                (Kind::Killed, &[signal]) => Ok(Event::Killed(signal)),
                (Kind::Refused, &[number]) => match Refusal::of(number) {
                    Some(refusal) => Err(Error::Refused(refusal)),
                    None => Err(Error::Protocol("it refuses for no known reason")),
                },
                _ => Err(Error::Protocol("a frame has a payload of the wrong size")),
            };
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.window.close();
        // The sender may be held by a thread that waits for the user; the program is not to wait for that.
        _ = self.stream.shutdown(Shutdown::Both);
    }
}
