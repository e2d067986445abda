//! Stubs: processes that run a guest's ring 3 on the bare processor, and have nothing else.
//!
//! A stub's memory is what it is told to map of one file, the guest's RAM, and two pages at an address drawn by lot: a
//! few instructions, and the list of what to map. It makes no system call of its own accord: a thread of ours traces it
//! (ptrace(2)), and with `PTRACE_SYSEMU` whatever enters the kernel only stops it there. So the guest's code may do in it
//! what it likes. If the tracing thread goes, so does the stub.
//!
//! Stubs are made before this process is in its [sandbox](crate::sandbox), which makes no more, and begin to be traced
//! when a vCPU's thread [takes](Stubs::take) them.
#![allow(unsafe_code)] // Other processes' registers.

mod image;
mod registers;
mod trace;

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sandbox::{Filter, only};
use crate::{HostError, Mapping, Memfd, Protection};

pub use registers::Registers;
pub use trace::{BREAKPOINTS, Change, Interrupter, Stop, Stub};

/// Bytes of the list of changes.
const LIST_BYTES: usize = 1 << 16;

/// What a stub may call by itself: not what the guest asks for, which never comes to the kernel, but what whoever has taken this
/// process over could ask of it. Files that it could open are Landlock's business.
#[rustfmt::skip]
const CALLS: &[libc::c_long] = &[
    libc::SYS_execve, libc::SYS_pause, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_openat, libc::SYS_close,
    libc::SYS_prctl, libc::SYS_arch_prctl, libc::SYS_restart_syscall, libc::SYS_exit_group, libc::SYS_write,
];

/// A process that waits to be traced.
struct Idle {
    child: Child,
    /// Where its own pages are.
    base: u64,
    list: Mapping,
    /// Where it finds descriptors of ours: those of the thread that has started it, which is in the same Landlock domain.
    descriptors: String,
    /// What the list is in.
    _memory: Memfd,
}

/// Those that nobody has taken.
pub struct Stubs {
    idle: Mutex<Vec<Idle>>,
    pids: Vec<u32>,
}

impl Stubs {
    /// Starts so many processes.
    pub fn start(number: usize) -> Result<Self, HostError> {
        let filter = only(CALLS)
            .map_err(|error| HostError::Call { call: "seccomp", source: io::Error::other(error) })?;
        let idle = (0..number).map(|_| start(&filter)).collect::<Result<Vec<_>, _>>()?;
        let pids = idle.iter().map(|idle| idle.child.id()).collect();
        Ok(Self { idle: Mutex::new(idle), pids })
    }

    /// All that were started.
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// How many can be taken.
    pub fn left(&self) -> usize {
        self.list().len()
    }

    /// One of them, traced by this thread from now on, to map parts of this file. None if there is none left.
    pub fn take(&self, file: &Memfd) -> Result<Option<Stub>, HostError> {
        let Some(idle) = self.list().pop() else { return Ok(None) };
        Stub::attach(idle, file).map(Some)
    }

    /// Takes one back from the thread that traces it. One that cannot be had back has been killed.
    pub fn give_back(&self, stub: Stub) {
        if let Ok(idle) = stub.detach() {
            self.list().push(idle);
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Idle {
    /// Ends the process and waits for it. Where neither is allowed any more, it ends with this one.
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

fn start(filter: &Filter) -> Result<Idle, HostError> {
    let memory = Memfd::new("stub", LIST_BYTES)?;
    let list = Mapping::shared(&memory, 0, LIST_BYTES, Protection::ReadWrite)?;
    let base = image::place()?;
    // SAFETY: a plain call that cannot fail.
    let thread = unsafe { libc::gettid() };
    let descriptors = format!("/proc/{}/task/{thread}/fd/", std::process::id());
    let program = image::program(base, &format!("{descriptors}{}", memory.raw()))?;
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.env_clear().stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let filter = filter.clone();
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            // Neither the terminal's signals nor its descriptors, and no longer than the thread that started it.
            libc::setsid();
            for descriptor in 0..3 {
                libc::close(descriptor);
            }
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            filter.enforce().map_err(io::Error::other)
        });
    }
    let child = command.spawn().map_err(|source| HostError::Call { call: "execve", source })?;
    Ok(Idle { child, base, list, descriptors, _memory: memory })
}

#[cfg(test)]
mod tests;
