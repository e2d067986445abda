//! The system calls that the agent makes besides those of `sys`: sockets, pipes, pseudo-terminals, waiting.
//!
//! With `bare` and `sys` it has the agent's `unsafe`. Not modelled: error numbers beyond those that the caller tells
//! apart.

use core::ffi::CStr;

use crate::protocol::Size;
use crate::sys::{Signals, call};

pub const SIGHUP: i32 = 1;
pub const SIGKILL: i32 = 9;
pub const SIGPIPE: i32 = 13;
pub const SIGCONT: i32 = 18;

const EAGAIN: isize = -11;
const EINTR: isize = -4;
const NON_BLOCKING: usize = 0o4000;
const CLOSE_ON_EXEC: usize = 0o2_000_000;

const AF_UNIX: u16 = 1;
const AF_VSOCK: u16 = 40;
/// The host's context number.
const CID_HOST: u32 = 2;
const CID_ANY: u32 = u32::MAX;

/// An open file, closed when dropped.
pub struct Fd(i32);

impl Fd {
    pub const STANDARD_INPUT: Self = Self(0);

    fn of(result: isize) -> Option<Self> {
        i32::try_from(result).ok().filter(|fd| *fd >= 0).map(Self)
    }

    pub fn number(&self) -> i32 {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        crate::sys::close(self.0);
    }
}

/// What became of a read or write that does not wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Not now.
    Nothing,
    /// No more, ever: the other end is gone.
    End,
}

fn moved(result: isize) -> Moved {
    match result {
        EAGAIN | EINTR => Moved::Nothing,
        1.. => Moved::Bytes(result as usize),
        // 0 is the end of file; a terminal's master says EIO when nobody has the terminal.
        _ => Moved::End,
    }
}

pub fn read(fd: &Fd, buffer: &mut [u8]) -> Moved {
    moved(call!(0, fd.0, buffer.as_mut_ptr(), buffer.len()))
}

pub fn write(fd: &Fd, bytes: &[u8]) -> Moved {
    moved(call!(1, fd.0, bytes.as_ptr(), bytes.len()))
}

/// From now on reads and writes do not wait. Of a pipe it concerns this end alone.
pub fn set_non_blocking(fd: &Fd) {
    const F_SETFL: usize = 4;
    call!(72, fd.0, F_SETFL, NON_BLOCKING);
}

/// `struct sockaddr_vm`.
#[repr(C)]
#[derive(Default)]
struct Address {
    svm_family: u16,
    svm_reserved1: u16,
    svm_port: u32,
    svm_cid: u32,
    svm_flags: u8,
    svm_zero: [u8; 3],
}

/// A socket that listens on a vsock port.
pub fn listen(port: u32) -> Option<Fd> {
    const SOCK_STREAM: usize = 1;
    const BACKLOG: usize = 64;
    let socket = Fd::of(call!(41, AF_VSOCK, SOCK_STREAM | CLOSE_ON_EXEC | NON_BLOCKING, 0))?;
    let address = Address { svm_family: AF_VSOCK, svm_port: port, svm_cid: CID_ANY, ..Address::default() };
    let bound = call!(49, socket.0, &raw const address, size_of::<Address>()) == 0;
    (bound && call!(50, socket.0, BACKLOG) == 0).then_some(socket)
}

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The host, by vsock.
    Host,
    /// A process, by a Unix socket.
    Local,
    /// Anybody else.
    Stranger,
}

/// A connection that waits to be taken; it does not make reads and writes wait.
pub fn accept(listener: &Fd) -> Option<(Fd, Peer)> {
    let mut address = Address::default();
    let mut length = size_of::<Address>() as u32;
    let flags = CLOSE_ON_EXEC | NON_BLOCKING;
    let socket = Fd::of(call!(288, listener.0, &raw mut address, &raw mut length, flags))?;
    let peer = match (address.svm_family, address.svm_cid) {
        (AF_VSOCK, CID_HOST) => Peer::Host,
        (AF_UNIX, _) => Peer::Local,
        _ => Peer::Stranger,
    };
    Some((socket, peer))
}

/// Reading and writing end of a pipe.
pub fn pipe() -> Option<(Fd, Fd)> {
    let mut ends = [-1i32; 2];
    let made = call!(293, ends.as_mut_ptr(), CLOSE_ON_EXEC) == 0;
    made.then_some((Fd(ends[0]), Fd(ends[1])))
}

/// Another descriptor of the same open file.
pub fn duplicate(fd: &Fd) -> Option<Fd> {
    const F_DUPFD_CLOEXEC: usize = 1030;
    Fd::of(call!(72, fd.0, F_DUPFD_CLOEXEC, 0))
}

/// A pseudo-terminal: the master's end, and the one for programs.
pub fn terminal(size: Size) -> Option<(Fd, Fd)> {
    const O_RDWR: usize = 2;
    const O_NOCTTY: usize = 0o400;
    const TIOCSPTLCK: usize = 0x4004_5431;
    const TIOCGPTPEER: usize = 0x5441;
    let unlocked = 0i32;
    let master = Fd::of(call!(2, c"/dev/ptmx".as_ptr(), O_RDWR | O_NOCTTY | CLOSE_ON_EXEC, 0))?;
    call!(16, master.0, TIOCSPTLCK, &raw const unlocked);
    let slave = Fd::of(call!(16, master.0, TIOCGPTPEER, O_RDWR | O_NOCTTY | CLOSE_ON_EXEC))?;
    set_window(&master, size);
    Some((master, slave))
}

pub fn set_window(terminal: &Fd, size: Size) {
    crate::sys::set_window(terminal.0, size.rows, size.columns);
}

/// A descriptor that is readable when one of these signals, which are blocked, has come.
pub fn signals(signals: Signals) -> Option<Fd> {
    Fd::of(signals.descriptor(CLOSE_ON_EXEC | NON_BLOCKING))
}

pub fn clear_signals(fd: &Fd) {
    const SIGNALFD_SIGINFO_SIZE: usize = 128;
    let mut information = [0; SIGNALFD_SIGINFO_SIZE];
    while let Moved::Bytes(_) = read(fd, &mut information) {}
}

/// To a process group.
pub fn kill_group(leader: i32, signal: i32) {
    call!(62, -(leader as isize), signal);
}

/// 0 if the directory has been entered.
pub fn change_directory(path: &CStr) -> isize {
    call!(80, path.as_ptr())
}

/// `struct pollfd`.
#[repr(C)]
pub struct Wait {
    fd: i32,
    events: i16,
    revents: i16,
}

const POLLIN: i16 = 1;
const POLLOUT: i16 = 4;

impl Wait {
    /// Takes a place in a list, and waits for nothing.
    pub const NONE: Self = Self { fd: -1, events: 0, revents: 0 };

    pub fn is_ready(&self) -> bool {
        self.revents != 0
    }

    /// Also until there is room, if so wanted.
    pub fn or_writable(mut self, wanted: bool) -> Self {
        if wanted {
            self.events |= POLLOUT;
        }
        self
    }
}

pub fn readable(fd: &Fd) -> Wait {
    Wait { fd: fd.0, events: POLLIN, revents: 0 }
}

pub fn writable(fd: &Fd) -> Wait {
    Wait { fd: fd.0, events: POLLOUT, revents: 0 }
}

/// Waits until one is ready, at most so many milliseconds.
pub fn poll(waits: &mut [Wait], limit_ms: Option<i32>) {
    call!(7, waits.as_mut_ptr(), waits.len(), limit_ms.unwrap_or(-1));
}

pub fn pause(ms: i32) {
    poll(&mut [], Some(ms));
}

/// Milliseconds of a clock that only goes forward.
pub fn now_ms() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = [0u64; 2];
    call!(228, CLOCK_MONOTONIC, time.as_mut_ptr());
    time[0] * 1000 + time[1] / 1_000_000
}

/// The program's arguments, its name left out.
pub fn arguments(stack: *const usize) -> impl Iterator<Item = &'static CStr> {
    // SAFETY: the kernel puts the count there, and that many pointers to strings behind it, which stay for good.
    let count = unsafe { *stack };
    (1..count).map(move |index| unsafe {
        // SAFETY: as above; the index is below the count.
        CStr::from_ptr((*stack.add(1 + index)) as *const core::ffi::c_char)
    })
}
