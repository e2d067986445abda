//! The control program ⟨D, A, {v}⟩ (section 4 of the paper): [dispatcher], [allocator] and [interpreter], and
//! the virtual machines it makes, each a [`Machine`] again.
//!
//! The monitor owns the first words of the machine below, where traps go, and is entered by them; each VM has a
//! region above. While a VM runs, the machine below is in user mode, with an R that the allocator has made of the
//! VM's own. So what the VM does with plain instructions the processor does by itself, with no intervention.

mod allocator;
mod dispatcher;
mod guest;
mod interpreter;
mod virtual_machine;

use std::rc::Rc;

pub use allocator::{Allocator, Refused, VmId};
pub use virtual_machine::VirtualMachine;

use crate::machine::{Console, FREE, NEW_PSW};
use crate::{Bare, Cause, Instruction, Isa, Machine, Psw, Relocation, Shape, Word};

/// Words of the machine below that a monitor keeps: what traps use, and the dispatcher's first instruction.
pub const OVERHEAD: Word = FREE + 1;

/// Which construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Theorem 1: only privileged instructions are interpreted.
    Full,
    /// Theorem 3: every instruction is that a VM executes in its supervisor mode.
    Hybrid,
}

/// Something a monitor did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The machine below trapped, with this PSW.
    Trapped(Cause, Psw),
    /// A routine carried out this instruction for the VM, whose PSW was this.
    Interpreted(Instruction, Psw),
    /// The VM was given a trap of its own, and goes on with this PSW.
    Reflected(Cause, Psw),
    /// The VM asked for this R, and the allocator gave it the other.
    Relocated(Relocation, Relocation),
}

/// Who hears of what a monitor does: its level (1 stands on the real machine) and the event.
pub type Watch = Rc<dyn Fn(u32, Event)>;

/// What a monitor has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Traps of the machine below.
    pub traps: u64,
    /// Instructions that a routine carried out.
    pub interpreted: u64,
    /// Traps passed on to a VM.
    pub reflected: u64,
}

/// What there is of a VM's processor.
#[derive(Debug)]
struct Vm {
    shape: Shape,
    /// As the VM has it: its own mode, its own R.
    psw: Psw,
    timer: Word,
    halted: bool,
    /// For a VM that was not given the real one.
    console: Console,
}

/// A monitor on a machine, whose instruction set it takes for a virtualizable one.
pub struct Monitor<M> {
    below: M,
    kind: Kind,
    allocator: Allocator,
    vms: Vec<Vm>,
    counts: Counts,
    level: u32,
    watch: Option<Watch>,
}

impl<M: Machine> Monitor<M> {
    /// Takes a machine over.
    pub fn new(mut below: M, kind: Kind) -> Self {
        let size = below.shape().size();
        // The paper: D's initial instruction is at the place where the hardware traps to.
        let dispatcher = below.shape().pack(Psw::supervisor(FREE, size));
        below.write(NEW_PSW, dispatcher);
        let allocator = Allocator::new(size, OVERHEAD);
        Self { below, kind, allocator, vms: Vec::new(), counts: Counts::default(), level: 1, watch: None }
    }

    /// Has a watcher hear of everything, as of a monitor at this level.
    pub fn watched(mut self, level: u32, watch: Option<Watch>) -> Self {
        (self.level, self.watch) = (level, watch);
        self
    }

    /// Makes a VM of `size` words, in the state of a machine that is turned on. Without the real console it has
    /// one of its own, which nobody reads.
    ///
    /// # Panics
    /// If it has no room for what a trap stores, or more words than [`Shape::MAX_SIZE`].
    pub fn create(&mut self, size: Word, console: bool) -> Result<VmId, Refused> {
        assert!(size >= FREE, "a trap needs {FREE} words");
        let id = self.allocator.create(size, console)?;
        for real in 0..size {
            self.below.write(self.allocator.locate(id, real), 0);
        }
        let psw = Psw::supervisor(FREE, size);
        self.allocator.relocate(id, psw.r);
        let shape = Shape::full(size);
        self.vms.push(Vm { shape, psw, timer: 0, halted: false, console: Console::default() });
        Ok(id)
    }

    /// What the monitor has done.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The allocator's books.
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// The machine below.
    pub fn below(&mut self) -> &mut M {
        &mut self.below
    }

    /// One of its VMs, borrowed.
    pub fn machine(&mut self, id: VmId) -> VirtualMachine<&mut Self, M> {
        VirtualMachine::new(self, id)
    }

    /// One of its VMs, for good: what another monitor can stand on.
    pub fn into_machine(self, id: VmId) -> VirtualMachine<Self, M> {
        VirtualMachine::new(self, id)
    }

    fn tell(&self, event: Event) {
        if let Some(watch) = &self.watch {
            watch(self.level, event);
        }
    }
}

/// A machine of `size` words with `depth` monitors below it, one in the other's VM; the real machine at depth 0.
///
/// # Panics
/// If the machine and what the monitors need is more than [`Shape::MAX_SIZE`], or less than a trap needs.
pub fn tower(
    isa: &'static Isa,
    size: Word,
    depth: u32,
    kind: Kind,
    watch: Option<&Watch>,
) -> Box<dyn Machine> {
    let mut left = size + Word::from(depth) * OVERHEAD;
    let mut machine: Box<dyn Machine> = Box::new(Bare::new(isa, left));
    for level in 1..=depth {
        left -= OVERHEAD;
        let mut monitor = Monitor::new(machine, kind).watched(level, watch.cloned());
        // It has just the room that was left for it.
        let id = monitor.create(left, true).expect("the machine below is large enough");
        machine = Box::new(monitor.into_machine(id));
    }
    machine
}
