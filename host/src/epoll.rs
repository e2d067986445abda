//! Waiting for thousands of descriptors (epoll(7)).
#![allow(unsafe_code)] // System calls.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::HostError;

/// How many descriptors one wait reports.
const BATCH: usize = 256;

/// A set of descriptors, each with a token of the caller's. One that is closed leaves the set by itself, as long as
/// it has no duplicate.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

/// What to report of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Input, as long as there is some.
    Readable,
    /// Each arrival of input, room for output, or an end: once, so that whoever is told reads or writes until
    /// nothing is left, or remembers.
    Edges,
    /// Nothing for now.
    Nothing,
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Whose descriptor.
    pub token: u64,
    /// A read would tell something: input, its end, an error.
    pub readable: bool,
    /// A write would: room, or an error.
    pub writable: bool,
}

impl Epoll {
    /// An empty set.
    pub fn new() -> Result<Self, HostError> {
        // SAFETY: a plain call.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(HostError::last("epoll_create1"));
        }
        // SAFETY: the descriptor is new and ours alone.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Adds a descriptor.
    pub fn add(&self, fd: &impl AsFd, token: u64, interest: Interest) -> Result<(), HostError> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Reports something else of a descriptor in the set.
    pub fn change(&self, fd: &impl AsFd, token: u64, interest: Interest) -> Result<(), HostError> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: &impl AsFd,
        token: u64,
        interest: Interest,
    ) -> Result<(), HostError> {
        let events = match interest {
            Interest::Readable => libc::EPOLLIN,
            Interest::Edges => libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET,
            Interest::Nothing => 0,
        };
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: token };
        // SAFETY: both descriptors are borrowed for longer than the call, and so is the event.
        let result = unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_fd().as_raw_fd(), &raw mut event)
        };
        if result == 0 { Ok(()) } else { Err(HostError::last("epoll_ctl")) }
    }

    /// Waits until something has come, or for a time, and puts what came into `ready`, which is emptied first. A
    /// signal may end it early.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> Result<(), HostError> {
        ready.clear();
        // Rounded up, so that a wait never ends early and spins.
        let milliseconds = timeout.map_or(-1, |timeout| {
            libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
        });
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        // SAFETY: the array is ours and as long as said.
        let count = unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), BATCH as libc::c_int, milliseconds)
        };
        let Ok(count) = usize::try_from(count) else {
            let error = HostError::last("epoll_wait");
            return if error.os_error() == Some(libc::EINTR) { Ok(()) } else { Err(error) };
        };
        ready.extend(events[..count].iter().map(|event| {
            let has = |mask: libc::c_int| event.events & mask.cast_unsigned() != 0;
            let ended = has(libc::EPOLLERR | libc::EPOLLHUP);
            Ready {
                token: event.u64,
                readable: ended || has(libc::EPOLLIN | libc::EPOLLRDHUP),
                writable: ended || has(libc::EPOLLOUT),
            }
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EventFd;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn wait(epoll: &Epoll) -> Vec<Ready> {
        let mut ready = Vec::new();
        epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        ready
    }

    #[test]
    fn a_level_is_reported_until_it_is_gone() {
        let epoll = Epoll::new().unwrap();
        let event = EventFd::new().unwrap();
        epoll.add(&event, 7, Interest::Readable).unwrap();
        assert_eq!(wait(&epoll), []);
        event.notify();
        let set = Ready { token: 7, readable: true, writable: false };
        assert_eq!([wait(&epoll), wait(&epoll)], [[set], [set]]);
        epoll.change(&event, 7, Interest::Nothing).unwrap();
        assert_eq!(wait(&epoll), []);
        epoll.change(&event, 8, Interest::Readable).unwrap();
        assert_eq!(wait(&epoll), [Ready { token: 8, ..set }]);
        assert!(event.take());
        assert_eq!(wait(&epoll), []);
        event.notify();
        drop(event);
        assert_eq!(wait(&epoll), []);
    }

    #[test]
    fn an_edge_is_reported_once() {
        let epoll = Epoll::new().unwrap();
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        epoll.add(&ours, 1, Interest::Edges).unwrap();
        assert_eq!(wait(&epoll), [Ready { token: 1, readable: false, writable: true }]);
        assert_eq!(wait(&epoll), []);
        theirs.write_all(b"x").unwrap();
        assert_eq!(wait(&epoll), [Ready { token: 1, readable: true, writable: true }]);
        assert_eq!(wait(&epoll), []);
        ours.read_exact(&mut [0]).unwrap();
        drop(theirs);
        assert_eq!(wait(&epoll), [Ready { token: 1, readable: true, writable: true }]);
    }
}
