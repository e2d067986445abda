//! One connection, in a process of its own: from the request to the program's end or the peer's.
//!
//! A loop around poll(2), with three buffers of fixed size: a frame that is arriving, a frame that is leaving, and
//! input that the program has not read. Nothing is read of which the buffer is not free, but for the peer's frames:
//! those always find room, as the protocol bounds the input that may be on its way.

use crate::calls::{self, Fd, Moved, Wait};
use crate::child::{self, Child};
use crate::protocol::{
    HEAD_SIZE, INPUT_WINDOW, Kind, PAYLOAD_LIMIT, Refusal, Request, Size, head, parse_head,
};
use crate::sys::{self, Signals};

/// How long a peer may take for its request.
const PATIENCE_MS: u64 = 10_000;
/// How long a program whose peer is gone has between SIGHUP and SIGKILL.
const GRACE_MS: u64 = 1_000;
/// How long the last frame may take to leave.
const FAREWELL_MS: u64 = 10_000;
/// No signal of Linux has a higher number.
const LAST_SIGNAL: u8 = 64;

/// The peer is gone, or does not keep to the protocol.
struct Gone;

/// A frame on its way in.
struct Incoming {
    bytes: [u8; HEAD_SIZE + PAYLOAD_LIMIT],
    filled: usize,
}

impl Incoming {
    const fn new() -> Self {
        Self { bytes: [0; HEAD_SIZE + PAYLOAD_LIMIT], filled: 0 }
    }

    /// Reads what there is of one frame; `Some` when it is whole, until the next call.
    fn read(&mut self, connection: &Fd) -> Result<Option<(Kind, &[u8])>, Gone> {
        loop {
            let wanted = if self.filled < HEAD_SIZE { HEAD_SIZE } else { HEAD_SIZE + self.frame()?.1 };
            if self.filled >= HEAD_SIZE && self.filled == wanted {
                let (kind, length) = self.frame()?;
                self.filled = 0;
                return Ok(Some((kind, &self.bytes[HEAD_SIZE..HEAD_SIZE + length])));
            }
            match calls::read(connection, &mut self.bytes[self.filled..wanted]) {
                Moved::Bytes(count) => self.filled += count,
                Moved::Nothing => return Ok(None),
                Moved::End => return Err(Gone),
            }
        }
    }

    fn frame(&self) -> Result<(Kind, usize), Gone> {
        let [a, b, c, d, ..] = self.bytes;
        parse_head([a, b, c, d]).ok_or(Gone)
    }
}

/// A frame on its way out.
struct Outgoing {
    bytes: [u8; HEAD_SIZE + PAYLOAD_LIMIT],
    sent: usize,
    end: usize,
    last: Kind,
}

impl Outgoing {
    const fn new() -> Self {
        Self { bytes: [0; HEAD_SIZE + PAYLOAD_LIMIT], sent: 0, end: 0, last: Kind::Taken }
    }

    fn is_free(&self) -> bool {
        self.sent == self.end
    }

    /// Makes a frame of what `fill` puts into the payload. There must be none on its way.
    fn put(&mut self, kind: Kind, fill: impl FnOnce(&mut [u8]) -> usize) {
        let length = fill(&mut self.bytes[HEAD_SIZE..]);
        self.bytes[..HEAD_SIZE].copy_from_slice(&head(kind, length));
        (self.sent, self.end, self.last) = (0, HEAD_SIZE + length, kind);
    }

    /// Drops a frame of which nothing has been sent.
    fn clear(&mut self) {
        self.end = self.sent;
    }

    fn put_bytes(&mut self, kind: Kind, payload: &[u8]) {
        self.put(kind, |into| {
            into[..payload.len()].copy_from_slice(payload);
            payload.len()
        });
    }

    fn write(&mut self, connection: &Fd) -> Result<(), Gone> {
        while !self.is_free() {
            match calls::write(connection, &self.bytes[self.sent..self.end]) {
                Moved::Bytes(count) => self.sent += count,
                Moved::Nothing => return Ok(()),
                Moved::End => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Waits until the frame has left, or the peer has had time enough.
    fn flush(&mut self, connection: &Fd) {
        let limit = calls::now_ms() + FAREWELL_MS;
        while self.write(connection).is_ok() && !self.is_free() {
            let now = calls::now_ms();
            if now >= limit {
                return;
            }
            calls::poll(&mut [calls::writable(connection)], Some((limit - now) as i32));
        }
    }
}

/// Input that the program has not read yet: a ring.
struct Input {
    bytes: [u8; INPUT_WINDOW],
    start: usize,
    length: usize,
    /// There will be no more.
    ended: bool,
    /// Gone from here and not yet reported.
    taken: u32,
}

impl Input {
    const fn new() -> Self {
        Self { bytes: [0; INPUT_WINDOW], start: 0, length: 0, ended: false, taken: 0 }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        // What has not been reported as taken counts against the window.
        if self.ended || bytes.len() + self.length + self.taken as usize > INPUT_WINDOW {
            return Err(Gone);
        }
        for byte in bytes {
            self.bytes[(self.start + self.length) % INPUT_WINDOW] = *byte;
            self.length += 1;
        }
        self.ended = bytes.is_empty();
        Ok(())
    }

    fn take(&mut self, count: usize) {
        self.start = (self.start + count) % INPUT_WINDOW;
        self.length -= count;
        self.taken += count as u32;
    }

    /// Gives the program what it takes; closes its input after the last of it, or when nobody reads it.
    fn write(&mut self, to: &mut Option<Fd>, is_terminal: bool) {
        while let Some(fd) = to.as_ref().filter(|_| self.length > 0) {
            let end = (self.start + self.length).min(INPUT_WINDOW);
            match calls::write(fd, &self.bytes[self.start..end]) {
                Moved::Bytes(count) => self.take(count),
                Moved::Nothing => return,
                Moved::End => *to = None,
            }
        }
        if to.is_none() {
            self.take(self.length);
        } else if self.ended && !is_terminal {
            *to = None;
        }
    }
}

/// Serves a connection to its end.
pub fn serve(connection: &Fd) {
    let mut incoming = Incoming::new();
    let mut outgoing = Outgoing::new();
    let Some(payload) = first_frame(&mut incoming, connection) else {
        return;
    };
    let started = Request::parse(payload).ok_or(Refusal::Request).and_then(|request| child::start(&request));
    match started {
        Ok(mut child) => {
            // Without it the program's end would go unnoticed, and so it is not left running.
            let Some(children) = calls::signals(Signals::of(&[sys::SIGCHLD])) else {
                calls::kill_group(child.pid, calls::SIGKILL);
                return;
            };
            match run(connection, &mut incoming, &mut outgoing, &mut child, &children) {
                Ok(status) => outgoing.put_bytes(status.0, &[status.1]),
                Err(Gone) => return end(child, &children),
            }
        }
        Err(refusal) => outgoing.put_bytes(Kind::Refused, &[refusal as u8]),
    }
    outgoing.flush(connection);
}

/// The payload of the request.
fn first_frame<'a>(incoming: &'a mut Incoming, connection: &Fd) -> Option<&'a [u8]> {
    let limit = calls::now_ms() + PATIENCE_MS;
    loop {
        match incoming.read(connection) {
            Ok(None) => {}
            Ok(Some((Kind::Exec, payload))) => {
                let length = payload.len();
                return Some(&incoming.bytes[HEAD_SIZE..HEAD_SIZE + length]);
            }
            Ok(Some(_)) | Err(Gone) => return None,
        }
        let now = calls::now_ms();
        if now >= limit {
            return None;
        }
        calls::poll(&mut [calls::readable(connection)], Some((limit - now) as i32));
    }
}

/// Carries data both ways until the program has ended and its output has left; how it ended.
fn run(
    connection: &Fd,
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
    child: &mut Child,
    children: &Fd,
) -> Result<(Kind, u8), Gone> {
    let mut input = Input::new();
    let mut ended = None;
    loop {
        input.write(&mut child.input, child.terminal.is_some());
        // Before the output is looked at: whatever the program has written is there by then.
        ended = ended.or_else(|| ended_as(child.pid));
        if outgoing.is_free() && !fill(outgoing, child, &mut input) {
            // What may still come is somebody else's.
            if let Some(how) = ended {
                return Ok(how);
            }
        }
        outgoing.write(connection)?;
        let room = outgoing.is_free();
        let output = |fd: &Option<Fd>| fd.as_ref().filter(|_| room).map_or(Wait::NONE, calls::readable);
        let mut waits = [
            calls::readable(connection).or_writable(!room),
            calls::readable(children),
            child.input.as_ref().filter(|_| input.length > 0).map_or(Wait::NONE, calls::writable),
            output(&child.output),
            output(&child.errors),
        ];
        let more = room && (ended.is_some() || input.taken > 0);
        calls::poll(&mut waits, more.then_some(0));
        calls::clear_signals(children);
        while let Some((kind, payload)) = incoming.read(connection)? {
            obey(kind, payload, child, &mut input)?;
        }
    }
}

/// Puts what there is to say into the free buffer; `false` if there is nothing.
fn fill(outgoing: &mut Outgoing, child: &mut Child, input: &mut Input) -> bool {
    if input.taken > 0 {
        outgoing.put_bytes(Kind::Taken, &input.taken.to_le_bytes());
        input.taken = 0;
        return true;
    }
    let mut streams = [(Kind::Output, &mut child.output), (Kind::Errors, &mut child.errors)];
    // By turns, so that neither waits for the other's silence.
    if outgoing.last == Kind::Output {
        streams.reverse();
    }
    for (kind, stream) in streams {
        let Some(fd) = stream else {
            continue;
        };
        let mut read = Moved::Nothing;
        outgoing.put(kind, |into| {
            read = calls::read(fd, into);
            if let Moved::Bytes(count) = read { count } else { 0 }
        });
        match read {
            Moved::Bytes(_) => return true,
            Moved::Nothing => outgoing.clear(),
            Moved::End => {
                outgoing.clear();
                *stream = None;
            }
        }
    }
    false
}

/// Does what a frame says.
fn obey(kind: Kind, payload: &[u8], child: &Child, input: &mut Input) -> Result<(), Gone> {
    match (kind, payload) {
        (Kind::Input, bytes) => input.push(bytes),
        (Kind::Resize, &[a, b, c, d]) => {
            if let Some(terminal) = &child.terminal {
                calls::set_window(terminal, Size::of([a, b, c, d]));
            }
            Ok(())
        }
        (Kind::Signal, &[signal @ 1..=LAST_SIGNAL]) => {
            calls::kill_group(child.pid, signal.into());
            Ok(())
        }
        _ => Err(Gone),
    }
}

/// How the program ended, if it has.
fn ended_as(pid: i32) -> Option<(Kind, u8)> {
    while let Some((ended, status)) = sys::reap(false) {
        if ended == pid as isize {
            return Some(match status & 0x7f {
                0 => (Kind::Exited, (status >> 8) as u8),
                signal => (Kind::Killed, signal as u8),
            });
        }
    }
    None
}

/// Ends a program whose peer is gone.
fn end(child: Child, children: &Fd) {
    let pid = child.pid;
    // Closes a terminal, which tells whoever else is on it.
    drop(child);
    calls::kill_group(pid, calls::SIGHUP);
    // A stopped program would not notice.
    calls::kill_group(pid, calls::SIGCONT);
    let limit = calls::now_ms() + GRACE_MS;
    while ended_as(pid).is_none() {
        let now = calls::now_ms();
        if now >= limit {
            calls::kill_group(pid, calls::SIGKILL);
            break;
        }
        calls::poll(&mut [calls::readable(children)], Some((limit - now) as i32));
        calls::clear_signals(children);
    }
}
