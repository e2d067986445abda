//! Terminals in raw mode, and their return to what they were on every way out.
//!
//! Saved settings lie in a process-wide table that [`restore_all`] can walk from a signal handler. It is called
//! when the guard is dropped (so on a panic too), by a panic hook before the message is printed, at exit(3), and by the
//! handlers of signals that end a process. SIGKILL is beyond us; `reset` or `stty sane` then is the user's.
#![allow(unsafe_code)] // termios calls, and a table shared with signal handlers.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::{HostError, fault};

/// How many terminals may be raw at once: the console's and some serial ports'.
const SLOTS: usize = 8;

const FREE: i32 = -1;
const RESERVED: i32 = -2;

/// A terminal to be restored: a descriptor, and the settings it had.
struct Slot {
    /// FREE, RESERVED while it is filled or emptied, or the descriptor.
    fd: AtomicI32,
    saved: UnsafeCell<MaybeUninit<libc::termios>>,
}

// SAFETY: `saved` is written only by the one who moved `fd` from FREE to RESERVED, and read only while `fd` is a
// descriptor, which it becomes after the write (release, acquire).
unsafe impl Sync for Slot {}

static TABLE: [Slot; SLOTS] =
    [const { Slot { fd: AtomicI32::new(FREE), saved: UnsafeCell::new(MaybeUninit::uninit()) } }; SLOTS];

/// Whether a descriptor is a terminal.
pub fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    std::io::IsTerminal::is_terminal(&fd)
}

/// Whether this process may change and read the terminal: in the background the kernel would stop it instead
/// (`popf run ... &`, or under timeout(1), which gives its child a process group of its own).
pub fn in_foreground(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: plain calls. A terminal that is not our session's has no say in our being stopped: ENOTTY.
    unsafe {
        let group = libc::tcgetpgrp(fd.as_raw_fd());
        group < 0 || group == libc::getpgrp()
    }
}

/// A new pseudo-terminal: the end that plays the user, and the end that is the terminal. It becomes nobody's
/// controlling terminal.
pub fn pseudo_terminal() -> Result<(OwnedFd, OwnedFd), HostError> {
    // SAFETY: plain calls; the descriptors are new and ours alone.
    unsafe {
        let user = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        if user < 0 {
            return Err(HostError::last("posix_openpt"));
        }
        let user = OwnedFd::from_raw_fd(user);
        if libc::grantpt(user.as_raw_fd()) != 0 || libc::unlockpt(user.as_raw_fd()) != 0 {
            return Err(HostError::last("unlockpt"));
        }
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let terminal = libc::ioctl(user.as_raw_fd(), libc::TIOCGPTPEER, flags);
        if terminal < 0 {
            return Err(HostError::last("ioctl(TIOCGPTPEER)"));
        }
        Ok((user, OwnedFd::from_raw_fd(terminal)))
    }
}

/// Whether the terminal edits lines (canonical mode), as a shell's user expects to find it.
pub fn is_cooked(fd: BorrowedFd<'_>) -> Result<bool, HostError> {
    Ok(settings(fd.as_raw_fd())?.c_lflag & (libc::ICANON | libc::ECHO | libc::ISIG) != 0)
}

fn settings(fd: i32) -> Result<libc::termios, HostError> {
    let mut settings = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the call fills the struct if it succeeds.
    unsafe {
        match libc::tcgetattr(fd, settings.as_mut_ptr()) {
            0 => Ok(settings.assume_init()),
            _ => Err(HostError::last("tcgetattr")),
        }
    }
}

/// Columns and rows, if it is a terminal that knows.
pub fn window_size(fd: BorrowedFd<'_>) -> Option<(u16, u16)> {
    // SAFETY: the call fills a plain struct.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        (libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size) == 0).then_some(size)
    }?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Whether some terminal is raw now, so that a message to it needs CR LF at the end of lines.
pub fn any_raw() -> bool {
    TABLE.iter().any(|slot| slot.fd.load(Ordering::Relaxed) >= 0)
}

/// Puts all terminals back to what they were. Async-signal-safe; may be called any number of times.
pub fn restore_all() {
    for slot in &TABLE {
        let fd = slot.fd.load(Ordering::Acquire);
        if fd >= 0 {
            // SAFETY: the settings were written before the descriptor was.
            restore(fd, unsafe { (*slot.saved.get()).as_ptr() });
        }
    }
}

/// Sets a terminal without being stopped for it if we have become a background process.
fn restore(fd: i32, saved: *const libc::termios) {
    // SAFETY: async-signal-safe calls on local data and on settings that the caller vouches for.
    unsafe {
        let mut block: libc::sigset_t = std::mem::zeroed();
        let mut former: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut block);
        libc::sigaddset(&mut block, libc::SIGTTOU);
        libc::pthread_sigmask(libc::SIG_BLOCK, &block, &mut former);
        libc::tcsetattr(fd, libc::TCSANOW, saved);
        libc::pthread_sigmask(libc::SIG_SETMASK, &former, std::ptr::null_mut());
    }
}

/// A terminal in raw mode for as long as this lives: every byte passes in both directions as it is, Ctrl-C and
/// the like included.
#[derive(Debug)]
pub struct RawMode {
    slot: usize,
    /// A descriptor of our own, so that it is still the same terminal when it is restored.
    _fd: OwnedFd,
}

impl RawMode {
    /// Puts a terminal into raw mode.
    pub fn enter(terminal: impl AsFd) -> Result<Self, HostError> {
        let terminal = terminal.as_fd();
        if !is_terminal(terminal) {
            return Err(HostError::NotATerminal);
        }
        if !in_foreground(terminal) {
            return Err(HostError::Background);
        }
        let owned =
            terminal.try_clone_to_owned().map_err(|source| HostError::Call { call: "dup", source })?;
        let fd = owned.as_raw_fd();
        let saved = settings(fd)?;
        fault::restore_terminals_at_the_end()?;
        install_last_resorts();
        let slot = reserve(saved).ok_or(HostError::TooMany { what: "raw terminals", limit: SLOTS })?;
        // In the table before the terminal changes: a signal in between restores what is there anyway.
        TABLE[slot].fd.store(fd, Ordering::Release);
        let guard = Self { slot, _fd: owned };
        let mut raw = saved;
        // SAFETY: both are valid termios; the guard undoes it should the second call fail.
        unsafe {
            libc::cfmakeraw(&mut raw);
            if libc::tcsetattr(fd, libc::TCSANOW, &raw) != 0 {
                return Err(HostError::last("tcsetattr"));
            }
        }
        Ok(guard)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let slot = &TABLE[self.slot];
        let fd = slot.fd.load(Ordering::Acquire);
        // SAFETY: as in `restore_all`.
        restore(fd, unsafe { (*slot.saved.get()).as_ptr() });
        slot.fd.store(FREE, Ordering::Release);
    }
}

fn reserve(saved: libc::termios) -> Option<usize> {
    let index = TABLE.iter().position(|slot| {
        slot.fd.compare_exchange(FREE, RESERVED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    })?;
    // SAFETY: RESERVED makes it ours alone.
    unsafe { (*TABLE[index].saved.get()).write(saved) };
    Some(index)
}

/// For a panic's message to be readable, whichever thread panics, and for `exit`, which drops nothing.
fn install_last_resorts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore_all();
            former(info);
        }));
        extern "C" fn at_exit() {
            restore_all();
        }
        // SAFETY: the function may run at any time during exit; it fails only for want of memory.
        unsafe { libc::atexit(at_exit) };
    });
}
