//! The processor's breakpoints in a stub that stands. A thread of ours traces it for as long as it takes to set them: they
//! outlast that.

use std::mem::offset_of;

use libc::{c_int, c_uint, pid_t};

use crate::HostError;

/// How many there are.
pub const BREAKPOINTS: usize = 4;

/// Those of one process, as they are set.
#[derive(Debug, Default)]
pub struct Breakpoints {
    addresses: [Option<u64>; BREAKPOINTS],
}

impl Breakpoints {
    /// Sets them for the execution of what is at these addresses, or takes them away.
    pub fn set(&mut self, pid: pid_t, addresses: [Option<u64>; BREAKPOINTS]) -> Result<(), HostError> {
        if self.addresses == addresses {
            return Ok(());
        }
        ask(libc::PTRACE_SEIZE, pid, 0, 0)?;
        let done = self.set_traced(pid, addresses);
        ask(libc::PTRACE_DETACH, pid, 0, 0)?;
        done
    }

    fn set_traced(&mut self, pid: pid_t, addresses: [Option<u64>; BREAKPOINTS]) -> Result<(), HostError> {
        const DR7: usize = 7;
        let register = |n: usize| offset_of!(libc::user, u_debugreg) + 8 * n;
        ask(libc::PTRACE_INTERRUPT, pid, 0, 0)?;
        wait(pid)?;
        let differ = |n: &usize| self.addresses[*n] != addresses[*n];
        let changes: Vec<usize> = (0..BREAKPOINTS).filter(differ).collect();
        changes.iter().for_each(|n| self.addresses[*n] = None);
        ask(libc::PTRACE_POKEUSER, pid, register(DR7), self.control())?;
        for n in changes {
            ask(libc::PTRACE_POKEUSER, pid, register(n), addresses[n].unwrap_or(0) as usize)?;
            self.addresses[n] = addresses[n];
        }
        ask(libc::PTRACE_POKEUSER, pid, register(DR7), self.control())
    }

    /// DR7: two bits for each, of which the lower one enables it locally. Kind and length are 0 for execution.
    fn control(&self) -> usize {
        (0..BREAKPOINTS).filter(|n| self.addresses[*n].is_some()).fold(0, |control, n| control | 1 << (2 * n))
    }
}

fn ask(request: c_uint, pid: pid_t, address: usize, data: usize) -> Result<(), HostError> {
    // SAFETY: none of the requests above reads or writes memory of ours.
    match unsafe { libc::ptrace(request, pid, address, data) } {
        -1 => Err(HostError::last("ptrace")),
        _ => Ok(()),
    }
}

/// Waits until it has stopped.
fn wait(pid: pid_t) -> Result<(), HostError> {
    let mut status: c_int = 0;
    loop {
        // SAFETY: the status is an int.
        match unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } {
            -1 => match HostError::last("waitpid") {
                error if error.os_error() == Some(libc::EINTR) => {}
                error => return Err(error),
            },
            _ => return Ok(()),
        }
    }
}
