//! On which processors a thread may run.
//!
//! Two threads that take turns, and wait for each other meanwhile, do so in half the time on one processor: nobody sleeps, and no
//! idle processor has to be woken.
#![allow(unsafe_code)] // System calls.

use libc::{cpu_set_t, pid_t};

use crate::HostError;

/// Where the calling thread may run, and others that it takes with it.
pub struct Affinity {
    /// Where it might before it was bound.
    free: cpu_set_t,
    /// To which processor it is bound, if it is.
    bound: Option<i32>,
}

impl Affinity {
    /// The calling thread's, which is not bound.
    pub fn of_this_thread() -> Result<Self, HostError> {
        // SAFETY: all zero is a cpu_set_t.
        let mut free: cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes at most as many bytes as there are.
        match unsafe { libc::sched_getaffinity(0, size_of::<cpu_set_t>(), &raw mut free) } {
            0 => Ok(Self { free, bound: None }),
            _ => Err(HostError::last("sched_getaffinity")),
        }
    }

    /// Binds the calling thread to the processor that it is on, unless it is bound; gives its number.
    pub fn bind(&mut self) -> Result<i32, HostError> {
        if let Some(processor) = self.bound {
            return Ok(processor);
        }
        // SAFETY: a plain call.
        let processor = unsafe { libc::sched_getcpu() };
        bind(0, processor)?;
        self.bound = Some(processor);
        Ok(processor)
    }

    /// Lets the calling thread run where it might before.
    pub fn release(&mut self) {
        if self.bound.take().is_some() {
            // SAFETY: the set is one.
            unsafe { libc::sched_setaffinity(0, size_of::<cpu_set_t>(), &raw const self.free) };
        }
    }
}

/// Binds a thread, by its number, to a processor; 0 is the calling one.
pub(crate) fn bind(thread: pid_t, processor: i32) -> Result<(), HostError> {
    // SAFETY: all zero is a cpu_set_t, and the number is within it by the check.
    let set = unsafe {
        let mut set: cpu_set_t = std::mem::zeroed();
        if let Ok(n @ 0..1024) = usize::try_from(processor) {
            libc::CPU_SET(n, &mut set);
        }
        set
    };
    // SAFETY: the set is one.
    match unsafe { libc::sched_setaffinity(thread, size_of::<cpu_set_t>(), &raw const set) } {
        0 => Ok(()),
        _ => Err(HostError::last("sched_setaffinity")),
    }
}
