//! Requests on their way to a disk, and the threads that carry them out.
//!
//! A device hands a request over and goes on; a thread does what has to be waited for and calls back. There is room
//! for [`DiskQueue::CAPACITY`] requests, and each holds one buffer that its device made, so that what a guest can
//! make wait here is bounded by what its device hands over.
//!
//! Not modelled: io_uring. A seccomp filter does not see what a ring is asked to do, so a filter that lets popf have
//! one lets whoever has taken popf over do with it what the filter is there to forbid; many hosts refuse it for that
//! reason. The formats' drivers make plain calls, so only raw images could use it, and what it would save is a
//! thread's wake-up for each request where a guest has one request at a time.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::{Disk, DiskError};

/// More would wait for the same disk.
const THREADS: usize = 4;

/// What a disk is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill the buffer from the offset on.
    Read {
        /// In bytes.
        offset: u64,
        /// Comes back with the completion.
        buffer: Vec<u8>,
    },
    /// Write the buffer.
    Write {
        /// In bytes.
        offset: u64,
        /// Comes back with the completion.
        buffer: Vec<u8>,
    },
    /// Have everything that was completed on stable storage.
    Flush,
    /// See [`Disk::discard`].
    Discard {
        /// In bytes.
        offset: u64,
        /// In bytes.
        len: u64,
    },
    /// See [`Disk::write_zeroes`].
    WriteZeroes {
        /// In bytes.
        offset: u64,
        /// In bytes.
        len: u64,
        /// Whether the range's room may be given back.
        unmap: bool,
    },
}

/// What has become of a request.
#[derive(Debug)]
pub struct Completion {
    /// Whether it was done.
    pub result: io::Result<()>,
    /// The request's buffer, filled if that was asked for; empty if it had none.
    pub buffer: Vec<u8>,
}

/// An operation, and whom to tell.
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// Called on a thread of the queue, without a lock of its own.
    pub done: Box<dyn FnOnce(Completion) + Send>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("operation", &self.operation).finish_non_exhaustive()
    }
}

/// A disk behind a bounded queue.
///
/// Dropping it carries out what was submitted, calls back, and ends the threads; so it must not be dropped on one of
/// them, that is by what a completion holds.
pub struct DiskQueue {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    running: usize,
    closing: bool,
}

impl DiskQueue {
    /// How many requests it holds, not counting those being carried out.
    pub const CAPACITY: usize = 1024;

    /// Starts threads for `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Result<Self, DiskError> {
        let mut queue = Self { disk, shared: Arc::default(), threads: Vec::new() };
        for _ in 0..THREADS {
            let (disk, shared) = (queue.disk.clone(), queue.shared.clone());
            let thread = thread::Builder::new().name("disk".into()).spawn(move || shared.run(&*disk));
            // Those that are there end when `queue` is dropped.
            queue.threads.push(thread.map_err(DiskError::Thread)?);
        }
        Ok(queue)
    }

    /// What it leads to.
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Takes a request, or gives it back if there is no room.
    pub fn submit(&self, request: Request) -> Result<(), Request> {
        let mut state = self.shared.lock();
        if state.waiting.len() >= Self::CAPACITY {
            return Err(request);
        }
        state.waiting.push_back(request);
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Waits until everything that was submitted is completed, and its callers told.
    pub fn drain(&self) {
        let state = self.shared.lock();
        let busy = |state: &mut State| !state.waiting.is_empty() || state.running > 0;
        drop(self.shared.idle.wait_while(state, busy).unwrap_or_else(PoisonError::into_inner));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds this lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, disk: &dyn Disk) {
        while let Some(Request { operation, done }) = self.next() {
            done(perform(disk, operation));
            let mut state = self.lock();
            state.running -= 1;
            if state.running == 0 && state.waiting.is_empty() {
                self.idle.notify_all();
            }
        }
    }

    /// `None` at the end.
    fn next(&self) -> Option<Request> {
        let state = self.lock();
        let nothing = |state: &mut State| state.waiting.is_empty() && !state.closing;
        let mut state = self.work.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner);
        let request = state.waiting.pop_front()?;
        state.running += 1;
        Some(request)
    }
}

fn perform(disk: &dyn Disk, operation: Operation) -> Completion {
    let without = |result| Completion { result, buffer: Vec::new() };
    match operation {
        Operation::Read { offset, mut buffer } => {
            Completion { result: disk.read(offset, &mut buffer), buffer }
        }
        Operation::Write { offset, buffer } => Completion { result: disk.write(offset, &buffer), buffer },
        Operation::Flush => without(disk.flush()),
        Operation::Discard { offset, len } => without(disk.discard(offset, len)),
        Operation::WriteZeroes { offset, len, unmap } => without(disk.write_zeroes(offset, len, unmap)),
    }
}

impl Drop for DiskQueue {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for DiskQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskQueue").field("disk", &self.disk).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Sixteen bytes, and a gate that holds up whoever comes.
    #[derive(Debug, Default)]
    struct Slow {
        bytes: Mutex<[u8; 16]>,
        gate: Mutex<()>,
    }

    impl Disk for Slow {
        fn size(&self) -> u64 {
            16
        }

        fn read_only(&self) -> bool {
            false
        }

        fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            drop(self.gate.lock().unwrap());
            let bytes = self.bytes.lock().unwrap();
            buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.bytes.lock().unwrap()[offset as usize..][..data.len()].copy_from_slice(data);
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Err(io::Error::other("no"))
        }

        fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
            Ok(())
        }

        fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
            self.write(offset, &vec![0; len as usize])
        }
    }

    fn request(operation: Operation, to: &mpsc::Sender<Completion>) -> Request {
        let to = to.clone();
        Request { operation, done: Box::new(move |completion| to.send(completion).unwrap()) }
    }

    #[test]
    fn requests_are_carried_out_and_answered() {
        let (told, tell) = mpsc::channel();
        let queue = DiskQueue::new(Arc::new(Slow::default())).unwrap();
        queue.submit(request(Operation::Write { offset: 2, buffer: vec![7; 3] }, &told)).unwrap();
        assert_eq!(tell.recv().unwrap().buffer, [7; 3]);
        queue.submit(request(Operation::WriteZeroes { offset: 3, len: 1, unmap: false }, &told)).unwrap();
        assert!(tell.recv().unwrap().buffer.is_empty());
        queue.submit(request(Operation::Read { offset: 0, buffer: vec![0xff; 6] }, &told)).unwrap();
        assert_eq!(tell.recv().unwrap().buffer, [0, 0, 7, 0, 7, 0]);
        queue.submit(request(Operation::Flush, &told)).unwrap();
        assert!(tell.recv().unwrap().result.is_err());
    }

    #[test]
    fn the_queue_is_bounded_and_is_emptied_at_the_end() {
        let (told, tell) = mpsc::channel();
        let disk = Arc::new(Slow::default());
        let queue = DiskQueue::new(disk.clone()).unwrap();
        let gate = disk.gate.lock().unwrap();
        let read = || request(Operation::Read { offset: 0, buffer: vec![0; 1] }, &told);
        let mut taken = 0;
        // The threads take a few out of the queue, and then none.
        while queue.submit(read()).is_ok() {
            taken += 1;
            assert!(taken <= DiskQueue::CAPACITY + THREADS);
        }
        assert!(taken >= DiskQueue::CAPACITY);
        drop(gate);
        queue.drain();
        assert_eq!(tell.try_iter().count(), taken);
        queue.submit(read()).unwrap();
        drop(queue);
        assert_eq!(tell.try_iter().count(), 1);
    }
}
