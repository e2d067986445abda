//! What a hint that misses leads to: routines, generated once per translation cache, that ask the software TLB.
//!
//! The code of an access jumps here with what its hint's tag leaves of the linear address in one of the scratch
//! registers, and in the context the address of a [`Note`] that stands beside its way out. The routine fills the hint and
//! goes on behind the check, or leaves guest code if the TLB does not know the page. One routine for all accesses would
//! not do, since they differ in which register holds what: there is one for each way, at equal distances.

use std::mem::offset_of;

use crate::context::{ContextField as F, VIEWS};
use crate::emit::{Cond, Emitter, Mem, Op, Reg};
use crate::hint_table::{HintTable, WindowHint};
use crate::mode::{VIEW_USER, View};
use crate::regs::SPILLED;
use crate::tlb_entry::TlbEntry;
use crate::trampoline::{emit_flags_from_context, emit_tlb_place};

/// Bytes from one routine to the next.
const STRIDE: usize = 512;
/// Ways in which flags may be kept meanwhile.
const KEPT: usize = 2 + SPILLED.len();
/// How many routines there are.
const ROUTINES: usize = VIEWS * 2 * SPILLED.len() * KEPT;

/// Where the guest's flags and rax are meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nobody reads the flags.
    Dead,
    /// Flags in ax; rax in this register.
    Register(Reg),
    /// Flags in `Context::jump_flags`.
    Context,
}

/// Which routine an access needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refill {
    /// Whose memory is accessed.
    pub view: View,
    /// Whether the page must be writable.
    pub write: bool,
    /// Holds the linear address less the hint's tag.
    pub rest: Reg,
    /// Where the flags are.
    pub kept: Kept,
}

impl Refill {
    fn index(self) -> usize {
        let scratch = |reg: Reg| SPILLED.iter().position(|one| *one == reg).unwrap_or(0);
        let kept = match self.kept {
            Kept::Dead => 0,
            Kept::Context => 1,
            Kept::Register(reg) => 2 + scratch(reg),
        };
        ((self.view * 2 + usize::from(self.write)) * SPILLED.len() + scratch(self.rest)) * KEPT + kept
    }

    /// All of them, in the order of their places.
    pub fn all() -> impl Iterator<Item = Self> {
        let kept = || [Kept::Dead, Kept::Context].into_iter().chain(SPILLED.map(Kept::Register));
        let rests = move || SPILLED.into_iter().flat_map(move |rest| kept().map(move |kept| (rest, kept)));
        let kinds = (0..VIEWS).flat_map(|view| [false, true].map(|write| (view, write)));
        kinds.flat_map(move |(view, write)| rests().map(move |(rest, kept)| Self { view, write, rest, kept }))
    }

    /// Where it stands, if the first is at `start`.
    pub fn address(self, start: u64) -> u64 {
        start + (self.index() * STRIDE) as u64
    }
}

/// What a routine is told of an access, as it lies in the translation cache. The layout is known to generated code.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Note {
    /// Offset of the hint in the arrays of hints.
    pub hint: u32,
    /// Address of the mark of its group.
    pub filled: u32,
    /// Largest offset in the page at which what is checked still ends in it.
    pub last: u32,
    /// The same for everything that shares the hint.
    pub limit: u32,
    /// Where to go on: behind the check, since the hint may reach less far than this access may go.
    pub back: u32,
    /// Index with which to leave.
    pub exit: u32,
    /// Where to go if what is checked straddles pages; 0 if nowhere.
    pub apart: u32,
}

impl Note {
    /// Bytes of a note.
    pub const BYTES: usize = size_of::<Self>();
    /// Where [`Self::apart`] is in it.
    pub const APART: usize = offset_of!(Self, apart);

    /// As it lies in memory.
    pub fn bytes(self) -> [u8; Self::BYTES] {
        let words = [self.hint, self.filled, self.last, self.limit, self.back, self.exit, self.apart];
        let mut bytes = [0; Self::BYTES];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// Emits all routines; where the first is.
pub fn emit(e: &mut Emitter) -> u64 {
    e.align(64);
    let start = e.here();
    Refill::all().for_each(|refill| e.routine(STRIDE, |e| emit_one(e, refill)));
    debug_assert_eq!(e.here(), start + (ROUTINES * STRIDE) as u64);
    start
}

fn emit_one(e: &mut Emitter, refill: Refill) {
    let [note, hint, address] = SPILLED;
    let place = Reg::RCX;
    let layout = *e.layout();
    let part = |array: usize| Mem::at(hint, layout.hints(array) as i32);
    let field = |offset: usize| Mem::at(note, offset as i32);
    let tag = if refill.write { TlbEntry::WRITE } else { TlbEntry::READ };
    let table = e.layout().tlb(refill.view) as i32;
    let entry = |field: usize| Mem::at(place, table + field as i32);
    for reg in [note, hint, address, place] {
        e.op_ctx(Op::Store, true, reg, F::Put(reg.0));
    }
    e.mov(address, refill.rest);
    e.op_ctx(Op::Load, false, note, F::Note);
    e.op_mem(Op::Load, false, hint, field(offset_of!(Note, hint)));
    e.op_mem(Op::Add, true, address, part(HintTable::TAGS));
    // What is tried again after all begins with the linear address.
    e.op_ctx(Op::Store, true, address, F::Put(refill.rest.0));
    e.raw_mem(&[0x83], 5, true, part(HintTable::BUDGETS), &[1]); // sub qword [budget], 1
    let spent = e.jcc(Cond::Below);
    emit_tlb_place(e, place, address);
    e.op_mem(Op::Sub, true, address, entry(tag));
    e.group1(7, true, address, 4095);
    let unknown = e.jcc(Cond::Above);
    // All of a window if the page is in one, which knows no straddling.
    let in_window = (refill.view == VIEW_USER).then(|| {
        e.op_mem(Op::Load, true, note, entry(TlbEntry::PHYSICAL));
        e.shift(5, true, note, TlbEntry::WINDOW_SHIFT as u8); // shr
        e.jcc(Cond::NotEqual)
    });
    e.op_ctx(Op::Load, false, note, F::Note);
    e.op_mem(Op::Cmp, false, address, field(offset_of!(Note, last)));
    let straddles = e.jcc(Cond::Above);
    e.op_mem(Op::Load, true, address, entry(tag));
    e.op_mem(Op::Store, true, address, part(HintTable::TAGS));
    e.op_mem(Op::Load, true, place, entry(TlbEntry::ADDEND));
    e.op_reg(Op::Sub, true, place, address);
    e.op_mem(Op::Store, true, place, part(HintTable::DELTAS));
    if refill.view == VIEW_USER {
        e.op_mem(Op::Load, false, place, field(offset_of!(Note, limit)));
        e.op_mem(Op::Store, true, place, part(HintTable::LIMITS));
    }
    let filled = e.here();
    e.op_mem(Op::Load, false, address, field(offset_of!(Note, filled)));
    e.raw_mem(&[0xc6], 0, false, Mem::base(address), &[1]); // mov byte [filled], 1
    e.op_mem(Op::Load, false, place, field(offset_of!(Note, back)));
    let put_back = |e: &mut Emitter| {
        for reg in [note, hint, address, place] {
            e.op_ctx(Op::Load, true, reg, F::Put(reg.0));
        }
    };
    e.op_ctx(Op::Store, true, place, F::Onward);
    put_back(e);
    e.jmp_ctx(F::Onward);

    let flags_back = |e: &mut Emitter| match refill.kept {
        Kept::Dead => {}
        Kept::Register(rax) => {
            e.flags_from_ax();
            e.mov(Reg::RAX, rax);
        }
        Kept::Context => emit_flags_from_context(e),
    };
    e.fix_here(straddles);
    e.op_mem(Op::Load, false, place, field(Note::APART));
    e.op_ctx(Op::Store, true, place, F::Onward);
    e.op_reg(Op::Or, false, place, place);
    let nowhere = e.jcc(Cond::Equal);
    put_back(e);
    flags_back(e);
    e.jmp_ctx(F::Onward);

    if let Some(fixup) = in_window {
        e.fix_here(fixup);
        e.shift(4, true, note, size_of::<WindowHint>().trailing_zeros() as u8); // shl
        // Numbers begin with 1.
        let windows = layout.hints(HintTable::WINDOWS) as i32 - size_of::<WindowHint>() as i32;
        let window = |offset: usize| Mem::at(note, windows + offset as i32);
        let parts = [
            (offset_of!(WindowHint, tag), HintTable::TAGS),
            (offset_of!(WindowHint, delta), HintTable::DELTAS),
            (offset_of!(WindowHint, limit), HintTable::LIMITS),
        ];
        for (from, to) in parts {
            e.op_mem(Op::Load, true, place, window(from));
            e.op_mem(Op::Store, true, place, part(to));
        }
        e.op_ctx(Op::Load, false, note, F::Note);
        e.jmp_to(filled);
    }
    for fixup in [spent, unknown, nowhere] {
        e.fix_here(fixup);
    }
    e.op_mem(Op::Load, false, place, field(offset_of!(Note, exit)));
    e.op_ctx(Op::Store, true, place, F::Onward);
    put_back(e);
    flags_back(e);
    e.op_ctx(Op::Load, false, Reg::R9, F::Onward);
    let exit = e.layout().exit;
    e.jmp_to(exit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_routine_has_its_place() {
        let all: Vec<_> = Refill::all().collect();
        assert_eq!(all.len(), ROUTINES);
        assert!(all.iter().enumerate().all(|(n, refill)| refill.index() == n));
    }
}
