//! Stubs: processes that run a guest's ring 3 on the bare processor, and have nothing else.
//!
//! A stub's memory is what it is told to map of one file, the guest's RAM, and a few pages at an address drawn by lot: its
//! [code](image), and the [mail], which it shares with its owner. Whatever stops the guest's code there is a signal: of a
//! fault, of a system call, since a [filter] lets none pass, or of its owner. The kernel puts the registers into the mail and enters
//! the stub's code, which says that it stands and waits for a command: to change what is mapped, and to let the guest go on.
//!
//! The guest's code may do in a stub what it likes, jump into its code and write into the mail. It cannot call the kernel,
//! since that takes a secret, nor have its owner take it for standing while it runs, since the kernel has to say so; and what
//! it leaves for registers is checked ([`frame`]). To a stub's owner that is a guest that has done strange things to itself.
//!
//! Stubs are made before this process is in its [sandbox](crate::sandbox), which makes no more. If the thread that has made them
//! ends, so do they.
#![allow(unsafe_code)] // Another process's registers, and memory that it shares.

mod breakpoints;
mod filter;
mod frame;
mod image;
mod mail;
mod process;
mod registers;
mod turns;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::pid_t;

use crate::{HostError, Memfd, PAGE_SIZE};
use mail::{Action, Fprog, Post, SETUP, Setup};

pub use breakpoints::BREAKPOINTS;
pub use process::Stub;
pub use registers::Registers;

/// Why a stub stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Behind an instruction that enters the kernel. rax is as it was before.
    SystemCall,
    /// At an instruction that accesses what is not mapped for that.
    PageFault {
        /// CR2: where.
        address: u64,
        /// The error code that the processor has pushed (SDM vol. 3 ch. 4.7). Whether anything is mapped, bit 0, is of the stub.
        error: u32,
    },
    /// Another signal by an instruction.
    Fault {
        /// Its number.
        signal: i32,
        /// `si_code`.
        code: i32,
        /// `si_addr`.
        address: u64,
    },
    /// [`Interrupter::interrupt`].
    Interrupted,
}

/// A change of what is mapped in a stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A part of the file is mapped, in place of what was there.
    Map {
        /// Where.
        at: u64,
        /// Bytes.
        len: u64,
        /// Where in the file.
        offset: u64,
        /// Whether it may be written.
        write: bool,
        /// Whether it may be executed.
        execute: bool,
    },
    /// Nothing is.
    Unmap {
        /// Where.
        at: u64,
        /// Bytes.
        len: u64,
    },
}

/// Why a stub could not be run. It is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It has not begun to.
    #[error(transparent)]
    Before(HostError),
    /// What it has done since it began is known to nobody.
    #[error(transparent)]
    During(HostError),
}

/// Stops a stub, from any thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupter(u32);

impl Interrupter {
    /// The process's number, which is not 0.
    pub fn number(self) -> u32 {
        self.0
    }

    /// That of a process by its [number](Self::number).
    pub fn of(number: u32) -> Self {
        Self(number)
    }

    /// Stops it soon, or when it runs next.
    pub fn interrupt(self) {
        let pid = self.0 as pid_t;
        // SAFETY: a plain call. The process is a child that has not been waited for to its end, so that the number is its own.
        unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGURG) };
    }
}

/// A process that nobody runs anything in.
struct Idle {
    child: Child,
    /// Where its own pages are.
    base: u64,
    post: Post,
    /// What its filter wants to see.
    secret: [u64; 2],
    /// Wakes it.
    commands: OwnedFd,
    /// Says that it stands, and what it waits for.
    words: OwnedFd,
    /// Which command that is.
    awaited: u32,
    /// Where it finds descriptors of ours: those of the thread that has started it, which is in the same Landlock domain.
    descriptors: String,
    /// Whether it has not stood yet.
    is_new: bool,
}

/// Those that nobody has taken.
pub struct Stubs {
    idle: Mutex<Vec<Idle>>,
    pids: Vec<u32>,
}

impl Stubs {
    /// Starts so many processes. Where programs cannot set the bases of FS and GS this is an error.
    pub fn start(number: usize) -> Result<Self, HostError> {
        if !crate::cpu::programs_set_bases() {
            let source = io::Error::other("programs cannot set the bases of FS and GS on this host");
            return Err(HostError::Call { call: "wrfsbase", source });
        }
        let idle = (0..number).map(|_| start()).collect::<Result<Vec<_>, _>>()?;
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

    /// One of them, to map parts of this file. None if there is none left.
    pub fn take(&self, file: &Memfd) -> Result<Option<Stub>, HostError> {
        let Some(idle) = self.list().pop() else { return Ok(None) };
        Stub::attach(idle, file).map(Some)
    }

    /// Takes one back. One that cannot be had back has been killed.
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

fn start() -> Result<Idle, HostError> {
    let spawn = |source| HostError::Call { call: "execve", source };
    let (base, secret, post) = (image::place()?, filter::secret()?, Post::new()?);
    post.put(SETUP, setup(base, secret));
    let (for_commands, commands) = pipe()?;
    let (words, for_words) = pipe()?;
    // What it does not read is not to hold anybody up.
    nonblocking(&commands)?;
    let program = image::program(base)?;
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.env_clear().stdin(for_commands).stdout(for_words);
    command.stderr(post.memory.try_clone_file()?);
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            // Not the terminal's signals, no signal before one is wanted, and no longer than the thread that started it.
            libc::setsid();
            let mut all = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
            let ends_with_us = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            match ends_with_us | libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    let child = command.spawn().map_err(spawn)?;
    // SAFETY: a plain call that cannot fail.
    let thread = unsafe { libc::gettid() };
    let descriptors = format!("/proc/{}/task/{thread}/fd/", std::process::id());
    Ok(Idle { child, base, post, secret, commands, words, awaited: 0, descriptors, is_new: true })
}

/// What a stub at this address asks the kernel for in the beginning.
fn setup(base: u64, secret: [u64; 2]) -> Setup {
    /// `SA_SIGINFO`, `SA_ONSTACK`, and `SA_RESTORER` of asm/signal.h, without which the kernel delivers nothing.
    const FLAGS: u64 = (libc::SA_SIGINFO | libc::SA_ONSTACK) as u64 | 0x0400_0000;
    let handler = image::Place::Handler.address(base);
    let action = Action { handler, flags: FLAGS, restorer: handler, mask: !0 };
    let filter = filter::filter(base, secret);
    let mut room = [libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; mail::MOST_FILTER];
    room[..filter.len()].copy_from_slice(&filter);
    let at = base + (PAGE_SIZE + SETUP + std::mem::offset_of!(Setup, filter)) as u64;
    Setup {
        stack: stack(base),
        action,
        program: Fprog { len: filter.len() as u16, filter: at },
        filter: room,
    }
}

/// The stack of signals of a stub at this address, as sigaltstack(2) wants it: each signal begins at its end, wherever the guest's
/// stack is.
fn stack(base: u64) -> [u64; 3] {
    /// `SS_AUTODISARM` of linux/signal.h.
    const FLAGS: u64 = 1 << 31;
    [base + (PAGE_SIZE + mail::STACK) as u64, FLAGS, mail::STACK_BYTES as u64]
}

fn pipe() -> Result<(OwnedFd, OwnedFd), HostError> {
    let (read, write) = io::pipe().map_err(|source| HostError::Call { call: "pipe2", source })?;
    Ok((read.into(), write.into()))
}

fn nonblocking(descriptor: &OwnedFd) -> Result<(), HostError> {
    // SAFETY: plain calls.
    match unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } {
        0 => Ok(()),
        _ => Err(HostError::last("fcntl")),
    }
}

#[cfg(test)]
mod tests;
