//! The guest's flags while host code needs the host's.
//!
//! Comparing destroys them. Where they are read later, they wait in ax meanwhile, or in the context. At the end of a block
//! there is often a stretch of instructions that leave flags alone, and then a jump through the table, which takes them in
//! the context anyway: pops and a return, say. There they are *parked* before the first check and stay so.

use iced_x86::{FlowControl, Instruction};

use super::{Lowering, has_memory};
use crate::context::ContextField as F;
use crate::decode::{End, GuestInsn};
use crate::emit::{Op, Reg};
use crate::flags;
use crate::refill::Kept;
use crate::trampoline::{emit_flags_from_context, emit_flags_to_context};

/// Where the guest's flags and rax are during a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// Nobody reads the flags: they may be lost.
    Dead,
    /// Flags in ax; rax in this register.
    Register(Reg),
    /// Flags in `Context::jump_flags`.
    Context,
    /// The same to the end of the block.
    Parked,
}

impl Saved {
    /// The same to one who fills hints.
    pub(super) fn kept(self) -> Kept {
        match self {
            Self::Dead => Kept::Dead,
            Self::Register(reg) => Kept::Register(reg),
            Self::Context | Self::Parked => Kept::Context,
        }
    }
}

impl Lowering<'_> {
    /// The first instruction of a stretch that leaves flags alone, up to a jump through the table that ends the block.
    pub(super) fn parking(&self, list: &[GuestInsn], end: End) -> Option<usize> {
        let (last, mode) = (list.last()?, self.frame.mode);
        let i = &last.instruction;
        let by_table = match (end, i.flow_control()) {
            (End::Transfer, FlowControl::Call | FlowControl::UnconditionalBranch) => {
                !self.is_linkable(self.direct_target(i))
            }
            (
                End::Transfer,
                FlowControl::Return | FlowControl::IndirectBranch | FlowControl::IndirectCall,
            ) => true,
            (End::Limit | End::Page, _) => !self.is_linkable(i.next_ip().into()),
            _ => false,
        };
        if !by_table || mode.steps() {
            return None;
        }
        let touches = |insn: &GuestInsn| {
            let i = &insn.instruction;
            insn.routine.is_some() || flags::read(i) | flags::modified(i) != 0
        };
        let first = list.iter().rposition(touches).map_or(0, |n| n + 1);
        (first < list.len()).then_some(first)
    }

    /// Whether to park the flags before the first instruction: nothing touches them, and they have to be put by anyway.
    pub(super) fn parks_at_once(&self, list: &[GuestInsn]) -> bool {
        let moves = |i: &Instruction| has_memory(i) || i.stack_pointer_increment() != 0;
        let jumps = |i: &Instruction| i.flow_control() == FlowControl::IndirectBranch;
        self.parking == Some(0)
            && list.iter().any(|insn| moves(&insn.instruction) || jumps(&insn.instruction))
    }

    /// Puts the flags by if `live`; they may be in ax then, and rax in `rax_in`.
    pub(super) fn save_flags(&mut self, live: u8, rax_in: Reg) -> Saved {
        if live == 0 {
            return Saved::Dead;
        }
        if self.parked {
            return Saved::Parked;
        }
        self.held.lose(rax_in);
        self.e.mov(rax_in, Reg::RAX);
        self.e.flags_to_ax();
        if self.parking.is_none_or(|first| self.count <= first) {
            return Saved::Register(rax_in);
        }
        self.e.op_ctx(Op::Store, true, Reg::RAX, F::JumpFlags);
        self.e.mov(Reg::RAX, rax_in);
        self.parked = true;
        self.out.parked = Some(self.e.offset() as u32);
        Saved::Parked
    }

    /// Puts the flags into the context if `live`, so that rax is free.
    pub(super) fn put_flags_aside(&mut self, live: u8) -> Saved {
        if live == 0 {
            return Saved::Dead;
        }
        if self.parked {
            return Saved::Parked;
        }
        self.flags_to_context();
        Saved::Context
    }

    /// Brings back what was put by.
    pub(super) fn restore_flags(&mut self, saved: Saved) {
        match saved {
            Saved::Dead | Saved::Parked => {}
            Saved::Register(rax_in) => {
                self.e.flags_from_ax();
                self.e.mov(Reg::RAX, rax_in);
            }
            Saved::Context => self.flags_from_context(),
        }
    }

    /// The same on a way out of the block, where flags are in their place again.
    pub(super) fn restore_flags_to_leave(&mut self, saved: Saved) {
        match saved {
            Saved::Parked => self.flags_from_context(),
            saved => self.restore_flags(saved),
        }
    }

    /// Puts flags where a jump through the table takes them.
    pub(super) fn flags_to_context(&mut self) {
        if !self.parked {
            emit_flags_to_context(self.e);
        }
    }

    pub(super) fn flags_from_context(&mut self) {
        emit_flags_from_context(self.e);
    }
}
