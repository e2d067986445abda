//! Sensitive instructions that are hot enough to be done inline. The interpreter's routine stays the
//! definition; these are its special cases, chosen by the mode word so that nothing of it is tested at run time.

use x86::classify::Routine;

use super::address::Saved;
use super::{Lowering, SiteKind, SlowStub};
use crate::access::Operands;
use crate::context::ContextField as F;
use crate::decode::GuestInsn;
use crate::emit::{Cond, Mem, Op, Reg};
use crate::lower::stack::Width;
use crate::mode::ModeWord;

/// IF's place in `Context::interrupt_flag`.
const IF_SET: u32 = 2;
/// DF's place in `Context::direction_flag`.
const DF_SET: u32 = 4;

/// Whether this routine's instruction may be done inside a block in this mode. Some of its forms may still
/// leave.
pub fn inlines(routine: Routine, mode: ModeWord) -> bool {
    if mode.steps() {
        return false;
    }
    match routine {
        Routine::Nop => true,
        // IOPL does not matter to ring 0.
        Routine::Cli | Routine::Sti => mode.is_ring0(),
        Routine::Pushf => mode.is_ring0() && mode.is_long(),
        Routine::Xsave | Routine::Xrstor => !mode.no_avx(),
        _ => false,
    }
}

/// Whether it is done inside the block and neither reads nor writes a status flag.
pub fn keeps_flags(routine: Routine, mode: ModeWord) -> bool {
    inlines(routine, mode) && routine != Routine::Pushf
}

impl Lowering<'_> {
    /// Lowers a routine's instruction inline; `false` if it has to leave.
    pub(super) fn inline_routine(&mut self, insn: &GuestInsn, routine: Routine) -> bool {
        if !inlines(routine, self.frame.mode) {
            return false;
        }
        match routine {
            Routine::Nop => true,
            Routine::Cli => {
                self.set_flag(F::InterruptFlag, 0);
                true
            }
            Routine::Sti => {
                self.sti(insn);
                true
            }
            Routine::Pushf => self.pushf(insn).is_ok(),
            Routine::Xsave | Routine::Xrstor => self.special(insn).is_ok(),
            _ => false,
        }
    }

    /// CLD and STD, which are innocuous but for this: the host's direction flag belongs to the host.
    pub(super) fn set_direction(&mut self, down: bool) {
        self.set_flag(F::DirectionFlag, if down { DF_SET } else { 0 });
    }

    /// Sets a flag that stands apart, without touching another.
    fn set_flag(&mut self, field: F, value: u32) {
        self.e.raw_ctx(&[0x48, 0xc7], 0, field, &value.to_le_bytes());
    }

    /// Sets IF; if an interrupt waits for that, leaves before the next instruction, which the engine lets run
    /// alone in the shadow.
    fn sti(&mut self, insn: &GuestInsn) {
        self.set_flag(F::InterruptFlag, IF_SET);
        let saved = self.save_flags(insn.live_after, Reg::R11);
        self.e.cmp_ctx8(F::Window, 0);
        let waits = self.e.jcc(Cond::NotEqual);
        self.restore_flags(saved);
        let next = insn.offset + insn.instruction.len() as u16;
        self.slow.push(SlowStub { fixups: [Some(waits), None], saved, kind: SiteKind::Window, offset: next });
    }

    /// PUSHFQ in ring 0: the host's status flags, the rest from the context.
    fn pushf(&mut self, insn: &GuestInsn) -> Result<(), super::NoLowering> {
        let width = Width::of(&insn.instruction, self.frame.mode)?;
        if width.bytes != 8 {
            return Err(super::NoLowering);
        }
        let s = self.push_slot(insn, width, Operands::NONE)?;
        let [slot, part, rax] = s;
        self.e.mov(rax, Reg::RAX);
        self.e.flags_to_ax();
        self.e.op_ctx(Op::Store, true, Reg::RAX, F::JumpFlags);
        self.e.movzx8(part, Reg::RAX);
        self.e.bytes(&[0x0f, 0xb6, 0xc4]); // movzx eax, ah
        self.e.shift(4, false, part, 11);
        self.e.op_reg(Op::Or, false, Reg::RAX, part);
        self.e.op_ctx(Op::Or, true, Reg::RAX, F::SystemFlags);
        self.e.op_ctx(Op::Load, false, part, F::InterruptFlag);
        self.e.op_ctx(Op::Or, false, part, F::DirectionFlag);
        self.e.shift(4, false, part, 8);
        self.e.op_reg(Op::Or, false, Reg::RAX, part);
        self.e.op_mem(Op::Store, true, Reg::RAX, Mem::base(slot));
        self.e.op_ctx(Op::Load, false, Reg::RAX, F::JumpFlags);
        self.restore_flags(Saved::Register(rax));
        self.move_stack_pointer(width, -8);
        Ok(())
    }
}
