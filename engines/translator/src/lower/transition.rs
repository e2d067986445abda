//! Changes of privilege inside generated code: SYSCALL, SYSRET, SWAPGS, and STAC and CLAC, which change what
//! the kernel may touch. A translated system call is a jump.
//!
//! The context keeps the mode word and the selectors, and says when CS and SS have changed; the engine brings `CpuState` up
//! to date at the next exit.

use x86::{Rflags, SegmentRegister};

use super::saved::Saved;
use super::{Lowering, SiteKind, SlowStub, SyscallTarget};
use crate::context::ContextField as F;
use crate::decode::GuestInsn;
use crate::emit::{Cond, Op, Reg};
use crate::mode::ModeWord;

/// `Context::ring_change` after SYSCALL.
pub const ENTERED: u32 = 1;
/// `Context::ring_change` after SYSRET.
pub const RETURNED: u32 = 2;

/// CS and SS after SYSCALL or SYSRET to 64-bit code, by STAR.
pub fn selectors(star: u64, how: u32) -> (u16, u16) {
    if how == ENTERED {
        let cs = (star >> 32) as u16 & !3;
        (cs, cs.wrapping_add(8))
    } else {
        let base = (star >> 48) as u16;
        (base.wrapping_add(16) | 3, base.wrapping_add(8) | 3)
    }
}

/// No status flag in ax form; bit 1 of the flags reads as one.
const NO_FLAGS: u32 = 2 << 8;
/// What SYSRET takes from r11 and `Context::system_flags` holds.
const SYSTEM: Rflags =
    Rflags::IOPL.union(Rflags::NT).union(Rflags::AC).union(Rflags::VIF).union(Rflags::VIP).union(Rflags::ID);

impl Lowering<'_> {
    /// SYSCALL from 64-bit user code, if the kernel clears the flags that every kernel clears; else `false`.
    pub(super) fn syscall(&mut self, insn: &GuestInsn) -> bool {
        let Some(target) = self.frame.syscall else { return false };
        let cleared = Rflags::STATUS | Rflags::IF | Rflags::DF | Rflags::TF | Rflags::AC;
        let mask = Rflags::from_bits_truncate(target.mask);
        if !mask.contains(cleared) {
            return false;
        }
        self.e.mov(Reg::R11, Reg::RAX);
        self.e.flags_to_ax();
        self.image_of_flags(Reg::R10);
        self.e.group1(4, false, Reg::RAX, !(Rflags::RF.bits() as i32));
        self.e.op_ctx(Op::Store, true, Reg::RAX, F::Gpr(Reg::R11.0));
        self.e.mov(Reg::RAX, Reg::R11);
        self.rip_into(Reg::RCX, insn.instruction.next_ip());
        let kept = !(mask | Rflags::RF).bits() as u32 as i32;
        self.e.op_ctx(Op::Load, false, Reg::R10, F::SystemFlags);
        self.e.group1(4, false, Reg::R10, kept);
        self.e.op_ctx(Op::Store, true, Reg::R10, F::SystemFlags);
        self.set_flag(F::InterruptFlag, 0);
        self.set_flag(F::DirectionFlag, 0);
        self.set_flag(F::JumpFlags, NO_FLAGS);
        self.e.raw_ctx(&[0x48, 0x83], 0, F::KernelEntries, &[1]);
        self.change_ring(ENTERED, target, self.frame.mode.in_kernel());
        self.jump_to_known(target.rip);
        true
    }

    /// SYSRET to 64-bit code. A trap flag, one for alignment checks, an interrupt that waits for IF, and an address out of
    /// four levels' reach are the routine's.
    pub(super) fn sysret(&mut self, insn: &GuestInsn) -> bool {
        let Some(target) = self.frame.syscall else { return false };
        self.e.mov(Reg::R11, Reg::RAX);
        self.e.flags_to_ax();
        let saved = Saved::Register(Reg::R11);
        let leave_at = |this: &mut Self, fixup| {
            let stub = SlowStub::new([Some(fixup), None], saved, SiteKind::Callout, insn.offset);
            this.slow.push(stub);
        };
        self.e.op_ctx(Op::Load, true, Reg::R10, F::Gpr(Reg::R11.0));
        self.e.test32(Reg::R10, (Rflags::TF | Rflags::AC).bits() as u32);
        let traps = self.e.jcc(Cond::NotEqual);
        leave_at(self, traps);
        self.e.cmp_ctx8(F::Window, 0);
        let waits = self.e.jcc(Cond::NotEqual);
        leave_at(self, waits);
        let far = self.branch_beyond_four_levels(Reg::RCX, Reg::R9);
        leave_at(self, far);
        self.e.mov(Reg::RAX, Reg::R11);
        self.load_flags();
        self.change_ring(RETURNED, target, self.frame.mode.in_user());
        self.e.mov(Reg::R9, Reg::RCX);
        self.jump_by_r9();
        true
    }

    /// Takes the flags over from the image of them in r10, for a jump through the table. Clobbers r9.
    pub(super) fn load_flags(&mut self) {
        for (flag, field) in [(Rflags::IF, F::InterruptFlag), (Rflags::DF, F::DirectionFlag)] {
            self.e.mov32(Reg::R9, Reg::R10);
            self.e.shift(5, false, Reg::R9, 8);
            self.e.group1(4, false, Reg::R9, (flag.bits() >> 8) as i32);
            self.e.op_ctx(Op::Store, true, Reg::R9, field);
        }
        self.e.mov32(Reg::R9, Reg::R10);
        self.e.group1(4, false, Reg::R9, SYSTEM.bits() as i32);
        self.e.op_ctx(Op::Store, true, Reg::R9, F::SystemFlags);
        self.e.movzx8(Reg::R9, Reg::R10);
        self.e.shift(4, false, Reg::R9, 8);
        self.e.shift(5, false, Reg::R10, 11);
        self.e.group1(4, false, Reg::R10, 1);
        self.e.op_reg(Op::Or, false, Reg::R9, Reg::R10);
        self.e.op_ctx(Op::Store, true, Reg::R9, F::JumpFlags);
    }

    pub(super) fn change_ring(&mut self, how: u32, target: SyscallTarget, mode: ModeWord) {
        self.set_flag(F::RingChange, how);
        let (cs, ss) = selectors(target.star, how);
        self.set_flag(F::Selector(SegmentRegister::Cs as u8), cs.into());
        self.set_flag(F::Selector(SegmentRegister::Ss as u8), ss.into());
        self.set_mode(mode);
    }

    fn set_mode(&mut self, mode: ModeWord) {
        self.set_flag(F::Mode, mode.word());
        self.frame.mode = mode;
    }

    /// SWAPGS in ring 0.
    pub(super) fn swapgs(&mut self) {
        let gs = F::Base(SegmentRegister::Gs as u8);
        self.e.op_ctx(Op::Load, true, Reg::R9, gs);
        self.e.op_ctx(Op::Load, true, Reg::R10, F::KernelGsBase);
        self.e.op_ctx(Op::Store, true, Reg::R9, F::KernelGsBase);
        self.e.op_ctx(Op::Store, true, Reg::R10, gs);
    }

    /// STAC and CLAC: what follows in the block already sees the other view of memory.
    pub(super) fn set_access(&mut self, insn: &GuestInsn, lifted: bool) {
        let saved = self.save_flags(insn.live_before, Reg::R11);
        let ac = Rflags::AC.bits() as u32;
        let (digit, operand) = if lifted { (1, ac) } else { (4, !ac) };
        self.e.raw_ctx(&[0x81], digit, F::SystemFlags, &operand.to_le_bytes());
        self.restore_flags(saved);
        self.set_mode(self.frame.mode.with_access(lifted));
    }
}
