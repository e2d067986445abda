//! On which processors a thread may run.
//!
//! Two threads that take turns, each asleep meanwhile, do so in half the time on one processor: no idle processor has to be
//! woken. If they watch for each other instead, two are faster.
#![allow(unsafe_code)] // System calls.

use libc::{cpu_set_t, pid_t};

use crate::HostError;

/// Where another thread may run beside one that is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    /// On the same processor, by its number.
    Together(i32),
    /// On any other than this.
    Apart(i32),
}

/// Where the calling thread may run, and others that work for it.
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

    /// Binds the calling thread to the processor that it is on, unless it is bound; gives where another may run: apart if that is
    /// wanted and there is another processor.
    pub(crate) fn beside(&mut self, apart: bool) -> Result<Beside, HostError> {
        let processor = match self.bound {
            Some(processor) => processor,
            None => {
                // SAFETY: a plain call.
                let processor = unsafe { libc::sched_getcpu() };
                restrict(0, &only(processor))?;
                *self.bound.insert(processor)
            }
        };
        let others = self.others(processor);
        // SAFETY: the set is one.
        let apart = apart && unsafe { libc::CPU_COUNT(&others) } > 0;
        Ok(if apart { Beside::Apart(processor) } else { Beside::Together(processor) })
    }

    /// Has another thread run there.
    pub(crate) fn bind_other(&self, thread: pid_t, place: Beside) -> Result<(), HostError> {
        match place {
            Beside::Together(processor) => restrict(thread, &only(processor)),
            Beside::Apart(processor) => restrict(thread, &self.others(processor)),
        }
    }

    /// Where the calling thread may run when it is not bound, without one.
    fn others(&self, processor: i32) -> cpu_set_t {
        let mut others = self.free;
        if let Some(n) = in_set(processor) {
            // SAFETY: the number is within the set.
            unsafe { libc::CPU_CLR(n, &mut others) };
        }
        others
    }

    /// Lets the calling thread run where it might before.
    pub fn release(&mut self) {
        if self.bound.take().is_some() {
            // SAFETY: the set is one.
            unsafe { libc::sched_setaffinity(0, size_of::<cpu_set_t>(), &raw const self.free) };
        }
    }
}

/// This processor alone.
fn only(processor: i32) -> cpu_set_t {
    // SAFETY: all zero is a cpu_set_t, and the number is within it.
    unsafe {
        let mut set: cpu_set_t = std::mem::zeroed();
        if let Some(n) = in_set(processor) {
            libc::CPU_SET(n, &mut set);
        }
        set
    }
}

fn in_set(processor: i32) -> Option<usize> {
    usize::try_from(processor).ok().filter(|n| *n < libc::CPU_SETSIZE as usize)
}

/// Has a thread, by its number, run on these processors; 0 is the calling one.
fn restrict(thread: pid_t, processors: &cpu_set_t) -> Result<(), HostError> {
    // SAFETY: the set is one.
    match unsafe { libc::sched_setaffinity(thread, size_of::<cpu_set_t>(), processors) } {
        0 => Ok(()),
        _ => Err(HostError::last("sched_setaffinity")),
    }
}
