//! The alarms of all chips: one thread that sleeps until the earliest deadline on the VM's clock and calls its
//! owner.
//!
//! Order of locks: a chip arms its timer with its own lock held, so the service's lock is taken inside a chip's;
//! the thread therefore lets go of the service's lock before it calls into a chip.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use devices::wiring::{Timer, VmClock};

type Callback = Arc<dyn Fn() + Send + Sync>;

/// Longest sleep. The VM's clock runs by the time-stamp counter and the thread sleeps by the kernel's clock; a
/// long sleep is cut up so that their difference does not add up.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Slot {
    deadline: Option<u64>,
    callback: Option<Callback>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    /// Deadlines with their slot; what [`Slot::deadline`] says, ordered.
    pending: BTreeSet<(u64, usize)>,
    stop: bool,
}

struct Shared {
    clock: Arc<dyn VmClock>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, slot: usize, deadline: Option<u64>) {
        let mut state = self.lock();
        let before = state.pending.first().map(|&(deadline, _)| deadline);
        if let Some(old) = std::mem::replace(&mut state.slots[slot].deadline, deadline) {
            state.pending.remove(&(old, slot));
        }
        if let Some(deadline) = deadline {
            state.pending.insert((deadline, slot));
            // Otherwise the thread wakes early enough as it is.
            if before.is_none_or(|before| deadline < before) {
                self.changed.notify_one();
            }
        }
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.stop {
            let Some(&(deadline, slot)) = state.pending.first() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = self.clock.now();
            if now < deadline {
                let sleep = Duration::from_nanos(deadline - now).min(LONGEST_SLEEP);
                let wait = self.changed.wait_timeout(state, sleep);
                state = wait.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            state.pending.pop_first();
            state.slots[slot].deadline = None;
            let callback = state.slots[slot].callback.clone();
            drop(state);
            if let Some(callback) = callback {
                callback();
            }
            state = self.lock();
        }
    }
}

/// The service; its thread ends when this is dropped.
pub struct TimerService {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl TimerService {
    /// Starts the thread.
    pub fn start(clock: Arc<dyn VmClock>) -> std::io::Result<Self> {
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { clock, state, changed: Condvar::new() });
        let run = shared.clone();
        let thread = thread::Builder::new().name("timers".into()).spawn(move || run.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A new alarm. It does nothing until [`Alarm::connect`].
    pub fn alarm(&self) -> Alarm {
        let mut state = self.shared.lock();
        state.slots.push(Slot::default());
        Alarm { shared: self.shared.clone(), slot: state.slots.len() - 1 }
    }
}

impl Drop for TimerService {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic in a chip has been reported by its thread already.
            let _ = thread.join();
        }
        // Callbacks own the chips that own the alarms.
        let slots = std::mem::take(&mut self.shared.lock().slots);
        self.shared.lock().slots.resize_with(slots.len(), Slot::default);
        drop(slots);
    }
}

/// One alarm: what a chip gets as its [`Timer`], and what the board connects to the chip.
#[derive(Clone)]
pub struct Alarm {
    shared: Arc<Shared>,
    slot: usize,
}

impl Alarm {
    /// Calls this when the alarm goes off, on the service's thread.
    pub fn connect(&self, callback: impl Fn() + Send + Sync + 'static) {
        self.shared.lock().slots[self.slot].callback = Some(Arc::new(callback));
    }
}

impl Timer for Alarm {
    fn arm(&self, deadline: u64) {
        self.shared.set(self.slot, Some(deadline));
    }

    fn cancel(&self) {
        self.shared.set(self.slot, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Instant;

    struct Clock(Instant);

    impl VmClock for Clock {
        fn now(&self) -> u64 {
            self.0.elapsed().as_nanos() as u64
        }
    }

    fn service() -> (TimerService, Arc<Clock>) {
        let clock = Arc::new(Clock(Instant::now()));
        (TimerService::start(clock.clone()).unwrap(), clock)
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn alarms_go_off_in_order_and_not_early() {
        let (service, clock) = service();
        let (sender, receiver) = mpsc::channel();
        let alarms: Vec<_> = (0..3).map(|_| service.alarm()).collect();
        for (index, alarm) in alarms.iter().enumerate() {
            let (sender, clock) = (sender.clone(), clock.clone());
            alarm.connect(move || sender.send((index, clock.now())).unwrap());
        }
        let start = clock.now();
        alarms[0].arm(start + 30 * MS);
        alarms[1].arm(start + 10 * MS);
        // Later than asked for at first.
        alarms[2].arm(start + 5 * MS);
        alarms[2].arm(start + 20 * MS);
        for (index, after) in [(1, 10), (2, 20), (0, 30)] {
            let (went, at) = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(went, index);
            assert!(at >= start + after * MS);
        }
    }

    #[test]
    fn cancelled_alarms_stay_silent() {
        let (service, clock) = service();
        let (sender, receiver) = mpsc::channel();
        let cancelled = service.alarm();
        let last = service.alarm();
        for (name, alarm) in [("cancelled", &cancelled), ("last", &last)] {
            let sender = sender.clone();
            alarm.connect(move || sender.send(name).unwrap());
        }
        cancelled.arm(clock.now() + 5 * MS);
        last.arm(clock.now() + 20 * MS);
        cancelled.cancel();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok("last"));
        assert!(receiver.try_recv().is_err());
    }

    #[test]
    fn a_chip_may_rearm_under_its_lock_while_it_fires() {
        let (service, clock) = service();
        let (sender, receiver) = mpsc::channel();
        let alarm = service.alarm();
        let chip = Arc::new(Mutex::new((alarm.clone(), 0)));
        let (fired, now) = (chip.clone(), clock.clone());
        alarm.connect(move || {
            let mut chip = fired.lock().unwrap();
            chip.1 += 1;
            chip.0.arm(now.now() + MS);
            sender.send(chip.1).unwrap();
        });
        {
            let chip = chip.lock().unwrap();
            chip.0.arm(clock.now());
        }
        for count in 1..=5 {
            assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(count));
        }
    }

    #[test]
    fn dropping_the_service_frees_the_chips() {
        let (service, _) = service();
        let chip = Arc::new(());
        let alarm = service.alarm();
        let held = chip.clone();
        alarm.connect(move || drop(held.clone()));
        drop(service);
        assert_eq!(Arc::strong_count(&chip), 1);
        // What a chip that outlives the service does with its alarm has no effect.
        alarm.arm(0);
        alarm.cancel();
    }
}
