//! The system calls that the guest's first process makes, by the numbers and structures of Linux's x86-64
//! ABI (`arch/x86/entry/syscalls/syscall_64.tbl`, `asm-generic/termbits.h`).
//!
//! This file runs inside the guest, without a C library; with `bare` it has all of the guest program's `unsafe`.
//! Not modelled: error numbers beyond those the caller distinguishes.

use core::arch::asm;
use core::ffi::CStr;
use core::ptr;

/// "No such file or directory".
pub const ENOENT: isize = -2;
/// "Interrupted system call".
pub const EINTR: isize = -4;

pub const SIGTERM: i32 = 15;
pub const SIGUSR1: i32 = 10;
pub const SIGUSR2: i32 = 12;
pub const SIGCHLD: i32 = 17;

pub const RESTART: usize = 0x0123_4567;
pub const POWER_OFF: usize = 0x4321_fedc;

const O_RDWR: usize = 2;
const O_RDONLY: usize = 0;
const O_NOCTTY: usize = 0o400;
const O_CLOEXEC: usize = 0o2_000_000;

/// A call whose arguments are numbers or pointers that the kernel checks and only reads or fills during it.
macro_rules! call {
    ($number:expr $(, $arg:expr)*) => {{
        let args = $crate::bare::padded([$($arg as usize),*]);
        // SAFETY: each wrapper below passes pointers to objects that outlive the call and have the length
        // and layout which the call expects.
        unsafe { $crate::bare::syscall($number, args) }
    }};
}

#[allow(unused_imports, reason = "not every program has calls of its own")]
pub(crate) use call;

/// Opens without making the file a controlling terminal.
fn open(path: &CStr, flags: usize) -> Option<i32> {
    let fd = call!(2, path.as_ptr(), flags | O_NOCTTY | O_CLOEXEC, 0);
    (fd >= 0).then_some(fd as i32)
}

pub fn open_read(path: &CStr) -> Option<i32> {
    open(path, O_RDONLY)
}

pub fn open_write(path: &CStr) -> Option<i32> {
    open(path, O_RDWR)
}

/// Makes sure that the numbers of standard input, output and errors are taken, as they are not where the kernel
/// found no console: a later file must not become one of them by chance.
pub fn reserve_standard_files() {
    while let Some(fd) = open(c"/dev/null", O_RDWR) {
        if fd > 2 {
            return close(fd);
        }
    }
}

pub fn close(fd: i32) {
    call!(3, fd);
}

pub fn read(fd: i32, buffer: &mut [u8]) -> usize {
    call!(0, fd, buffer.as_mut_ptr(), buffer.len()).max(0) as usize
}

/// The beginning of a file that cannot say how long it is, as those of /proc cannot.
pub fn read_start<'a>(path: &CStr, buffer: &'a mut [u8]) -> &'a [u8] {
    let Some(fd) = open_read(path) else {
        return &[];
    };
    let length = read(fd, buffer);
    close(fd);
    buffer.get(..length).unwrap_or_default()
}

pub fn write(fd: i32, bytes: &[u8]) {
    call!(1, fd, bytes.as_ptr(), bytes.len());
}

/// Makes `fd` also the file of number `to`, inherited by programs.
pub fn dup2(fd: i32, to: i32) {
    call!(33, fd, to);
}

pub fn exists(path: &CStr) -> bool {
    call!(21, path.as_ptr(), 0) == 0
}

pub fn mkdir(path: &CStr, mode: usize) {
    call!(83, path.as_ptr(), mode);
}

pub fn symlink(target: &CStr, path: &CStr) {
    call!(88, target.as_ptr(), path.as_ptr());
}

pub fn chdir(path: &CStr) {
    call!(80, path.as_ptr());
}

pub fn mount(kind: &CStr, path: &CStr, options: &CStr) {
    call!(
        165,
        kind.as_ptr(),
        path.as_ptr(),
        kind.as_ptr(),
        0,
        options.as_ptr()
    );
}

pub fn set_host_name(name: &[u8]) {
    call!(170, name.as_ptr(), name.len());
}

/// Zeroed memory that is never given back.
pub fn allocate(bytes: usize) -> Option<*mut u8> {
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS: usize = 0x22;
    let at = call!(
        9,
        0,
        bytes.max(1),
        READ_WRITE,
        PRIVATE_ANONYMOUS,
        usize::MAX,
        0
    );
    (at > 0).then_some(at as *mut u8)
}

/// A zeroed list of `length` pointers for `execve`.
pub fn allocate_pointers(length: usize) -> Option<&'static mut [*const u8]> {
    let at = allocate(length.checked_mul(size_of::<*const u8>())?)?;
    // SAFETY: fresh zeroed pages of that many bytes, aligned to a page; all-zero is the null pointer.
    Some(unsafe { core::slice::from_raw_parts_mut(at.cast(), length) })
}

/// A whole file, or `None` where there is none.
pub fn read_file(path: &CStr) -> Option<&'static [u8]> {
    const SEEK_SET: usize = 0;
    const SEEK_END: usize = 2;
    let fd = open_read(path)?;
    let length = call!(8, fd, 0, SEEK_END).max(0) as usize;
    call!(8, fd, 0, SEEK_SET);
    let at = allocate(length)?;
    // SAFETY: fresh zeroed memory of at least `length` bytes.
    let bytes = unsafe { core::slice::from_raw_parts_mut(at, length) };
    let mut filled = 0;
    while filled < length {
        match read(fd, &mut bytes[filled..]) {
            0 => break,
            count => filled += count,
        }
    }
    close(fd);
    Some(&bytes[..filled])
}

/// 0 in the child.
pub fn fork() -> isize {
    call!(57)
}

/// Returns only on failure, with the negative error number.
pub fn exec(path: *const u8, argv: &[*const u8], envp: &[*const u8]) -> isize {
    call!(59, path, argv.as_ptr(), envp.as_ptr())
}

pub fn exit(status: i32) -> ! {
    loop {
        call!(231, status);
    }
}

/// A child that has ended and how, as `wait4` encodes it; `None` when none has.
pub fn reap(block: bool) -> Option<(isize, i32)> {
    const WNOHANG: usize = 1;
    let mut status: i32 = 0;
    loop {
        let pid = call!(
            61,
            -1isize,
            &raw mut status,
            if block { 0 } else { WNOHANG },
            0
        );
        if pid != EINTR {
            return (pid > 0).then_some((pid, status));
        }
    }
}

/// Kills every process but this one.
pub fn kill_all() {
    const SIGKILL: usize = 9;
    call!(62, -1isize, SIGKILL);
}

/// The kernel's bit set of signals.
#[derive(Clone, Copy)]
pub struct Signals(u64);

impl Signals {
    pub const fn of(signals: &[i32]) -> Self {
        let mut set = 0;
        let mut at = 0;
        while at < signals.len() {
            set |= 1 << (signals[at] - 1);
            at += 1;
        }
        Self(set)
    }

    pub fn block(self) {
        call!(14, 0, &raw const self.0, 0, 8);
    }

    pub fn unblock(self) {
        call!(14, 1, &raw const self.0, 0, 8);
    }

    /// signalfd(2): a descriptor by which the blocked signals are taken, or the negative error number.
    pub fn descriptor(self, flags: usize) -> isize {
        call!(289, -1isize, &raw const self.0, 8, flags)
    }

    /// Sleeps until one of the blocked signals is pending, and takes it.
    pub fn wait(self) -> i32 {
        loop {
            let signal = call!(128, &raw const self.0, 0, 0, 8);
            if signal > 0 {
                return signal as i32;
            }
        }
    }
}

/// A session of its own, its controlling terminal `fd` if given.
pub fn new_session(terminal: Option<i32>) {
    const TIOCSCTTY: usize = 0x540e;
    call!(112);
    if let Some(fd) = terminal {
        call!(16, fd, TIOCSCTTY, 1);
    }
}

/// `struct termios` of the kernel (not the C library's).
#[repr(C)]
#[derive(Default)]
struct Termios {
    c_iflag: u32,
    c_oflag: u32,
    c_cflag: u32,
    c_lflag: u32,
    c_line: u8,
    c_cc: [u8; 19],
}

/// How a serial line treats what passes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Every byte as it is.
    Raw,
    /// The kernel's usual terminal: echo, line editing, signals, newline to carriage return and newline.
    Cooked,
}

/// Sets a line up. Output already queued is left alone: nothing has been written yet.
pub fn set_line(fd: i32, line: Line) {
    const TCGETS: usize = 0x5401;
    const TCSETS: usize = 0x5402;
    const IUTF8: u32 = 0o40000;
    const CBAUD: u32 = 0o10017;
    const B115200: u32 = 0o10002;
    const CSIZE_PARENB: u32 = 0o60 | 0o400;
    const CS8: u32 = 0o60;
    const CREAD: u32 = 0o200;
    const CLOCAL: u32 = 0o4000;
    const VTIME: usize = 5;
    const VMIN: usize = 6;
    let mut termios = Termios::default();
    if call!(16, fd, TCGETS, &raw mut termios) != 0 {
        return;
    }
    // Programs pace themselves by the speed (a pager's delays); the console's 9600 is no fact here.
    termios.c_cflag &= !(CBAUD | CSIZE_PARENB);
    termios.c_cflag |= B115200 | CS8 | CREAD | CLOCAL;
    match line {
        Line::Raw => {
            termios.c_iflag = 0;
            termios.c_oflag = 0;
            termios.c_lflag = 0;
            termios.c_cc[VTIME] = 0;
            termios.c_cc[VMIN] = 1;
        }
        Line::Cooked => termios.c_iflag |= IUTF8,
    }
    call!(16, fd, TCSETS, &raw const termios);
}

pub fn set_window(fd: i32, rows: u16, columns: u16) {
    const TIOCSWINSZ: usize = 0x5414;
    let size = [rows, columns, 0, 0];
    call!(16, fd, TIOCSWINSZ, size.as_ptr());
}

/// Waits until everything written to the line has left the UART.
pub fn drain(fd: i32) {
    const TCSBRK: usize = 0x5409;
    call!(16, fd, TCSBRK, 1);
}

/// Brings the loopback interface up.
pub fn loopback_up() {
    const AF_INET: usize = 2;
    const SOCK_DGRAM: usize = 2;
    const SIOCSIFFLAGS: usize = 0x8914;
    const IFF_UP: u16 = 1;
    #[repr(C)]
    struct InterfaceRequest {
        ifr_name: [u8; 16],
        ifr_flags: u16,
        rest: [u8; 22],
    }
    let mut request = InterfaceRequest {
        ifr_name: [0; 16],
        ifr_flags: IFF_UP,
        rest: [0; 22],
    };
    request.ifr_name[..2].copy_from_slice(b"lo");
    let fd = call!(41, AF_INET, SOCK_DGRAM, 0);
    if fd >= 0 {
        call!(16, fd, SIOCSIFFLAGS, &raw const request);
        close(fd as i32);
    }
}

/// Writes a byte to an I/O port; does nothing where the kernel does not grant the port.
pub fn port_write(port: u16, value: u8) {
    if call!(173, port, 1, 1) == 0 {
        // SAFETY: the kernel has just granted the port, so the instruction does not fault, and it changes no
        // memory of this program.
        unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
    }
}

/// Writes dirty pages out, then ends the machine's run. Returns only if the kernel refuses.
pub fn reboot(how: usize) {
    call!(162);
    call!(169, 0xfee1_dead_u32, 672_274_793, how, 0);
}

/// Sleeps for ever.
pub fn pause() -> ! {
    loop {
        call!(34);
    }
}

/// A C string's bytes from where the kernel or `/popf/command` has it.
pub fn pointer(bytes: &CStr) -> *const u8 {
    bytes.as_ptr().cast()
}

/// No list, for calls that take an optional one.
pub const NULL: *const u8 = ptr::null();
