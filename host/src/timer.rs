//! A one-shot timer of the kernel (timerfd_create(2)). Another thread can set it anew without waking the one that
//! waits, which a condition variable with a timeout cannot; and its precision does not suffer from timer slack.
#![allow(unsafe_code)] // System calls.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::time::Duration;

use crate::HostError;

/// Goes off once after it is set. May be set and waited for from any thread.
#[derive(Debug)]
pub struct TimerFd {
    file: File,
}

impl TimerFd {
    /// Makes one that is not set.
    pub fn new() -> Result<Self, HostError> {
        // SAFETY: a plain call.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(HostError::last("timerfd_create"));
        }
        // SAFETY: the descriptor is new and ours alone.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(Self { file })
    }

    /// Goes off after this time, and not as it was set before; at once for zero.
    pub fn set(&self, after: Duration) {
        // Zero would switch it off.
        let after = after.max(Duration::from_nanos(1));
        self.settime(libc::timespec {
            tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: after.subsec_nanos().into(),
        });
    }

    /// Does not go off.
    pub fn clear(&self) {
        self.settime(libc::timespec { tv_sec: 0, tv_nsec: 0 });
    }

    fn settime(&self, value: libc::timespec) {
        let interval = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec { it_interval: interval, it_value: value };
        // SAFETY: the structure is ours. The call fails for bad arguments only, and these are good.
        let result = unsafe { libc::timerfd_settime(self.file.as_raw_fd(), 0, &spec, std::ptr::null_mut()) };
        debug_assert_eq!(result, 0);
    }

    /// Waits until it goes off.
    pub fn wait(&self) -> Result<(), HostError> {
        let mut count = [0; 8];
        (&self.file)
            .read_exact(&mut count)
            .map_err(|source| HostError::Call { call: "read of a timerfd", source })
    }
}

impl AsFd for TimerFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    #[test]
    fn it_goes_off_when_it_was_set_for_last() {
        let timer = Arc::new(TimerFd::new().unwrap());
        timer.set(Duration::from_secs(3600));
        let start = Instant::now();
        let waiter = timer.clone();
        let thread = std::thread::spawn(move || {
            waiter.wait().unwrap();
            start.elapsed()
        });
        timer.clear();
        timer.set(Duration::from_millis(20));
        let passed = thread.join().unwrap();
        assert!(passed >= Duration::from_millis(20) && passed < Duration::from_secs(3600), "{passed:?}");
    }

    #[test]
    fn zero_is_at_once() {
        let timer = TimerFd::new().unwrap();
        timer.set(Duration::ZERO);
        timer.wait().unwrap();
    }
}
