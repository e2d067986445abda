//! Moves and stores of strings, which the engine does a page at a time, against one element after the other.

mod common;
#[allow(dead_code)] // It needs a part of it.
#[path = "differential/random.rs"]
mod random;

use common::pages::*;
use common::{CODE, DATA, assemble};
use random::Random;
use vcpu::{Engine, Invalidation};
use x86::register::gpr::*;
use x86::{Exception, Rflags};

const PAGES: u64 = 4;
const LEN: usize = (PAGES as usize) << 12;
/// The small pages lie in another order, and apart.
const FRAMES: [u64; PAGES as usize] = [DATA + 0x3000, DATA + 0x9000, DATA, DATA + 0x4000];

struct Case {
    moves: bool,
    width: usize,
    down: bool,
    value: u64,
    /// Offsets from the first page's beginning, and how many elements.
    source: usize,
    target: usize,
    count: usize,
}

impl Case {
    fn new(random: &mut Random) -> Self {
        let width = random.pick(&[1, 2, 4, 8]);
        let down = random.chance(30);
        let most = random.pick(&[3, 100, 0x1800]);
        let count = random.below(most) as usize / width;
        let room = (LEN - count * width) as u64;
        // Half of them near each other, where they may overlap.
        let source = random.below(room) as usize;
        let near = source.saturating_add_signed(random.below(40) as isize - 20).min(room as usize);
        let target = if random.chance(50) { near } else { random.below(room) as usize };
        let top = if down { (count * width).saturating_sub(width) } else { 0 };
        let any = random.next();
        let value = random.pick(&[0, u64::MAX, 0x4141_4141_4141_4141, any]);
        Self {
            moves: random.chance(60),
            width,
            down,
            value,
            source: source + top,
            target: target + top,
            count,
        }
    }

    /// One element after the other, as the manual has it.
    fn model(&self, memory: &mut [u8]) {
        for n in 0..self.count {
            let step = |from: usize| {
                if self.down { from - n * self.width } else { from + n * self.width }
            };
            let (from, to) = (step(self.source), step(self.target));
            let mut element = self.value.to_le_bytes();
            if self.moves {
                element[..self.width].copy_from_slice(&memory[from..from + self.width]);
            }
            memory[to..to + self.width].copy_from_slice(&element[..self.width]);
        }
    }

    fn program(&self) -> Vec<u8> {
        assemble(64, CODE, |a| {
            match (self.moves, self.width) {
                (true, 1) => a.rep().movsb(),
                (true, 2) => a.rep().movsw(),
                (true, 4) => a.rep().movsd(),
                (true, _) => a.rep().movsq(),
                (false, 1) => a.rep().stosb(),
                (false, 2) => a.rep().stosw(),
                (false, 4) => a.rep().stosd(),
                (false, _) => a.rep().stosq(),
            }
            .unwrap();
            a.hlt().unwrap();
        })
    }
}

#[test]
fn as_one_element_after_the_other() {
    let mut bench = bench();
    for (page, frame) in (0..).zip(FRAMES) {
        map(&bench, page, frame, 0);
    }
    let mut random = Random::new(5);
    for round in 0..3000 {
        let case = Case::new(&mut random);
        let mut memory: Vec<u8> = (0..LEN).map(|_| random.next() as u8).collect();
        for (page, frame) in memory.chunks(0x1000).zip(FRAMES) {
            bench.ram.write(frame, page).unwrap();
        }
        bench.ram.write(CODE, &case.program()).unwrap();
        bench.engine.invalidate(Invalidation::Code { gpa: CODE, len: 16 });
        let gpr = &mut bench.cpu.gpr;
        gpr[RSI] = VIRTUAL + case.source as u64;
        gpr[RDI] = VIRTUAL + case.target as u64;
        (gpr[RCX], gpr[RAX]) = (case.count as u64, case.value);
        bench.cpu.rflags = if case.down { Rflags::DF } else { Rflags::empty() } | Rflags::from_bits_retain(2);
        again(&mut bench);
        case.model(&mut memory);
        let seen: Vec<u8> = FRAMES
            .iter()
            .flat_map(|frame| {
                let mut page = [0; 0x1000];
                bench.ram.read(*frame, &mut page).unwrap();
                page
            })
            .collect();
        let differs = (0..LEN).find(|n| seen[*n] != memory[*n]);
        assert_eq!(
            differs, None,
            "round {round}: {} of {} bytes, moves: {}, down: {}",
            case.count, case.width, case.moves, case.down
        );
        let by = (case.count * case.width) as u64;
        let moved = |from: usize| {
            let from = VIRTUAL + from as u64;
            if case.down { from - by } else { from + by }
        };
        let source = if case.moves { moved(case.source) } else { VIRTUAL + case.source as u64 };
        let gpr = &bench.cpu.gpr;
        assert_eq!((gpr[RSI], gpr[RDI], gpr[RCX]), (source, moved(case.target), 0), "round {round}");
    }
}

#[test]
fn a_fault_finds_what_has_been_done() {
    const MISSING: u64 = 2;
    let mut bench = bench();
    for (page, frame) in (0..).zip(FRAMES).filter(|(page, _)| *page != MISSING) {
        map(&bench, page, frame, 0);
    }
    let mut random = Random::new(9);
    for round in 0..500 {
        let (moves, width) = (random.chance(50), random.pick(&[1, 2, 4, 8]));
        // One of the two gets to the missing page, from up to two pages before it.
        let reaches = !moves || random.chance(50);
        let from = random.below(2 * 0x1000 - 8);
        let near = VIRTUAL + MISSING * 0x1000 - 8 - from;
        let far = VIRTUAL + 3 * 0x1000;
        let count = 0x4000 / width;
        let case = Case { moves, width, down: false, value: random.next(), source: 0, target: 0, count };
        bench.ram.write(CODE, &case.program()).unwrap();
        bench.engine.invalidate(Invalidation::Code { gpa: CODE, len: 16 });
        let (rdi, rsi) = if reaches { (near, far) } else { (far, near) };
        bench.cpu.rip = CODE;
        let gpr = &mut bench.cpu.gpr;
        (gpr[RDI], gpr[RSI], gpr[RCX], gpr[RAX]) = (rdi, rsi, count as u64, case.value);
        // As many elements as are whole before it; the far one ends a page behind its beginning.
        let missing = VIRTUAL + MISSING * 0x1000;
        let done =
            ((missing - near) / width as u64).min(if moves { 0x1000 / width as u64 } else { u64::MAX });
        let fault = bench.fault();
        let gpr = &bench.cpu.gpr;
        let by = done * width as u64;
        assert_eq!(gpr[RCX], count as u64 - done, "round {round}");
        assert_eq!(gpr[RDI], rdi + by, "round {round}");
        assert_eq!(gpr[RSI], if moves { rsi + by } else { rsi }, "round {round}");
        assert_eq!(bench.cpu.rip, CODE);
        let write = if reaches { 2 } else { 0 };
        let beyond = by + near < missing - (width as u64 - 1) && moves;
        let (at, write) = if beyond { (far + by, if reaches { 0 } else { 2 }) } else { (missing, write) };
        assert_eq!(fault, Exception::page_fault(at, write), "round {round}");
    }
}
