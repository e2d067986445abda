//! Looking at what a thread does: it is interrupted by SIGPROF, and a function is told where.
//!
//! For profiles of guest code, which runs on its thread where no host's profiler can name it. Nothing is installed
//! before somebody asks, so that a process that is not looked at has no handler and no timer.
#![allow(unsafe_code)] // Signal handlers and their contexts.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::HostError;

/// Is told the interrupted thread's instruction pointer.
///
/// Runs in a signal handler on that thread: it may touch atomics and memory set up beforehand, and must not
/// allocate, lock or panic.
pub type Observer = fn(u64);

/// Address of the observer, 0 for none.
static OBSERVER: AtomicUsize = AtomicUsize::new(0);
/// The handler is in force: without it the signal would end the process.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Has this observer told of interruptions, in place of any other.
pub fn install(observer: Observer) -> Result<(), HostError> {
    OBSERVER.store(observer as usize, Ordering::Release);
    let function: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
    // SAFETY: the action is fully set up; `handle` is a handler of the type that SA_SIGINFO wants.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = function as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigemptyset(&mut action.sa_mask);
        match libc::sigaction(libc::SIGPROF, &action, ptr::null_mut()) {
            0 => {}
            _ => return Err(HostError::last("sigaction")),
        }
    }
    INSTALLED.store(true, Ordering::Release);
    Ok(())
}

extern "C" fn handle(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let address = OBSERVER.load(Ordering::Acquire);
    if address == 0 {
        return;
    }
    // SAFETY: only `install` stores here, and only Observers.
    let observer: Observer = unsafe { std::mem::transmute(address) };
    // SAFETY: the kernel gives a context that is valid while the handler runs.
    let rip = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] };
    observer(rip as u64);
}

/// A thread of this process that can be interrupted.
#[derive(Clone, Copy, Debug)]
pub struct Thread(libc::pid_t);

impl Thread {
    /// The calling one.
    pub fn current() -> Self {
        // SAFETY: a plain call that cannot fail.
        Self(unsafe { libc::gettid() })
    }

    /// Interrupts it, once an observer is installed. If the thread has ended, nothing happens, or another thread of
    /// this process is interrupted.
    pub fn interrupt(self) {
        if INSTALLED.load(Ordering::Acquire) {
            // SAFETY: a plain call, and the handler is in force.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, libc::SIGPROF) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, AtomicU64};

    static SEEN: AtomicU64 = AtomicU64::new(0);
    static TIMES: AtomicU32 = AtomicU32::new(0);

    #[test]
    fn a_thread_is_seen_where_it_runs() {
        Thread::current().interrupt();
        install(|rip| {
            SEEN.store(rip, Ordering::Relaxed);
            TIMES.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        Thread::current().interrupt();
        // A signal to oneself arrives before the call that sends it returns.
        assert_eq!(TIMES.load(Ordering::Relaxed), 1);
        assert_ne!(SEEN.load(Ordering::Relaxed), 0);
    }
}
