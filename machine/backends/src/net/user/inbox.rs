//! From the card to the network's thread: frames, one behind the other in one buffer.
//!
//! The card's side copies and returns; the thread swaps the buffer for an empty one, so that neither waits for the
//! other and nothing is allocated while frames flow.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use host::{EventFd, HostError};

use crate::net::{MAX_FRAME, Offload, Offloads};

/// How many bytes wait at most; a card that has more is told to wait. Eight of the largest frames.
const CAPACITY: usize = 8 * MAX_FRAME;
/// How many frames.
const FRAMES: usize = 1024;

/// Frames in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    frames: Vec<(usize, Offload)>,
}

impl Batch {
    fn push(&mut self, frame: &[u8], offload: Offload) {
        self.bytes.extend_from_slice(frame);
        self.frames.push((self.bytes.len(), offload));
    }

    fn is_full(&self, more: usize) -> bool {
        self.frames.len() >= FRAMES || self.bytes.len() + more > CAPACITY
    }

    pub(super) fn frames(&self) -> impl Iterator<Item = (&[u8], Offload)> {
        let mut start = 0;
        self.frames.iter().map(move |(end, offload)| {
            let frame = &self.bytes[start..*end];
            start = *end;
            (frame, *offload)
        })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.frames.clear();
    }
}

#[derive(Debug, Default)]
struct State {
    batch: Batch,
    /// The thread sleeps, or is about to, and has to be woken.
    idle: bool,
    /// A frame was refused; the card has to be told of room.
    starved: bool,
    offloads: Offloads,
}

/// What the card's side and the thread share.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    /// Wakes the thread.
    pub(super) event: EventFd,
    room: AtomicBool,
    stop: AtomicBool,
}

impl Inbox {
    pub(super) fn new() -> Result<Self, HostError> {
        Ok(Self {
            state: Mutex::default(),
            event: EventFd::new()?,
            room: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds this lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a frame if there is room.
    pub(super) fn push(&self, frame: &[u8], offload: Offload) -> bool {
        if frame.len() > MAX_FRAME {
            return true;
        }
        let mut state = self.lock();
        if state.batch.is_full(frame.len()) {
            state.starved = true;
            return false;
        }
        state.batch.push(frame, offload);
        if std::mem::take(&mut state.idle) {
            drop(state);
            self.event.notify();
        }
        true
    }

    /// The card has room.
    pub(super) fn room(&self) {
        self.room.store(true, Ordering::Release);
        self.event.notify();
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.event.notify();
    }

    pub(super) fn guest_takes(&self, offloads: Offloads) {
        self.lock().offloads = offloads;
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether the card has told of room since the last time.
    pub(super) fn take_room(&self) -> bool {
        self.room.swap(false, Ordering::AcqRel)
    }

    /// Puts what has come in the place of `batch`, and says whether the card waits to be told of room, and what the
    /// guest takes. An empty batch means that the thread may sleep: whoever pushes will wake it.
    pub(super) fn swap(&self, batch: &mut Batch) -> (bool, Offloads) {
        batch.clear();
        let mut state = self.lock();
        std::mem::swap(&mut state.batch, batch);
        state.idle = batch.frames.is_empty();
        (std::mem::take(&mut state.starved), state.offloads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let inbox = Inbox::new().unwrap();
        let mut batch = Batch::default();
        assert_eq!(inbox.swap(&mut batch), (false, Offloads::NONE));
        assert!(inbox.push(b"one", Offload::default()) && inbox.event.take());
        assert!(inbox.push(b"", Offload::default()));
        assert!(inbox.push(b"two", Offload::default()) && !inbox.event.take());
        inbox.guest_takes(Offloads::ALL);
        assert_eq!(inbox.swap(&mut batch), (false, Offloads::ALL));
        assert_eq!(batch.frames().map(|(frame, _)| frame).collect::<Vec<_>>(), [b"one", &b""[..], b"two"]);
        inbox.swap(&mut batch);
        assert_eq!(batch.frames().count(), 0);
    }

    #[test]
    fn a_full_inbox_refuses_and_remembers() {
        for length in [0, MAX_FRAME] {
            let inbox = Inbox::new().unwrap();
            let frame = vec![0; length];
            let taken = (0..2 * FRAMES).take_while(|_| inbox.push(&frame, Offload::default())).count();
            assert_eq!(taken, if length == 0 { FRAMES } else { CAPACITY / MAX_FRAME });
            let mut batch = Batch::default();
            assert!(inbox.swap(&mut batch).0);
            assert!(inbox.push(&frame, Offload::default()));
            assert!(!inbox.swap(&mut batch).0);
        }
        let inbox = Inbox::new().unwrap();
        // What is longer than any frame is dropped.
        assert!(inbox.push(&vec![0; MAX_FRAME + 1], Offload::default()));
        let mut batch = Batch::default();
        inbox.swap(&mut batch);
        assert_eq!(batch.frames().count(), 0);
    }
}
