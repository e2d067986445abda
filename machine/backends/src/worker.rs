//! A thread that works whenever it is asked to, and sleeps between.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Bit of [`State::asked`] that ends the thread; the others are for whoever asks.
const STOP: u64 = 1 << 63;

#[derive(Default)]
struct State {
    /// What has been asked for since the thread last looked.
    asked: AtomicU64,
    /// Held by the thread between its last look and its sleep, and by who wakes it.
    asleep: Mutex<bool>,
    wake: Condvar,
}

impl State {
    fn ask(&self, bits: u64) {
        // Whoever sets the first bit wakes the thread; it has not seen the others' yet.
        if self.asked.fetch_or(bits, Ordering::AcqRel) == 0 {
            let mut asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::take(&mut *asleep) {
                self.wake.notify_one();
            }
        }
    }

    fn next(&self) -> u64 {
        let mut asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let asked = self.asked.swap(0, Ordering::AcqRel);
            if asked != 0 {
                return asked;
            }
            *asleep = true;
            asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The thread; dropping this ends it, after what it is doing.
#[derive(Debug)]
pub struct Worker {
    bell: Bell,
    thread: Option<JoinHandle<()>>,
}

/// Asks a [`Worker`], from any thread.
#[derive(Clone)]
pub struct Bell {
    state: Arc<State>,
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bell")
    }
}

impl Bell {
    /// Has the worker run for `number`, which is 0 to 62 (what is beyond shares the last). Never blocks for long;
    /// several calls before it comes to it are one.
    pub fn ring(&self, number: u16) {
        self.state.ask(1 << number.min(62));
    }
}

impl Worker {
    /// Starts a thread that calls `work` with a set of the numbers that were asked for, one bit each.
    pub fn start(name: &str, mut work: impl FnMut(u64) + Send + 'static) -> std::io::Result<Self> {
        let state = Arc::new(State::default());
        let bell = Bell { state: state.clone() };
        let run = move || {
            loop {
                let asked = state.next();
                if asked & STOP != 0 {
                    return;
                }
                work(asked);
            }
        };
        let thread = thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self { bell, thread: Some(thread) })
    }

    /// By which it is asked.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.bell.state.ask(STOP);
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn works_when_asked_and_ends_when_dropped() {
        let (sender, work) = mpsc::channel();
        let worker = Worker::start("worker", move |asked| sender.send(asked).unwrap()).unwrap();
        for number in [0, 5, 62, u16::MAX] {
            worker.bell().ring(number);
            assert_eq!(work.recv_timeout(LONG), Ok(1 << number.min(62)));
        }
        drop(worker);
        assert_eq!(work.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected));
    }

    #[test]
    fn what_is_asked_during_work_is_done_after_it() {
        let (sender, work) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let worker = Worker::start("worker", move |asked| {
            sender.send(asked).unwrap();
            gate.recv().unwrap();
        })
        .unwrap();
        let bell = worker.bell();
        bell.ring(1);
        assert_eq!(work.recv_timeout(LONG), Ok(2));
        bell.ring(2);
        bell.ring(3);
        bell.ring(2);
        go.send(()).unwrap();
        assert_eq!(work.recv_timeout(LONG), Ok(0b1100));
        go.send(()).unwrap();
    }
}
