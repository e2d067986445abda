//! Having every other thread of the process restrict itself.
//!
//! Landlock's domains are part of a thread's credentials, and before its ABI 8 a thread can change only its own.
//! Back-ends have threads by the time the whole policy is known, and moving each of them behind that moment would
//! bind every part of popf to an order that nobody sees. So each thread is sent a signal, whose handler makes the
//! two calls on it; that is how the C library's setuid(2) reaches all threads. Threads that are born meanwhile
//! inherit from their maker, or are found by the next look at the list.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::SandboxError;
use crate::HostError;
use crate::event::{Wait, poll};

/// The rule set to adopt, and where to say that it is done; for the handler.
static RULESET: AtomicI32 = AtomicI32::new(-1);
static ANSWERS: AtomicI32 = AtomicI32::new(-1);
/// One at a time.
static BUSY: Mutex<()> = Mutex::new(());

/// A thread that does not answer for so long never will.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long without an answer it is looked whether those that are asked are still there.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// An answer: the thread, and the error number or 0. Short enough for a pipe to pass it whole.
const ANSWER: usize = 8;

/// Has all threads but this one adopt a Landlock rule set.
pub(super) fn restrict_others(ruleset: BorrowedFd<'_>) -> Result<(), SandboxError> {
    let _busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    let call = |call| move |source| SandboxError::Host(HostError::Call { call, source });
    let (mut answers, answer) = io::pipe().map_err(call("pipe2"))?;
    RULESET.store(ruleset.as_raw_fd(), Ordering::Relaxed);
    ANSWERS.store(answer.as_raw_fd(), Ordering::Release);
    let _handler = Handler::install().map_err(SandboxError::Host)?;

    let own = own_id();
    let (mut asked, mut waiting) = (BTreeSet::from([own]), BTreeSet::new());
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        let present = threads().map_err(call("read of /proc/self/task"))?;
        waiting.retain(|thread| present.contains(thread));
        for &thread in present.difference(&asked) {
            // SAFETY: a signal to a thread of ours, which is caught. It fails if the thread has ended.
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, signal()) };
            waiting.insert(thread);
        }
        let news = present.difference(&asked).next().is_some();
        asked.extend(&present);
        let Some(&thread) = waiting.first() else {
            // A list without anybody new: all others have been asked, or were made by one who had.
            if news {
                continue;
            }
            return Ok(());
        };
        if poll(&mut [Wait::readable(&answers)], Some(LOOK_AGAIN)).map_err(SandboxError::Host)? {
            let mut bytes = [0; ANSWER];
            answers.read_exact(&mut bytes).map_err(call("read of a pipe"))?;
            let [thread, error] = decode(bytes);
            if error != 0 {
                let source = io::Error::from_raw_os_error(error);
                return Err(call("landlock_restrict_self")(source));
            }
            waiting.remove(&thread);
            deadline = Instant::now() + PATIENCE;
        } else if Instant::now() >= deadline {
            return Err(SandboxError::Thread { thread: thread.into() });
        }
    }
}

fn decode(bytes: [u8; ANSWER]) -> [i32; 2] {
    let word = |at: usize| i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4)]
}

/// The threads of this process. Not io_uring's workers: the kernel runs them, they take no signals, and opening or
/// connecting anything is not among what our rings are restricted to.
fn threads() -> io::Result<BTreeSet<i32>> {
    let mut threads = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if !name.starts_with("iou-") {
            threads.insert(thread);
        }
    }
    Ok(threads)
}

fn own_id() -> i32 {
    // SAFETY: a plain call.
    unsafe { libc::gettid() }
}

/// The last of the real-time signals: the least likely to be used by anybody.
fn signal() -> libc::c_int {
    libc::SIGRTMAX()
}

/// Our handler, while it is wanted.
struct Handler {
    former: libc::sigaction,
}

impl Handler {
    fn install() -> Result<Self, HostError> {
        let function: extern "C" fn(libc::c_int) = adopt;
        // SAFETY: both actions are valid; `adopt` is a handler of the type without SA_SIGINFO.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = function as usize;
            // On the alternate stack, since the stack pointer may be a guest's; without disturbing what can be
            // taken up again.
            action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigemptyset(&mut action.sa_mask);
            let mut former: libc::sigaction = std::mem::zeroed();
            match libc::sigaction(signal(), &action, &mut former) {
                0 => Ok(Self { former }),
                _ => Err(HostError::last("sigaction")),
            }
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // Every thread that was asked has answered or ended, unless the whole has failed.
        // SAFETY: puts back what was there.
        unsafe { libc::sigaction(signal(), &self.former, std::ptr::null_mut()) };
        ANSWERS.store(-1, Ordering::Release);
    }
}

/// Restricts the thread that it interrupts, and says so.
extern "C" fn adopt(_: libc::c_int) {
    let answers = ANSWERS.load(Ordering::Acquire);
    if answers < 0 {
        return;
    }
    // SAFETY: plain system calls, on our own buffer and descriptors; errno is the interrupted code's and is put back.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        let ruleset = RULESET.load(Ordering::Relaxed);
        let error = match libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) {
            0 => 0,
            _ => *errno,
        };
        let answer = [own_id(), error];
        libc::write(answers, answer.as_ptr().cast(), ANSWER);
        *errno = saved;
    }
}
