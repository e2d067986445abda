//! Host signals raised by guest code: an invalid opcode, a divide error, a misaligned vector access. The
//! handler only notes what happened and lets guest code go on at the exit stub; the engine makes an exception of
//! the guest's out of it.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};

use host::HostError;
use host::fault::{AltStack, FaultContext, FaultSignal};
use vcpu::CpuState;
use x86::{Exception, Vector};

use crate::block::EXIT_FAULT;
use crate::context::Context;
use crate::regs::SPILLED;

/// What the handler needs to know of the engine whose guest code this thread runs.
#[derive(Clone, Copy)]
pub struct Running {
    /// The executable range.
    pub code: (u64, u64),
    /// The exit stub.
    pub exit: u64,
    /// Where to note the fault.
    pub context: *mut Context,
}

thread_local! {
    /// Signals must not be delivered on the guest's stack pointer. Bound to the thread, not to the engine, which
    /// may be dropped elsewhere.
    static STACK: RefCell<Option<AltStack>> = const { RefCell::new(None) };
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
}

/// Gives the calling thread an alternate signal stack, once.
pub fn prepare_thread() -> Result<(), HostError> {
    STACK.with_borrow_mut(|stack| {
        if stack.is_none() {
            *stack = Some(AltStack::install()?);
        }
        Ok(())
    })
}

/// Names the engine that runs on this thread.
pub fn set_running(running: Option<Running>) {
    RUNNING.set(running);
}

/// The engine that runs on this thread.
pub fn running() -> Option<Running> {
    RUNNING.get()
}

/// The process-wide handler.
pub fn handle(fault: &mut FaultContext) -> bool {
    let Some(running) = RUNNING.get() else {
        return false;
    };
    let rip = fault.rip();
    if !(running.code.0..running.code.1).contains(&rip) || fault.code() <= 0 {
        return false;
    }
    // SAFETY: guest code was running on this thread, so the engine holds no reference into its context, and the
    // context outlives the run.
    let context = unsafe { &mut *running.context };
    context.fault_pc = rip;
    context.fault_vector = fault.vector();
    context.fault_address = fault.address() as u64;
    // It is the signal of a stack segment fault, too: that of an address off the stack pointer that is not canonical.
    let page = fault.vector() == u64::from(Vector::PageFault as u8);
    context.fault_signal = u64::from(page && fault.signal() == FaultSignal::Bus);
    context.fault_code = fault.error_code();
    for reg in SPILLED {
        context.put[usize::from(reg.0)] = fault.gpr(usize::from(reg.0));
    }
    // Guest registers are in place; r9 is scratch.
    fault.set_gpr(9, u64::from(EXIT_FAULT));
    fault.set_rip(running.exit);
    true
}

/// A host signal that stopped guest code.
#[derive(Clone, Copy, Debug)]
pub struct Signal {
    /// Host address of the code.
    pub pc: u64,
    /// The processor's vector.
    pub vector: u64,
    /// The address accessed, for a page fault.
    pub address: u64,
    /// SIGBUS: the host could not give memory.
    pub bus: bool,
    /// The error code of a page fault.
    pub code: u64,
}

impl Signal {
    /// Whether a write raised it.
    pub fn is_write(&self) -> bool {
        self.code & u64::from(x86::paging::error_code::WRITE) != 0
    }

    /// Whether it is a page fault of the host's.
    pub fn is_memory(&self) -> bool {
        self.vector == 14
    }

    /// What it is to the guest; `None` if it should not have been possible.
    pub fn exception(&self, cpu: &CpuState) -> Option<Exception> {
        match self.vector {
            0 => Some(Exception::new(Vector::DivideError)),
            6 => Some(Exception::UD),
            12 => Some(Exception::ss(0)),
            // Segments and canonical addresses have been seen to: what is left is alignment, and a control word
            // with reserved bits.
            13 => Some(Exception::gp(0)),
            16 => Some(Exception::new(Vector::X87FloatingPoint)),
            17 => Some(Exception::with_code(Vector::AlignmentCheck, 0)),
            // Without CR4.OSXMMEXCPT an unmasked SIMD exception is an invalid opcode.
            19 if !cpu.cr4.contains(x86::Cr4::OSXMMEXCPT) => Some(Exception::UD),
            19 => Some(Exception::new(Vector::SimdFloatingPoint)),
            _ => None,
        }
    }
}
