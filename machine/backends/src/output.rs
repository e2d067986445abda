//! From the guest to the host: a bounded queue and the thread that empties it.
//!
//! A full queue is told to the device, which then holds its own FIFO, as if the line were slow; a reader that
//! stops reading stops the guest's output and nothing else. Nothing is lost but after an error of the host, and
//! then the guest is not held up for it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use host::event::{EventFd, Wait, poll};

use crate::handlers::{Handlers, SerialEvent};
use crate::log::Log;

/// How much is kept.
pub(crate) const CAPACITY: usize = 64 << 10;
/// How much is written at a time. A pipe that polls writable takes so much without blocking (PIPE_BUF).
const CHUNK: usize = 4096;
/// UARTs bring bytes one by one. Waiting so long for more turns a thousand wake-ups and writes into one; nobody
/// sees the delay.
const GATHER: Duration = Duration::from_millis(1);

/// Where the bytes end.
pub(crate) enum Target {
    Null,
    File(File),
    Log(Log),
    Memory(Arc<Mutex<Vec<u8>>>),
}

/// Shared by the device's handle, the writing thread and the owner.
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Something for the writer to do.
    work: Condvar,
    /// Ends the writer's wait for a host that does not take bytes.
    abandon: EventFd,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// The writer waits for the first byte and has to be woken for it.
    idle: bool,
    /// The device was refused a byte and has to be told of room.
    starved: bool,
    /// Write what is there and end.
    closing: bool,
    /// Take everything, write nothing: nobody is there any more, or there never was.
    discard: bool,
}

impl Queue {
    /// An empty queue, or one that discards.
    pub(crate) fn new(discard: bool) -> Result<Arc<Self>, host::HostError> {
        let state = State { discard, ..State::default() };
        Ok(Arc::new(Self { state: Mutex::new(state), work: Condvar::new(), abandon: EventFd::new()? }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds this lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8], capacity: usize) -> usize {
        let mut state = self.lock();
        if state.discard {
            return bytes.len();
        }
        let taken = bytes.len().min(capacity.saturating_sub(state.bytes.len()));
        state.bytes.extend(&bytes[..taken]);
        state.starved |= taken < bytes.len();
        if std::mem::take(&mut state.idle) || state.bytes.len() >= CHUNK {
            self.work.notify_one();
        }
        taken
    }

    /// A message of our own, in its place among the guest's bytes.
    pub(crate) fn message(&self, text: &str) {
        self.push(text.as_bytes(), CAPACITY + CHUNK);
    }

    /// Has the writer write all there is and end.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_one();
    }

    /// Gives up all bytes, now and later.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.discard = true;
        state.bytes.clear();
        drop(state);
        self.abandon.notify();
        self.work.notify_one();
    }

    /// The writer: ends when closed and empty.
    ///
    /// Handlers are lent, not kept: they hold the device, and the device holds this queue.
    pub(crate) fn run(&self, mut target: Target, handlers: &OnceLock<Handlers>) {
        let mut chunk = Vec::with_capacity(CHUNK);
        while self.next_chunk(&mut chunk) {
            if let Err(error) = self.put(&mut target, &chunk) {
                self.abandon();
                if let Some(handlers) = handlers.get() {
                    (handlers.event)(SerialEvent::OutputFailed(error));
                }
            }
            self.tell_of_room(handlers);
        }
        self.lock().discard = true;
    }

    /// Takes the next bytes; `false` at the end.
    fn next_chunk(&self, chunk: &mut Vec<u8>) -> bool {
        chunk.clear();
        let mut state = self.lock();
        while state.bytes.is_empty() {
            if state.closing {
                return false;
            }
            state.idle = true;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle = false;
        if state.bytes.len() < CHUNK && !state.closing {
            let more = self.work.wait_timeout_while(state, GATHER, |state| {
                state.bytes.len() < CHUNK && !state.closing && !state.discard
            });
            state = more.unwrap_or_else(PoisonError::into_inner).0;
        }
        let count = state.bytes.len().min(CHUNK);
        chunk.extend(state.bytes.drain(..count));
        true
    }

    /// Tells the device if it waits for that. Called without the lock: the device answers by writing.
    pub(crate) fn tell_of_room(&self, handlers: &OnceLock<Handlers>) {
        let Some(handlers) = handlers.get() else {
            return;
        };
        let mut state = self.lock();
        let room = state.bytes.len() <= CAPACITY / 2;
        if room && std::mem::take(&mut state.starved) {
            drop(state);
            (handlers.drained)();
        }
    }

    fn put(&self, target: &mut Target, mut bytes: &[u8]) -> io::Result<()> {
        let file = match target {
            Target::Null => return Ok(()),
            Target::Memory(memory) => {
                memory.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
                return Ok(());
            }
            // A regular file never keeps its writer waiting.
            Target::Log(log) => return log.write(bytes),
            Target::File(file) => file,
        };
        while !bytes.is_empty() {
            // A wait of our own, so that `abandon` can end it; a blocking write could not be.
            let mut waits = [Wait::writable(file), Wait::readable(&self.abandon)];
            poll(&mut waits, None).map_err(io::Error::other)?;
            if waits[1].ready() {
                return Ok(());
            }
            match file.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The device's end of the output. Clones lead to the same place.
#[derive(Clone)]
pub struct SerialOutput {
    queue: Arc<Queue>,
}

impl SerialOutput {
    pub(crate) fn new(queue: &Arc<Queue>) -> Self {
        Self { queue: Arc::clone(queue) }
    }

    /// Takes as many of `bytes` as there is room for, and says how many. Never waits for the host. When it took
    /// less than it was given, [`Handlers::drained`] is called once there is room again.
    pub fn write(&self, bytes: &[u8]) -> usize {
        self.queue.push(bytes, CAPACITY)
    }
}

impl std::fmt::Debug for SerialOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SerialOutput")
    }
}
