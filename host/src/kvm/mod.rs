//! Whether KVM is there, and whether it is any good: by trying.
//!
//! A device node proves little: there are kinds of KVM that run some instructions and then fail on, or hang with,
//! an unmodified kernel. So a small guest (`guest.s`) does in some milliseconds what kernels do on their way up,
//! under a time limit, on a thread that is called back when the limit is over.
#![allow(unsafe_code)] // A signal to a thread.

mod guest;
mod sys;

use std::io::ErrorKind;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::HostError;
use guest::Image;
use sys::{Exit, Kvm, Stopper, Vm};

/// How long the whole probe may take. Real KVM needs 2 to 20 ms, most of them for making the VM; nested KVM on a
/// busy host is slower.
const LIMIT: Duration = Duration::from_millis(400);
/// How long a vCPU may take to come back when it is called; afterwards it is given up.
const CALL_BACK: Duration = Duration::from_millis(100);
/// An exit that takes longer than this makes KVM slower than translation. (Usual: 1 us; nested: 10 to 50 us.)
const SLOW_EXIT: Duration = Duration::from_micros(200);
/// `KVM_API_VERSION` of linux/kvm.h.
const API_VERSION: i32 = 12;

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvmState {
    /// There is no `/dev/kvm`.
    Absent,
    /// There is one, and we may not open it.
    NoPermission,
    /// It is no good.
    Unusable {
        /// Why.
        why: String,
    },
    /// It passed every stage.
    Usable {
        /// How long an exit to us takes.
        exit: Duration,
    },
}

/// Tries KVM.
pub fn probe() -> KvmState {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            return match error.kind() {
                // A node without a driver behind it gives ENODEV or ENXIO.
                ErrorKind::NotFound => KvmState::Absent,
                _ if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => KvmState::Absent,
                ErrorKind::PermissionDenied => KvmState::NoPermission,
                _ => unusable(format!("/dev/kvm cannot be opened: {error}")),
            };
        }
    };
    match kvm.api_version() {
        Ok(API_VERSION) => {}
        Ok(other) => return unusable(format!("its API has version {other} instead of {API_VERSION}")),
        Err(error) => return unusable(explain(&error)),
    }
    match CallBack::install() {
        Ok(call_back) => try_guest(kvm, guest::image(), &call_back),
        Err(error) => unusable(explain(&error)),
    }
}

fn unusable(why: impl Into<String>) -> KvmState {
    KvmState::Unusable { why: why.into() }
}

fn explain(error: &HostError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What the guest's thread tells.
enum News {
    /// The VM is made; the thread's id and the way to stop it.
    Started(libc::pthread_t, Stopper),
    /// A stage is passed.
    Stage(u8),
    /// All is over, in this way.
    Over(KvmState),
}

fn try_guest(kvm: Kvm, image: Image, call_back: &CallBack) -> KvmState {
    let (sender, receiver) = mpsc::channel();
    // The VM is not dropped before this is: the stopper points into it.
    let (release, released) = mpsc::channel::<()>();
    let thread = std::thread::Builder::new().name("kvm-probe".into());
    let Ok(thread) = thread.spawn(move || run_guest(&kvm, &image, &sender, &released)) else {
        return unusable("no thread to try it on");
    };
    let result = watch(&receiver, call_back);
    drop(release);
    if let Some(state) = result {
        // It has said its last word and only cleans up.
        let _ = thread.join();
        return state;
    }
    // It does not come back even when called. The thread is left behind: better than to hang with it.
    unusable("its vCPU does not come back")
}

/// Follows the guest; `None` if it is lost.
fn watch(receiver: &Receiver<News>, call_back: &CallBack) -> Option<KvmState> {
    let deadline = Instant::now() + LIMIT;
    let mut running = None;
    let mut stage = 0;
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(News::Started(thread, stopper)) => running = Some((thread, stopper)),
            Ok(News::Stage(passed)) => stage = passed,
            Ok(News::Over(state)) => return Some(state),
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => return Some(unusable("the probe failed")),
        }
    }
    let (thread, stopper) = running?;
    // SAFETY: the thread keeps the VM until it is released, which is after this function.
    unsafe { stopper.stop() };
    // The first call may come just before the vCPU enters the kernel; more of them cannot.
    let end = Instant::now() + CALL_BACK;
    while Instant::now() < end {
        call_back.call(thread);
        match receiver.recv_timeout(Duration::from_millis(2)) {
            Ok(News::Stage(passed)) => stage = passed,
            Ok(News::Over(_)) | Err(RecvTimeoutError::Disconnected) => {
                let limit = LIMIT.as_millis();
                return Some(unusable(format!(
                    "it hangs in {} (no end after {limit} ms)",
                    stage_name(stage + 1)
                )));
            }
            Ok(News::Started(..)) | Err(RecvTimeoutError::Timeout) => {}
        }
    }
    None
}

fn stage_name(stage: u8) -> &'static str {
    guest::STAGES.get(usize::from(stage).wrapping_sub(1)).copied().unwrap_or("an unknown stage")
}

/// The guest's thread.
fn run_guest(kvm: &Kvm, image: &Image, news: &Sender<News>, released: &Receiver<()>) {
    let image: Vec<_> = image.iter().map(|(offset, bytes)| (*offset, &bytes[..])).collect();
    // Nobody listens any more if the time is over: sending may fail throughout.
    match Vm::new(kvm, guest::MEMORY, &image, guest::LOAD) {
        Err(error) => {
            let _ = news.send(News::Over(unusable(explain(&error))));
        }
        Ok(mut vm) => {
            // SAFETY: a plain call.
            let thread = unsafe { libc::pthread_self() };
            let _ = news.send(News::Started(thread, vm.stopper()));
            let state = follow(&mut vm, news);
            let _ = news.send(News::Over(state));
            // Ends with an error when the other side drops its end.
            let _ = released.recv();
        }
    }
}

fn follow(vm: &mut Vm, news: &Sender<News>) -> KvmState {
    let mut passed = 0u8;
    let mut first_exit = None;
    let mut exits = 0u32;
    let mut per_exit = Duration::ZERO;
    loop {
        let failed = |what: String| unusable(format!("it fails at {}: {what}", stage_name(passed + 1)));
        let exit = match vm.run() {
            Ok(exit) => exit,
            Err(error) => return failed(explain(&error)),
        };
        match exit {
            Exit::Out { port: guest::EXIT_PORT, .. } => {
                let begin = *first_exit.get_or_insert_with(Instant::now);
                if exits > 0 {
                    per_exit = begin.elapsed() / exits;
                }
                exits += 1;
            }
            Exit::Out { port: guest::STAGE_PORT, value: guest::FAILED } => {
                return failed("wrong result".into());
            }
            Exit::Out { port: guest::STAGE_PORT, value } if value == passed + 1 => {
                passed = value;
                let _ = news.send(News::Stage(passed));
                if usize::from(passed) == guest::STAGES.len() {
                    break;
                }
            }
            // We are called back, or a signal was meant for someone else: the one who calls decides.
            Exit::Interrupted => {
                if vm.stopped() {
                    return unusable("interrupted");
                }
            }
            Exit::Out { .. } | Exit::Halt => return failed("it goes astray".into()),
            Exit::Other { reason, detail } => return failed(ending(reason, detail)),
        }
    }
    if per_exit > SLOW_EXIT {
        return unusable(format!("an exit takes {} us", per_exit.as_micros()));
    }
    KvmState::Usable { exit: per_exit }
}

/// What an exit means that no guest of ours should bring about.
fn ending(reason: u32, detail: u64) -> String {
    match reason {
        8 => "triple fault".into(),
        9 => format!("the processor refuses to enter the guest (reason {detail:#x})"),
        17 => format!("KVM's internal error {detail:#x}"),
        _ => format!("exit for reason {reason}"),
    }
}

/// A signal that does nothing but interrupt a system call.
struct CallBack {
    former: libc::sigaction,
}

impl CallBack {
    fn signal() -> libc::c_int {
        // The last: the first ones are the C library's and other people's first choice.
        libc::SIGRTMAX()
    }

    fn install() -> Result<Self, HostError> {
        extern "C" fn nothing(_: libc::c_int) {}
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: both actions are fully set up; without SA_RESTART the interrupted call fails with EINTR.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut former: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            match libc::sigaction(Self::signal(), &action, &mut former) {
                0 => Ok(Self { former }),
                _ => Err(HostError::last("sigaction")),
            }
        }
    }

    fn call(&self, thread: libc::pthread_t) {
        // SAFETY: the thread has not been joined yet, so its id is good.
        unsafe { libc::pthread_kill(thread, Self::signal()) };
    }
}

impl Drop for CallBack {
    fn drop(&mut self) {
        // Not back to the default, which ends the process: a vCPU that was left behind may yet get the signal.
        if self.former.sa_sigaction != libc::SIG_DFL {
            // SAFETY: puts back what was there.
            unsafe { libc::sigaction(Self::signal(), &self.former, std::ptr::null_mut()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What KVM makes of a guest, if it can make one at all; short runs in real mode suit every kind of it.
    fn try_code(code: &[u8]) -> Option<String> {
        let kvm = Kvm::open().ok()?;
        let image = vec![(guest::LOAD.into(), code.to_vec())];
        match try_guest(kvm, image, &CallBack::install().unwrap()) {
            KvmState::Unusable { why } => Some(why),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_guest_that_hangs_is_called_back() {
        // mov al, 1; out 0x99, al; jmp $
        if let Some(why) = try_code(&[0xb0, 1, 0xe6, 0x99, 0xeb, 0xfe]) {
            assert!(why.starts_with("it hangs in the switch to protected mode"), "{why}");
        }
    }

    #[test]
    fn a_guest_that_fails_is_told_from_one_that_hangs() {
        // mov al, 0xff; out 0x99, al
        if let Some(why) = try_code(&[0xb0, 0xff, 0xe6, 0x99]) {
            assert_eq!(why, "it fails at real mode: wrong result");
        }
    }

    #[test]
    fn the_probe_ends_in_time_and_says_why() {
        let start = Instant::now();
        let state = probe();
        println!("{state:?} after {:?}", start.elapsed());
        // Making a VM on a busy machine is not under the limit.
        assert!(start.elapsed() < Duration::from_secs(20));
        if let KvmState::Unusable { why } = &state {
            assert!(!why.is_empty());
        }
        assert_eq!(
            matches!(state, KvmState::Absent),
            std::fs::File::open("/dev/kvm").is_err_and(|error| error.kind() == ErrorKind::NotFound)
        );
    }
}
