//! From the host to the guest: the thread that reads, and keeps what the device has no room for.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use host::event::{EventFd, Wait, poll};

use crate::escape::{Command, Escape, HELP};
use crate::handlers::{Handlers, SerialEvent};
use crate::output::Queue;

/// How much is read at a time.
const CHUNK: usize = 4096;
/// How much of a pipe is read ahead: what is not read, its writer keeps.
const PIPE_AHEAD: usize = CHUNK;
/// How much of a terminal is: more, because the escape key may stand behind what a hung guest does not take.
const TERMINAL_AHEAD: usize = 64 << 10;

/// Tells the reading thread that the device has room again. May be called with the device locked.
#[derive(Clone, Debug)]
pub struct InputWaker {
    signal: Arc<Signal>,
}

#[derive(Debug)]
struct Signal {
    event: EventFd,
    stop: AtomicBool,
}

impl InputWaker {
    pub(crate) fn new() -> Result<Self, host::HostError> {
        let signal = Signal { event: EventFd::new()?, stop: AtomicBool::new(false) };
        Ok(Self { signal: Arc::new(signal) })
    }

    /// The device has room: what it did not take is offered again.
    pub fn room(&self) {
        self.signal.event.notify();
    }

    /// Ends the reading thread.
    pub(crate) fn stop(&self) {
        self.signal.stop.store(true, Ordering::Release);
        self.signal.event.notify();
    }
}

/// The reading thread.
pub(crate) struct Reader {
    pub source: File,
    /// The source is a raw terminal: its escape key is ours.
    pub terminal: bool,
    pub waker: InputWaker,
    pub handlers: Arc<OnceLock<Handlers>>,
    /// Where help goes.
    pub output: Arc<Queue>,
}

impl Reader {
    /// Reads until stopped.
    pub(crate) fn run(mut self) {
        let handlers = Arc::clone(&self.handlers);
        // Started by `Serial::start`, which has set them.
        let Some(handlers) = handlers.get() else {
            return;
        };
        let ahead = if self.terminal { TERMINAL_AHEAD } else { PIPE_AHEAD };
        let mut escape = Escape::default();
        let mut pending = VecDeque::new();
        let mut open = true;
        let mut ended = false;
        while !self.waker.signal.stop.load(Ordering::Acquire) {
            offer(&mut pending, handlers);
            if !open && pending.is_empty() && !std::mem::replace(&mut ended, true) {
                (handlers.event)(SerialEvent::InputEnded);
            }
            // What stays pending waits for `room`, which may have come before this and is then seen at once.
            let reading = open && pending.len() < ahead;
            let (input, woken) = self.wait(reading);
            if woken {
                self.waker.signal.event.take();
            }
            if input {
                open = self.read(&mut escape, &mut pending, handlers);
            }
        }
    }

    /// Waits for input (if wanted) or to be woken.
    fn wait(&self, reading: bool) -> (bool, bool) {
        let event = Wait::readable(&self.waker.signal.event);
        let result = if reading {
            let mut waits = [event, Wait::readable(&self.source)];
            poll(&mut waits, None).map(|_| (waits[1].ready(), waits[0].ready()))
        } else {
            let mut waits = [event];
            poll(&mut waits, None).map(|_| (false, waits[0].ready()))
        };
        // poll fails for want of kernel memory only; going round again is all one can do.
        result.unwrap_or((false, false))
    }

    /// Reads once. `false` at the end of input.
    fn read(&mut self, escape: &mut Escape, pending: &mut VecDeque<u8>, handlers: &Handlers) -> bool {
        let mut chunk = [0; CHUNK];
        match self.source.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) if self.terminal => {
                escape.sift(&chunk[..count], pending, |command| match command {
                    Command::Quit => (handlers.event)(SerialEvent::Quit),
                    Command::Help => self.output.message(HELP),
                });
                true
            }
            Ok(count) => {
                pending.extend(&chunk[..count]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => true,
            Err(error) => {
                // A terminal that is gone reads as EIO: the end of input, too.
                tracing::debug!(%error, "serial input ends");
                false
            }
        }
    }
}

/// Offers the device what is pending, as long as it takes something.
fn offer(pending: &mut VecDeque<u8>, handlers: &Handlers) {
    while !pending.is_empty() {
        let (front, _) = pending.as_slices();
        let taken = (handlers.receive)(front).min(front.len());
        pending.drain(..taken);
        if taken == 0 {
            return;
        }
    }
}
