//! REP MOVS and REP STOS: routines, generated once per translation cache, that run them on host addresses.
//!
//! A routine does as many elements at a time as lie in one page of each operand, and goes on with the next pages as long as the
//! software TLB, or in a kernel a walk of its tables, knows them. A repeated instruction may stop behind any element with its registers saying how far it got, so that
//! what is left (a page that is not known, an element that straddles two, the direction flag set) is the slow path's, and a kick
//! need not wait for more than a page. There is one routine for each view, instruction and width, at equal distances.

use crate::context::{ContextField as F, VIEWS};
use crate::detour::{self, Call, Onward};
use crate::emit::{Cond, Emitter, Fixup, Mem, Op, Reg};
use crate::mode::View;
use crate::tlb_entry::TlbEntry;
use crate::trampoline::emit_tlb_place;
use crate::walk::Walker;

/// Bytes from one routine to the next.
const STRIDE: usize = 512;
const WIDTHS: [u8; 4] = [1, 2, 4, 8];

/// Which routine an instruction needs. Its addresses have 64 bits, and its segments no bases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// Whose memory is accessed.
    pub view: View,
    /// MOVS; else STOS.
    pub moves: bool,
    /// Bytes of an element.
    pub width: u8,
}

impl Repeat {
    /// All of them, in the order of their places.
    pub fn all() -> impl Iterator<Item = Self> {
        let kinds = (0..VIEWS).flat_map(|view| [false, true].map(|moves| (view, moves)));
        kinds.flat_map(|(view, moves)| WIDTHS.map(|width| Self { view, moves, width }))
    }

    fn index(self) -> usize {
        (self.view * 2 + usize::from(self.moves)) * WIDTHS.len() + self.width.trailing_zeros() as usize
    }

    /// Where it stands, if the first is at `start`.
    pub fn address(self, start: u64) -> u64 {
        start + (self.index() * STRIDE) as u64
    }

    /// The instruction itself, with or without its prefix.
    pub fn emit(self, e: &mut Emitter, prefix: bool) {
        if self.width == 2 {
            e.bytes(&[0x66]);
        }
        if prefix {
            e.bytes(&[0xf3]);
        }
        if self.width == 8 {
            e.bytes(&[0x48]);
        }
        let opcode = if self.moves { 0xa4 } else { 0xaa };
        e.bytes(&[opcode | u8::from(self.width > 1)]);
    }
}

/// Emits all routines; where the first is. They are entered by a [detour], with the flags put by.
pub fn emit(e: &mut Emitter) -> u64 {
    e.align(64);
    let start = e.here();
    Repeat::all().for_each(|repeat| e.routine(STRIDE, |e| emit_one(e, repeat)));
    start
}

fn emit_one(e: &mut Emitter, repeat: Repeat) {
    let (rcx, rsi, rdi) = (Reg::RCX, Reg::RSI, Reg::RDI);
    // The host address less the guest's comes to stand in r9 for rdi and in r10 for rsi.
    let (first, second, count) = (Reg::R9, Reg::R10, Reg::R11);
    e.op_reg(Op::Or, true, rcx, rcx);
    let nothing = e.jcc(Cond::Equal);
    e.cmp_ctx8(F::DirectionFlag, 0);
    let backwards = e.jcc(Cond::NotEqual);
    let again = e.here();
    let mut missed = vec![(emit_offset(e, repeat, rdi, TlbEntry::WRITE), true)];
    e.mov_imm(count, 4096);
    e.op_reg(Op::Sub, true, count, first);
    e.op_mem(Op::Add, true, first, entry(e, repeat, TlbEntry::ADDEND));
    if repeat.moves {
        e.op_ctx(Op::Store, true, first, F::Carried);
        missed.push((emit_offset(e, repeat, rsi, TlbEntry::READ), false));
        let addend = entry(e, repeat, TlbEntry::ADDEND);
        e.op_mem(Op::Load, true, second, addend);
        e.lea(true, second, Mem { base: Some(second), index: Some((first, 1)), disp: 0 });
        e.group1(5, true, first, 4096); // sub
        e.bytes(&[0x49, 0xf7, 0xd9]); // neg r9
        e.op_reg(Op::Cmp, true, first, count);
        e.bytes(&[0x4d, 0x0f, 0x42, 0xd9]); // cmovb r11, r9
        e.op_ctx(Op::Load, true, first, F::Carried);
    }
    if repeat.width > 1 {
        e.shift(5, true, count, repeat.width.trailing_zeros() as u8); // shr
    }
    e.op_reg(Op::Cmp, true, count, rcx);
    e.bytes(&[0x4c, 0x0f, 0x47, 0xd9]); // cmova r11, rcx
    e.op_reg(Op::Sub, true, rcx, count);
    e.op_ctx(Op::Store, true, rcx, F::CarriedMore);
    e.mov(rcx, count);
    e.op_reg(Op::Sub, true, rdi, first);
    e.bytes(&[0x49, 0x87, 0xf9]); // xchg r9, rdi
    if repeat.moves {
        e.op_reg(Op::Sub, true, rsi, second);
        e.bytes(&[0x49, 0x87, 0xf2]); // xchg r10, rsi
    }
    repeat.emit(e, true);
    e.lea(true, rdi, Mem { base: Some(rdi), index: Some((first, 1)), disp: 0 });
    if repeat.moves {
        e.lea(true, rsi, Mem { base: Some(rsi), index: Some((second, 1)), disp: 0 });
    }
    e.op_ctx(Op::Load, true, rcx, F::CarriedMore);
    e.op_reg(Op::Or, true, rcx, rcx);
    let done = e.jcc(Cond::Equal);
    e.cmp_ctx8(F::Kick, 0);
    let calm = e.jcc(Cond::Equal);
    e.fix_to(calm, again);
    e.fix_here(backwards);
    let slow = e.here();
    detour::emit_end(e, Onward::Slow, |_| {});
    let outer = |e: &mut Emitter, from, to| {
        e.op_ctx(Op::Load, false, count, from);
        e.op_ctx(Op::Store, true, count, to);
    };
    let back = e.offset();
    outer(e, F::OuterNote, F::Note);
    e.jmp_to(again);
    // What straddles pages is no element of a page, wherever the host has it.
    let found = e.offset();
    outer(e, F::OuterNote, F::Note);
    e.jmp_to(slow);
    for (fixup, write) in missed {
        let Some(walker) = Walker::of(repeat.view, write, Reg::R9, Reg::R10) else {
            e.fix_to(fixup, slow);
            continue;
        };
        e.fix_here(fixup);
        outer(e, F::Note, F::OuterNote);
        let routine = walker.address(e.layout().walk);
        Call { routine, back, last: 4096 - u32::from(repeat.width), found }.emit(e);
        let left = e.address(found);
        e.jmp_to(left);
    }
    e.fix_here(nothing);
    e.fix_here(done);
    detour::emit_end(e, Onward::Back, |_| {});
}

/// The offset in its page of what `pointer` points to into r9, and the place of the page's entry into r10; gives the jump for
/// where the TLB does not know the page, or no element fits.
fn emit_offset(e: &mut Emitter, repeat: Repeat, pointer: Reg, tag: usize) -> Fixup {
    e.mov(Reg::R9, pointer);
    emit_tlb_place(e, Reg::R10, Reg::R9);
    let tag = entry(e, repeat, tag);
    e.op_mem(Op::Sub, true, Reg::R9, tag);
    e.group1(7, true, Reg::R9, 4096 - i32::from(repeat.width)); // cmp
    e.jcc(Cond::Above)
}

fn entry(e: &Emitter, repeat: Repeat, field: usize) -> Mem {
    Mem::at(Reg::R10, e.layout().tlb(repeat.view) as i32 + field as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_routine_has_its_place() {
        assert!(Repeat::all().enumerate().all(|(n, repeat)| repeat.index() == n));
    }
}
