//! The alarms of all chips: one thread that sleeps until the earliest deadline on the VM's clock and calls its
//! owner.
//!
//! Order of locks: a chip arms its timer with its own lock held, so the service's lock is taken inside a chip's;
//! the thread therefore lets go of the service's lock before it calls into a chip.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use devices::wiring::{Timer, VmClock};
use host::{HostError, TimerFd};

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

impl State {
    fn earliest(&self) -> Option<u64> {
        self.pending.first().map(|&(deadline, _)| deadline)
    }
}

struct Shared {
    clock: Arc<dyn VmClock>,
    /// What the thread waits for. Guests set their timers thousands of times a second and let few go off, so
    /// setting one must not wake the thread.
    sleep: TimerFd,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, slot: usize, deadline: Option<u64>) {
        let mut state = self.lock();
        let before = state.earliest();
        if let Some(old) = std::mem::replace(&mut state.slots[slot].deadline, deadline) {
            state.pending.remove(&(old, slot));
        }
        if let Some(deadline) = deadline {
            state.pending.insert((deadline, slot));
        }
        if state.earliest() != before {
            self.set_sleep(&state);
        }
    }

    /// Has the thread wake at the earliest deadline. The lock is held, so that the last to change it is the last
    /// to set the sleep.
    fn set_sleep(&self, state: &State) {
        match state.earliest() {
            _ if state.stop => self.sleep.set(Duration::ZERO),
            Some(deadline) => {
                let left = Duration::from_nanos(deadline.saturating_sub(self.clock.now()));
                self.sleep.set(left.min(LONGEST_SLEEP));
            }
            None => self.sleep.clear(),
        }
    }

    fn run(&self) {
        loop {
            // The descriptor is good for as long as this lives, so there is nothing to fail.
            if let Err(error) = self.sleep.wait() {
                tracing::error!("the timers have stopped: {error}");
                return;
            }
            let mut state = self.lock();
            while !state.stop
                && let Some(&(deadline, slot)) = state.pending.first()
                && deadline <= self.clock.now()
            {
                state.pending.pop_first();
                state.slots[slot].deadline = None;
                let callback = state.slots[slot].callback.clone();
                drop(state);
                if let Some(callback) = callback {
                    callback();
                }
                state = self.lock();
            }
            if state.stop {
                return;
            }
            self.set_sleep(&state);
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
    pub fn start(clock: Arc<dyn VmClock>) -> Result<Self, HostError> {
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { clock, sleep: TimerFd::new()?, state });
        let run = shared.clone();
        let thread = thread::Builder::new()
            .name("timers".into())
            .spawn(move || run.run())
            .map_err(|source| HostError::Call { call: "clone", source })?;
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
        let mut state = self.shared.lock();
        state.stop = true;
        self.shared.set_sleep(&state);
        drop(state);
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
