//! The instructions, and the instruction sets made of them.
//!
//! An instruction is one word: its number in bits 63 to 56, operand `a` in bits 55 to 28, operand `b` in bits 27
//! to 0. An operand is an address, a number or a place to jump to; there are no general registers.

use std::fmt;

use crate::Word;

/// What every program may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Plain {
    /// Nothing.
    Nop,
    /// `E[a] = b`.
    Set,
    /// `E[a] = E[b]`.
    Mov,
    /// `E[a] += E[b]`, as all arithmetic modulo the number of words there are.
    Add,
    /// `E[a] -= E[b]`.
    Sub,
    /// `E[a] *= E[b]`.
    Mul,
    /// `E[a] /= E[b]`; the largest word if `E[b]` is 0.
    Div,
    /// `E[a] %= E[b]`; unchanged if `E[b]` is 0.
    Mod,
    /// `E[a] &= E[b]`.
    And,
    /// `E[a] |= E[b]`.
    Or,
    /// `E[a] ^= E[b]`.
    Xor,
    /// `E[a] <<= E[b]`, modulo 64.
    Shl,
    /// `E[a] >>= E[b]`, modulo 64.
    Shr,
    /// `E[a] = 1` if `E[a] < E[b]`, else 0.
    Slt,
    /// `E[a] = E[E[b]]`.
    Ldi,
    /// `E[E[a]] = E[b]`.
    Sti,
    /// `P = a`.
    Jmp,
    /// `P = b` if `E[a]` is 0.
    Bz,
    /// `P = b` if `E[a]` is not 0.
    Bnz,
    /// `E[a]` = the address behind; `P = b`.
    Call,
    /// `P = E[a]`.
    Ret,
    /// Traps with the number `a`, in every mode: how a program asks its control program for something.
    Svc,
}

/// What is meant for the control program: it reaches the machine's resources, or tells of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum System {
    /// Stops the processor for good.
    Halt,
    /// `⟨M, P, R⟩ = E[a]`.
    Lpsw,
    /// `E[a] = M`: 0 for supervisor mode, 1 for user mode.
    Getm,
    /// `E[a] = l`, `E[b] = b`.
    Getr,
    /// `R = (E[a], E[b])`.
    Setr,
    /// `E[a]` = the real address of `b`.
    Lra,
    /// `M = user`, `P = a`: return to user mode.
    Jrst,
    /// `E[a]` = the console's next byte, or the largest word if there is none.
    In,
    /// The low byte of `E[a]` goes to the console.
    Out,
    /// The timer is set to `E[a]`; 0 stops it.
    Stt,
    /// `E[a]` = the timer.
    Gtt,
}

/// An instruction's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// For every program.
    Plain(Plain),
    /// For the control program.
    System(System),
}

/// What an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The address of a word.
    Address,
    /// A place to jump to.
    Target,
    /// Itself.
    Number,
}

/// A row of [`OPS`].
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The instruction.
    pub op: Op,
    /// Its number in a word.
    pub code: u8,
    /// Its name in a program's text.
    pub mnemonic: &'static str,
    /// Its operands: none, `a`, or `a` and `b`.
    pub operands: &'static [Operand],
}

const fn plain(code: u8, op: Plain, mnemonic: &'static str, operands: &'static [Operand]) -> Row {
    Row { op: Op::Plain(op), code, mnemonic, operands }
}

const fn system(code: u8, op: System, mnemonic: &'static str, operands: &'static [Operand]) -> Row {
    Row { op: Op::System(op), code, mnemonic, operands }
}

use Operand::{Address, Number, Target};

/// Every instruction. Number 0 is none, so that empty memory does not run.
#[rustfmt::skip]
pub const OPS: [Row; 33] = [
    plain(0x01,  Plain::Nop,   "NOP",  &[]),
    plain(0x02,  Plain::Set,   "SET",  &[Address, Number]),
    plain(0x03,  Plain::Mov,   "MOV",  &[Address, Address]),
    plain(0x10,  Plain::Add,   "ADD",  &[Address, Address]),
    plain(0x11,  Plain::Sub,   "SUB",  &[Address, Address]),
    plain(0x12,  Plain::Mul,   "MUL",  &[Address, Address]),
    plain(0x13,  Plain::Div,   "DIV",  &[Address, Address]),
    plain(0x14,  Plain::Mod,   "MOD",  &[Address, Address]),
    plain(0x15,  Plain::And,   "AND",  &[Address, Address]),
    plain(0x16,  Plain::Or,    "OR",   &[Address, Address]),
    plain(0x17,  Plain::Xor,   "XOR",  &[Address, Address]),
    plain(0x18,  Plain::Shl,   "SHL",  &[Address, Address]),
    plain(0x19,  Plain::Shr,   "SHR",  &[Address, Address]),
    plain(0x1a,  Plain::Slt,   "SLT",  &[Address, Address]),
    plain(0x20,  Plain::Ldi,   "LDI",  &[Address, Address]),
    plain(0x21,  Plain::Sti,   "STI",  &[Address, Address]),
    plain(0x30,  Plain::Jmp,   "JMP",  &[Target]),
    plain(0x31,  Plain::Bz,    "BZ",   &[Address, Target]),
    plain(0x32,  Plain::Bnz,   "BNZ",  &[Address, Target]),
    plain(0x33,  Plain::Call,  "CALL", &[Address, Target]),
    plain(0x34,  Plain::Ret,   "RET",  &[Address]),
    plain(0x35,  Plain::Svc,   "SVC",  &[Number]),
    system(0x80, System::Halt, "HALT", &[]),
    system(0x81, System::Lpsw, "LPSW", &[Address]),
    system(0x82, System::Getm, "GETM", &[Address]),
    system(0x83, System::Getr, "GETR", &[Address, Address]),
    system(0x84, System::Setr, "SETR", &[Address, Address]),
    system(0x85, System::Lra,  "LRA",  &[Address, Address]),
    system(0x86, System::Jrst, "JRST", &[Target]),
    system(0x87, System::In,   "IN",   &[Address]),
    system(0x88, System::Out,  "OUT",  &[Address]),
    system(0x89, System::Stt,  "STT",  &[Address]),
    system(0x8a, System::Gtt,  "GTT",  &[Address]),
];

/// For each number one more than its row's place in [`OPS`], or zero.
static PLACES: [u8; 256] = {
    let mut places = [0; 256];
    let mut row = 0;
    while row < OPS.len() {
        let code = OPS[row].code as usize;
        assert!(places[code] == 0, "two instructions have one number");
        places[code] = row as u8 + 1;
        row += 1;
    }
    places
};

impl Op {
    /// Its row.
    pub fn row(self) -> &'static Row {
        // `every_instruction_has_a_row` holds this.
        OPS.iter().find(|row| row.op == self).expect("every instruction has a row")
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.row().mnemonic)
    }
}

/// An instruction with its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instruction {
    /// Which.
    pub op: Op,
    /// The first operand, or 0.
    pub a: Word,
    /// The second operand, or 0.
    pub b: Word,
}

/// An operand is below this.
pub const OPERAND_LIMIT: Word = 1 << 28;

impl Instruction {
    /// The word that holds it. Operands lose what does not fit their field.
    pub fn encode(self) -> Word {
        let field = |operand| operand & (OPERAND_LIMIT - 1);
        Word::from(self.op.row().code) << 56 | field(self.a) << 28 | field(self.b)
    }

    /// What a word says, if it is an instruction.
    pub fn decode(word: Word) -> Option<Self> {
        let place = usize::from(PLACES[(word >> 56) as usize]).checked_sub(1)?;
        let field = |shift: u32| word >> shift & (OPERAND_LIMIT - 1);
        Some(Self { op: OPS[place].op, a: field(28), b: field(0) })
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.op.row().operands.len() {
            0 => write!(f, "{}", self.op),
            1 => write!(f, "{} {}", self.op, self.a),
            _ => write!(f, "{} {}, {}", self.op, self.a, self.b),
        }
    }
}

/// What a system instruction does in user mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InUser {
    /// It traps: it is privileged.
    Traps,
    /// The same as in supervisor mode.
    Runs,
    /// Only what a user may, and nobody is told: LPSW takes P alone, every other does nothing.
    Quietly,
}

/// An instruction set: the same instructions, with different ones that fail to trap.
#[derive(Debug, PartialEq, Eq)]
pub struct Isa {
    /// How it is called.
    pub name: &'static str,
    /// What is special about it.
    pub about: &'static str,
    /// Which system instructions do not trap in user mode, and what they do instead.
    unprivileged: &'static [(System, InUser)],
}

/// The instruction sets, the virtualizable one first.
#[rustfmt::skip]
pub static ISAS: [Isa; 6] = [
    Isa { name: "third", unprivileged: &[],
        about: "every system instruction traps in user mode" },
    Isa { name: "jrst",  unprivileged: &[(System::Jrst, InUser::Runs)],
        about: "JRST does not trap, as JRST 1 of the PDP-10: in user mode it is a jump" },
    Isa { name: "popf",  unprivileged: &[(System::Lpsw, InUser::Quietly)],
        about: "LPSW does not trap, as POPF of x86: in user mode it silently leaves M and R alone" },
    Isa { name: "getm",  unprivileged: &[(System::Getm, InUser::Runs)],
        about: "GETM does not trap, as SMSW of x86: it tells the mode" },
    Isa { name: "lra",   unprivileged: &[(System::Lra, InUser::Runs)],
        about: "LRA does not trap: it tells where in real memory the program is" },
    Isa { name: "setr",  unprivileged: &[(System::Setr, InUser::Runs)],
        about: "SETR does not trap: a user may move their own bounds" },
];

impl Isa {
    /// The virtualizable one.
    pub fn third() -> &'static Self {
        &ISAS[0]
    }

    /// By name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ISAS.iter().find(|isa| isa.name == name)
    }

    /// What a system instruction does in user mode.
    pub fn in_user(&self, op: System) -> InUser {
        let exception = self.unprivileged.iter().find(|(other, _)| *other == op);
        exception.map_or(InUser::Traps, |&(_, behaviour)| behaviour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_an_instruction_or_none() {
        for row in &OPS {
            let a = if row.operands.is_empty() { 0 } else { OPERAND_LIMIT - 1 };
            let b = if row.operands.len() < 2 { 0 } else { 5 };
            let instruction = Instruction { op: row.op, a, b };
            assert_eq!(Instruction::decode(instruction.encode()), Some(instruction));
            assert_eq!(row.op.row().mnemonic, row.mnemonic);
        }
        assert_eq!(Instruction::decode(0), None);
        assert_eq!(Instruction::decode(Word::MAX), None);
        let known = (0..=255).filter(|code| Instruction::decode(code << 56).is_some()).count();
        assert_eq!(known, OPS.len());
    }

    /// A number, beyond those of all variants, for which no row is found would panic in [`Op::row`].
    #[test]
    fn every_instruction_has_a_row() {
        let plain = OPS.iter().filter(|row| matches!(row.op, Op::Plain(_))).count();
        assert_eq!(plain, Plain::Svc as usize + 1);
        assert_eq!(OPS.len() - plain, System::Gtt as usize + 1);
    }
}
