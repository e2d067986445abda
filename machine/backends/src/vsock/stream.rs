//! One socket, and what is on its way through it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::{CHUNK, Guest};

/// The longest line that a program may begin with.
const MOST_LINE: usize = 32;

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The program has not said yet what it wants.
    Greeting,
    /// The guest has been asked.
    Asking,
    /// Bytes flow.
    Open,
    /// The guest has ended the connection; what it sent before is still to be written.
    Left,
}

/// What became of a stream's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is nothing to do until the socket or the guest says so.
    Waits,
    /// The guest has no room; to be tried again when it calls.
    Stalled,
    /// There may be more to do.
    Again,
    /// It is at its end, and the guest knows.
    Ended,
}

/// A socket. It does not block, and what it is ready for is remembered: it is told once.
pub(super) struct Stream {
    socket: UnixStream,
    stage: Stage,
    /// The guest's number of it.
    connection: Option<u64>,
    // To the guest.
    readable: bool,
    /// Read and not taken by the guest.
    held: Vec<u8>,
    /// The program sends no more.
    ended: bool,
    /// The guest knows.
    finished: bool,
    guest_receives: bool,
    // To the program.
    writable: bool,
    /// What the socket did not take.
    pending: VecDeque<u8>,
    guest_sends: bool,
    /// The program knows that the guest does not.
    shut: bool,
}

impl Stream {
    /// A program has connected.
    pub(super) fn greeting(socket: UnixStream) -> Self {
        Self {
            socket,
            stage: Stage::Greeting,
            connection: None,
            readable: true,
            held: Vec::new(),
            ended: false,
            finished: false,
            guest_receives: true,
            writable: true,
            pending: VecDeque::new(),
            guest_sends: true,
            shut: false,
        }
    }

    /// The guest has connected.
    pub(super) fn open(socket: UnixStream, connection: u64) -> Self {
        Self { stage: Stage::Open, connection: Some(connection), ..Self::greeting(socket) }
    }

    pub(super) fn connection(&self) -> Option<u64> {
        self.connection
    }

    /// The socket has become ready.
    pub(super) fn ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// The guest has accepted; `false` if the program is gone.
    pub(super) fn opened(&mut self, port: u32) -> bool {
        self.stage = Stage::Open;
        // Nothing has been written before, so there is room.
        self.socket.write_all(format!("OK {port}\n").as_bytes()).is_ok()
    }

    /// What the guest still does.
    pub(super) fn shutdown(&mut self, sends: bool, receives: bool) {
        self.guest_sends = sends;
        if !receives && std::mem::take(&mut self.guest_receives) {
            self.held = Vec::new();
            // It fails for a socket whose program is gone, which is seen elsewhere.
            let _ = self.socket.shutdown(Shutdown::Read);
        }
    }

    /// The guest has ended it: what it sent before still goes out.
    pub(super) fn leave(&mut self) {
        self.stage = Stage::Left;
        self.connection = None;
    }

    /// The guest has sent bytes; `false` if the program is gone. There are never more than it has credit for.
    pub(super) fn write(&mut self, guest: &dyn Guest, bytes: &[u8]) -> bool {
        let mut written = 0;
        if self.pending.is_empty() && self.writable {
            match self.put(bytes) {
                Ok(count) => written = count,
                Err(_) => return false,
            }
        }
        self.pending.extend(&bytes[written..]);
        self.passed_on(guest, written);
        true
    }

    fn passed_on(&self, guest: &dyn Guest, bytes: usize) {
        if let Some(connection) = self.connection
            && bytes > 0
        {
            guest.consumed(connection, bytes);
        }
    }

    /// Writes as much as the socket takes.
    fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match self.socket.write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.writable = false;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Does what can be done, but no more than one [`CHUNK`] to the guest, so that others have their turn.
    pub(super) fn work(&mut self, guest: &dyn Guest, buffer: &mut [u8; CHUNK]) -> Outcome {
        let outcome = match (self.write_pending(guest), self.stage) {
            (Err(_), _) => Outcome::Ended,
            (Ok(()), Stage::Left) if self.pending.is_empty() => Outcome::Ended,
            (Ok(()), Stage::Left) => Outcome::Waits,
            (Ok(()), Stage::Greeting) => self.greet(guest, buffer),
            (Ok(()), Stage::Asking | Stage::Open) => self.move_to_guest(guest, buffer),
        };
        if outcome == Outcome::Ended
            && let Some(connection) = self.connection.take()
        {
            guest.close(connection);
        }
        outcome
    }

    fn write_pending(&mut self, guest: &dyn Guest) -> io::Result<()> {
        if self.writable && !self.pending.is_empty() {
            let mut pending = std::mem::take(&mut self.pending);
            let result = self.put(pending.make_contiguous());
            if let Ok(written) = result {
                pending.drain(..written);
                self.passed_on(guest, written);
            }
            self.pending = pending;
            result?;
        }
        if self.pending.is_empty() && !self.guest_sends && !std::mem::replace(&mut self.shut, true) {
            // As above.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Reads what the program wants.
    fn greet(&mut self, guest: &dyn Guest, buffer: &mut [u8; CHUNK]) -> Outcome {
        while self.readable && !self.ended {
            let count = self.read(buffer);
            self.held.extend_from_slice(&buffer[..count]);
            let Some(end) = self.held.iter().take(MOST_LINE).position(|&byte| byte == b'\n') else {
                if self.held.len() >= MOST_LINE || self.ended {
                    return Outcome::Ended;
                }
                continue;
            };
            let rest = self.held.split_off(end + 1);
            let line = std::mem::replace(&mut self.held, rest);
            self.connection = requested_port(&line[..end]).and_then(|port| guest.open(port));
            if self.connection.is_none() {
                return Outcome::Ended;
            }
            self.stage = Stage::Asking;
            return Outcome::Again;
        }
        Outcome::Waits
    }

    fn move_to_guest(&mut self, guest: &dyn Guest, buffer: &mut [u8; CHUNK]) -> Outcome {
        let Some(connection) = self.connection else { return Outcome::Ended };
        let mut outcome = Outcome::Waits;
        if self.stage == Stage::Open && self.guest_receives {
            if !self.held.is_empty() {
                let taken = guest.send(connection, &self.held);
                self.held.drain(..taken.min(self.held.len()));
                if self.held.is_empty() {
                    self.held = Vec::new();
                }
            }
            if self.held.is_empty() && self.readable && !self.ended {
                let count = self.read(buffer);
                let taken = match count {
                    0 => 0,
                    _ => guest.send(connection, &buffer[..count]).min(count),
                };
                self.held.extend_from_slice(&buffer[taken..count]);
                outcome = Outcome::Again;
            }
            if !self.held.is_empty() {
                return Outcome::Stalled;
            }
        }
        if self.is_gone() {
            return Outcome::Ended;
        }
        if self.stage == Stage::Open && self.ended && !std::mem::replace(&mut self.finished, true) {
            guest.finish(connection);
        }
        let done = self.shut && (self.finished || !self.guest_receives);
        if done { Outcome::Ended } else { outcome }
    }

    /// Whether the program has closed its socket altogether, and not only its sending half. Then nobody reads what is
    /// written, which the attempt to write nothing tells.
    fn is_gone(&mut self) -> bool {
        let may_be = self.ended || (self.readable && (self.stage == Stage::Asking || !self.guest_receives));
        may_be
            && !self.shut
            && self.socket.write(&[]).is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    }

    /// Reads once. Any error is an end, too.
    fn read(&mut self, buffer: &mut [u8; CHUNK]) -> usize {
        match self.socket.read(buffer) {
            Ok(0) => self.ended = true,
            Ok(count) => return count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.ended = true,
        }
        0
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The port in `CONNECT PORT`.
fn requested_port(line: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(line).ok()?;
    let port = text.strip_suffix('\r').unwrap_or(text).strip_prefix("CONNECT ")?;
    port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_it_wants() {
        for (line, port) in [
            ("CONNECT 1024", Some(1024)),
            ("CONNECT 0", Some(0)),
            ("CONNECT 4294967295\r", Some(u32::MAX)),
            ("CONNECT 4294967296", None),
            ("CONNECT +1", None),
            ("CONNECT ", None),
            ("CONNECT 1 ", None),
            ("connect 1", None),
            ("GET / HTTP/1.1", None),
            ("", None),
        ] {
            assert_eq!(requested_port(line.as_bytes()), port, "{line:?}");
        }
        assert_eq!(requested_port(b"CONNECT \xff"), None);
    }
}
