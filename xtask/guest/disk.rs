//! The first process of a guest that tries its disk, built by `cargo xtask durability` and `cargo xtask bench disk`
//! and put on an ext4 root file system under one name for each thing it does:
//!
//! - `/writer` says what of its records it finds, then writes and fsyncs one after the other and acknowledges each,
//!   until it is killed;
//! - `/verify` says what it finds and turns the machine off;
//! - `/bench` measures the second disk and turns the machine off.
//!
//! It talks by lines on its standard output, the console.

use std::alloc::{Layout, alloc_zeroed};
use std::env;
use std::ffi::{CStr, c_char, c_int, c_long, c_ulong, c_void};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn mount(source: *const c_char, target: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void) -> c_int;
    fn reboot(command: c_int) -> c_int;
    fn sync();
    fn syscall(number: c_long, ...) -> c_long;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

const BLOCK: usize = 4096;

fn main() {
    let name = env::args().next().unwrap_or_default();
    // The initramfs may have done it; then this fails, and no matter.
    try_mount(c"devtmpfs", c"/dev", c"devtmpfs", 0);
    let result = match name.rsplit('/').next() {
        Some("bench") => bench(),
        Some("verify") => check().map(|last| println!("verified {last}")),
        _ => write(),
    };
    if let Err(error) = result {
        println!("failed: {error}");
    }
    power_off();
}

fn try_mount(source: &CStr, target: &CStr, kind: &CStr, flags: c_ulong) {
    // SAFETY: strings that end with a NUL, and no data.
    unsafe { mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
}

fn power_off() -> ! {
    const REMOUNT_READ_ONLY: c_ulong = 32 | 1;
    const POWER_OFF: c_int = 0x4321_fedc;
    try_mount(c"none", c"/", c"", REMOUNT_READ_ONLY);
    // SAFETY: plain calls.
    unsafe {
        sync();
        reboot(POWER_OFF);
    }
    panic!("the machine is still on");
}

// Records.

const DATA: &str = "/data";
/// Records are written in turn to so many places.
const PLACES: u64 = 8192;
/// Each so many records there is a file of its own, and the last few of them are kept.
const FILE_EACH: u64 = 32;
const FILES_KEPT: u64 = 8;
/// Each so many, free room is given back to the disk.
const TRIM_EACH: u64 = 128;

/// Its number, and what follows from it.
fn record(number: u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    let mut word = number;
    for place in bytes.chunks_exact_mut(8) {
        place.copy_from_slice(&word.to_le_bytes());
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    }
    bytes
}

fn file_name(number: u64) -> String {
    format!("/{number}.record")
}

/// Says which record is the last that is there, and how many before it are not as they should be.
fn check() -> io::Result<u64> {
    let data = fs::read(DATA).unwrap_or_default();
    let number = |block: &[u8]| {
        let number = u64::from_le_bytes(block[..8].try_into().expect("eight bytes"));
        (block == record(number)).then_some(number)
    };
    let found: Vec<_> = data.chunks_exact(BLOCK).map(number).collect();
    let last = found.iter().flatten().copied().max().unwrap_or(0);
    let mut lost = 0;
    for wanted in (last + 1).saturating_sub(PLACES).max(1)..=last {
        let there = found.get((wanted % PLACES) as usize).copied().flatten();
        lost += u64::from(there != Some(wanted));
    }
    for wanted in (last.saturating_sub(FILE_EACH * FILES_KEPT) + 1..=last).filter(|number| number % FILE_EACH == 0) {
        let there = fs::read(file_name(wanted)).is_ok_and(|bytes| bytes == record(wanted).repeat(16));
        lost += u64::from(!there);
    }
    println!("found {last} lost {lost}");
    Ok(last)
}

fn write() -> io::Result<()> {
    let last = check()?;
    let data = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(DATA)?;
    let root = File::open("/")?;
    root.sync_all()?;
    for number in last + 1.. {
        if number % FILE_EACH == 0 {
            let mut file = File::create(file_name(number))?;
            io::Write::write_all(&mut file, &record(number).repeat(16))?;
            file.sync_all()?;
            let _ = fs::remove_file(file_name(number.saturating_sub(FILE_EACH * FILES_KEPT)));
            root.sync_all()?;
        }
        if number % TRIM_EACH == 0 {
            trim(&root)?;
        }
        data.write_all_at(&record(number), number % PLACES * BLOCK as u64)?;
        data.sync_data()?;
        println!("ack {number}");
    }
    Ok(())
}

fn trim(root: &File) -> io::Result<()> {
    const FITRIM: c_ulong = 0xc018_5879;
    let mut range = [0u64, u64::MAX, 0];
    // SAFETY: struct fstrim_range is three words.
    match unsafe { ioctl(root.as_raw_fd(), FITRIM, range.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

// Measuring.

const DISK: &str = "/dev/vdb";
const EACH: Duration = Duration::from_secs(3);
const O_DIRECT: i32 = 0o40000;
const IO_SETUP: c_long = 206;
const IO_GETEVENTS: c_long = 208;
const IO_SUBMIT: c_long = 209;
const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;

/// struct iocb of linux/aio_abi.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// struct io_event.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    iocb: u64,
    result: i64,
    result2: i64,
}

fn bench() -> io::Result<()> {
    let disk = OpenOptions::new().read(true).write(true).custom_flags(O_DIRECT).open(DISK)?;
    let blocks = io::Seek::seek(&mut &disk, io::SeekFrom::End(0))? / BLOCK as u64;
    for depth in [1, 32] {
        for (name, write, random) in
            [("seq-read", false, false), ("seq-write", true, false), ("rand-read", false, true), ("rand-write", true, true)]
        {
            let rate = measure(&disk, blocks, depth, write, random)?;
            println!("result {name}-{depth} {rate:.0}");
        }
    }
    Ok(())
}

/// Requests of one block per second.
fn measure(disk: &File, blocks: u64, depth: usize, write: bool, random: bool) -> io::Result<f64> {
    let mut context: u64 = 0;
    check_call(unsafe { syscall(IO_SETUP, depth as c_long, &raw mut context) })?;
    let layout = Layout::from_size_align(BLOCK * depth, BLOCK).expect("a small buffer");
    // SAFETY: it has a size. Never freed: the kernel may still write to it when this fails.
    let buffers = unsafe { alloc_zeroed(layout) } as u64;
    let mut requests: Vec<Iocb> = (0..depth)
        .map(|slot| Iocb {
            data: slot as u64,
            key: 0,
            rw_flags: 0,
            opcode: if write { IOCB_CMD_PWRITE } else { IOCB_CMD_PREAD },
            priority: 0,
            fd: disk.as_raw_fd() as u32,
            buffer: buffers + (slot * BLOCK) as u64,
            bytes: BLOCK as u64,
            offset: 0,
            reserved: 0,
            flags: 0,
            eventfd: 0,
        })
        .collect();
    let mut state = 0x9e37_79b9_u64;
    let mut next = 0;
    let mut place = move || {
        if random {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % blocks
        } else {
            next = (next + 1) % blocks;
            next
        }
    };
    let mut submit = |slots: &[usize]| -> io::Result<()> {
        for &slot in slots {
            requests[slot].offset = (place() * BLOCK as u64) as i64;
        }
        let pointers: Vec<*mut Iocb> = slots.iter().map(|&slot| &raw mut requests[slot]).collect();
        // SAFETY: requests and buffers outlive what is submitted.
        check_call(unsafe { syscall(IO_SUBMIT, context, pointers.len() as c_long, pointers.as_ptr()) }).map(drop)
    };
    let begun = Instant::now();
    submit(&(0..depth).collect::<Vec<_>>())?;
    let mut done = 0u64;
    let mut in_flight = depth;
    let mut events = vec![IoEvent::default(); depth];
    while in_flight > 0 {
        // SAFETY: room for as many events as are asked for.
        let count = unsafe {
            syscall(IO_GETEVENTS, context, 1 as c_long, depth as c_long, events.as_mut_ptr(), std::ptr::null_mut::<c_void>())
        };
        let count = check_call(count)? as usize;
        if let Some(bad) = events[..count].iter().find(|event| event.result != BLOCK as i64) {
            return Err(io::Error::other(format!("a request ended with {}", bad.result)));
        }
        done += count as u64;
        in_flight -= count;
        if begun.elapsed() < EACH {
            let slots: Vec<_> = events[..count].iter().map(|event| event.data as usize).collect();
            submit(&slots)?;
            in_flight += slots.len();
        }
    }
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}

fn check_call(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
