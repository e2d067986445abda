//! The seccomp filters: compiled from the tables of [`super::calls`], installed for all threads.
//!
//! A filter of `seccompiler` has one answer for what is in its table and one for the rest, and three are needed. So
//! there are several filters, and the kernel takes the strictest answer: the first stops what is in no table, each
//! of the others declines with one error.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use libc::{c_int, c_long, c_ulong};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::calls::{self, Argument, Table};
use super::{Sandbox, SandboxError};
use crate::HostError;

/// Puts the filters in force for all threads. The outer error is a bug or a thread that cannot be had, the inner
/// one a kernel without seccomp.
pub(super) fn install(sandbox: &Sandbox) -> Result<Result<(), HostError>, SandboxError> {
    let programs = programs(sandbox)?;
    for (index, program) in programs.iter().enumerate() {
        match load(program) {
            Ok(0) => {}
            Ok(thread) => return Err(SandboxError::Thread { thread }),
            Err(error) if index == 0 => return Ok(Err(error)),
            Err(error) => return Err(SandboxError::Host(error)),
        }
    }
    Ok(Ok(()))
}

/// Those that decline first: once the one that stops is there, no other can be loaded.
fn programs(sandbox: &Sandbox) -> Result<Vec<BpfProgram>, BackendError> {
    let mut allowed = calls::allowed(sandbox);
    let mut programs = Vec::new();
    for (error, declined) in calls::declined(sandbox) {
        if declined.is_empty() {
            continue;
        }
        // Not stopped, that is.
        for (call, alternatives) in &declined {
            match allowed.entry(*call) {
                Entry::Vacant(entry) => drop(entry.insert(alternatives.clone())),
                Entry::Occupied(mut entry) => entry.get_mut().extend(alternatives.iter().cloned()),
            }
        }
        programs.push(compile(declined, SeccompAction::Allow, SeccompAction::Errno(error as u32))?);
    }
    programs.push(compile(allowed, SeccompAction::Trap, SeccompAction::Allow)?);
    Ok(programs)
}

/// A filter for a process that has nothing to do but what it says.
#[derive(Clone)]
pub(crate) struct Filter(BpfProgram);

/// Stops all but these calls.
pub(crate) fn only(calls: &[c_long]) -> Result<Filter, BackendError> {
    let table = calls.iter().map(|&call| (call, Vec::new())).collect();
    compile(table, SeccompAction::Trap, SeccompAction::Allow).map(Filter)
}

impl Filter {
    /// Puts it in force for this process, which has one thread. A signal handler may call this.
    pub(crate) fn enforce(&self) -> Result<(), HostError> {
        // SAFETY: takes no pointer.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(HostError::last("prctl"));
        }
        load(&self.0).map(|_| ())
    }
}

/// Answers what is in the table with `inside`, anything else with `outside`. Calls of another architecture (32-bit
/// ones, by `int 0x80`) end the process at once.
fn compile(table: Table, outside: SeccompAction, inside: SeccompAction) -> Result<BpfProgram, BackendError> {
    let mut rules = BTreeMap::new();
    for (call, alternatives) in table {
        let alternatives = alternatives.iter().map(|arguments| rule(arguments));
        rules.insert(call, alternatives.collect::<Result<Vec<_>, _>>()?);
    }
    SeccompFilter::new(rules, outside, inside, TargetArch::x86_64)?.try_into()
}

fn rule(arguments: &[Argument]) -> Result<SeccompRule, BackendError> {
    let condition = |&Argument { index, mask, value }: &Argument| {
        SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
    };
    SeccompRule::new(arguments.iter().map(condition).collect::<Result<_, _>>()?)
}

/// 0, or a thread that could not be synchronised.
fn load(program: &BpfProgram) -> Result<c_long, HostError> {
    let program = libc::sock_fprog {
        // The crate makes none longer than the kernel's 4096.
        len: program.len() as u16,
        // Read only, and laid out the same: struct sock_filter of linux/filter.h.
        filter: program.as_ptr().cast_mut().cast(),
    };
    // Kernels before 5.16 would take a filter for a request to turn speculation off, which makes every load that
    // follows a store wait, in the guest's code above all. This is for popf's user to decide, not for the filter.
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    match seccomp(flags, &program) {
        // Before 4.17 there was no such flag.
        Err(error) if error.os_error() == Some(libc::EINVAL) => {
            seccomp(libc::SECCOMP_FILTER_FLAG_TSYNC, &program)
        }
        result => result,
    }
}

fn seccomp(flags: c_ulong, program: *const libc::sock_fprog) -> Result<c_long, HostError> {
    // SAFETY: the kernel copies the program, which the caller borrows for as long, or fails at a null pointer.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, program) };
    if result >= 0 { Ok(result) } else { Err(HostError::last("seccomp")) }
}

/// Whether this kernel takes filters for all threads whose answer is a signal.
pub(super) fn support() -> Result<(), HostError> {
    let trap: c_int = libc::SECCOMP_RET_TRAP as c_int;
    // SAFETY: reads the integer.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const trap) };
    if result != 0 {
        return Err(HostError::last("seccomp"));
    }
    match seccomp(libc::SECCOMP_FILTER_FLAG_TSYNC, std::ptr::null()) {
        Err(error) if error.os_error() != Some(libc::EFAULT) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Access;

    /// Everything there is to ask for.
    fn largest() -> Sandbox {
        let mut sandbox = Sandbox::new();
        sandbox.share("/", Access::ReadWrite);
        sandbox.internet();
        sandbox.unix_sockets = true;
        sandbox.unix_connections = true;
        sandbox.tun();
        sandbox.rings();
        sandbox
    }

    #[test]
    fn every_policy_fits_the_kernel() {
        for sandbox in [Sandbox::new(), largest()] {
            for program in programs(&sandbox).unwrap() {
                assert!(!program.is_empty() && program.len() < 4096, "{}", program.len());
            }
        }
    }

    #[test]
    fn what_no_machine_may_do_is_in_no_table() {
        let tables = [calls::allowed(&Sandbox::new()), calls::allowed(&largest())];
        for table in tables {
            for call in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_fork,
                libc::SYS_vfork,
                libc::SYS_kill,
                libc::SYS_ptrace,
                libc::SYS_process_vm_readv,
                libc::SYS_mount,
                libc::SYS_bpf,
                libc::SYS_kexec_load,
                libc::SYS_setns,
                libc::SYS_io_uring_setup,
                libc::SYS_io_uring_register,
                libc::SYS_userfaultfd,
                libc::SYS_perf_event_open,
                libc::SYS_fchmodat,
                libc::SYS_pkey_mprotect,
            ] {
                assert!(!table.contains_key(&call), "{call}");
            }
            // With certain arguments only.
            for call in
                [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_clone, libc::SYS_tgkill, libc::SYS_ioctl]
            {
                assert!(!table[&call].is_empty(), "{call}");
            }
        }
    }
}
