//! Wakes a vCPU's thread, wherever it is: in guest code, asleep after HLT, or on its way between.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use devices::apic::Wake;
use vcpu::Kick;

#[derive(Default)]
struct State {
    /// Something has happened since the last sleep.
    pending: bool,
    asleep: bool,
    /// The vCPU's thread and its engine's handle, once there is one.
    thread: Option<(ThreadId, Arc<dyn Kick>)>,
}

/// One per vCPU.
#[derive(Default)]
pub struct Waker {
    state: Mutex<State>,
    awake: Condvar,
}

impl Waker {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Engines' kicks, the only foreign code called with the lock held, do not panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called by the vCPU's thread before it first runs guest code.
    pub fn bind(&self, kick: Arc<dyn Kick>) {
        self.lock().thread = Some((thread::current().id(), kick));
    }

    /// Called by the vCPU's thread when it will run no more guest code: its engine may be gone.
    pub fn unbind(&self) {
        self.lock().thread = None;
    }

    /// Sleeps until a wake-up; not at all if one has come since the last sleep.
    pub fn sleep(&self) {
        let mut state = self.lock();
        state.asleep = true;
        while !state.pending {
            state = self.awake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.asleep = false;
        state.pending = false;
    }
}

impl Wake for Waker {
    fn wake(&self) {
        let mut state = self.lock();
        state.pending = true;
        if state.asleep {
            self.awake.notify_one();
            return;
        }
        // The vCPU's own thread comes here out of a device, on its way back to the dispatcher, which looks before
        // it enters the engine again.
        if let Some((thread, kick)) = &state.thread
            && *thread != thread::current().id()
        {
            kick.kick();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    #[derive(Default)]
    struct Kicks(AtomicU32);

    impl Kick for Kicks {
        fn kick(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_wake_before_the_sleep_is_not_lost() {
        let waker = Waker::default();
        waker.wake();
        waker.sleep();
    }

    #[test]
    fn a_sleeper_is_woken_and_not_kicked() {
        let (waker, kicks) = (Arc::new(Waker::default()), Arc::new(Kicks::default()));
        let (sender, receiver) = mpsc::channel();
        let (sleeper, kick) = (waker.clone(), kicks.clone());
        let thread = thread::spawn(move || {
            sleeper.bind(kick);
            sleeper.sleep();
            sender.send(()).unwrap();
        });
        while !waker.lock().asleep {
            thread::yield_now();
        }
        waker.wake();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(()));
        thread.join().unwrap();
        assert_eq!(kicks.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn others_kick_and_the_thread_itself_does_not() {
        let (waker, kicks) = (Arc::new(Waker::default()), Arc::new(Kicks::default()));
        waker.bind(kicks.clone());
        waker.wake();
        assert_eq!(kicks.0.load(Ordering::Relaxed), 0);
        let other = waker.clone();
        thread::spawn(move || other.wake()).join().unwrap();
        assert_eq!(kicks.0.load(Ordering::Relaxed), 1);
        waker.unbind();
        thread::spawn(move || waker.wake()).join().unwrap();
        assert_eq!(kicks.0.load(Ordering::Relaxed), 1);
    }
}
