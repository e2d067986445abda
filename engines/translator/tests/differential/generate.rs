//! Random programs, and a few states for each.

use iced_x86::Code;

use crate::case::{Case, Width};
use crate::encode::{self, Piece};
use crate::fpu;
use crate::program::Program;
use crate::random::Random;

/// States that each program is run in.
pub const STATES: usize = 8;

/// Makes cases.
pub struct Generator {
    widths: Vec<Width>,
    filter: Option<String>,
    seed: u64,
    lists: [Vec<Code>; 3],
}

impl Generator {
    /// For these widths and codes whose name contains `filter`.
    pub fn new(widths: &[Width], filter: Option<String>, seed: u64) -> Self {
        let lists = [16, 32, 64].map(|bits| encode::codes(bits, filter.as_deref()));
        Self { widths: widths.to_vec(), filter, seed, lists }
    }

    /// The codes for 64-bit mode.
    pub fn wide_codes(&self) -> &[Code] {
        &self.lists[2]
    }

    /// The cases of a program by its number; the codes take turns.
    pub fn cases(&self, number: usize) -> [Case; STATES] {
        let random = &mut Random::new(self.seed << 32 ^ number as u64);
        let program = self.program(number, random);
        std::array::from_fn(|n| {
            let case = if n == 0 { *program.first() } else { program.again(random) };
            let vectors = number as u64 + random.below(fpu::KEPT as u64);
            Case { fpu_seed: !(self.seed << 32 ^ vectors), ..case }
        })
    }

    fn program(&self, number: usize, random: &mut Random) -> Program {
        loop {
            let width = if random.chance(70) && self.widths.contains(&Width::Bits64) {
                Width::Bits64
            } else {
                random.pick(&self.widths)
            };
            let bits = width as u32;
            let program = if self.filter.is_none() && random.chance(10) {
                self.long_program(random, bits)
            } else {
                self.short_program(number, random, bits)
            };
            if !program.is_empty() {
                return Program::new(random, &program, width);
            }
        }
    }

    /// One to four instructions of any kind.
    fn short_program(&self, number: usize, random: &mut Random, bits: u32) -> Vec<Piece> {
        let wanted = [1, 1, 2, 2, 3, 4][random.below(6) as usize];
        let list = self.list(bits);
        let mut program = Vec::with_capacity(wanted);
        for _ in 0..wanted {
            let piece = if self.filter.is_none() && random.chance(8) {
                encode::of_bytes(random, bits)
            } else if random.chance(50) {
                let code = list[(number * 2 + program.len()) % list.len()];
                encode::of_code(random, code, bits)
            } else {
                let code = random.pick(list);
                encode::of_code(random, code, bits)
            };
            program.extend(piece);
        }
        program
    }

    /// Up to a dozen instructions on general registers, with jumps among them: for what becomes of flags from
    /// block to block.
    fn long_program(&self, random: &mut Random, bits: u32) -> Vec<Piece> {
        let list = self.list(bits);
        let wanted = 4 + random.below(9) as usize;
        let mut program = Vec::with_capacity(wanted);
        for _ in 0..20 * wanted {
            let code = random.pick(list);
            let piece = encode::of_code(random, code, bits);
            let jumps = random.chance(25);
            program.extend(piece.filter(|piece| if jumps { piece.jumps() } else { piece.is_quiet() }));
            if program.len() == wanted {
                break;
            }
        }
        program
    }

    fn list(&self, bits: u32) -> &[Code] {
        &self.lists[bits.trailing_zeros() as usize - 4]
    }
}
