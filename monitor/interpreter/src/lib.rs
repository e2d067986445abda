//! {v}: one routine per sensitive instruction, and the delivery of interrupts and exceptions.
//!
//! [`execute`] carries out one instruction as the processor would (*SDM* is Intel's "Software Developer's
//! Manual", *APM* AMD's "Architecture Programmer's Manual"), on a [`CpuState`] and an [`Environment`];
//! [`deliver()`] takes an event through the guest's interrupt table. Faults are precise: where a routine returns
//! an exception, the state is as before the instruction, save for what the architecture lets go ahead
//! (accessed and dirty bits, finished iterations of string I/O).
//!
//! Not modelled: data breakpoints on what the delivery of an event touches, system-management mode, virtualization extensions, performance counters, MONITOR and MWAIT. What a guest
//! would find with CPUID says so.

mod control;
mod deliver;
mod descriptors;
mod flags;
mod gates;
mod interrupts;
mod io;
mod iret;
mod legacy;
mod memory;
mod msr;
mod mtrr;
mod operand;
mod processor;
mod routines;
mod segment_check;
mod segments;
mod stack;
mod system_call;
mod tables;
mod task;
mod transfer;
mod xsave;

#[cfg(test)]
mod tests;

use iced_x86::Instruction;
use std::sync::Arc;

use vcpu::{CpuState, DebugPoints, Environment, Insn, Invalidation, Shadow, Watchpoint};
use x86::debug::dr6;
use x86::{Exception, Mode, Rflags};

pub use deliver::deliver;

/// What an instruction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is over; RIP is where execution goes on.
    Done,
    /// String I/O with more to do: RIP is still at the instruction. Interrupts may be taken now.
    Repeat,
    /// HLT: RIP is after it and the vCPU is halted.
    Halt,
}

/// What an instruction or a delivery asks of others beside changing [`CpuState`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// What the engine has to forget.
    pub invalidations: Invalidations,
    /// Bits that DR6 gains in a debug trap after the instruction, or before the first of a task that an event led to;
    /// zero when there is none. After a fault it means nothing.
    pub debug_trap: u64,
    /// What a debugger outside the guest waits for: set by whoever calls.
    pub points: Arc<DebugPoints>,
    /// The debugger's watchpoint that an instruction has hit. After a fault it means nothing.
    pub watched: Option<Watchpoint>,
}

impl Effects {
    fn invalidate(&mut self, what: Invalidation) {
        self.invalidations.push(what);
    }
}

/// A few invalidations; one too many turns them into [`Invalidation::Everything`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invalidations {
    items: [Option<Invalidation>; 2],
}

impl Invalidations {
    fn push(&mut self, what: Invalidation) {
        if self.items.contains(&Some(what)) {
            return;
        }
        match self.items.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(what),
            None => self.items = [Some(Invalidation::Everything), None],
        }
    }

    /// Takes them out, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Invalidation> + use<> {
        std::mem::take(&mut self.items).into_iter().flatten()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items[0].is_none()
    }
}

/// What every routine returns.
type Routed = Result<Outcome, Exception>;

/// One instruction or delivery at work.
struct Context<'a, E: Environment + ?Sized> {
    cpu: &'a mut CpuState,
    env: &'a mut E,
    effects: &'a mut Effects,
}

/// Carries out the instruction at `cpu.rip`.
///
/// # Errors
/// The exception the guest is owed for it, to be passed to [`deliver()`].
pub fn execute<E: Environment + ?Sized>(
    cpu: &mut CpuState,
    insn: &Insn,
    env: &mut E,
    effects: &mut Effects,
) -> Result<Outcome, Exception> {
    // The trap flag counts as it was when the instruction began; routines that end in a handler clear this.
    effects.debug_trap = if cpu.rflags.contains(Rflags::TF) { dr6::BS } else { 0 };
    effects.watched = None;
    Context { cpu, env, effects }.route(insn)
}

impl<E: Environment + ?Sized> Context<'_, E> {
    fn mode(&self) -> Mode {
        self.cpu.mode()
    }

    /// The address after an instruction.
    fn next_rip(&self, insn: &Instruction) -> u64 {
        let next = self.cpu.rip.wrapping_add(insn.len() as u64);
        if self.mode() == Mode::Long64 { next } else { next & 0xffff_ffff }
    }

    /// Ends an instruction that goes on with the next one.
    fn done(&mut self, insn: &Instruction) -> Routed {
        let next = self.next_rip(insn);
        self.go(next)
    }

    /// Ends an instruction that goes on at `rip`.
    fn go(&mut self, rip: u64) -> Routed {
        self.cpu.rip = rip;
        self.cpu.rflags.remove(Rflags::RF);
        self.cpu.shadow = Shadow::None;
        Ok(Outcome::Done)
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let osxsave = self.cpu.cr4.contains(x86::Cr4::OSXSAVE);
        self.env.cpuid(leaf, subleaf, osxsave, self.cpu.xcr0.bits())
    }

    /// Whether CPUID presents the processor as AMD's (or Hygon's), where the makers differ.
    fn is_amd(&self) -> bool {
        const AUTH: u32 = u32::from_le_bytes(*b"Auth");
        const HYGO: u32 = u32::from_le_bytes(*b"Hygo");
        matches!(self.cpuid(0, 0)[1], AUTH | HYGO)
    }

    /// EDX:EAX as one value.
    fn edx_eax(&self) -> u64 {
        use x86::register::gpr::{RAX, RDX};
        (self.cpu.gpr[RDX] << 32) | (self.cpu.gpr[RAX] & 0xffff_ffff)
    }

    /// Splits a value over EDX:EAX, clearing the upper halves.
    fn set_edx_eax(&mut self, value: u64) {
        use x86::register::gpr::{RAX, RDX};
        self.cpu.gpr[RAX] = value & 0xffff_ffff;
        self.cpu.gpr[RDX] = value >> 32;
    }
}
