//! What a system call that the filter stops leads to: SIGSYS, whose handler says which it was and ends the process.
//!
//! The call has not been made by then, and is not made afterwards, so nothing depends on this handler but the
//! message: an intruder who replaces it has gained nothing.

use std::io::Write as _;

use super::names;
use crate::{HostError, terminal};

/// `SYS_SECCOMP` of asm-generic/siginfo.h: the signal comes from a filter.
const SYS_SECCOMP: i32 = 1;

/// Installs the handler, for good.
pub(super) fn install() -> Result<(), HostError> {
    let function: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
    // SAFETY: the action is fully set up; `handle` is a handler of the type that SA_SIGINFO wants.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = function as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        match libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) {
            0 => Ok(()),
            _ => Err(HostError::last("sigaction")),
        }
    }
}

extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    terminal::restore_all();
    // SAFETY: the kernel gives both, valid while the handler runs.
    let (code, registers) =
        unsafe { ((*info).si_code, (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs) };
    if code == SYS_SECCOMP {
        // The kernel has put the call's number back into rax; its arguments are where they were.
        let register = |index: libc::c_int| registers[index as usize] as u64;
        let mut text = [0; 256];
        let length = describe(
            &mut text,
            register(libc::REG_RAX),
            [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].map(register),
        );
        // SAFETY: async-signal-safe; the bytes are ours. If it fails the signal has to do.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), length) };
    }
    // Blocked while we are here, delivered with the default action as soon as we return.
    // SAFETY: async-signal-safe calls with valid arguments.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGSYS, &default, std::ptr::null_mut());
        libc::raise(libc::SIGSYS);
    }
}

/// Writes the message without allocating; its length. What does not fit is left out.
fn describe(text: &mut [u8], number: u64, [first, second, third]: [u64; 3]) -> usize {
    let room = text.len();
    let mut rest = &mut *text;
    let name = names::name(number).unwrap_or("unknown");
    let _ = writeln!(
        rest,
        "popf: the sandbox stopped system call {number} ({name}), arguments {first:#x}, {second:#x}, {third:#x}"
    );
    let _ = writeln!(rest, "popf: a guest has tried to break out, or popf has a bug; please report it");
    if cfg!(debug_assertions) {
        let _ = writeln!(rest, "popf: --no-sandbox runs without");
    }
    room - rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_call_and_fits() {
        let mut text = [0; 256];
        let length = describe(&mut text, libc::SYS_execve as u64, [u64::MAX; 3]);
        assert!(length < text.len());
        let text = std::str::from_utf8(&text[..length]).unwrap();
        assert!(
            text.starts_with("popf: the sandbox stopped system call 59 (execve), arguments 0xffff"),
            "{text}"
        );
        let mut text = [0; 16];
        assert_eq!(describe(&mut text, 5000, [0; 3]), 16);
    }
}
