//! How an instruction uses its operands, from iced-x86's instruction information.

use iced_x86::{Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind};

use crate::emit::Reg;
use crate::regs::{SPILLED, is_spilled, number};

/// What an instruction does to its explicit memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Reads it only, or touches it without effect.
    Read,
    /// Writes it only.
    Write,
    /// Reads, then writes it.
    ReadWrite,
}

impl Direction {
    /// Whether write permission is needed.
    pub fn writes(self) -> bool {
        self != Self::Read
    }

    /// Whether the old content matters.
    pub fn reads(self) -> bool {
        self != Self::Write
    }
}

/// Register operands (not those of an address) that live in the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operands {
    read: u8,
    written: u8,
}

impl Operands {
    /// Whether this register is one of them.
    pub fn uses(self, reg: Reg) -> bool {
        (self.read | self.written) & bit(reg) != 0
    }

    /// How many there are.
    pub fn spilled(self) -> usize {
        (self.read | self.written).count_ones() as usize
    }

    /// Those to load before the instruction.
    pub fn read(self) -> impl Iterator<Item = Reg> {
        SPILLED.into_iter().filter(move |reg| self.read & bit(*reg) != 0)
    }

    /// Those to store after it.
    pub fn written(self) -> impl Iterator<Item = Reg> {
        SPILLED.into_iter().filter(move |reg| self.written & bit(*reg) != 0)
    }
}

fn bit(reg: Reg) -> u8 {
    1 << (reg.0 & 7)
}

/// Asks iced-x86 about instructions; one is kept, since it owns buffers.
pub struct Accesses {
    factory: InstructionInfoFactory,
}

impl Accesses {
    /// A new one.
    pub fn new() -> Self {
        Self { factory: InstructionInfoFactory::new() }
    }

    /// The general registers that an instruction changes or may change, a bit each.
    pub fn written(&mut self, i: &Instruction) -> u16 {
        let info = self.factory.info_options(i, InstructionInfoOptions::NO_MEMORY_USAGE);
        let changed = info
            .used_registers()
            .iter()
            .filter(|used| !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None));
        changed.filter_map(|used| number(used.register())).fold(0, |all, reg| all | 1 << reg.0)
    }

    /// The spilled operands and what happens to the memory operand.
    pub fn of(&mut self, i: &Instruction) -> (Operands, Direction) {
        // Most have neither, which is soon seen.
        let matters = |n| match i.op_kind(n) {
            OpKind::Register => number(i.op_register(n)).is_some_and(is_spilled),
            kind => kind == OpKind::Memory,
        };
        if !(0..i.op_count()).any(matters) {
            return (Operands::default(), Direction::Read);
        }
        let options = InstructionInfoOptions::NO_MEMORY_USAGE | InstructionInfoOptions::NO_REGISTER_USAGE;
        let info = self.factory.info_options(i, options);
        let mut operands = Operands::default();
        let mut direction = Direction::Read;
        for n in 0..i.op_count() {
            let access = info.op_access(n);
            match i.op_kind(n) {
                OpKind::Register => {
                    let register = i.op_register(n);
                    let Some(reg) = number(register).filter(|reg| is_spilled(*reg)) else {
                        continue;
                    };
                    let replaced = access == OpAccess::Write && register.size() >= 4;
                    if !replaced && access != OpAccess::None {
                        operands.read |= bit(reg);
                    }
                    if !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None) {
                        operands.written |= bit(reg);
                    }
                }
                OpKind::Memory => direction = memory_direction(i, access),
                _ => {}
            }
        }
        (operands, direction)
    }
}

fn memory_direction(i: &Instruction, access: OpAccess) -> Direction {
    match access {
        OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess => Direction::Read,
        // A masked store leaves part of what it spans as it was, and XSAVE leaves the gaps of its area.
        OpAccess::Write if i.has_op_mask() || is_save(i.mnemonic()) => Direction::ReadWrite,
        OpAccess::Write => Direction::Write,
        OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite => Direction::ReadWrite,
    }
}

fn is_save(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Fxsave
            | M::Fxsave64
            | M::Xsave
            | M::Xsave64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsavec
            | M::Xsavec64
    )
}
