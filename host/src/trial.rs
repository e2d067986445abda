//! A few instructions on the bare processor, in ring 3, to see what becomes of them.
//!
//! Each trial is a forked process of its own, under a seccomp filter that lets it end and nothing else, with a
//! limit on its processor time. It is entered and left by a signal: the process executes UD2, whose handler puts
//! the trial's registers in place of its own; whatever ends the trial raises the next signal, whose context is
//! what the trial left. Between fork and end nothing allocates or locks, for the process was forked from one that
//! may have threads, and nothing thread-local is touched, for the trial may have moved FS.
//!
//! Code, data and stack lie below 2 GiB, so that a trial may go to 32-bit code and back.
#![allow(unsafe_code)] // A forked process, signal handlers, and registers that are another program's.

use std::io;
use std::ptr;

use crate::fault::GPR;
use crate::sandbox::{Filter, only};
use crate::{HostError, Mapping, Memfd, PAGE_SIZE, Protection};

/// Bytes of code that a trial may have.
pub const CODE_BYTES: usize = PAGE_SIZE - END.len();
/// Bytes of data, all 0 at first, that a trial finds at its rdi.
pub const DATA_BYTES: usize = 256;

/// UD2: what a trial runs into behind its code.
const END: [u8; 2] = [0x0f, 0x0b];
/// Where a process's memory has what: code, then what is written.
const SHARED: usize = PAGE_SIZE;
const DATA: usize = 2 * PAGE_SIZE;
const STACK_TOP: usize = 4 * PAGE_SIZE;
const SIGNAL_STACK: usize = 4 * PAGE_SIZE;
const BYTES: usize = 32 * PAGE_SIZE;

const SIGNALS: [libc::c_int; 7] =
    [libc::SIGPROF, libc::SIGSYS, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];

/// What a trial left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// General registers, by their numbers in instruction encodings.
    pub gpr: [u64; 16],
    /// Where it ended, counted from the first byte of its code.
    pub offset: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// CS.
    pub cs: u16,
    /// What is at the address that rdi had.
    pub data: [u8; DATA_BYTES],
}

/// How a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It came to the end of its code.
    Done,
    /// An exception that the kernel made a signal of.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, or 0.
        error_code: u64,
    },
    /// It entered the kernel, which the filter told.
    SystemCall,
    /// It had not ended when its time was up.
    Endless,
}

/// What the two processes share; written by one at a time, as one waits for the other's end.
#[repr(C)]
#[derive(Clone, Copy)]
struct Shared {
    phase: Phase,
    gpr: [u64; 16],
    code: u64,
    /// As the last signal's context had them.
    signal: i32,
    vector: u64,
    error_code: u64,
    rip: u64,
    rflags: u64,
    selectors: u64,
    /// `errno`, if it did not come to the trial.
    errno: i32,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its registers are still to be loaded.
    Enter,
    Inside,
    /// It has ended, and its registers are here.
    Ended,
}

/// The child's own; the parent's copy stays null.
static mut SHARED_HERE: *mut Shared = ptr::null_mut();

/// Runs code of 64-bit mode with these registers, all flags clear. Its rsp is a stack of its own, its rdi the
/// address of its data, whatever `gpr` says.
///
/// # Panics
/// If the code is longer than [`CODE_BYTES`].
pub fn run(code: &[u8], gpr: [u64; 16]) -> Result<Outcome, HostError> {
    assert!(code.len() <= CODE_BYTES, "a trial of {} bytes", code.len());
    let memfd = Memfd::new("trial", BYTES)?;
    let memory = Mapping::shared_low(&memfd, 0, BYTES, Protection::ReadWrite)?;
    let executable = Mapping::shared_low(&memfd, 0, PAGE_SIZE, Protection::ReadExecute)?;
    let filter = only(&[libc::SYS_exit_group, libc::SYS_rt_sigreturn])
        .map_err(|error| HostError::Call { call: "seccomp", source: io::Error::other(error) })?;

    let mut shared = Shared {
        phase: Phase::Enter,
        gpr,
        code: executable.address() as u64,
        signal: 0,
        vector: 0,
        error_code: 0,
        rip: 0,
        rflags: 0,
        selectors: 0,
        errno: 0,
    };
    shared.gpr[4] = (memory.address() + STACK_TOP) as u64;
    shared.gpr[7] = (memory.address() + DATA) as u64;
    // SAFETY: all three lie within the mapping, and there is no other process yet.
    unsafe {
        ptr::copy_nonoverlapping(code.as_ptr(), memory.as_ptr(), code.len());
        ptr::copy_nonoverlapping(END.as_ptr(), memory.as_ptr().add(code.len()), END.len());
        memory.as_ptr().add(SHARED).cast::<Shared>().write(shared);
    }
    let status = in_child(&memory, &filter)?;
    // SAFETY: the child has ended; it wrote nothing here but a Shared.
    let shared = unsafe { memory.as_ptr().add(SHARED).cast::<Shared>().read() };
    if shared.errno != 0 {
        return Err(HostError::Call { call: "seccomp", source: io::Error::from_raw_os_error(shared.errno) });
    }
    let mut data = [0; DATA_BYTES];
    // SAFETY: within the mapping.
    unsafe { ptr::copy_nonoverlapping(memory.as_ptr().add(DATA), data.as_mut_ptr(), DATA_BYTES) };
    let offset = shared.rip.wrapping_sub(shared.code);
    let end = match shared.phase {
        Phase::Ended => match shared.signal {
            libc::SIGSYS => End::SystemCall,
            libc::SIGPROF => End::Endless,
            libc::SIGILL if offset == code.len() as u64 => End::Done,
            _ => End::Exception { vector: shared.vector as u8, error_code: shared.error_code },
        },
        // The filter ends a process at once that enters the kernel as a 32-bit program.
        _ if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS => End::SystemCall,
        _ => {
            let source = io::Error::other(format!("the trial's process ended with status {status:#x}"));
            return Err(HostError::Call { call: "fork", source });
        }
    };
    let cs = shared.selectors as u16;
    Ok(Outcome { end, gpr: shared.gpr, offset, rflags: shared.rflags, cs, data })
}

/// Has a child run the trial and waits for its end; its status.
fn in_child(memory: &Mapping, filter: &Filter) -> Result<libc::c_int, HostError> {
    // SAFETY: the child calls only what a signal handler may call.
    match unsafe { libc::fork() } {
        -1 => Err(HostError::last("fork")),
        // SAFETY: we are the child; the mapping has these parts.
        0 => unsafe { child(memory.as_ptr(), filter) },
        process => loop {
            let mut status = 0;
            // SAFETY: the child is ours, and nobody else waits for it.
            match unsafe { libc::waitpid(process, &mut status, 0) } {
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                -1 => return Err(HostError::last("waitpid")),
                _ => return Ok(status),
            }
        },
    }
}

/// # Safety
/// In a forked process only; `memory` is a mapping as [`run`] makes it.
unsafe fn child(memory: *mut u8, filter: &Filter) -> ! {
    // SAFETY: by the contract; all calls have valid arguments.
    unsafe {
        let shared: *mut Shared = memory.add(SHARED).cast();
        SHARED_HERE = shared;
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let stack = libc::stack_t {
            ss_sp: memory.add(SIGNAL_STACK).cast(),
            ss_flags: 0,
            ss_size: BYTES - SIGNAL_STACK,
        };
        libc::sigaltstack(&stack, ptr::null_mut());
        let function: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = function as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigfillset(&mut action.sa_mask);
        for signal in SIGNALS {
            libc::sigaction(signal, &action, ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        let limit = libc::timeval { tv_sec: 0, tv_usec: 500_000 };
        let timer = libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: limit };
        libc::setitimer(libc::ITIMER_PROF, &timer, ptr::null_mut());
        if let Err(error) = filter.enforce() {
            (*shared).errno = error.os_error().unwrap_or(libc::EINVAL);
            libc::_exit(1);
        }
        std::arch::asm!("ud2", options(noreturn));
    }
}

extern "C" fn handle(signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid context; the static was set before any signal could come.
    unsafe {
        let context: *mut libc::ucontext_t = context.cast();
        let gregs = &mut (*context).uc_mcontext.gregs;
        let shared = &mut *SHARED_HERE;
        if shared.phase == Phase::Enter {
            for (register, value) in GPR.into_iter().zip(shared.gpr) {
                gregs[register as usize] = value as i64;
            }
            gregs[libc::REG_RIP as usize] = shared.code as i64;
            gregs[libc::REG_EFL as usize] = 2;
            shared.phase = Phase::Inside;
            return;
        }
        for (register, value) in GPR.into_iter().zip(&mut shared.gpr) {
            *value = gregs[register as usize] as u64;
        }
        shared.signal = signal;
        shared.vector = gregs[libc::REG_TRAPNO as usize] as u64;
        shared.error_code = gregs[libc::REG_ERR as usize] as u64;
        shared.rip = gregs[libc::REG_RIP as usize] as u64;
        shared.rflags = gregs[libc::REG_EFL as usize] as u64;
        shared.selectors = gregs[libc::REG_CSGSFS as usize] as u64;
        shared.phase = Phase::Ended;
        libc::_exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(code: &[u8]) -> Outcome {
        let mut gpr = [0; 16];
        gpr[8..].copy_from_slice(&[8, 9, 10, 11, 12, 13, 14, 15]);
        run(code, gpr).unwrap()
    }

    #[test]
    fn registers_and_memory_come_back() {
        // lea rax, [r8+r15]; mov [rdi+255], r9b; push r10; pop rcx; stc
        let outcome =
            trial(&[0x4b, 0x8d, 0x04, 0x38, 0x44, 0x88, 0x8f, 255, 0, 0, 0, 0x41, 0x52, 0x59, 0xf9]);
        assert_eq!((outcome.end, outcome.offset), (End::Done, 15));
        assert_eq!((outcome.gpr[0], outcome.gpr[1], &outcome.gpr[8..11]), (23, 10, &[8, 9, 10][..]));
        assert_eq!((outcome.rflags & 1, outcome.data[255], outcome.cs), (1, 9, 0x33));
        assert_eq!(outcome.data[..255], [0; 255]);
    }

    #[test]
    fn every_end_is_told() {
        let ends = |code: &[u8]| trial(code).end;
        let exception = |vector, error_code| End::Exception { vector, error_code };
        assert_eq!(ends(&[0xf4]), exception(13, 0), "hlt");
        assert_eq!(ends(&[0x90, 0x0f, 0x0b, 0x90]), exception(6, 0), "ud2 before the end");
        assert_eq!(ends(&[0x31, 0xc9, 0xf7, 0xf1]), exception(0, 0), "div by zero");
        assert_eq!(ends(&[0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0]), exception(14, 4), "mov rax, [0]");
        assert_eq!(ends(&[0xcd, 0x20]), exception(13, 0x20 << 3 | 2), "int 20h");
        assert_eq!(ends(&[0x0f, 0x05]), End::SystemCall, "syscall");
        assert_eq!(ends(&[0xcd, 0x80]), End::SystemCall, "int 80h");
        assert_eq!(ends(&[0xeb, 0xfe]), End::Endless, "jmp $");
    }

    /// push 23h; lea rax, [rip+3]; push rax; retfq; and there inc eax, which is a prefix in 64-bit mode.
    #[test]
    fn thirty_two_bit_code_can_be_reached() {
        let outcome = trial(&[0x6a, 0x23, 0x48, 0x8d, 0x05, 3, 0, 0, 0, 0x50, 0x48, 0xcb, 0x40, 0x90]);
        assert_eq!((outcome.end, outcome.cs), (End::Done, 0x23));
    }
}
