//! Operations of the operating system. Each crosses into the kernel and back, by the C library's plain entries.

use std::env;
use std::ffi::{c_int, c_long, c_void};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::Instant;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn sched_yield() -> c_int;
    #[link_name = "signal"]
    fn install_handler(number: c_int, handler: usize) -> usize;
    fn kill(pid: c_int, number: c_int) -> c_int;
    fn getpid() -> c_int;
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(status: c_int) -> !;
    fn mmap(at: *mut c_void, size: usize, protection: c_int, flags: c_int, fd: c_int, offset: c_long) -> *mut c_void;
    fn munmap(at: *mut c_void, size: usize) -> c_int;
    fn mprotect(at: *mut c_void, size: usize, protection: c_int) -> c_int;
}

const SYS_GETPPID: c_long = 110;
const SIGUSR1: c_int = 10;
const SIGSEGV: c_int = 11;
const READ: c_int = 1;
const READ_WRITE: c_int = 3;
const PRIVATE_ANONYMOUS: c_int = 0x22;
const PAGE: usize = 4096;

/// What `work` is told to do nothing: what is left is the price of a process.
pub const NOTHING: &str = "nothing";

pub fn getppid(count: u64) -> u64 {
    // SAFETY: takes nothing.
    (0..count).filter(|_| unsafe { syscall(SYS_GETPPID) } >= 0).count() as u64
}

pub fn yield_(count: u64) -> u64 {
    // SAFETY: takes nothing.
    (0..count).filter(|_| unsafe { sched_yield() } == 0).count() as u64
}

/// The clock as programs read it: without a system call where the system knows how.
pub fn clock(count: u64) -> u64 {
    let start = Instant::now();
    (0..count).filter(|_| Instant::now() >= start).count() as u64
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(_: c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// A signal to oneself, its handler, and back.
pub fn signal(count: u64) -> u64 {
    handle(SIGUSR1, on_signal);
    // SAFETY: a signal that has a handler.
    unsafe {
        let pid = getpid();
        for _ in 0..count {
            kill(pid, SIGUSR1);
        }
    }
    SIGNALS.load(Ordering::Relaxed)
}

fn handle(number: c_int, handler: extern "C" fn(c_int)) {
    // SAFETY: a function that lives as long as the program.
    unsafe { install_handler(number, handler as usize) };
}

static PROTECTED: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

extern "C" fn on_fault(_: c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: a page of our own.
    unsafe { mprotect(PROTECTED.load(Ordering::Relaxed), PAGE, READ_WRITE) };
}

/// A write to a page that may not be written, whose handler lets it.
pub fn fault(count: u64) -> u64 {
    let page = map(PAGE);
    PROTECTED.store(page, Ordering::Relaxed);
    handle(SIGSEGV, on_fault);
    // SAFETY: a page of our own, and a handler that mends what it faults for.
    unsafe {
        for n in 0..count {
            mprotect(page, PAGE, READ);
            page.cast::<u8>().write_volatile(n as u8);
        }
    }
    SIGNALS.load(Ordering::Relaxed)
}

/// One byte written to a pipe and read back.
pub fn pipe_to_self(count: u64) -> u64 {
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    let mut byte = [0];
    let mut sum = 0;
    for n in 0..count {
        writer.write_all(&[n as u8]).expect("a byte fits");
        reader.read_exact(&mut byte).expect("a byte is there");
        sum += u64::from(byte[0]);
    }
    sum
}

/// One byte to another process and back.
pub fn ping_pong(count: u64) -> u64 {
    let (mut from_parent, mut to_child) = std::io::pipe().expect("a pipe");
    let (mut from_child, mut to_parent) = std::io::pipe().expect("a pipe");
    let mut byte = [0];
    // SAFETY: one thread, and the child only reads and writes.
    let child = unsafe { fork() };
    if child == 0 {
        for _ in 0..count {
            if from_parent.read_exact(&mut byte).and_then(|()| to_parent.write_all(&[byte[0] ^ 1])).is_err() {
                break;
            }
        }
        // SAFETY: nothing is to be cleaned up.
        unsafe { _exit(0) };
    }
    let mut sum = 0;
    for n in 0..count {
        to_child.write_all(&[n as u8]).expect("the child reads");
        from_child.read_exact(&mut byte).expect("the child answers");
        sum += u64::from(byte[0]);
    }
    wait_for(child);
    sum
}

fn wait_for(child: c_int) {
    // SAFETY: no status is asked for.
    unsafe { waitpid(child, ptr::null_mut(), 0) };
}

/// A child that ends at once.
pub fn fork_and_wait(count: u64) -> u64 {
    for _ in 0..count {
        // SAFETY: one thread, and the child does nothing.
        match unsafe { fork() } {
            0 => unsafe { _exit(0) },
            child => wait_for(child),
        }
    }
    count
}

/// A child that becomes another program, which ends at once.
pub fn execute(count: u64) -> u64 {
    let program = env::current_exe().expect("this program has a name");
    let run = || Command::new(&program).arg0("work").arg(NOTHING).status().is_ok_and(|status| status.success());
    (0..count).filter(|_| run()).count() as u64
}

fn map(size: usize) -> *mut c_void {
    // SAFETY: anonymous memory wherever there is room.
    let at = unsafe { mmap(ptr::null_mut(), size, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0) };
    assert!(at as isize != -1, "no memory");
    at
}

/// Pages mapped, touched and unmapped, 64 at a time.
pub fn map_touch_unmap(count: u64) -> u64 {
    const CHUNK: usize = 64;
    for _ in 0..count / CHUNK as u64 {
        let at = map(CHUNK * PAGE);
        for page in 0..CHUNK {
            // SAFETY: inside what was mapped.
            unsafe { at.cast::<u8>().add(page * PAGE).write_volatile(1) };
        }
        // SAFETY: what was mapped.
        unsafe { munmap(at, CHUNK * PAGE) };
    }
    count
}

/// A page's write permission taken and given back.
pub fn protect(count: u64) -> u64 {
    let page = map(PAGE);
    for n in 0..count {
        // SAFETY: a page of our own, written while it may be.
        unsafe {
            mprotect(page, PAGE, READ);
            mprotect(page, PAGE, READ_WRITE);
            page.cast::<u8>().write_volatile(n as u8);
        }
    }
    count
}

/// Blocks of 4 KiB read from a file that is in the page cache.
pub fn read_4k(count: u64) -> u64 {
    const BLOCKS: u64 = 16;
    let path = env::temp_dir().join("work-read");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
    let mut block = vec![0; PAGE];
    for n in 0..BLOCKS {
        block.fill(n as u8);
        file.write_all_at(&block, n * PAGE as u64).expect("room");
    }
    let mut sum = 0;
    for n in 0..count {
        file.read_exact_at(&mut block, n % BLOCKS * PAGE as u64).expect("what was written");
        sum += u64::from(block[PAGE - 1]);
    }
    // It lies in memory, which the next workload wants.
    let _ = std::fs::remove_file(&path);
    sum
}
