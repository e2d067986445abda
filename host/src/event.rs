//! Waiting for descriptors, and a descriptor to be woken by (eventfd(2), poll(2)).
#![allow(unsafe_code)] // System calls.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::time::{Duration, Instant};

use crate::HostError;

/// A counter in the kernel that can be waited for together with other descriptors.
#[derive(Debug)]
pub struct EventFd {
    file: File,
}

impl EventFd {
    /// Makes one that is not set.
    pub fn new() -> Result<Self, HostError> {
        // SAFETY: a plain call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(HostError::last("eventfd"));
        }
        // SAFETY: the descriptor is new and ours alone.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(Self { file })
    }

    /// Sets it, waking who polls it.
    pub fn notify(&self) {
        // Fails only when the counter is about to overflow, and then it is set anyway.
        let _ = (&self.file).write(&1u64.to_ne_bytes());
    }

    /// Clears it; says whether it was set.
    pub fn take(&self) -> bool {
        (&self.file).read(&mut [0; 8]).is_ok()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What to wait for, and what came.
#[derive(Debug)]
pub struct Wait<'a> {
    fd: BorrowedFd<'a>,
    events: libc::c_short,
    seen: libc::c_short,
}

impl<'a> Wait<'a> {
    /// For input or its end.
    pub fn readable(fd: &'a impl AsFd) -> Self {
        Self { fd: fd.as_fd(), events: libc::POLLIN, seen: 0 }
    }

    /// For room for output.
    pub fn writable(fd: &'a impl AsFd) -> Self {
        Self { fd: fd.as_fd(), events: libc::POLLOUT, seen: 0 }
    }

    /// Whether it came; an error or a hang-up counts, as the read or write that follows will tell.
    pub fn ready(&self) -> bool {
        self.seen != 0
    }
}

/// Waits until one of them is ready, or for a time. Says whether one is.
pub fn poll(waits: &mut [Wait<'_>], timeout: Option<Duration>) -> Result<bool, HostError> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut fds: Vec<_> = waits
        .iter()
        .map(|wait| libc::pollfd { fd: wait.fd.as_raw_fd(), events: wait.events, revents: 0 })
        .collect();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // Rounded up, so that a wait never ends early and spins.
        let milliseconds = left.map_or(-1, |left| {
            libc::c_int::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
        });
        // SAFETY: the array is ours and as long as said; the descriptors are borrowed for longer than the call.
        let count = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, milliseconds) };
        if count > 0 {
            waits.iter_mut().zip(&fds).for_each(|(wait, fd)| wait.seen = fd.revents);
            return Ok(true);
        }
        if count == 0 {
            waits.iter_mut().for_each(|wait| wait.seen = 0);
            return Ok(false);
        }
        let error = HostError::last("poll");
        if error.os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_event_is_set_until_taken() {
        let event = EventFd::new().unwrap();
        assert!(!event.take());
        event.notify();
        event.notify();
        assert!(poll(&mut [Wait::readable(&event)], None).unwrap());
        assert!(event.take());
        assert!(!event.take());
        assert!(!poll(&mut [Wait::readable(&event)], Some(Duration::ZERO)).unwrap());
    }

    #[test]
    fn another_thread_wakes_the_waiter() {
        let event = Arc::new(EventFd::new().unwrap());
        let other = Arc::clone(&event);
        let thread = std::thread::spawn(move || other.notify());
        assert!(poll(&mut [Wait::readable(&event)], Some(Duration::from_secs(60))).unwrap());
        thread.join().unwrap();
    }

    #[test]
    fn a_timeout_takes_its_time_and_says_which_was_ready() {
        let (quiet, set) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        let start = Instant::now();
        assert!(!poll(&mut [Wait::readable(&quiet)], Some(Duration::from_millis(3))).unwrap());
        assert!(start.elapsed() >= Duration::from_millis(3));
        set.notify();
        let mut waits = [Wait::readable(&quiet), Wait::readable(&set), Wait::writable(&set)];
        assert!(poll(&mut waits, None).unwrap());
        assert_eq!(waits.map(|wait| wait.ready()), [false, true, true]);
    }
}
