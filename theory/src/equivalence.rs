//! Equivalence put to the test: a program runs on the real machine and in a VM, and everything is compared. A
//! program that can tell is made as small as it gets.
//!
//! Fuel counts attempts at instructions, of which a VM makes as many as a real machine. So runs that are cut off
//! are cut off at the same place, and can be compared too.

use std::fmt;

use crate::isa::{Instruction, OPS, Operand};
use crate::machine::{CAUSE, FREE, NEW_PSW, OLD_PSW, run_alone};
use crate::{Isa, Kind, Mode, Op, Psw, Relocation, Shape, Stop, Word, tower};

/// A program and how long it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// All of the machine's memory; it starts at [`FREE`], in supervisor mode.
    pub memory: Vec<Word>,
    /// What waits at the console.
    pub input: Vec<u8>,
    /// Attempts at instructions.
    pub fuel: u64,
}

/// Everything that can be told of a machine after a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Final {
    /// How the run ended.
    pub stop: Stop,
    /// ⟨M, P, R⟩.
    pub psw: Psw,
    /// E.
    pub memory: Vec<Word>,
    /// The timer.
    pub timer: Word,
    /// What the console was given.
    pub output: Vec<u8>,
    /// What it still has.
    pub input: Vec<u8>,
}

/// How two runs differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// On the real machine.
    pub real: Final,
    /// In the VM.
    pub virtual_: Final,
}

impl Case {
    /// Runs it at a depth; 0 is the real machine.
    ///
    /// # Panics
    /// If no machine has so little or so much memory.
    pub fn run(&self, isa: &'static Isa, depth: u32, kind: Kind) -> Final {
        let mut machine = tower(isa, self.memory.len() as Word, depth, kind, None);
        for (real, &word) in self.memory.iter().enumerate() {
            machine.write(real as Word, word);
        }
        machine.console().input.extend(&self.input);
        let mut fuel = self.fuel;
        let stop = run_alone(&mut machine, &mut fuel);
        let console = machine.console();
        let (output, input) = (console.output.clone(), console.input.iter().copied().collect());
        Final {
            stop,
            psw: machine.psw(),
            memory: (0..machine.shape().size()).map(|real| machine.read(real)).collect(),
            timer: machine.timer(),
            output,
            input,
        }
    }

    /// Runs it on the real machine and at a depth.
    pub fn compare(&self, isa: &'static Isa, depth: u32, kind: Kind) -> Option<Difference> {
        let (real, virtual_) = (self.run(isa, 0, kind), self.run(isa, depth, kind));
        (real != virtual_).then_some(Difference { real, virtual_ })
    }

    /// A program that means nothing in particular but uses everything: another for each seed.
    pub fn random(seed: u64) -> Self {
        Generator(seed).case()
    }

    /// The smallest program, by leaving out and shortening, that still differs at this depth.
    pub fn minimise(mut self, isa: &'static Isa, depth: u32, kind: Kind) -> Self {
        loop {
            let still_differs = |case: &Self| case.compare(isa, depth, kind).is_some();
            let Some(simpler) = self.simpler().find(still_differs) else { return self };
            self = simpler;
        }
    }

    /// How many words are not 0.
    pub fn words(&self) -> usize {
        self.memory.iter().filter(|&&word| word != 0).count()
    }

    /// Programs a step simpler than this, those that save most first.
    fn simpler(&self) -> impl Iterator<Item = Self> {
        let shorter = [self.fuel / 2, self.fuel.saturating_sub(1)].map(|fuel| Self { fuel, ..self.clone() });
        let shorter = shorter.into_iter().filter(|case| case.fuel < self.fuel);
        let silent = (!self.input.is_empty()).then(|| Self { input: Vec::new(), ..self.clone() });
        let nop = Instruction { op: Op::Plain(crate::Plain::Nop), a: 0, b: 0 }.encode();
        let simpler_words = (0..self.memory.len()).flat_map(move |at| {
            [0, nop]
                .into_iter()
                .filter(move |&word| {
                    let now = self.memory[at];
                    // An order, so that it comes to an end: nothing before a NOP before anything else.
                    now != word && now != 0
                })
                .map(move |word| {
                    let mut case = self.clone();
                    case.memory[at] = word;
                    case
                })
        });
        shorter.chain(silent).chain(simpler_words)
    }
}

/// How many programs that can tell are made small, of which the smallest is shown.
const CANDIDATES: usize = 32;

/// The smallest program that is found among these random ones to differ at this depth.
pub fn search(
    isa: &'static Isa,
    depth: u32,
    kind: Kind,
    seeds: impl IntoIterator<Item = u64>,
) -> Option<(Case, Difference)> {
    let differing =
        seeds.into_iter().map(Case::random).filter(|case| case.compare(isa, depth, kind).is_some());
    let small = differing.take(CANDIDATES).map(|case| case.minimise(isa, depth, kind));
    let case = small.min_by_key(|case| (case.words(), case.fuel))?;
    let difference = case.compare(isa, depth, kind)?;
    Some((case, difference))
}

/// What is in memory, as a program's text.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let shape = Shape::full(self.memory.len() as Word);
        let words = self.memory.iter().enumerate().filter(|&(_, &word)| word != 0);
        for (n, (at, &word)) in words.enumerate() {
            let line = if n == 0 { "" } else { "\n" };
            match Instruction::decode(word) {
                _ if at as Word == NEW_PSW => write!(f, "{line}{at:>4}  PSW ⟨{}⟩", shape.unpack(word))?,
                Some(instruction) => write!(f, "{line}{at:>4}  {instruction}")?,
                None => write!(f, "{line}{at:>4}  {word}, or PSW ⟨{}⟩", shape.unpack(word))?,
            }
        }
        Ok(())
    }
}

/// The first thing that differs.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { real, virtual_ } = self;
        // E(0) and E(2) follow from other words; one of those says more.
        let differs = |at: &usize| real.memory[*at] != virtual_.memory[*at];
        let trapped = [OLD_PSW, CAUSE].map(|at| at as usize);
        let word = (0..real.memory.len()).filter(|at| !trapped.contains(at)).find(differs);
        let word = word.or_else(|| trapped.into_iter().find(differs));
        if real.output != virtual_.output {
            write!(f, "the console was given {:?} and {:?}", real.output, virtual_.output)
        } else if let Some(at) = word {
            write!(f, "E({at}) is {} and {}", real.memory[at], virtual_.memory[at])
        } else if real.psw != virtual_.psw {
            write!(f, "⟨M, P, R⟩ is ⟨{}⟩ and ⟨{}⟩", real.psw, virtual_.psw)
        } else if real.stop != virtual_.stop {
            write!(f, "the run ended with {:?} and {:?}", real.stop, virtual_.stop)
        } else {
            write!(f, "timer or console input differ")
        }
    }
}

/// Words of a random program's machine.
const SIZE: Word = 40;
/// Where its data begin.
const DATA: Word = 28;

/// SplitMix64 (Steele, Lea, Flood, 2014): numbers that look random, another sequence for each seed.
struct Generator(u64);

impl Generator {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn case(&mut self) -> Case {
        let mut memory: Vec<Word> = (0..SIZE).map(|_| 0).collect();
        for word in &mut memory[FREE as usize..DATA as usize] {
            *word = self.instruction().encode();
        }
        for word in &mut memory[DATA as usize..] {
            *word = self.datum();
        }
        let handler = Psw { m: Mode::Supervisor, ..self.psw() };
        memory[NEW_PSW as usize] = Shape::full(SIZE).pack(handler);
        let input = (0..self.below(4)).map(|_| self.next() as u8).collect();
        Case { memory, input, fuel: 100 }
    }

    fn instruction(&mut self) -> Instruction {
        let row = &OPS[self.below(OPS.len() as u64) as usize];
        let operands = [0, 1].map(|n| row.operands.get(n).map_or(0, |&operand| self.operand(operand)));
        Instruction { op: row.op, a: operands[0], b: operands[1] }
    }

    fn operand(&mut self, operand: Operand) -> Word {
        match (operand, self.below(10)) {
            (Operand::Address, 0) => self.below(SIZE + 4),
            (Operand::Address, _) => DATA + self.below(SIZE - DATA),
            (Operand::Target, _) => FREE + self.below(DATA - FREE),
            (Operand::Number, _) => self.below(SIZE + 4),
        }
    }

    /// Most of what memory holds is to be good for something: an address, a timer, a PSW.
    fn datum(&mut self) -> Word {
        match self.below(8) {
            0 => 0,
            1 => self.next(),
            2 => self.instruction().encode(),
            3 | 4 => Shape::full(SIZE).pack(self.psw()),
            _ => self.below(SIZE + 4),
        }
    }

    fn psw(&mut self) -> Psw {
        let m = if self.below(3) == 0 { Mode::Supervisor } else { Mode::User };
        let p = FREE + self.below(DATA - FREE);
        let r = match self.below(4) {
            0 => Relocation { l: self.below(SIZE + 2), b: self.below(SIZE + 2) },
            1 => Relocation { l: self.below(4), b: SIZE },
            _ => Relocation { l: 0, b: SIZE },
        };
        Psw { m, p, r }
    }
}
