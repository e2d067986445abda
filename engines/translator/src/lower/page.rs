//! From a linear address to the host's, by a hint or by the software TLB.

use std::mem::offset_of;

use super::saved::Saved;
use super::{Lowering, SiteKind};
use crate::context::ContextField as F;
use crate::detour::{Call, Detour};
use crate::emit::{Cond, Fixup, Mem, Op, Reg};
use crate::hint::Reach;
use crate::hint_table::{HintId, HintTable, WINDOWS, WindowHint};
use crate::mode::{VIEW_USER, View};
use crate::refill::{Note, Refill};
use crate::regs::Scratch;
use crate::tlb_entry::TlbEntry;
use crate::trampoline::emit_tlb_place;
use crate::walk::Walker;

/// What is checked at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Bytes.
    pub size: u32,
    /// Whether they must be writable.
    pub write: bool,
}

/// Where host code finds bytes that have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At the address in this register.
    At(Reg),
    /// At the guest's address, `disp` from a register, and the delta in another register beyond.
    Beyond { base: Reg, disp: i32, delta: Reg },
}

impl Place {
    pub(super) fn mem(self) -> Mem {
        match self {
            Self::At(reg) => Mem::base(reg),
            Self::Beyond { base, disp, delta } => Mem { base: Some(base), index: Some((delta, 1)), disp },
        }
    }

    /// The registers that it is made of; the same twice, if it is one.
    pub(super) fn registers(self) -> [Reg; 2] {
        match self {
            Self::At(reg) => [reg, reg],
            Self::Beyond { base, delta, .. } => [base, delta],
        }
    }
}

/// A hint that is looked at, and what becomes of it if it does not know the page.
pub(super) struct HintStub {
    jump: Fixup,
    /// Offset of the code behind the check.
    back: usize,
    hint: HintId,
    /// Holds the linear address less the tag.
    rest: Reg,
    view: View,
    extent: Extent,
    saved: Saved,
    /// Of the instruction.
    offset: u16,
    /// The group that it leads.
    group: Option<u8>,
}

/// An access by the table of windows, and what becomes of it if it is in none.
pub(super) struct WindowStub {
    jump: Fixup,
    /// Where to go on with the host address in the first scratch register.
    back: u64,
    /// What has been taken from the linear address there.
    tag: Mem,
    s: Scratch,
    extent: Extent,
    saved: Saved,
    /// Of the instruction.
    offset: u16,
}

impl HintStub {
    /// For an instruction that leads a group.
    pub fn leading(mut self, group: Option<u8>) -> Self {
        self.group = group;
        self
    }
}

impl Lowering<'_> {
    /// The software-TLB check: from the linear address in `s[0]` to a host address there. Subtracting the tag
    /// leaves the offset in the page if the tag matches and something large otherwise, so that one comparison
    /// catches a miss and an access that straddles pages.
    pub(super) fn page(&mut self, s: Scratch, extent: Extent) -> Fixup {
        let miss = self.offset_in_page(s, extent);
        let addend = self.entry(s[1], TlbEntry::ADDEND);
        self.e.op_mem(Op::Add, true, s[0], addend);
        miss
    }

    /// The same where the tables may be walked before it leaves: gives the jump of a miss, or where it goes instead.
    pub(super) fn page_or_walk(&mut self, s: Scratch, extent: Extent) -> (Option<Fixup>, Option<Detour>) {
        let back = self.e.offset();
        let jump = self.page(s, extent);
        let mode = self.frame.mode;
        let walker = Walker::of(mode.view(), extent.write, s[0], s[1]).filter(|_| mode.is_long());
        let Some(walker) = walker else { return (Some(jump), None) };
        let routine = walker.address(self.e.layout().walk);
        let call = Call { routine, back, last: 4096 - extent.size, found: self.e.offset() };
        (None, Some(Detour { jump, call }))
    }

    /// From the linear address in `s[0]` to its offset in the page there, with the entry's place in `s[1]`.
    pub(super) fn offset_in_page(&mut self, s: Scratch, extent: Extent) -> Fixup {
        emit_tlb_place(self.e, s[1], s[0]);
        let tag = if extent.write { TlbEntry::WRITE } else { TlbEntry::READ };
        let tag = self.entry(s[1], tag);
        self.e.op_mem(Op::Sub, true, s[0], tag);
        self.e.group1(7, true, s[0], 4096 - extent.size as i32);
        self.e.jcc(Cond::Above)
    }

    /// From the linear address in `s[0]` to a host address there, by the table of windows.
    pub(super) fn window(&mut self, s: Scratch, extent: Extent, saved: Saved, offset: u16) -> WindowStub {
        const SHIFT: u32 = 30 - size_of::<WindowHint>().trailing_zeros();
        let windows = self.e.layout().hints(HintTable::WINDOWS) as i32;
        let part = |offset: usize| Mem::at(s[1], windows + offset as i32);
        self.e.mov(s[1], s[0]);
        self.e.shift(5, true, s[1], SHIFT as u8); // shr
        self.e.group1(4, false, s[1], ((WINDOWS - 1) * size_of::<WindowHint>()) as i32); // and
        self.e.op_mem(Op::Sub, true, s[0], part(offset_of!(WindowHint, tag)));
        self.e.op_mem(Op::Cmp, true, s[0], part(offset_of!(WindowHint, limit)));
        let jump = self.e.jcc(Cond::Above);
        self.e.op_mem(Op::Add, true, s[0], part(offset_of!(WindowHint, host)));
        WindowStub {
            jump,
            back: self.e.here(),
            tag: part(offset_of!(WindowHint, tag)),
            s,
            extent,
            saved,
            offset,
        }
    }

    /// Where an access goes that is in no window: by the software TLB after all.
    pub(super) fn window_stub(&mut self, stub: WindowStub) {
        let WindowStub { jump, back, tag, s, extent, saved, offset } = stub;
        self.e.fix_here(jump);
        self.e.op_mem(Op::Add, true, s[0], tag);
        let miss = self.page(s, extent);
        self.e.jmp_to(back);
        self.slow_from([Some(miss), None], saved, offset);
    }

    pub(super) fn entry(&self, place: Reg, field: usize) -> Mem {
        let table = self.e.layout().tlb(self.frame.mode.view()) as i32;
        Mem::at(place, table + field as i32)
    }

    /// Asks a hint whether it knows the linear address in `rest`, which is lost.
    pub(super) fn look_at_hint(
        &mut self,
        hint: HintId,
        rest: Reg,
        extent: Extent,
        saved: Saved,
        offset: u16,
    ) -> HintStub {
        let view = self.frame.mode.view();
        self.e.op_ctx(Op::Sub, true, rest, F::HintTag(hint));
        match view {
            VIEW_USER => self.e.op_ctx(Op::Cmp, true, rest, F::HintLimit(hint)),
            _ => self.e.group1(7, true, rest, 4096 - extent.size as i32),
        }
        let jump = self.e.jcc(Cond::Above);
        let back = self.e.offset();
        HintStub { jump, back, hint, rest, view, extent, saved, offset, group: None }
    }

    /// What a hint that misses leads to, with a note of what it is about.
    pub(super) fn hint_stub(&mut self, stub: HintStub) {
        const SET: usize = 10;
        const JUMP: usize = 5;
        let HintStub { jump, back, hint, rest, view, extent, saved, offset, group } = stub;
        self.e.fix_here(jump);
        let start = self.e.here();
        let note = start + (SET + JUMP) as u64;
        self.e.set_ctx32(F::Note, note as u32);
        let refill = Refill { view, write: extent.write, rest, kept: saved.kept() };
        let routine = refill.address(self.e.layout().refill);
        self.e.jmp_to(routine);
        debug_assert_eq!(self.e.here(), note);
        if let Some(group) = group {
            self.out.groups[usize::from(group)].apart = (self.e.offset() + Note::APART) as u32;
        }
        let (layout, exit) = (*self.e.layout(), self.site(SiteKind::Hinted(hint, group), offset));
        let note = Note {
            hint: u32::from(hint) * 8,
            filled: layout.hint_mark(hint) as u32,
            last: 4096 - extent.size,
            limit: 4096 - Reach::of(extent.size).map_or(4096, Reach::bytes),
            back: self.e.address(back) as u32,
            exit,
            apart: 0,
        };
        self.e.bytes(&note.bytes());
    }
}
