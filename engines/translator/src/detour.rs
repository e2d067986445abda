//! Detours: from a block to a routine that all blocks share, and back, or on to the slow path.
//!
//! Nothing may be pushed while guest code runs, so that a routine is told where it has been called from by a [`Note`]. It stands
//! beside the way out, and behind it the code by which the block leaves for the slow path.

use std::mem::offset_of;

use crate::context::ContextField as F;
use crate::emit::{Emitter, Fixup, Mem, Op, Reg};

/// What a routine is told, as it lies in the translation cache. The layout is known to generated code.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Note {
    /// Where to go on.
    pub back: u32,
    /// Largest offset in the page at which what is accessed still ends in it, to who asks.
    pub last: u32,
    /// Where to go on if the routine has found the host address itself.
    pub found: u32,
}

impl Note {
    /// Bytes of a note.
    const BYTES: usize = size_of::<Self>();

    /// As it lies in memory.
    fn bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (place, word) in bytes.chunks_exact_mut(4).zip([self.back, self.last, self.found]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// A jump in a block to a detour, whose code is not emitted yet.
#[derive(Clone, Copy, Debug)]
pub struct Detour {
    /// The jump.
    pub jump: Fixup,
    /// What it leads to.
    pub call: Call,
}

impl Detour {
    /// Emits what the jump leads to. What follows is the way out to the slow path.
    pub fn emit(self, e: &mut Emitter) {
        e.fix_here(self.jump);
        self.call.emit(e);
    }
}

/// What is wanted of a routine.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Where it stands.
    pub routine: u64,
    /// Offset of the code to go back to.
    pub back: usize,
    /// See [`Note::last`].
    pub last: u32,
    /// Offset of the code for [`Note::found`].
    pub found: usize,
}

impl Call {
    /// Emits the jump to the routine and its note. What follows is the way out to the slow path.
    pub fn emit(self, e: &mut Emitter) {
        const SET: usize = 10;
        const JUMP: usize = 5;
        let note = e.here() + (SET + JUMP) as u64;
        e.set_ctx32(F::Note, note as u32);
        e.jmp_to(self.routine);
        debug_assert_eq!(e.here(), note);
        let (back, found) = (e.address(self.back) as u32, e.address(self.found) as u32);
        e.bytes(&Note { back, last: self.last, found }.bytes());
    }
}

/// [`Note::last`] of the note whose address is in this register.
pub fn last(note: Reg) -> Mem {
    Mem::at(note, offset_of!(Note, last) as i32)
}

/// How a routine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    /// By [`Note::back`].
    Back,
    /// By [`Note::found`].
    Found,
    /// To the slow path.
    Slow,
}

/// Goes on, with r9 and what else has been used put back by `put_back`.
pub fn emit_end(e: &mut Emitter, onward: Onward, put_back: impl FnOnce(&mut Emitter)) {
    e.op_ctx(Op::Load, false, Reg::R9, F::Note);
    let (op, offset) = match onward {
        Onward::Back => (Op::Load, offset_of!(Note, back)),
        Onward::Found => (Op::Load, offset_of!(Note, found)),
        Onward::Slow => (Op::Lea, Note::BYTES),
    };
    e.op_mem(op, false, Reg::R9, Mem::at(Reg::R9, offset as i32));
    e.op_ctx(Op::Store, true, Reg::R9, F::Onward);
    put_back(e);
    e.jmp_ctx(F::Onward);
}
