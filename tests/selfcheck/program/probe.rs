//! Instructions that are expected to fault: what the signal's handler was told, and where it lets the program go on.
//!
//! `probe!` runs one instruction. The handler notes everything the kernel passed, and resumes behind the
//! instruction; `expect` then compares. A signal that nobody expects ends the check with a message.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use crate::report::{Outcome, line};
use crate::sys::{self, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};

/// Numbers of `ucontext_t`'s registers.
pub const R8: usize = 0;
pub const RDI: usize = 8;
pub const RSI: usize = 9;
pub const RDX: usize = 12;
pub const RAX: usize = 13;
pub const RCX: usize = 14;
pub const RSP: usize = 15;
pub const RIP: usize = 16;
pub const FLAGS: usize = 17;
/// cs, gs, fs and ss, 16 bits each.
pub const SEGMENTS: usize = 18;
pub const ERROR: usize = 19;
pub const TRAP: usize = 20;
pub const CR2: usize = 22;
pub const REGISTERS: usize = 23;

/// `struct ucontext` as far as it is used.
#[repr(C)]
pub struct Context {
    uc_flags: u64,
    uc_link: u64,
    stack: [u64; 3],
    pub registers: [u64; REGISTERS],
    pub floating: *mut u8,
}

/// `siginfo_t` as far as it is used.
#[repr(C)]
pub struct Info {
    si_signo: i32,
    si_errno: i32,
    si_code: i32,
    pad: i32,
    si_addr: u64,
}

/// What a handler may do besides.
pub type Hook = fn(&mut Context);

// Written by `probe!`: where the instruction begins, and where to go on (0: where the frame says).
pub static AT: AtomicU64 = AtomicU64::new(0);
pub static RESUME: AtomicU64 = AtomicU64::new(0);

static HOOK: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);
static SIGNAL: AtomicU64 = AtomicU64::new(0);
static CODE: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static SAVED: [AtomicU64; REGISTERS] = [const { AtomicU64::new(0) }; REGISTERS];

extern "C" fn handler(signal: i32, info: &Info, context: &mut Context) {
    let resume = RESUME.load(SeqCst);
    let hook = HOOK.load(SeqCst);
    if resume == 0 && hook == 0 {
        line(format_args!(
            "unexpected signal {signal}, code {:#x}, address {:#x}, rip {:#x}, trap {}, error {:#x}",
            info.si_code,
            info.si_addr,
            context.registers[RIP],
            context.registers[TRAP],
            context.registers[ERROR]
        ));
        sys::exit(3);
    }
    // A fault that comes back for ever is a failure too.
    if COUNT.fetch_add(1, SeqCst) > 100_000 {
        line(format_args!("signal {signal} comes again and again at rip {:#x}", context.registers[RIP]));
        sys::exit(3);
    }
    SIGNAL.store(signal as u64, SeqCst);
    CODE.store(info.si_code as u64, SeqCst);
    ADDRESS.store(info.si_addr, SeqCst);
    for (to, from) in SAVED.iter().zip(context.registers) {
        to.store(from, SeqCst);
    }
    if resume != 0 {
        context.registers[RIP] = resume;
    }
    if hook != 0 {
        // SAFETY: `hook` is only ever set from a function of this type.
        let hook = unsafe { core::mem::transmute::<usize, Hook>(hook) };
        hook(context);
    }
}

/// Takes the five signals of exceptions, on a stack of their own.
pub fn start() {
    sys::alternate_stack(16);
    for signal in [SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP] {
        sys::on_signal(signal, handler as *const () as usize);
    }
    reset();
}

/// The handler's address, for other signals.
pub fn take(signal: i32) {
    sys::on_signal(signal, handler as *const () as usize);
}

/// Forgets what was caught, and has the next signal be unexpected.
pub fn reset() {
    COUNT.store(0, SeqCst);
    RESUME.store(0, SeqCst);
    HOOK.store(0, SeqCst);
}

/// Has the handler call this.
pub fn hook(hook: Hook) {
    HOOK.store(hook as usize, SeqCst);
}

/// How many signals came since the last `reset`.
pub fn count() -> u64 {
    COUNT.load(SeqCst)
}

/// A register as the last signal's frame had it.
pub fn register(number: usize) -> u64 {
    SAVED[number].load(SeqCst)
}

/// Runs one instruction that faults, and goes on behind it. It may not use rcx.
macro_rules! probe {
    ($instruction:literal $(, $($operand:tt)*)?) => {{
        $crate::probe::reset();
        // SAFETY: the instruction faults, so that it changes nothing but what the check says; and if it does
        // not, it changes what the check has mapped.
        unsafe {
            core::arch::asm!(
                "lea rcx, [rip + 3f]",
                "mov [rip + {resume}], rcx",
                "lea rcx, [rip + 2f]",
                "mov [rip + {at}], rcx",
                "2:",
                $instruction,
                "3:",
                resume = sym $crate::probe::RESUME,
                at = sym $crate::probe::AT,
                out("rcx") _,
                $($($operand)*)?
            )
        }
    }};
}

/// Where the frame's rip points.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rip {
    /// At the instruction: a fault.
    At,
    /// Behind it: a trap.
    Behind,
}

/// What a signal is to say.
#[derive(Clone, Copy)]
pub struct Fault {
    pub signal: i32,
    pub code: i32,
    pub trap: u64,
    pub error: u64,
    /// `si_addr`; `None`: the frame's rip.
    pub address: Option<u64>,
    pub rip: Rip,
}

pub const MAPERR: i32 = 1;
pub const ACCERR: i32 = 2;
pub const SI_KERNEL: i32 = 0x80;

// A page fault's error code.
pub const PRESENT: u64 = 1;
pub const WRITING: u64 = 2;
pub const USER: u64 = 4;
pub const FETCH: u64 = 16;

impl Fault {
    pub const fn page(code: i32, error: u64, address: u64) -> Self {
        Self { signal: SIGSEGV, code, trap: 14, error, address: Some(address), rip: Rip::At }
    }

    pub const fn protection(error: u64) -> Self {
        Self { signal: SIGSEGV, code: SI_KERNEL, trap: 13, error, address: Some(0), rip: Rip::At }
    }
}

/// Compares what was caught, and forgets it.
pub fn expect(what: &str, fault: Fault) -> Outcome {
    let count = COUNT.load(SeqCst);
    let (at, behind) = (AT.load(SeqCst), RESUME.load(SeqCst));
    reset();
    ensure!(count != 0, "{what}: no signal");
    same!(count, 1, "{what}: signals");
    same!(SIGNAL.load(SeqCst), fault.signal as u64, "{what}: signal");
    same!(register(TRAP), fault.trap, "{what}: trap number");
    same!(register(ERROR), fault.error, "{what}: error code");
    same!(CODE.load(SeqCst), fault.code as u64, "{what}: si_code");
    let rip = register(RIP);
    same!(rip, if fault.rip == Rip::At { at } else { behind }, "{what}: rip");
    same!(ADDRESS.load(SeqCst), fault.address.unwrap_or(rip), "{what}: si_addr");
    if fault.trap == 14 {
        same!(register(CR2), fault.address.unwrap_or(rip), "{what}: cr2");
    }
    Ok(())
}
