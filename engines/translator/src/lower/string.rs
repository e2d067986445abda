//! String instructions. MOVS and STOS run natively on host addresses: repeated ones by a routine that goes from page to page,
//! others here, if their operands lie in one page each. What else (other instructions, narrow modes) the slow path does, also on
//! host addresses, a page at a time.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::page::Extent;
use super::saved::Saved;
use super::stubs::SlowStub;
use super::{Lowering, SiteKind};
use crate::context::ContextField as F;
use crate::decode::GuestInsn;
use crate::detour::{Call, Detour};
use crate::emit::{Cond, Fixup, Mem, Op, Reg};
use crate::mode::View;
use crate::regs::SPILLED;
use crate::repeat::Repeat;

impl Lowering<'_> {
    /// Lowers a string instruction; `false` if this is none.
    pub(super) fn string(&mut self, insn: &GuestInsn) -> bool {
        let i = &insn.instruction;
        let Some(string) = form(i, self.frame.mode.view()) else {
            if i.is_string_instruction() {
                self.leave_slow(insn);
                return true;
            }
            return false;
        };
        let rep = i.has_rep_prefix() || i.has_repne_prefix();
        if rep && self.frame.mode.steps() {
            self.leave_slow(insn);
            return true;
        }
        let saved = self.put_flags_aside(insn.live_before);
        match rep {
            true => self.repeat(insn, string, saved),
            false => self.once(insn, string, saved),
        }
        self.restore_flags(saved);
        true
    }

    fn repeat(&mut self, insn: &GuestInsn, string: Repeat, saved: Saved) {
        let routine = string.address(self.e.layout().repeat);
        let jump = self.e.jmp();
        let back = self.e.offset();
        let detour = Detour { jump, call: Call { routine, back, last: 0, found: back } };
        self.slow_behind(Some(detour), [None, None], saved, insn.offset);
    }

    fn once(&mut self, insn: &GuestInsn, string: Repeat, saved: Saved) {
        self.e.cmp_ctx8(F::DirectionFlag, 0);
        let backwards = self.e.jcc(Cond::NotEqual);
        self.slow_from([Some(backwards), None], saved, insn.offset);
        let width = u32::from(string.width);
        self.span(insn, Reg::RDI, Extent { size: width, write: true }, saved);
        if string.moves {
            self.e.op_ctx(Op::Store, true, Reg::R9, F::Carried);
            self.span(insn, Reg::RSI, Extent { size: width, write: false }, saved);
            self.e.mov(Reg::R11, Reg::RSI);
            self.e.mov(Reg::RSI, Reg::R9);
            self.e.op_reg(Op::Sub, true, Reg::R11, Reg::R9);
            self.e.op_ctx(Op::Load, true, Reg::R9, F::Carried);
        }
        self.e.mov(Reg::R10, Reg::RDI);
        self.e.mov(Reg::RDI, Reg::R9);
        self.e.op_reg(Op::Sub, true, Reg::R10, Reg::R9);
        string.emit(self.e, false);
        self.e.lea(true, Reg::RDI, sum(Reg::RDI, Reg::R10));
        if string.moves {
            self.e.lea(true, Reg::RSI, sum(Reg::RSI, Reg::R11));
        }
    }

    /// Host address into r9 of the guest bytes at `pointer`, all of them in one page.
    fn span(&mut self, insn: &GuestInsn, pointer: Reg, extent: Extent, saved: Saved) {
        self.e.mov(Reg::R9, pointer);
        let miss = self.page(SPILLED, extent);
        self.slow_from([Some(miss), None], saved, insn.offset);
    }

    pub(super) fn slow_from(&mut self, fixups: [Option<Fixup>; 2], saved: Saved, offset: u16) {
        self.slow_behind(None, fixups, saved, offset);
    }

    /// The same where a detour may do instead.
    pub(super) fn slow_behind(
        &mut self,
        detour: Option<Detour>,
        fixups: [Option<Fixup>; 2],
        saved: Saved,
        offset: u16,
    ) {
        self.slow.push(SlowStub::new(fixups, saved, SiteKind::Slow, offset).behind(detour));
    }

    /// Always the slow path.
    pub(super) fn leave_slow(&mut self, insn: &GuestInsn) {
        self.leave(SiteKind::Slow, insn.offset);
    }
}

fn sum(base: Reg, index: Reg) -> Mem {
    Mem { base: Some(base), index: Some((index, 1)), disp: 0 }
}

/// What this is if it is MOVS or STOS with 64-bit addresses and no segment base.
fn form(i: &Instruction, view: View) -> Option<Repeat> {
    use Mnemonic as M;
    let (moves, width) = match i.mnemonic() {
        M::Movsb => (true, 1),
        M::Movsw => (true, 2),
        M::Movsd => (true, 4),
        M::Movsq => (true, 8),
        M::Stosb => (false, 1),
        M::Stosw => (false, 2),
        M::Stosd => (false, 4),
        M::Stosq => (false, 8),
        _ => return None,
    };
    let wide = i.op0_kind() == OpKind::MemoryESRDI;
    let plain = !moves || i.memory_segment().number() < 4;
    (i.is_string_instruction() && wide && plain).then_some(Repeat { view, moves, width })
}
