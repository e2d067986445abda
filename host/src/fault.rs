//! Faults of our own code, as signals: SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP.
//!
//! An engine that runs guest code on the processor gets the guest's faults this way. It installs one function,
//! which decides by the interrupted instruction pointer whether the fault is the guest's, and answers by changing
//! the registers with which the interrupted code goes on. Faults that nobody claims go to whoever handled the
//! signal before (Rust's own handler tells of a stack overflow) and in the end kill the process, as they should;
//! the terminal is put right before.
//!
//! Handlers run on the alternate stack of their thread, if it has one: see [`AltStack`]. A thread whose stack
//! pointer may not point to a stack at all must have one.
#![allow(unsafe_code)] // Signal handlers and their contexts.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::{HostError, Mapping, PAGE_SIZE, Protection, terminal};

/// Signals that are faults: offered to handlers.
const FAULTS: [libc::c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];

/// Signals that end a process and are caught for the terminal's sake only, where nobody else catches them.
const ENDINGS: [libc::c_int; 5] = [libc::SIGABRT, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// How many different handlers a process may have: one per kind of engine.
const MAX_HANDLERS: usize = 4;

/// Flag of sigaltstack(2): while a handler runs there the stack is not in force, so a handler may be left by
/// changing the stack pointer in its context.
const SS_AUTODISARM: libc::c_int = 1 << 31;
/// The kernel's minimum for a signal frame with this processor's vector state (auxiliary vector).
const AT_MINSIGSTKSZ: libc::c_ulong = 51;
/// Room for the handler itself, beyond the frame.
const HANDLER_STACK: usize = 64 << 10;

/// Looks at a fault. `true`: dealt with, go on with the registers as they now are. `false`: not mine.
///
/// Runs in a signal handler: it may touch atomics and memory set up beforehand, and must not allocate, lock or
/// panic.
pub type FaultHandler = fn(&mut FaultContext) -> bool;

/// Addresses of the installed handlers, 0 for none.
static HANDLERS: [AtomicUsize; MAX_HANDLERS] = [const { AtomicUsize::new(0) }; MAX_HANDLERS];
/// What was in force for each of `FAULTS` before us; null while we are not installed.
static PREVIOUS: [AtomicPtr<libc::sigaction>; FAULTS.len()] =
    [const { AtomicPtr::new(ptr::null_mut()) }; FAULTS.len()];
/// Serialises installation.
static INSTALL: Mutex<()> = Mutex::new(());

/// Installs a handler for faults in this process, for good. Installing one again changes nothing.
pub fn install_fault_handler(handler: FaultHandler) -> Result<(), HostError> {
    let _guard = INSTALL.lock().unwrap_or_else(PoisonError::into_inner);
    let address = handler as usize;
    if HANDLERS.iter().all(|slot| slot.load(Ordering::Relaxed) != address) {
        let free = HANDLERS.iter().find(|slot| slot.load(Ordering::Relaxed) == 0);
        free.ok_or(HostError::TooMany { what: "fault handlers", limit: MAX_HANDLERS })?
            .store(address, Ordering::Release);
    }
    install_locked()
}

/// Makes sure that whatever signal ends the process finds our handler, which restores terminals.
pub(crate) fn restore_terminals_at_the_end() -> Result<(), HostError> {
    let _guard = INSTALL.lock().unwrap_or_else(PoisonError::into_inner);
    install_locked()?;
    for signal in ENDINGS {
        if in_force(signal)?.sa_sigaction == libc::SIG_DFL {
            take_over(signal)?;
        }
    }
    Ok(())
}

fn install_locked() -> Result<(), HostError> {
    for (signal, previous) in FAULTS.into_iter().zip(&PREVIOUS) {
        if previous.load(Ordering::Relaxed).is_null() {
            // Known before the handler can run; leaked, for a handler may look at it at any time from now on.
            previous.store(Box::into_raw(Box::new(in_force(signal)?)), Ordering::Release);
            take_over(signal)?;
        }
    }
    Ok(())
}

fn in_force(signal: libc::c_int) -> Result<libc::sigaction, HostError> {
    // SAFETY: an all-zero sigaction is a valid one, and the call fills it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        match libc::sigaction(signal, ptr::null(), &mut action) {
            0 => Ok(action),
            _ => Err(HostError::last("sigaction")),
        }
    }
}

fn take_over(signal: libc::c_int) -> Result<(), HostError> {
    let function: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
    // SAFETY: the action is fully set up; `handle` is a handler of the type that SA_SIGINFO wants.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = function as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        match libc::sigaction(signal, &action, ptr::null_mut()) {
            0 => Ok(()),
            _ => Err(HostError::last("sigaction")),
        }
    }
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if FAULTS.contains(&signal) {
        let mut fault = FaultContext { signal, info, context: context.cast(), _not_send: PhantomData };
        for slot in &HANDLERS {
            let address = slot.load(Ordering::Acquire);
            if address == 0 {
                break;
            }
            // SAFETY: only `install_fault_handler` stores here, and only FaultHandlers.
            let handler: FaultHandler = unsafe { std::mem::transmute(address) };
            if handler(&mut fault) {
                return;
            }
        }
    }
    pass_on(signal, info, context);
}

/// Nobody claims the signal: what was there before takes it, or the process ends by it.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    terminal::restore_all();
    let index = FAULTS.iter().position(|&known| known == signal);
    let previous = index.map_or(ptr::null_mut(), |index| PREVIOUS[index].load(Ordering::Acquire));
    // SAFETY: null or a leaked, immutable sigaction.
    let previous = unsafe { previous.as_ref() };
    // SAFETY: the kernel gives a valid siginfo. A fault that another process feigns would be lost on handlers that
    // rely on its happening again, as Rust's does.
    let real = unsafe { (*info).si_code > 0 };
    if let Some(previous) = previous
        && real
        && previous.sa_sigaction != libc::SIG_DFL
        && previous.sa_sigaction != libc::SIG_IGN
    {
        if previous.sa_flags & libc::SA_SIGINFO != 0 {
            // SAFETY: the flag says that the handler has this type.
            let function: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(previous.sa_sigaction) };
            function(signal, info, context);
        } else {
            // SAFETY: without the flag it has this one.
            let function: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(previous.sa_sigaction) };
            function(signal);
        }
        return;
    }
    // Blocked while we are here, delivered with the default action as soon as we return. Returning alone would do
    // for faults, which happen again, but not for a breakpoint, which is past.
    // SAFETY: async-signal-safe calls with valid arguments.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &default, ptr::null_mut());
        libc::raise(signal);
    }
}

/// A fault and the registers of the code that it interrupted.
pub struct FaultContext {
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
    _not_send: PhantomData<*mut ()>,
}

/// Which signal it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultSignal {
    /// SIGSEGV: page fault or general protection.
    Segv,
    /// SIGBUS: alignment, or memory that is gone.
    Bus,
    /// SIGFPE: divide error or an unmasked floating-point exception.
    Fpe,
    /// SIGILL: invalid opcode.
    Ill,
    /// SIGTRAP: breakpoint or single step.
    Trap,
}

/// Positions of the general registers in a context, by their number in instruction encodings.
pub(crate) const GPR: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

impl FaultContext {
    /// The signal.
    pub fn signal(&self) -> FaultSignal {
        match self.signal {
            libc::SIGBUS => FaultSignal::Bus,
            libc::SIGFPE => FaultSignal::Fpe,
            libc::SIGILL => FaultSignal::Ill,
            libc::SIGTRAP => FaultSignal::Trap,
            _ => FaultSignal::Segv,
        }
    }

    /// `si_code`: the kernel's finer reason. Not positive if another process sent the signal.
    pub fn code(&self) -> i32 {
        // SAFETY: the kernel gave a siginfo that is valid while the handler runs.
        unsafe { (*self.info).si_code }
    }

    /// `si_addr`: for a page fault the address that was accessed (0 for a general protection fault), else that of
    /// the instruction.
    pub fn address(&self) -> usize {
        // SAFETY: as above; the signals handled here carry an address.
        unsafe { (*self.info).si_addr() as usize }
    }

    /// General register by its number in instruction encodings: 0 rax, 1 rcx, 2 rdx, 3 rbx, 4 rsp, 5 rbp, 6 rsi,
    /// 7 rdi, 8 to 15 r8 to r15.
    pub fn gpr(&self, number: usize) -> u64 {
        self.register(GPR[number & 15])
    }

    /// Sets a general register.
    pub fn set_gpr(&mut self, number: usize, value: u64) {
        self.set_register(GPR[number & 15], value);
    }

    /// The instruction pointer.
    pub fn rip(&self) -> u64 {
        self.register(libc::REG_RIP)
    }

    /// Where the interrupted thread goes on.
    pub fn set_rip(&mut self, value: u64) {
        self.set_register(libc::REG_RIP, value);
    }

    /// The flags register.
    pub fn rflags(&self) -> u64 {
        self.register(libc::REG_EFL)
    }

    /// Sets the flags; the kernel keeps those that user code may not change.
    pub fn set_rflags(&mut self, value: u64) {
        self.set_register(libc::REG_EFL, value);
    }

    /// The processor's error code (for a page fault its P, W and U bits).
    pub fn error_code(&self) -> u64 {
        self.register(libc::REG_ERR)
    }

    /// The exception's vector: 0 divide error, 6 invalid opcode, 13 general protection, 14 page fault, 16 x87,
    /// 17 alignment, 19 SIMD ...
    pub fn vector(&self) -> u64 {
        self.register(libc::REG_TRAPNO)
    }

    /// The interrupted code's FXSAVE/XSAVE image, which is loaded again afterwards; null if there is none.
    pub fn fpu_image(&mut self) -> *mut u8 {
        // SAFETY: the context is valid while the handler runs.
        unsafe { (*self.context).uc_mcontext.fpregs.cast() }
    }

    fn register(&self, index: libc::c_int) -> u64 {
        // SAFETY: the context is valid while the handler runs; the index is one of libc's.
        unsafe { (*self.context).uc_mcontext.gregs[index as usize] as u64 }
    }

    fn set_register(&mut self, index: libc::c_int, value: u64) {
        // SAFETY: as above.
        unsafe { (*self.context).uc_mcontext.gregs[index as usize] = value as i64 }
    }
}

/// An alternate signal stack for the calling thread, with a guard page below. The former one is put back on drop.
#[derive(Debug)]
pub struct AltStack {
    _memory: Mapping,
    former: libc::stack_t,
    /// sigaltstack is per thread, so this must be dropped where it was made.
    _thread_bound: PhantomData<Cell<*mut ()>>,
}

impl AltStack {
    /// Makes one and puts it in force.
    pub fn install() -> Result<Self, HostError> {
        // SAFETY: reads the auxiliary vector; 0 if the entry is unknown.
        let frame = unsafe { libc::getauxval(AT_MINSIGSTKSZ) } as usize;
        let size = (frame.max(libc::MINSIGSTKSZ) + HANDLER_STACK).next_multiple_of(PAGE_SIZE);
        let mut memory = Mapping::anonymous(PAGE_SIZE + size, Protection::ReadWrite)?;
        memory.protect(0, PAGE_SIZE, Protection::None)?;
        let stack = libc::stack_t {
            ss_sp: memory.as_ptr().wrapping_add(PAGE_SIZE).cast(),
            ss_flags: SS_AUTODISARM,
            ss_size: size,
        };
        // SAFETY: plain data.
        let mut former: libc::stack_t = unsafe { std::mem::zeroed() };
        // SAFETY: the stack's memory lives as long as the guard, which puts the former stack back.
        if unsafe { libc::sigaltstack(&stack, &mut former) } != 0 {
            return Err(HostError::last("sigaltstack"));
        }
        Ok(Self { _memory: memory, former, _thread_bound: PhantomData })
    }
}

impl Drop for AltStack {
    fn drop(&mut self) {
        // SAFETY: the former stack is the thread's own (Rust's runtime keeps it until the thread ends) or none.
        unsafe { libc::sigaltstack(&self.former, ptr::null_mut()) };
    }
}
