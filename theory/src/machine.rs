//! A machine as the control program on it sees it, whether it is real or virtual.

use std::collections::VecDeque;
use std::fmt;

use crate::{Psw, Shape, Word};

/// Where a trap stores the PSW.
pub const OLD_PSW: Word = 0;
/// Where a trap takes the new PSW from.
pub const NEW_PSW: Word = 1;
/// Where a trap tells its cause.
pub const CAUSE: Word = 2;
/// The first word that traps leave alone.
pub const FREE: Word = 3;

/// Why a trap was taken. P of the stored PSW is the instruction's own address, but for [`Cause::Svc`] and
/// [`Cause::Timer`], which come after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A system instruction in user mode.
    Privileged,
    /// An address out of bounds.
    Memory,
    /// A word that is no instruction.
    Illegal,
    /// The timer has run down.
    Timer,
    /// SVC, with its number.
    Svc(Word),
}

impl Cause {
    /// As in E(2): the kind in the low byte, the number of an SVC above.
    pub fn encode(self) -> Word {
        match self {
            Self::Privileged => 0,
            Self::Memory => 1,
            Self::Illegal => 2,
            Self::Timer => 3,
            Self::Svc(number) => 4 | number << 8,
        }
    }

    /// From E(2), if a trap has written it.
    pub fn decode(word: Word) -> Option<Self> {
        match (word & 0xff, word >> 8) {
            (0, 0) => Some(Self::Privileged),
            (1, 0) => Some(Self::Memory),
            (2, 0) => Some(Self::Illegal),
            (3, 0) => Some(Self::Timer),
            (4, number) => Some(Self::Svc(number)),
            _ => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Privileged => f.write_str("privileged instruction"),
            Self::Memory => f.write_str("memory"),
            Self::Illegal => f.write_str("no instruction"),
            Self::Timer => f.write_str("timer"),
            Self::Svc(number) => write!(f, "SVC {number}"),
        }
    }
}

/// Why [`Machine::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A trap was taken: PSWs are exchanged, and the control program is next.
    Trap(Cause),
    /// HALT.
    Halted,
    /// There is no fuel left.
    Exhausted,
}

/// The console: bytes that wait, bytes that were written, and how often anybody reached for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Console {
    /// What will be read.
    pub input: VecDeque<u8>,
    /// What was written.
    pub output: Vec<u8>,
    /// Reads and writes so far.
    pub uses: u64,
}

impl Console {
    /// The next byte as IN has it: the largest word if there is none.
    pub fn read(&mut self) -> Word {
        self.uses += 1;
        self.input.pop_front().map_or(Word::MAX, Word::from)
    }

    /// What OUT does: the low byte of a word.
    pub fn write(&mut self, word: Word) {
        self.uses += 1;
        self.output.push(word as u8);
    }
}

/// A third-generation machine. The methods but [`Self::run`] are what the control program can do with its own
/// instructions, so a monitor written in terms of them could be a program of the machine.
pub trait Machine {
    /// Its size, and how it packs a PSW.
    fn shape(&self) -> Shape;

    /// E of a real address.
    ///
    /// # Panics
    /// If there is no such word, as in [`Self::write`].
    fn read(&self, real: Word) -> Word;

    /// Sets E of a real address.
    fn write(&mut self, real: Word, value: Word);

    /// ⟨M, P, R⟩.
    fn psw(&self) -> Psw;

    /// Sets ⟨M, P, R⟩.
    fn set_psw(&mut self, psw: Psw);

    /// What is left on the timer; 0 if it does not run.
    fn timer(&self) -> Word;

    /// Sets the timer.
    fn set_timer(&mut self, instructions: Word);

    /// Its console.
    fn console(&mut self) -> &mut Console;

    /// Runs until a trap has been taken or the machine has halted. Each attempt at an instruction takes one of
    /// `fuel`, on a real machine as on a virtual one.
    fn run(&mut self, fuel: &mut u64) -> Stop;
}

impl<M: Machine + ?Sized> Machine for Box<M> {
    fn shape(&self) -> Shape {
        (**self).shape()
    }

    fn read(&self, real: Word) -> Word {
        (**self).read(real)
    }

    fn write(&mut self, real: Word, value: Word) {
        (**self).write(real, value);
    }

    fn psw(&self) -> Psw {
        (**self).psw()
    }

    fn set_psw(&mut self, psw: Psw) {
        (**self).set_psw(psw);
    }

    fn timer(&self) -> Word {
        (**self).timer()
    }

    fn set_timer(&mut self, instructions: Word) {
        (**self).set_timer(instructions);
    }

    fn console(&mut self) -> &mut Console {
        (**self).console()
    }

    fn run(&mut self, fuel: &mut u64) -> Stop {
        (**self).run(fuel)
    }
}

/// Runs a machine whose control program is in its memory, which takes the machine's traps itself, until it halts
/// or has no fuel left.
pub fn run_alone(machine: &mut (impl Machine + ?Sized), fuel: &mut u64) -> Stop {
    loop {
        match machine.run(fuel) {
            Stop::Trap(_) => {}
            stop => return stop,
        }
    }
}
