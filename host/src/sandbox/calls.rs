//! Which system calls a machine needs, and for what: the tables from which the filter is made.
//!
//! A call is allowed, allowed with certain arguments, *declined* with an error that libraries expect, or stopped.
//! Declined is what well-behaved code tries and does without: glibc's allocator looks at files in /proc, threads
//! are made by `clone3` if there is one. Stopped is everything else, because a machine that gets there has a bug or
//! an intruder, and an error code would hide both.

use std::collections::BTreeMap;

use libc::{c_long, c_ulong};

use super::{Access, Sandbox};

/// A condition on one argument: where, which bits, and what they are to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Argument {
    pub index: u8,
    pub mask: u64,
    pub value: u64,
}

/// All of an `int` or `unsigned int`; the kernel does not look at the upper half of the register either.
const INT: u64 = 0xffff_ffff;

fn int(index: u8, value: impl Into<i64>) -> Argument {
    Argument { index, mask: INT, value: value.into() as u64 & INT }
}

fn bits(index: u8, mask: impl Into<i64>, value: impl Into<i64>) -> Argument {
    Argument { index, mask: mask.into() as u64, value: value.into() as u64 }
}

/// By call: the alternatives, each a list of conditions that have to hold together. No alternatives: always.
pub(super) type Table = BTreeMap<c_long, Vec<Vec<Argument>>>;

#[rustfmt::skip]
const ALWAYS: &[c_long] = &[
    // Descriptors that are open already.
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2,
    libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_pwritev2,
    libc::SYS_lseek, libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_ftruncate, libc::SYS_fallocate,
    libc::SYS_flock, libc::SYS_dup, libc::SYS_dup3, libc::SYS_close,
    libc::SYS_fstat, libc::SYS_statx,
    // Waiting, and being woken.
    libc::SYS_poll, libc::SYS_ppoll, libc::SYS_eventfd2, libc::SYS_pipe2,
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_wait, libc::SYS_epoll_pwait,
    libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime,
    libc::SYS_nanosleep, libc::SYS_clock_nanosleep,
    // The clock, where it is not read without a call.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday, libc::SYS_time,
    // Memory; `mmap` and `mprotect` by argument.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_memfd_create,
    libc::SYS_membarrier,
    // Threads; `clone` by argument.
    libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity, libc::SYS_gettid, libc::SYS_getpid, libc::SYS_geteuid, libc::SYS_exit, libc::SYS_exit_group,
    // Signals; sending one to ourselves by argument.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Chance, and how much of everything there is and was used.
    libc::SYS_getrandom, libc::SYS_sysinfo, libc::SYS_getrusage,
];

/// Terminals: their settings, their size, and whether they are ours to use. Not `TIOCSTI`, which types for the user.
const TERMINAL: [c_ulong; 9] = [
    libc::TCGETS,
    libc::TCSETS,
    libc::TCSETSW,
    libc::TCSETSF,
    libc::TCGETS2,
    libc::TCSETS2,
    libc::TIOCGWINSZ,
    libc::TIOCGPGRP,
    libc::FIONREAD,
];

/// Descriptors' flags, seals, and locks of open files.
#[rustfmt::skip]
const FCNTL: [i32; 9] = [
    libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL,
    libc::F_ADD_SEALS, libc::F_GET_SEALS, libc::F_OFD_GETLK, libc::F_OFD_SETLK,
];

/// `PR_SET_VMA`: newer C libraries name their mappings.
const PR_SET_VMA: i32 = 0x5356_4d41;

/// Files by name.
#[rustfmt::skip]
const BY_NAME: &[c_long] = &[
    libc::SYS_open, libc::SYS_openat, libc::SYS_openat2, libc::SYS_creat, libc::SYS_getdents64,
    libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_faccessat, libc::SYS_faccessat2,
    libc::SYS_readlink, libc::SYS_readlinkat, libc::SYS_getcwd, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_unlink, libc::SYS_unlinkat, libc::SYS_rmdir, libc::SYS_mkdir, libc::SYS_mkdirat,
    libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_link, libc::SYS_linkat,
    libc::SYS_symlink, libc::SYS_symlinkat, libc::SYS_mknodat,
];

/// What a shared folder's server asks of files beyond opening them.
#[rustfmt::skip]
const OF_SHARED: &[c_long] = &[
    libc::SYS_getxattr, libc::SYS_listxattr, libc::SYS_syncfs, libc::SYS_copy_file_range, libc::SYS_umask,
];

/// And what it sets. Landlock does not look at these, and they take names: see the module's page.
#[rustfmt::skip]
const OF_WRITABLE: &[c_long] = &[
    libc::SYS_chmod, libc::SYS_utimensat, libc::SYS_setxattr, libc::SYS_removexattr,
];

#[rustfmt::skip]
const SOCKET: &[c_long] = &[
    libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg,
    libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg,
    libc::SYS_accept4, libc::SYS_shutdown, libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt,
];

/// `TUNSETOFFLOAD` and `TUNSETVNETHDRSZ` of linux/if_tun.h: what a guest's driver turns on and off.
const TUN: [c_ulong; 2] = [0x4004_54d0, 0x4004_54d8];

/// What it takes to set breakpoints in another process ([`crate::stub`]).
const TRACING: [u32; 4] =
    [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT, libc::PTRACE_POKEUSER, libc::PTRACE_DETACH];

/// What this machine may do.
pub(super) fn allowed(sandbox: &Sandbox) -> Table {
    let mut table: Table = ALWAYS.iter().map(|&call| (call, Vec::new())).collect();
    let mut when = |call: c_long, arguments: &[Argument]| {
        table.entry(call).or_default().push(arguments.to_vec());
    };

    // Never writable and executable at once, executable only as a view of a memfd, and no change of mind about it:
    // the translation cache is mapped twice, so that nothing popf maps need ever change between the two.
    when(libc::SYS_mmap, &[bits(2, libc::PROT_EXEC, 0)]);
    let writable_executable = libc::PROT_WRITE | libc::PROT_EXEC;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    when(libc::SYS_mmap, &[bits(2, writable_executable, libc::PROT_EXEC), bits(3, anonymous, 0)]);
    when(libc::SYS_mprotect, &[bits(2, libc::PROT_EXEC, 0)]);
    // A new thread, not a new process.
    when(libc::SYS_clone, &[bits(0, libc::CLONE_THREAD, libc::CLONE_THREAD)]);
    // abort(3) and raise(3); nobody else's threads.
    when(libc::SYS_tgkill, &[int(0, std::process::id())]);
    // The name of a descriptor is empty. This keeps nobody from giving one all the same: see the module's page.
    when(libc::SYS_newfstatat, &[bits(3, libc::AT_EMPTY_PATH, libc::AT_EMPTY_PATH)]);
    if sandbox.shares.is_some() {
        // A working directory and creation mask of a thread's own: its first act, which may be late.
        when(libc::SYS_unshare, &[int(0, libc::CLONE_FS)]);
    }
    if sandbox.shares == Some(Access::ReadWrite) {
        // By descriptor; a name goes the same way as above.
        when(libc::SYS_fchownat, &[int(4, libc::AT_EMPTY_PATH)]);
    }
    for command in FCNTL {
        when(libc::SYS_fcntl, &[int(1, command)]);
    }
    for option in [libc::PR_SET_NAME, libc::PR_GET_NAME, PR_SET_VMA] {
        when(libc::SYS_prctl, &[int(0, option)]);
    }
    // Asked by pthread_getattr_np(3); not to be set.
    when(libc::SYS_prlimit64, &[int(0, 0), bits(2, -1, 0)]);
    for request in TERMINAL {
        when(libc::SYS_ioctl, &[int(1, request as i64)]);
    }
    when(libc::SYS_ioctl, &[int(1, libc::FIONBIO as i64)]);

    if !sandbox.stubs.is_empty() {
        // The calling thread, to take turns with them.
        when(libc::SYS_sched_setaffinity, &[int(0, 0)]);
    }
    for &pid in &sandbox.stubs {
        for request in TRACING {
            when(libc::SYS_ptrace, &[int(0, request), int(1, pid)]);
        }
        for call in [libc::SYS_wait4, libc::SYS_tgkill, libc::SYS_kill, libc::SYS_sched_setaffinity] {
            when(call, &[int(0, pid)]);
        }
        when(libc::SYS_waitid, &[int(0, libc::P_PID), int(1, pid)]);
    }
    if sandbox.tun {
        TUN.iter().for_each(|&request| when(libc::SYS_ioctl, &[int(1, request as i64)]));
    }
    if sandbox.internet {
        for domain in [libc::AF_INET, libc::AF_INET6] {
            socket(domain, &[(libc::SOCK_STREAM, &STREAMS), (libc::SOCK_DGRAM, &DATAGRAMS)], &mut when);
        }
    }
    if sandbox.unix_connections {
        socket(libc::AF_UNIX, &[(libc::SOCK_STREAM, &[0]), (libc::SOCK_DGRAM, &[0])], &mut when);
    }
    if sandbox.uses_sockets() {
        // The options of a connection. Those of the address families below 64 only: above stands the packet filter.
        when(libc::SYS_setsockopt, &[int(1, libc::SOL_SOCKET)]);
        when(libc::SYS_setsockopt, &[int(1, libc::IPPROTO_TCP)]);
        for level in [libc::IPPROTO_IP, libc::IPPROTO_IPV6] {
            when(libc::SYS_setsockopt, &[int(1, level), bits(2, INT as i64 & !63, 0)]);
        }
    }

    let mut always = |calls: &[c_long]| calls.iter().for_each(|&call| drop(table.insert(call, Vec::new())));
    if sandbox.uses_sockets() {
        always(SOCKET);
    }
    if sandbox.makes_sockets() {
        always(&[libc::SYS_connect, libc::SYS_bind, libc::SYS_listen]);
    }
    if sandbox.rings {
        always(&[libc::SYS_io_uring_enter]);
    }
    if sandbox.opens_files() {
        always(BY_NAME);
        always(&[libc::SYS_newfstatat]);
    }
    if sandbox.shares.is_some() {
        always(OF_SHARED);
    }
    if sandbox.shares == Some(Access::ReadWrite) {
        always(OF_WRITABLE);
    }
    table
}

const STREAMS: [i32; 2] = [0, libc::IPPROTO_TCP];
const DATAGRAMS: [i32; 4] = [0, libc::IPPROTO_UDP, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6];

/// Sockets of one address family, by type and protocol; no raw ones.
fn socket(domain: i32, kinds: &[(i32, &[i32])], when: &mut impl FnMut(c_long, &[Argument])) {
    /// The type's own bits; above them are flags (`SOCK_CLOEXEC`, `SOCK_NONBLOCK`).
    const TYPE: i32 = 0xf;
    for (kind, protocols) in kinds {
        for &protocol in *protocols {
            when(libc::SYS_socket, &[int(0, domain), bits(1, TYPE, *kind), int(2, protocol)]);
        }
    }
}

/// Calls that are answered with an error: it, and which.
pub(super) fn declined(sandbox: &Sandbox) -> [(i32, Table); 2] {
    let all = |calls: &[c_long]| calls.iter().map(|&call| (call, Vec::new())).collect();
    let mut forbidden: Table = if sandbox.opens_files() { Table::new() } else { all(BY_NAME) };
    if !sandbox.unix_connections {
        // A guest may call the host whenever it likes, and must not end popf by it.
        forbidden.insert(libc::SYS_socket, vec![vec![int(0, libc::AF_UNIX)]]);
    }
    // Threads are made by `clone`, then, whose flags a filter can see; and files are read and written without rings.
    [(libc::EACCES, forbidden), (libc::ENOSYS, all(&[libc::SYS_clone3, libc::SYS_io_uring_setup]))]
}
