//! Why and how a machine stops: the one place where the first reason is kept, and from which everything that
//! runs is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use dispatcher::{Failure, Report};

/// Why a machine has stopped.
#[derive(Debug)]
pub enum StopReason {
    /// The guest turned the machine off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest wrote this to the debug-exit port.
    DebugExit(u32),
    /// A fault while delivering a double fault: the processor shut down.
    TripleFault(Report),
    /// All processors have halted with interrupts off, or were never started: nothing can ever wake them.
    Dead,
    /// A vCPU cannot go on.
    Failed(Failure),
    /// The host has no thread for a vCPU.
    NoThread(std::io::Error),
    /// A thread of the machine panicked; the message has been printed.
    Bug,
    /// The user said so, by the escape key.
    Quit,
    /// A signal of this number asked popf to end.
    Signal(i32),
    /// The machine's owner ended it from another process.
    Killed,
    /// The host takes no more of what the guest sends.
    OutputFailed(std::io::Error),
}

/// Wakes whatever waits or runs, so that it looks at [`StopSwitch::is_set`].
pub type Wakeup = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct State {
    reason: Option<StopReason>,
    wakeups: Vec<Wakeup>,
}

/// Stops a machine, from any thread; the first reason counts.
#[derive(Default)]
pub struct StopSwitch {
    set: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

impl StopSwitch {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the machine to stop. Never blocks for long: it is called from chips that are locked.
    pub fn stop(&self, reason: StopReason) {
        // A second reason changes nothing.
        let _ = self.try_stop(reason);
    }

    /// The same, but gives the reason back if the machine stops for another already.
    pub fn try_stop(&self, reason: StopReason) -> Result<(), StopReason> {
        let (result, wakeups) = {
            let mut state = self.lock();
            let result = if self.is_set() {
                Err(reason)
            } else {
                state.reason = Some(reason);
                self.set.store(true, Ordering::Release);
                Ok(())
            };
            (result, state.wakeups.clone())
        };
        self.changed.notify_all();
        for wake in wakeups {
            wake();
        }
        result
    }

    /// Whether [`Self::stop`] has been called.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Has this called at a stop; at once, if that has come already.
    pub fn on_stop(&self, wake: Wakeup) {
        let mut state = self.lock();
        state.wakeups.push(wake.clone());
        drop(state);
        if self.is_set() {
            wake();
        }
    }

    /// Waits for a stop.
    pub fn wait(&self) {
        let mut state = self.lock();
        while state.reason.is_none() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the reason, once everything has ended.
    pub fn take_reason(&self) -> Option<StopReason> {
        let mut state = self.lock();
        state.wakeups.clear();
        state.reason.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn the_first_reason_counts_and_everybody_is_woken() {
        let switch = StopSwitch::default();
        let woken = Arc::new(AtomicU32::new(0));
        let count = woken.clone();
        switch.on_stop(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        assert!(!switch.is_set());
        switch.stop(StopReason::DebugExit(3));
        switch.stop(StopReason::PowerOff);
        switch.wait();
        assert!(switch.is_set());
        let count = woken.clone();
        switch.on_stop(Arc::new(move || {
            count.fetch_add(10, Ordering::Relaxed);
        }));
        assert_eq!(woken.load(Ordering::Relaxed), 12);
        assert!(matches!(switch.take_reason(), Some(StopReason::DebugExit(3))));
    }
}
