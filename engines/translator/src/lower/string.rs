//! String instructions. MOVS and STOS whose operands lie in one page each run natively on host addresses; what
//! else (other instructions, page crossings, the direction flag set, narrow modes) the slow path does, also on
//! host addresses, a page at a time.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::page::Extent;
use super::saved::Saved;
use super::{Lowering, SiteKind, SlowStub};
use crate::context::ContextField as F;
use crate::decode::GuestInsn;
use crate::emit::{Cond, Fixup, Mem, Op, Reg};
use crate::regs::SPILLED;
use crate::tlb_entry::TlbEntry;

impl Lowering<'_> {
    /// Lowers a string instruction; `false` if this is none.
    pub(super) fn string(&mut self, insn: &GuestInsn) -> bool {
        let i = &insn.instruction;
        let Some((is_move, width)) = form(i) else {
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
        self.e.cmp_ctx8(F::DirectionFlag, 0);
        let backwards = self.e.jcc(Cond::NotEqual);
        self.slow_from([Some(backwards), None], saved, insn.offset);
        if rep {
            self.e.group1(7, true, Reg::RCX, 4096 / i32::from(width));
            let long = self.e.jcc(Cond::Above);
            self.slow_from([Some(long), None], saved, insn.offset);
        }
        self.span(insn, Reg::RDI, width, rep, true, saved);
        if is_move {
            self.e.op_ctx(Op::Store, true, Reg::R9, F::Carried);
            self.span(insn, Reg::RSI, width, rep, false, saved);
            self.e.mov(Reg::R11, Reg::RSI);
            self.e.mov(Reg::RSI, Reg::R9);
            self.e.op_reg(Op::Sub, true, Reg::R11, Reg::R9);
            self.e.op_ctx(Op::Load, true, Reg::R9, F::Carried);
        }
        self.e.mov(Reg::R10, Reg::RDI);
        self.e.mov(Reg::RDI, Reg::R9);
        self.e.op_reg(Op::Sub, true, Reg::R10, Reg::R9);
        self.execute_string(is_move, width, rep);
        self.e.lea(true, Reg::RDI, sum(Reg::RDI, Reg::R10));
        if is_move {
            self.e.lea(true, Reg::RSI, sum(Reg::RSI, Reg::R11));
        }
        self.restore_flags(saved);
        true
    }

    fn execute_string(&mut self, is_move: bool, width: u8, rep: bool) {
        if width == 2 {
            self.e.bytes(&[0x66]);
        }
        if rep {
            self.e.bytes(&[0xf3]);
        }
        if width == 8 {
            self.e.bytes(&[0x48]);
        }
        let opcode = if is_move { 0xa4 } else { 0xaa };
        self.e.bytes(&[opcode | u8::from(width > 1)]);
    }

    /// Host address into r9 of the guest bytes at `pointer`, all of them in one page: `width` bytes, or rcx
    /// times that, with rcx known to be at most a page.
    fn span(&mut self, insn: &GuestInsn, pointer: Reg, width: u8, rep: bool, write: bool, saved: Saved) {
        self.e.mov(Reg::R9, pointer);
        let size = if rep { 1 } else { u32::from(width) };
        let miss = self.offset_in_page(SPILLED, Extent { size, write });
        let mut straddles = None;
        if rep {
            self.e.lea(true, Reg::R11, Mem { index: Some((Reg::RCX, width)), ..Mem::base(Reg::R9) });
            self.e.group1(7, true, Reg::R11, 4096);
            straddles = Some(self.e.jcc(Cond::Above));
        }
        let addend = self.entry(Reg::R10, TlbEntry::ADDEND);
        self.e.op_mem(Op::Add, true, Reg::R9, addend);
        self.slow_from([Some(miss), straddles], saved, insn.offset);
    }

    pub(super) fn slow_from(&mut self, fixups: [Option<Fixup>; 2], saved: Saved, offset: u16) {
        self.slow.push(SlowStub { fixups, saved, kind: SiteKind::Slow, offset });
    }

    /// Always the slow path.
    pub(super) fn leave_slow(&mut self, insn: &GuestInsn) {
        self.leave(SiteKind::Slow, insn.offset);
    }
}

fn sum(base: Reg, index: Reg) -> Mem {
    Mem { base: Some(base), index: Some((index, 1)), disp: 0 }
}

/// Whether this is MOVS (or else STOS) with 64-bit addresses and no segment base, and its width.
fn form(i: &Instruction) -> Option<(bool, u8)> {
    use Mnemonic as M;
    let (is_move, width) = match i.mnemonic() {
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
    let plain = !is_move || i.memory_segment().number() < 4;
    (i.is_string_instruction() && wide && plain).then_some((is_move, width))
}
