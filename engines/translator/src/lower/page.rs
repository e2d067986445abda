//! From a linear address to the host's, by a hint or by the software TLB.

use super::address::{Saved, Scratch};
use super::{Lowering, SiteKind};
use crate::context::{ContextField as F, TLB_ENTRIES, TLB_ENTRY_SHIFT};
use crate::emit::{Cond, Fixup, Mem, Op, Reg};
use crate::hint::{HintId, is_counted};
use crate::tlb_entry::TlbEntry;

/// How a check is left that does not find its page.
pub(super) struct Miss {
    /// To the slow path.
    pub jump: Option<Fixup>,
    /// To something quicker before that.
    pub refill: Option<Refill>,
}

/// Code that asks the software TLB for a hint.
pub(super) struct Refill {
    jump: Fixup,
    /// Offset of the code that goes on with the host address.
    back: usize,
    hint: HintId,
    s: Scratch,
    size: u32,
    write: bool,
}

impl Lowering<'_> {
    /// The software-TLB check: from the linear address in `s[0]` to a host address there. Subtracting the tag
    /// leaves the offset in the page if the tag matches and something large otherwise, so that one comparison
    /// catches a miss and an access that straddles pages.
    pub(super) fn page(&mut self, s: Scratch, size: u32, write: bool) -> Fixup {
        let miss = self.offset_in_page(s, size, write);
        let addend = self.entry(s[1], TlbEntry::ADDEND);
        self.e.op_mem(Op::Add, true, s[0], addend);
        miss
    }

    /// From the linear address in `s[0]` to its offset in the page there, with the entry's place in `s[1]`.
    pub(super) fn offset_in_page(&mut self, s: Scratch, size: u32, write: bool) -> Fixup {
        self.e.mov32(s[1], s[0]);
        self.e.shift(5, false, s[1], 12 - TLB_ENTRY_SHIFT as u8);
        self.e.group1(4, false, s[1], ((TLB_ENTRIES - 1) << TLB_ENTRY_SHIFT) as i32);
        let tag = self.entry(s[1], tag(write));
        self.e.op_mem(Op::Sub, true, s[0], tag);
        self.e.group1(7, true, s[0], 4096 - size as i32);
        self.e.jcc(Cond::Above)
    }

    pub(super) fn entry(&self, place: Reg, field: usize) -> Mem {
        let table = self.e.layout().tlb(self.frame.mode.view()) as i32;
        Mem::at(place, table + field as i32)
    }

    /// The same by a hint: what is compared does not lie on the way to the address.
    pub(super) fn page_by_hint(&mut self, hint: HintId, s: Scratch, size: u32, write: bool) -> Miss {
        self.e.mov(s[1], s[0]);
        self.e.op_ctx(Op::Sub, true, s[1], F::HintTag(hint));
        self.e.group1(7, true, s[1], 4096 - size as i32);
        let jump = self.e.jcc(Cond::Above);
        self.e.op_ctx(Op::Add, true, s[0], F::HintDelta(hint));
        let back = self.e.offset();
        Miss { jump: None, refill: Some(Refill { jump, back, hint, s, size, write }) }
    }

    /// What a hint that misses leads to: fills it from the software TLB, or falls through to the slow path.
    pub(super) fn refill(&mut self, refill: Refill, saved: Saved, offset: u16) {
        let Refill { jump, back, hint, s, size, write } = refill;
        let [address, place, _] = s;
        self.e.fix_here(jump);
        let mut spent = None;
        if is_counted(hint) {
            self.e.raw_ctx(&[0x48, 0x83], 5, F::HintBudget(hint), &[1]); // sub qword [budget], 1
            spent = Some(self.e.jcc(Cond::Below));
        }
        let miss = self.offset_in_page(s, size, write);
        let addend = self.entry(place, TlbEntry::ADDEND);
        let tag = self.entry(place, tag(write));
        self.e.op_mem(Op::Add, true, address, addend);
        self.e.op_ctx(Op::Store, true, address, F::Refilled);
        self.e.op_mem(Op::Load, true, address, tag);
        self.e.op_mem(Op::Load, true, place, addend);
        self.e.op_ctx(Op::Store, true, address, F::HintTag(hint));
        self.e.raw_ctx(&[0xc6], 0, F::HintFilled(hint), &[1]); // mov byte [filled], 1
        self.e.op_reg(Op::Sub, true, place, address);
        self.e.op_ctx(Op::Store, true, place, F::HintDelta(hint));
        self.e.op_ctx(Op::Load, true, address, F::Refilled);
        let back = self.e.here() - self.e.offset() as u64 + back as u64;
        self.e.jmp_to(back);
        if let Some(spent) = spent {
            self.e.fix_here(spent);
            self.restore_flags(saved);
            self.leave(SiteKind::Roams(hint), offset);
        }
        self.e.fix_here(miss);
    }
}

fn tag(write: bool) -> usize {
    if write { TlbEntry::WRITE } else { TlbEntry::READ }
}
