//! Where other threads leave word for a vCPU: what they want to see of it, it shows between two runs of its engine.
//!
//! So nothing of a vCPU is shared, and counting takes no lock: whoever asks leaves a [`Visit`], makes the vCPU come
//! out of guest code or sleep, and is answered on its thread. While nobody asks, that is one flag looked at per exit.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use vcpu::Environment;

use crate::Dispatcher;

/// What somebody wants of a vCPU, done on its thread between two instructions. It must be quick, and leave the
/// guest's state as it is.
pub type Visit = Box<dyn FnOnce(&mut Dispatcher, &mut dyn Environment) + Send>;

/// One vCPU's.
#[derive(Default)]
pub struct Desk {
    waiting: AtomicBool,
    visits: Mutex<Vec<Visit>>,
    /// Ticks of the sampling clock since the last sample.
    ticks: AtomicU32,
    /// The vCPU waits for an interrupt, as far as a tracer is there to note it.
    idle: AtomicBool,
}

impl Desk {
    /// Leaves a visit. The vCPU is to be woken and kicked afterwards.
    pub fn leave(&self, visit: Visit) {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner).push(visit);
        self.waiting.store(true, Ordering::Release);
    }

    /// A tick of the sampling clock. `false` if the vCPU sleeps: there is nothing to interrupt.
    pub fn tick(&self) -> bool {
        if self.idle.load(Ordering::Relaxed) {
            return false;
        }
        self.ticks.fetch_add(1, Ordering::Relaxed);
        self.waiting.store(true, Ordering::Release);
        true
    }

    /// Whether somebody waits.
    pub(crate) fn waits(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes what has been left, and the ticks there have been.
    pub(crate) fn take(&self) -> (Vec<Visit>, u32) {
        // Before it is taken: what is left behind it sets the flag again.
        self.waiting.swap(false, Ordering::AcqRel);
        let visits = std::mem::take(&mut *self.visits.lock().unwrap_or_else(PoisonError::into_inner));
        (visits, self.ticks.swap(0, Ordering::Relaxed))
    }

    pub(crate) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }
}
