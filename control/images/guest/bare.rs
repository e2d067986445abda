//! What a Linux program for x86-64 needs that has no C library: the entry point, system calls, and the memory
//! routines that the compiler calls by name.
//!
//! Shared by the programs that run inside guests; `compile.rs` builds them. Not modelled: unwinding.

use core::arch::asm;

/// One system call.
///
/// # Safety
/// Pointers among the arguments must be valid for what the numbered call does with them.
pub unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the registers are those of the kernel's ABI; rcx and r11 are the only others it changes, and
    // the caller vouches for the pointers.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// A call's arguments and, behind them, zeros.
pub fn padded<const N: usize>(given: [usize; N]) -> [usize; 6] {
    let mut args = [0; 6];
    for (slot, arg) in args.iter_mut().zip(given) {
        *slot = arg;
    }
    args
}

// The compiler calls these by name; the C library that usually has them is not linked. `rep` strings, as a
// loop would be recognised and compiled into a call to itself.

/// # Safety
/// As of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: the same contract; upwards, no byte is overwritten before it is read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: as for `memcpy`, from the last byte down; `count` is not 0 here.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _, inout("rdi") to.add(count - 1) => _, inout("rsi") from.add(count - 1) => _, options(nostack));
    }
    to
}

/// # Safety
/// As of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: as for `memcpy`.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") value as u8, options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: the caller vouches for `count` bytes on both sides; volatile, so that the loop stays one.
        let (l, r) = unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
        if l != r {
            return i32::from(l) - i32::from(r);
        }
    }
    0
}

/// # Safety
/// As of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, count) }
}

/// # Safety
/// As of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller vouches for a terminated string; volatile, so that the loop stays one.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

// The kernel enters with the stack pointer at argc, which `main` is given, and no return address.
core::arch::global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {main}", "ud2", main = sym crate::main);

/// Named by the precompiled core library; nothing unwinds here, as a panic ends the program.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
