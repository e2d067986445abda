//! The real processor: a process of its own that runs cases natively and tells what they left.
//!
//! It is forked before an engine exists, so that a case's wild store can hit nothing but the window.
#![allow(unsafe_code)] // A process of its own, and memory shared with it.

use std::io;
use std::ptr;

use crate::case::{Case, Outcome};
use crate::child;
use crate::fpu::{self, Area, Areas};

/// Cases that one message carries.
pub const BATCH: usize = 64;

/// What the two processes share.
#[repr(C)]
pub struct Shared {
    pub count: u32,
    pub cases: [Case; BATCH],
    /// The vector state that follows from each case.
    pub areas: [Area; BATCH],
    pub outcomes: [Outcome; BATCH],
}

/// Vector state that cases began with, and what they left.
pub type Ran<'a> = (&'a [Area], &'a [Outcome]);

/// The process that runs cases natively.
pub struct Native {
    shared: *mut Shared,
    to: libc::c_int,
    from: libc::c_int,
    child: libc::pid_t,
    areas: Areas,
    /// Whether descriptors other than flat 64-bit ones can be had.
    pub segments: bool,
}

// SAFETY: the mapping and the descriptors are this value's alone.
unsafe impl Send for Native {}

impl Native {
    /// Forks it. `data` is the content of the data pages before each case.
    pub fn start(data: &'static [u8]) -> io::Result<Self> {
        // SAFETY: plain system calls with valid arguments; the results are checked.
        unsafe {
            let shared = libc::mmap(
                ptr::null_mut(),
                size_of::<Shared>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            );
            if shared == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let (mut there, mut back) = ([0; 2], [0; 2]);
            if libc::pipe2(there.as_mut_ptr(), libc::O_CLOEXEC) != 0
                || libc::pipe2(back.as_mut_ptr(), libc::O_CLOEXEC) != 0
            {
                return Err(io::Error::last_os_error());
            }
            // Known before the fork: the other side may not initialise it.
            fpu::layout();
            let child = libc::fork();
            match child {
                -1 => return Err(io::Error::last_os_error()),
                0 => {
                    libc::close(there[1]);
                    libc::close(back[0]);
                    child::serve(shared.cast(), data, there[0], back[1]);
                }
                _ => {}
            }
            libc::close(there[0]);
            libc::close(back[1]);
            let mut native = Self {
                shared: shared.cast(),
                to: there[1],
                from: back[0],
                child,
                areas: Areas::default(),
                segments: false,
            };
            native.segments = native.answer()? == 1;
            Ok(native)
        }
    }

    /// Runs cases and gives what each began with and left. It is good until the next call.
    pub fn run(&mut self, cases: &[Case]) -> io::Result<Ran<'_>> {
        assert!(cases.len() <= BATCH);
        // SAFETY: the mapping is live, and the child waits for our byte before it touches it.
        unsafe {
            (*self.shared).count = cases.len() as u32;
            let to = &raw mut (*self.shared).cases;
            ptr::copy_nonoverlapping(cases.as_ptr(), to.cast(), cases.len());
            for (case, area) in cases.iter().zip(&mut (*self.shared).areas) {
                *area = *self.areas.of(case.fpu_seed);
            }
            libc::write(self.to, [1_u8].as_ptr().cast(), 1);
        }
        self.answer()?;
        // SAFETY: the child has written them and waits again.
        let shared = unsafe { &*self.shared };
        Ok((&shared.areas[..cases.len()], &shared.outcomes[..cases.len()]))
    }

    fn answer(&mut self) -> io::Result<u8> {
        let mut byte = [0_u8];
        let mut poll = libc::pollfd { fd: self.from, events: libc::POLLIN, revents: 0 };
        // SAFETY: valid arguments.
        unsafe {
            if libc::poll(&mut poll, 1, 60_000) != 1 {
                return Err(io::Error::other("the native process hangs"));
            }
            match libc::read(self.from, byte.as_mut_ptr().cast(), 1) {
                1 => Ok(byte[0]),
                _ => {
                    let mut status = 0;
                    libc::waitpid(self.child, &mut status, 0);
                    Err(io::Error::other(format!("the native process has ended with {status:#x}")))
                }
            }
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: our own descriptors, mapping and child, used by nobody else.
        unsafe {
            libc::close(self.to);
            libc::close(self.from);
            libc::kill(self.child, libc::SIGKILL);
            libc::waitpid(self.child, ptr::null_mut(), 0);
            libc::munmap(self.shared.cast(), size_of::<Shared>());
        }
    }
}
