//! The traits an engine fulfils, and what crosses them. Exits and completions are data, never callbacks, so
//! that one dispatcher can drive engines as different as a translator and KVM.

use std::sync::Arc;

use iced_x86::Instruction;
use thiserror::Error;
use x86::classify::Routine;
use x86::{Exception, Vector};

use crate::{BlockView, CpuState, DebugEvent, DebugPoints, HostCode, Sighting};

/// A way to let guest code run. One per vCPU, bound to the thread that calls [`Engine::run`].
pub trait Engine: Send {
    /// Its name, for messages and statistics.
    fn name(&self) -> &'static str;

    /// Whether it can run a vCPU in this state (direct execution, say, wants ring 3 with paging on).
    fn admits(&self, cpu: &CpuState) -> bool;

    /// Who takes an interrupt or exception through the guest's descriptor tables.
    fn delivery(&self) -> Delivery;

    /// Runs guest code until something is wanted of the monitor. `cpu` is exact at return.
    fn run(&mut self, cpu: &mut CpuState, entry: Entry) -> Exit;

    /// Forgets what it has cached. The one path for guest TLB flushes, writes to code that did not pass
    /// through the engine, dirty logging and reclaimed pages.
    fn invalidate(&mut self, what: Invalidation);

    /// Says whether an interrupt waits that the vCPU cannot take yet. While it does, [`Engine::run`] returns
    /// [`Exit::Kicked`] as soon as IF is set and no shadow holds, and does so between two instructions. The
    /// monitor takes the wish back when the interrupt is taken or gone.
    fn request_interrupt_window(&mut self, wanted: bool);

    /// Where guest code is to be left for a debugger from now on; called between two runs.
    fn set_debug_points(&mut self, points: &Arc<DebugPoints>);

    /// A handle by which any thread makes [`Engine::run`] return [`Exit::Kicked`] soon. A kick that arrives
    /// between two runs is kept for the next.
    fn kicker(&self) -> Arc<dyn Kick>;

    /// What it has counted of its own work since it was made, each with what it is, for people to read.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// What it holds at this moment, each with what it is, for people to read.
    fn contents(&mut self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// What it has made of the guest code that holds the instruction at `rip`: one block, or several for different
    /// states of the processor. None if it keeps nothing of the kind.
    fn blocks_at(&mut self, _rip: u64) -> Vec<BlockView> {
        Vec::new()
    }

    /// Its host code from an address on, in the order of addresses, as many parts as `most`; with what has been thrown
    /// away since [`Engine::keep_host_code`], where nothing else has taken its place.
    fn host_code(&self, _from: u64, _most: usize) -> Vec<HostCode> {
        Vec::new()
    }

    /// From now on remembers what host code that is thrown away was, for [`Engine::host_code`].
    fn keep_host_code(&mut self) {}

    /// The thread that has called [`Engine::run`] calls it no more, but another may: what is bound to a thread has to go.
    fn dismiss(&mut self) {}

    /// Where the thread that calls this was when `host::sampling` last interrupted it, if that happened since the
    /// last call. An engine that cannot tell says nothing.
    fn sighted(&mut self) -> Option<Sighting> {
        None
    }

    /// Gets ready for that, on the thread that calls [`Engine::run`].
    fn prepare_sighting(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
}

/// See [`Engine::kicker`].
pub trait Kick: Send + Sync {
    /// Makes the engine leave guest code soon. Never blocks.
    fn kick(&self);
}

/// Who delivers events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The monitor's interpreter changes [`CpuState`] as the processor would; the engine is only resumed.
    Interpreter,
    /// The engine accepts [`Entry::Inject`].
    Engine,
}

/// What the monitor wants done when it lets the engine run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Go on at `cpu.rip`.
    Resume,
    /// Run the instruction at `cpu.rip` whether it has a debugger's breakpoint or not, and return
    /// [`Exit::Debug`] behind it, unless there is another exit before.
    Step,
    /// The answer to an [`Exit::Mmio`] or [`Exit::PortIo`] read; for a write, that it was done (the value is
    /// ignored). Nothing else may be entered with between such an exit and its completion.
    Complete(u64),
    /// Deliver this first; only for engines whose [`Engine::delivery`] is [`Delivery::Engine`].
    Inject(Event),
}

/// Something the vCPU takes through its interrupt table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A maskable interrupt, already acknowledged.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// A fault, trap or abort.
    Exception(Exception),
    /// `int n`, `int3`, `into` or `int1`: gate privilege is checked, and `next_rip` is pushed.
    Software {
        /// Vector.
        vector: u8,
        /// Address after the instruction.
        next_rip: u64,
    },
}

impl From<Vector> for Event {
    fn from(vector: Vector) -> Self {
        Self::Exception(Exception::new(vector))
    }
}

/// Why an engine gave up control.
#[derive(Debug)]
pub enum Exit {
    /// The instruction at `cpu.rip` has a routine in the interpreter; it has had no effect yet.
    Sensitive(Insn),
    /// The guest is owed this; `cpu.rip` is what the exception saves.
    Exception(Exception),
    /// A memory access that RAM does not answer. Answered by [`Entry::Complete`].
    Mmio(Mmio),
    /// An I/O port access with permission already checked (hardware engines). Answered by
    /// [`Entry::Complete`].
    PortIo {
        /// Port number.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: u8,
        /// The value written, or `None` for a read.
        write: Option<u32>,
    },
    /// HLT was executed (hardware engines); `cpu.rip` is after it.
    Halt,
    /// [`Kick::kick`] was called.
    Kicked,
    /// A debugger outside the guest is to be told. If `owed` is not zero the guest, for its part, is owed a debug
    /// trap with these bits of DR6.
    Debug {
        /// Of what.
        event: DebugEvent,
        /// Bits of DR6.
        owed: u64,
    },
    /// The state is one that [`Engine::admits`] refuses; nothing more has run.
    NotAdmitted,
    /// The engine cannot go on; the VM is to be stopped, the host is unharmed.
    Fatal(EngineError),
}

/// A decoded instruction with the routine that is to carry it out.
#[derive(Clone, Copy, Debug)]
pub struct Insn {
    /// The instruction; its `ip` is the guest's.
    pub instruction: Instruction,
    /// Its routine.
    pub routine: Routine,
}

/// One access to a device's memory, at most 8 bytes and inside one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mmio {
    /// Guest-physical address.
    pub gpa: u64,
    /// 1 to 8 bytes.
    pub size: u8,
    /// The value written, little-endian in the low bytes, or `None` for a read.
    pub write: Option<u64>,
}

/// What an engine is to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// The translation of one page, global ones included (INVLPG).
    Page {
        /// Any linear address in it.
        linear: u64,
    },
    /// Every translation that is not global (a write of CR3).
    AddressSpace,
    /// Every translation (CR0.PG, CR4.PGE and whatever else changes how tables are read).
    AllPages,
    /// What was derived from these guest-physical bytes, because they have changed.
    Code {
        /// First byte.
        gpa: u64,
        /// Length in bytes.
        len: usize,
    },
    /// Everything.
    Everything,
}

/// Why an engine cannot go on: the host refused it something.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A system call failed.
    #[error("{what} failed")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The guest executes from memory that no RAM backs, such as a device's registers.
    #[error("the guest executes at {rip:#x} (guest-physical {gpa:#x}), where there is no memory")]
    NoMemory {
        /// Guest instruction pointer.
        rip: u64,
        /// Guest-physical address it maps to.
        gpa: u64,
    },
    /// The engine does not support what the guest does.
    #[error("{what} at {rip:#x} is not supported by this engine")]
    Unsupported {
        /// What the guest did.
        what: String,
        /// Guest instruction pointer.
        rip: u64,
    },
}
