//! The first process of a guest that does ever more of one thing, built by `cargo xtask bench growth` and put on an ext4
//! root file system. The kernel's command line says what and how much of it: `growth.curve=NAME growth.sizes=N,N...`.
//!
//! - `code`: so many functions, each of them different code, called one after the other;
//! - `processes`: so many processes in a ring of pipes, in which a token goes round;
//! - `memory`: so many MiB, of which every page is written to, and then again.
//!
//! For each size it prints `result CURVE SIZE NANOSECONDS CHECK`, the time for one of them and a number that is the same
//! wherever it runs; at the end it turns the machine off.

use std::ffi::{CStr, c_char, c_int, c_long, c_ulong, c_void};
use std::fs;
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn mount(source: *const c_char, target: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void) -> c_int;
    fn reboot(command: c_int) -> c_int;
    fn mmap(at: *mut c_void, len: usize, protection: c_int, flags: c_int, fd: c_int, offset: c_long) -> *mut c_void;
    fn mprotect(at: *mut c_void, len: usize, protection: c_int) -> c_int;
    fn munmap(at: *mut c_void, len: usize) -> c_int;
    fn madvise(at: *mut c_void, len: usize, advice: c_int) -> c_int;
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn pipe(ends: *mut c_int) -> c_int;
    fn read(fd: c_int, to: *mut c_void, len: usize) -> isize;
    fn write(fd: c_int, from: *const c_void, len: usize) -> isize;
    fn close(fd: c_int) -> c_int;
    fn _exit(status: c_int) -> !;
}

const READ: c_int = 1;
const WRITE: c_int = 2;
const EXECUTE: c_int = 4;
const PRIVATE_ANONYMOUS: c_int = 0x22;
const PAGE: usize = 4096;

fn main() {
    // The initramfs may have done it; then this fails, and no matter.
    let mount_at = |target: &CStr, kind: &CStr| {
        // SAFETY: strings that end with a NUL, and no data.
        unsafe { mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    };
    mount_at(c"/proc", c"proc");
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let word = |key: &str| cmdline.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap_or_default();
    let curve = word("growth.curve=");
    for size in word("growth.sizes=").split(',').filter_map(|size| size.parse().ok()) {
        match curve {
            "code" => code(size),
            "processes" => processes(size),
            "memory" => memory(size),
            other => println!("there is no curve {other:?}"),
        }
    }
    println!("done");
    const POWER_OFF: c_int = 0x4321_fedc;
    // SAFETY: a plain call.
    unsafe { reboot(POWER_OFF) };
    panic!("the machine is still on");
}

fn result(curve: &str, size: usize, time: Duration, count: usize, check: u64) {
    println!("result {curve} {size} {:.2} {check}", time.as_nanos() as f64 / count as f64);
}

/// Zeroed memory, in small pages.
fn map(len: usize) -> *mut u8 {
    const NO_HUGE_PAGES: c_int = 15;
    // SAFETY: a new mapping, and advice on it.
    unsafe {
        let at = mmap(std::ptr::null_mut(), len, READ | WRITE, PRIVATE_ANONYMOUS, -1, 0);
        assert!(at as isize != -1, "no memory for {len} bytes");
        madvise(at, len, NO_HUGE_PAGES);
        at.cast()
    }
}

// Code.

/// Functions that one driver calls directly, and what all of them take.
const GROUP: usize = 16;
const FUNCTION: usize = 64;
const DRIVER: usize = 128;
const GROUP_BYTES: usize = DRIVER + GROUP * FUNCTION;
/// Times that each is called before it is measured, and when it is: so often, and for so many calls in all.
const PASSES_BEFORE: usize = 3;
const PASSES: usize = 3;
const CALLS: usize = 100_000;

/// Loads, arithmetic, a branch, stores and a stack access, with numbers of its own.
fn function(number: u32) -> Vec<u8> {
    let word = |n: u32| (number.wrapping_mul(0x9e37_79b1).wrapping_add(n) % 1000 * 4).to_le_bytes();
    let own = number.wrapping_mul(0x85eb_ca6b).to_le_bytes();
    [
        &[0x53][..],                    // push rbx
        &[0x8b, 0x87], &word(0),        // mov eax, [rdi + ..]
        &[0x8d, 0x98], &own,            // lea ebx, [rax + ..]
        &[0x81, 0xf3], &number.to_le_bytes(), // xor ebx, ..
        &[0x01, 0x9f], &word(1),        // add [rdi + ..], ebx
        &[0xf6, 0xc3, 0x01],            // test bl, 1
        &[0x74, 0x05],                  // jz over the next
        &[0x05], &own,                  // add eax, ..
        &[0x0f, 0xaf, 0xc3],            // imul eax, ebx
        &[0x89, 0x87], &word(2),        // mov [rdi + ..], eax
        &[0x01, 0xd8],                  // add eax, ebx
        &[0x5b, 0xc3],                  // pop rbx; ret
    ]
    .concat()
}

/// Calls the functions behind it.
fn driver() -> Vec<u8> {
    let mut code = vec![0x48, 0x83, 0xec, 0x08]; // sub rsp, 8
    for n in 0..GROUP {
        let behind = code.len() + 5;
        code.push(0xe8); // call
        code.extend(((DRIVER + n * FUNCTION - behind) as u32).to_le_bytes());
    }
    code.extend([0x48, 0x83, 0xc4, 0x08, 0xc3]); // add rsp, 8; ret
    code
}

fn code(functions: usize) {
    let groups = functions.div_ceil(GROUP);
    let len = (groups * GROUP_BYTES).next_multiple_of(PAGE);
    let at = map(len);
    let put = |offset: usize, code: &[u8], room: usize| {
        assert!(code.len() <= room);
        // SAFETY: inside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), at.add(offset), code.len()) };
    };
    for group in 0..groups {
        put(group * GROUP_BYTES, &driver(), DRIVER);
        for n in 0..GROUP {
            let offset = group * GROUP_BYTES + DRIVER + n * FUNCTION;
            put(offset, &function((group * GROUP + n) as u32), FUNCTION);
        }
    }
    // SAFETY: the mapping is ours.
    assert_eq!(unsafe { mprotect(at.cast(), len, READ | EXECUTE) }, 0);
    let data = map(PAGE);
    let mut sum = 0_u64;
    let mut times = Vec::new();
    for _ in 0..PASSES_BEFORE + PASSES.max(CALLS / functions) {
        let began = Instant::now();
        for group in 0..groups {
            // SAFETY: the driver and what it calls keep the C calling convention, and use the page at `data`.
            sum = sum.wrapping_add(unsafe {
                let driver: extern "sysv64" fn(*mut u8) -> u32 = std::mem::transmute(at.add(group * GROUP_BYTES));
                driver(data)
            }.into());
        }
        times.push(began.elapsed());
    }
    result("code-first", groups * GROUP, times[0], groups * GROUP, sum);
    times.drain(..PASSES_BEFORE);
    times.sort();
    result("code", groups * GROUP, times[times.len() / 2], groups * GROUP, sum);
    // SAFETY: nothing of them is used any more.
    unsafe {
        munmap(at.cast(), len);
        munmap(data.cast(), PAGE);
    }
}

// Processes.

/// Times that the token is passed on, at least.
const SWITCHES: usize = 20_000;
const LAPS: usize = 5;

fn processes(count: usize) {
    let laps = LAPS.max(SWITCHES / count);
    let (first_read, first_write) = new_pipe();
    let mut from = first_read;
    let mut children = Vec::new();
    // This process is one of them.
    for _ in 1..count {
        let (next_read, to) = new_pipe();
        // SAFETY: this program has one thread.
        match unsafe { fork() } {
            0 => {
                shut(next_read);
                shut(first_write);
                pass_on(from, to);
            }
            -1 => panic!("no process"),
            pid => children.push(pid),
        }
        shut(from);
        shut(to);
        from = next_read;
    }
    let mut token = 0;
    let mut round = |laps: usize| {
        let began = Instant::now();
        for _ in 0..laps {
            send(first_write, token);
            token = receive(from).expect("the ring is whole");
        }
        began.elapsed()
    };
    round(1);
    let time = round(laps);
    result("processes", count, time, laps * count, token);
    shut(first_write);
    shut(from);
    for pid in children {
        // SAFETY: our child, and no status.
        unsafe { waitpid(pid, std::ptr::null_mut(), 0) };
    }
}

/// A child's life: until the one before it has ended.
fn pass_on(from: c_int, to: c_int) -> ! {
    while let Some(token) = receive(from) {
        send(to, token + 1);
    }
    // SAFETY: ends this process.
    unsafe { _exit(0) }
}

fn new_pipe() -> (c_int, c_int) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { pipe(ends.as_mut_ptr()) }, 0, "no pipe");
    (ends[0], ends[1])
}

fn shut(fd: c_int) {
    // SAFETY: a descriptor of ours.
    unsafe { close(fd) };
}

fn send(to: c_int, token: u64) {
    // SAFETY: eight bytes that are there.
    assert_eq!(unsafe { write(to, (&raw const token).cast(), 8) }, 8);
}

fn receive(from: c_int) -> Option<u64> {
    let mut token = 0_u64;
    // SAFETY: room for eight bytes.
    let got = unsafe { read(from, (&raw mut token).cast(), 8) };
    (got == 8).then_some(token)
}

// Memory.

fn memory(mib: usize) {
    let pages = (mib << 20) / PAGE;
    let at = map(pages * PAGE);
    let pass = |turn: u64| {
        let began = Instant::now();
        let mut sum = 0_u64;
        for page in 0..pages {
            // SAFETY: inside the mapping, aligned.
            unsafe {
                let word = at.add(page * PAGE).cast::<u64>();
                if turn > 0 {
                    sum = sum.wrapping_add(word.read_volatile());
                }
                word.write_volatile(page as u64 + turn);
            }
        }
        (began.elapsed(), sum)
    };
    let (time, sum) = pass(0);
    result("memory-first", mib, time, pages, sum);
    let (time, sum) = pass(1);
    result("memory", mib, time, pages, sum);
    // SAFETY: not used any more.
    unsafe { munmap(at.cast(), pages * PAGE) };
}
