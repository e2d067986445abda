//! What a rule looks at.

use iced_x86::{Instruction, OpKind, Register};

use crate::case::{Case, Outcome, SEGMENTS, Width};
use crate::compare;

/// A case that has come out in two ways.
pub struct Seen<'a> {
    pub case: &'a Case,
    /// Its instructions.
    pub list: Vec<Instruction>,
    pub native: &'a Outcome,
    pub translated: &'a Outcome,
}

impl<'a> Seen<'a> {
    pub fn new(case: &'a Case, native: &'a Outcome, translated: &'a Outcome) -> Self {
        Self { case, list: compare::decode(case), native, translated }
    }

    /// The instruction at which the native side stopped, if it is one.
    pub fn stopped(&self) -> Option<&Instruction> {
        self.list.iter().find(|i| i.ip() == self.native.rip)
    }

    /// The one at which the translated side stopped.
    pub fn stopped_translated(&self) -> Option<&Instruction> {
        self.list.iter().find(|i| i.ip() == self.translated.rip)
    }

    pub fn base(&self, segment: Register) -> u64 {
        let case = self.case;
        match (case.width, segment) {
            (Width::Bits64, Register::FS) => case.fs_base,
            (Width::Bits64, Register::GS) => case.gs_base,
            (Width::Bits64, _) => 0,
            (_, segment) => u64::from(SEGMENTS[usize::from(case.segments[segment.number()])].base),
        }
    }

    /// The bits of the stack pointer.
    pub fn mask(&self) -> u64 {
        let stack = usize::from(self.case.segments[2]);
        match self.case.width {
            Width::Bits64 => u64::MAX,
            _ if SEGMENTS[stack].big => 0xffff_ffff,
            _ => 0xffff,
        }
    }

    /// The address of an instruction's operand in memory, as the translated side has it before that instruction.
    pub fn address(&self, i: &Instruction, base: impl Fn(Register) -> u64) -> Option<u64> {
        let operand = i.op_kinds().position(|kind| kind == OpKind::Memory)? as u32;
        i.virtual_address(operand, 0, |register, _, _| match register {
            segment if segment.is_segment_register() => Some(base(segment)),
            general => Some(self.translated.gpr[general.full_register().number()]),
        })
    }

    /// Whether an instruction that reads memory comes after one of these.
    pub fn read_behind(&self, writes: impl Fn(&Instruction) -> bool) -> bool {
        let behind = self.list.iter().position(writes).map_or(self.list.len(), |n| n + 1);
        self.list[behind..].iter().any(reads_memory)
    }
}

/// An operand in memory, or what is popped.
fn reads_memory(i: &Instruction) -> bool {
    i.memory_size().size() > 0 || i.stack_pointer_increment() > 0
}
