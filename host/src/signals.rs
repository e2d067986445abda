//! Signals from outside (a user's Ctrl-C, a supervisor's SIGTERM, a window's new size) as events on a thread.
//!
//! Handlers only note the signal and set an [`EventFd`]; a thread named `signals` calls back, where locks and
//! allocation are allowed. Unlike signalfd(2) this needs no thread's mask to be right.
#![allow(unsafe_code)] // Signal handlers.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crate::HostError;
use crate::event::{EventFd, Wait, poll};

/// A signal from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C on a terminal that is not raw.
    Interrupt,
    /// SIGTERM: please end.
    Terminate,
    /// SIGHUP: the terminal is gone.
    HangUp,
    /// SIGQUIT: Ctrl-\ on a terminal that is not raw.
    Quit,
    /// SIGWINCH: the terminal's window has another size.
    WindowChange,
    /// SIGUSR1: how is it going?
    User1,
}

impl Signal {
    const ALL: [Self; 6] =
        [Self::Interrupt, Self::Terminate, Self::HangUp, Self::Quit, Self::WindowChange, Self::User1];

    /// The signal's number.
    pub fn number(self) -> i32 {
        match self {
            Self::Interrupt => libc::SIGINT,
            Self::Terminate => libc::SIGTERM,
            Self::HangUp => libc::SIGHUP,
            Self::Quit => libc::SIGQUIT,
            Self::WindowChange => libc::SIGWINCH,
            Self::User1 => libc::SIGUSR1,
        }
    }
}

/// Sends a signal to this process, or to a child that has not been waited for: until then its number is no other
/// process's.
pub fn send(child: u32, signal: Signal) -> Result<(), HostError> {
    let pid = libc::pid_t::try_from(child).ok().filter(|pid| *pid > 0);
    // SAFETY: a plain call.
    match pid.map(|pid| unsafe { libc::kill(pid, signal.number()) }) {
        Some(0) => Ok(()),
        Some(_) => Err(HostError::last("kill")),
        None => Err(HostError::Call { call: "kill", source: std::io::ErrorKind::InvalidInput.into() }),
    }
}

/// Signals noted and not yet delivered, one bit each.
static PENDING: AtomicU32 = AtomicU32::new(0);
/// What handlers set. Made once and kept for good: a handler on its way must not find the descriptor closed, or
/// worse, open for something else.
static EVENT: OnceLock<EventFd> = OnceLock::new();
/// Its number, for the handler.
static EVENT_FD: AtomicI32 = AtomicI32::new(-1);
static IN_USE: AtomicBool = AtomicBool::new(false);

/// Delivers signals for as long as it lives; afterwards they do what they did before.
#[derive(Debug)]
pub struct Signals {
    former: Vec<(Signal, Former)>,
    event: &'static EventFd,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Former(libc::sigaction);

impl std::fmt::Debug for Former {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sigaction")
    }
}

impl Signals {
    /// Has `callback` called for each of `signals`, on a thread of its own. Several of one kind in quick
    /// succession may become one call. Once per process at a time.
    ///
    /// A signal that the process was started with ignored (`nohup`) stays ignored.
    pub fn deliver(
        signals: &[Signal],
        callback: impl Fn(Signal) + Send + 'static,
    ) -> Result<Self, HostError> {
        if IN_USE.swap(true, Ordering::AcqRel) {
            return Err(HostError::TooMany { what: "signal deliveries", limit: 1 });
        }
        let event = event().inspect_err(|_| IN_USE.store(false, Ordering::Release))?;
        PENDING.store(0, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        // From here on dropping `this` undoes everything.
        let mut this = Self { former: Vec::new(), event, stop: Arc::clone(&stop), thread: None };
        let thread = std::thread::Builder::new().name("signals".into());
        let run = move || {
            while !stop.load(Ordering::Acquire) {
                // poll fails for want of kernel memory only; looking again is right then, too.
                let _ = poll(&mut [Wait::readable(event)], None);
                event.take();
                let pending = PENDING.swap(0, Ordering::AcqRel);
                for (bit, signal) in Signal::ALL.into_iter().enumerate() {
                    if pending >> bit & 1 != 0 {
                        callback(signal);
                    }
                }
            }
        };
        this.thread = Some(thread.spawn(run).map_err(|source| HostError::Call { call: "clone", source })?);
        for &signal in signals {
            if let Some(former) = catch(signal)? {
                this.former.push((signal, former));
            }
        }
        Ok(this)
    }
}

/// The one event, made at the first use. Called by the one who set `IN_USE`, so never by two at once.
fn event() -> Result<&'static EventFd, HostError> {
    if let Some(event) = EVENT.get() {
        return Ok(event);
    }
    let made = EventFd::new()?;
    let event = EVENT.get_or_init(|| made);
    EVENT_FD.store(event.as_fd().as_raw_fd(), Ordering::Release);
    Ok(event)
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (signal, former) in self.former.drain(..) {
            // SAFETY: puts back what was there.
            unsafe { libc::sigaction(signal.number(), &former.0, std::ptr::null_mut()) };
        }
        self.stop.store(true, Ordering::Release);
        self.event.notify();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic in the callback has been reported by the panic hook.
            let _ = thread.join();
        }
        IN_USE.store(false, Ordering::Release);
    }
}

/// Installs our handler; gives what was there, or `None` if the signal is ignored and stays so.
fn catch(signal: Signal) -> Result<Option<Former>, HostError> {
    // SAFETY: plain structs and calls; `note` is a handler of the type without SA_SIGINFO.
    unsafe {
        let mut former: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal.number(), std::ptr::null(), &mut former) != 0 {
            return Err(HostError::last("sigaction"));
        }
        if former.sa_sigaction == libc::SIG_IGN {
            return Ok(None);
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int) = note;
        action.sa_sigaction = handler as usize;
        // On the alternate stack: the interrupted thread may be in guest code, its stack pointer the guest's.
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        if libc::sigaction(signal.number(), &action, std::ptr::null_mut()) != 0 {
            return Err(HostError::last("sigaction"));
        }
        Ok(Some(Former(former)))
    }
}

extern "C" fn note(number: libc::c_int) {
    let Some(bit) = Signal::ALL.into_iter().position(|signal| signal.number() == number) else {
        return;
    };
    PENDING.fetch_or(1 << bit, Ordering::AcqRel);
    let fd = EVENT_FD.load(Ordering::Acquire);
    if fd >= 0 {
        // SAFETY: write is async-signal-safe; errno is the interrupted code's and is put back.
        unsafe {
            let errno = libc::__errno_location();
            let saved = *errno;
            libc::write(fd, (&raw const ONE).cast(), 8);
            *errno = saved;
        }
    }
}

static ONE: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn signals_arrive_on_the_thread_and_only_while_wanted() {
        let (sender, receiver) = mpsc::channel();
        let wanted = [Signal::Interrupt, Signal::WindowChange];
        let signals = Signals::deliver(&wanted, move |signal| sender.send(signal).unwrap()).unwrap();
        assert!(matches!(Signals::deliver(&wanted, |_| {}), Err(HostError::TooMany { .. })));
        for signal in wanted {
            // SAFETY: a signal to ourselves, which is caught.
            unsafe { libc::kill(libc::getpid(), signal.number()) };
            assert_eq!(receiver.recv_timeout(Duration::from_secs(60)), Ok(signal));
        }
        drop(signals);
        // SAFETY: ignored by default.
        unsafe { libc::kill(libc::getpid(), libc::SIGWINCH) };
        assert!(receiver.recv().is_err(), "the callback is gone");
        drop(Signals::deliver(&wanted, |_| {}).unwrap());
    }
}
