//! A program and the states it is put into.

use iced_x86::Instruction;

use crate::case::{ALIAS, CODE, Case, DATA, MOST_CODE, PAGE, SEGMENTS, Width};
use crate::encode::Piece;
use crate::random::Random;
use crate::surround::{Encoding, PADS, Stack, Surroundings};

/// A program at its place, in its mode, with its segments.
pub struct Program {
    first: Case,
    instructions: Vec<Instruction>,
    aligned: bool,
}

impl Program {
    /// Chooses all of it, and a first state.
    pub fn new(random: &mut Random, pieces: &[Piece], width: Width) -> Self {
        let len: usize = pieces.iter().map(|piece| piece.len).sum();
        let code_len = len + PADS as usize * 2;
        assert!(code_len <= MOST_CODE);
        let aligned = random.chance(45);
        let mut case = Case {
            width,
            ring0: random.chance(30),
            code: [0; MOST_CODE],
            code_len: code_len as u32,
            start: CODE
                + if random.chance(12) {
                    // Across the page boundary.
                    PAGE - random.below(len as u64 + 4)
                } else {
                    random.below(PAGE / 16 - 8) * 16
                },
            gpr: [0; 16],
            rflags: 0,
            fs_base: DATA + random.below(PAGE),
            gs_base: if random.chance(50) { ALIAS + PAGE } else { DATA },
            segments: [1, 0, 1, 1, 1, 1],
            fpu_seed: 0,
            patches: [(0, 0); 4],
        };
        if width != Width::Bits64 {
            segments(random, &mut case);
        }
        let mut around = Surroundings::new(random, case, aligned);
        around.registers(Stack::Anywhere);
        let instructions = around.settle(pieces);
        let first = around.case;
        Self { first, instructions, aligned }
    }

    /// The state that its bytes were chosen for.
    pub fn first(&self) -> &Case {
        &self.first
    }

    /// Another state.
    pub fn again(&self, random: &mut Random) -> Case {
        let mut around = Surroundings::new(random, Case { patches: [(0, 0); 4], ..self.first }, self.aligned);
        // Displacements from the stack pointer were chosen for the first, so it stays near.
        around.registers(Stack::Near(self.first.gpr[4]));
        around.places(self.instructions.iter().map(Instruction::len));
        for i in &self.instructions {
            around.one(i, &mut Encoding::settled());
        }
        around.case
    }
}

fn segments(random: &mut Random, case: &mut Case) {
    let linear = case.start;
    let flat = random.chance(40);
    case.segments = if case.width == Width::Bits16 {
        let data = |random: &mut Random| {
            if flat { 3 } else { random.pick(&[3, 3, 4, 5, 6, 7, 10, 11, 1, 8]) }
        };
        let stack = if flat { 3 } else { random.pick(&[3, 3, 4, 7, 11, 5, 1]) };
        [data(random), 2, stack, data(random), data(random), data(random)]
    } else {
        let data = |random: &mut Random| {
            if flat { 1 } else { random.pick(&[1, 1, 3, 4, 5, 6, 7, 8, 10, 11]) }
        };
        let stack = if flat { 1 } else { random.pick(&[1, 1, 3, 5, 6, 10, 4]) };
        let code = if flat { 0 } else { random.pick(&[0, 9]) };
        [data(random), code, stack, data(random), data(random), data(random)]
    };
    case.start = linear - u64::from(SEGMENTS[usize::from(case.segments[1])].base);
}
