//! The sampling clock: a thread that interrupts each vCPU so many times a second, while somebody watches.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use host::sampling::Thread;
use vcpu::Kick;

use super::{LEASE, Seat};

/// A vCPU that can be interrupted.
struct Target {
    seat: Seat,
    thread: Thread,
    kick: Arc<dyn Kick>,
}

#[derive(Default)]
struct State {
    /// When nobody watches any more; `None` if nobody does, and there is no thread.
    until: Option<Instant>,
    hertz: u32,
    targets: Vec<Target>,
}

/// One per life of a machine.
pub(super) struct Sampler {
    seats: Vec<Seat>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Sampler {
    pub(super) fn new(seats: Vec<Seat>) -> Self {
        Self { seats, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody watches, from now on for [`LEASE`].
    pub(super) fn extend(self: &Arc<Self>, hertz: u32) -> Result<(), String> {
        let mut state = self.lock();
        let begins = state.until.is_none();
        if begins {
            let sampler = self.clone();
            let thread = thread::Builder::new().name("sampler".into());
            thread.spawn(move || sampler.run()).map_err(|error| error.to_string())?;
        }
        if hertz > 0 && (begins || state.hertz == 0) {
            self.enlist();
        }
        state.until = Some(Instant::now() + LEASE);
        if state.hertz != hertz {
            state.hertz = hertz;
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Has each vCPU get ready to be interrupted, and say who it is.
    fn enlist(self: &Arc<Self>) {
        for seat in &self.seats {
            let (sampler, seat_again) = (self.clone(), seat.clone());
            seat.leave(move |dispatcher, _| {
                if let Err(error) = dispatcher.engine_mut().prepare_sighting() {
                    tracing::warn!("no sampling: {error}");
                    return;
                }
                let kick = dispatcher.engine().kicker();
                let target = Target { seat: seat_again, thread: Thread::current(), kick };
                sampler.lock().targets.push(target);
            });
        }
    }

    fn run(&self) {
        let mut state = self.lock();
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            let Some(until) = state.until.filter(|until| *until > now) else { break };
            let wait = if state.hertz == 0 {
                next = now;
                until - now
            } else {
                next += Duration::from_secs(1) / state.hertz;
                // Late ticks are not made up for: they would all see the same.
                next = next.max(now);
                next - now
            };
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            if state.hertz == 0 {
                state.targets.clear();
            }
            for target in &state.targets {
                if target.seat.desk.tick() {
                    target.thread.interrupt();
                    target.kick.kick();
                }
            }
        }
        // With the lock held: who comes now begins anew behind these.
        for seat in &self.seats {
            seat.leave(|dispatcher, _| dispatcher.stop_tracing());
        }
        *state = State::default();
    }
}
