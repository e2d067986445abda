//! The system calls that the checks make, by the numbers and structures of Linux's x86-64 ABI.
//!
//! Addresses are plain numbers here: most of what the checks do with memory is what no reference may do.

use crate::bare::{padded, syscall};

/// A call whose arguments are numbers, or addresses of objects that outlive the call.
macro_rules! call {
    ($number:expr $(, $arg:expr)*) => {{
        let args = padded([$($arg as usize),*]);
        // SAFETY: each wrapper passes what the call expects; what a check maps or unmaps is its own.
        unsafe { syscall($number, args) }
    }};
}

pub const PAGE: u64 = 4096;

pub const NONE: u32 = 0;
pub const READ: u32 = 1;
pub const WRITE: u32 = 2;
pub const EXECUTE: u32 = 4;

pub const SIGILL: i32 = 4;
pub const SIGTRAP: i32 = 5;
pub const SIGBUS: i32 = 7;
pub const SIGFPE: i32 = 8;
pub const SIGUSR1: i32 = 10;
pub const SIGSEGV: i32 = 11;

const MAP_SHARED: usize = 1;
const MAP_PRIVATE: usize = 2;
const MAP_FIXED: usize = 0x10;
const MAP_ANONYMOUS: usize = 0x20;
const MAP_32BIT: usize = 0x40;

/// Reads to memory that no reference may point at, such as code.
pub fn read_to(fd: i32, address: u64, length: u64) -> isize {
    call!(0, fd, address, length)
}

pub fn write(fd: i32, bytes: &[u8]) -> isize {
    call!(1, fd, bytes.as_ptr(), bytes.len())
}

/// Fresh zeroed pages of this process alone.
pub fn map(pages: u64, protection: u32) -> u64 {
    mapped(call!(9, 0, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1isize, 0))
}

/// The same, at an address if there is room, else elsewhere.
pub fn map_near(address: u64, pages: u64, protection: u32) -> u64 {
    mapped(call!(9, address, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1isize, 0))
}

/// The same, below 2 GiB.
pub fn map_low(pages: u64, protection: u32) -> u64 {
    mapped(call!(9, 0, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1isize, 0))
}

/// The same, in the place of what is at an address.
pub fn map_at(address: u64, pages: u64, protection: u32) -> u64 {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    mapped(call!(9, address, pages * PAGE, protection, flags, -1isize, 0))
}

/// Pages of a file, shared.
pub fn map_file(fd: i32, page: u64, pages: u64, protection: u32) -> u64 {
    mapped(call!(9, 0, pages * PAGE, protection, MAP_SHARED, fd, page * PAGE))
}

/// The same, in the place of what is at an address.
pub fn map_file_at(address: u64, fd: i32, page: u64, pages: u64, protection: u32) -> u64 {
    mapped(call!(9, address, pages * PAGE, protection, MAP_SHARED | MAP_FIXED, fd, page * PAGE))
}

fn mapped(result: isize) -> u64 {
    assert!(!(-4095..0).contains(&result), "mmap: error {}", -result);
    result as u64
}

/// Calls that fail only if the program is wrong, or the machine.
fn done(result: isize) {
    assert!(result >= 0, "a system call failed: error {}", -result);
}

pub fn protect(address: u64, pages: u64, protection: u32) {
    done(call!(10, address, pages * PAGE, protection));
}

pub fn unmap(address: u64, pages: u64) {
    done(call!(11, address, pages * PAGE));
}

/// Moves pages to another address, which is returned.
pub fn remap_to(address: u64, pages: u64, to: u64) {
    const MAYMOVE_FIXED: usize = 3;
    done(call!(25, address, pages * PAGE, pages * PAGE, MAYMOVE_FIXED, to));
}

/// Gives the pages' content up; they read as zeros after.
pub fn discard(address: u64, pages: u64) {
    const MADV_DONTNEED: usize = 4;
    done(call!(28, address, pages * PAGE, MADV_DONTNEED));
}

/// A file in memory.
pub fn memory_file(pages: u64) -> i32 {
    let fd = call!(319, c"selfcheck".as_ptr(), 0);
    done(fd);
    done(call!(77, fd, pages * PAGE));
    fd as i32
}

/// A pipe: the end to read from, and the end to write to.
pub fn pipe() -> (i32, i32) {
    let mut ends = [0i32; 2];
    done(call!(22, ends.as_mut_ptr()));
    (ends[0], ends[1])
}

pub fn fork() -> isize {
    call!(57)
}

/// Waits for a child; how it ended, as `wait4` encodes it.
pub fn wait(child: isize) -> Option<i32> {
    let mut status = 0i32;
    (child > 0 && call!(61, child, &raw mut status, 0, 0) == child).then_some(status)
}

pub fn exit(status: i32) -> ! {
    loop {
        call!(231, status);
    }
}

/// Makes a 16-bit code segment in the local descriptor table; its selector, if the kernel has such tables.
pub fn code_segment_16(base: u32, limit: u32) -> Option<u16> {
    const WRITE_NEW: usize = 0x11;
    /// `contents` 2: code. Readable, in bytes, present.
    const CODE: u32 = 2 << 1;
    let descriptor = [0, base, limit, CODE];
    (call!(154, WRITE_NEW, descriptor.as_ptr(), 16) == 0).then_some(7)
}

pub fn process_id() -> isize {
    call!(39)
}

pub fn yield_now() {
    call!(24);
}

pub fn alarm(seconds: u32) {
    call!(37, seconds);
}

/// Sends a signal to this process.
pub fn raise(signal: i32) {
    done(call!(62, process_id(), signal));
}

/// Sleeps while the word has this value.
pub fn futex_wait(word: &core::sync::atomic::AtomicU32, value: u32) {
    call!(202, word.as_ptr(), 0, value, 0, 0, 0);
}

/// Wakes as many as wait for the word.
pub fn futex_wake(word: &core::sync::atomic::AtomicU32, count: u32) {
    call!(202, word.as_ptr(), 1, count, 0, 0, 0);
}

/// `struct sigaction` of the kernel.
#[repr(C)]
struct Action {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}

/// Where a signal's handler runs.
#[repr(C)]
struct Stack {
    sp: u64,
    flags: u64,
    size: u64,
}

unsafe extern "C" {
    fn selfcheck_restorer();
}

core::arch::global_asm!("selfcheck_restorer:", "mov eax, 15", "syscall");

/// Has a signal handled on the alternate stack.
pub fn on_signal(signal: i32, handler: usize) {
    const SIGINFO_ONSTACK_RESTORER: usize = 4 | 0x0800_0000 | 0x0400_0000;
    let restorer = selfcheck_restorer as *const () as usize;
    let action = Action { handler, flags: SIGINFO_ONSTACK_RESTORER, restorer, mask: 0 };
    done(call!(13, signal, &raw const action, 0, 8));
}

/// Gives signals a stack of their own.
pub fn alternate_stack(pages: u64) {
    let stack = Stack { sp: map(pages, READ | WRITE), flags: 0, size: pages * PAGE };
    done(call!(131, &raw const stack, 0));
}
