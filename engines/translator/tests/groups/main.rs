//! Accesses that are checked together: where they do not lie together, or may not all be made, each does what it would do
//! alone. And flags that are put by to the end of a block.

#[path = "../common/mod.rs"]
mod common;
mod flags;
mod random;
#[allow(dead_code)] // It needs a part of it.
#[path = "../differential/random.rs"]
mod random_source;
mod resumed;
mod rights;
mod together;

use common::pages::*;
use common::{Bench, CODE, DATA, STACK, assemble};
use iced_x86::code_asm::*;
use vcpu::{Engine, Exit};
use x86::classify::Routine;
use x86::register::gpr::*;

/// What the first two small pages are mapped to.
const FIRST: u64 = DATA;
const SECOND: u64 = DATA + 0x5_0000;
/// Guest-physical memory without RAM, in the bench's mapping.
const DEVICE: u64 = 0x3000_0000;
/// The same small pages once more, with the same places in the software TLB.
const ALIAS: u64 = VIRTUAL + (4096 << 12);
/// The page that an empty hint holds: see `hint_table.rs`.
const HELD_BY_NONE: u64 = 0x8000_5a5a_5a5a_5000;
const DIRTY: u64 = 1 << 6;
/// Accessed and dirty, so that the engine has nothing to note at a write.
const USED: u64 = 1 << 5 | DIRTY;

/// An instruction.
type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

fn two_pages(ring: u8) -> Bench {
    let mut bench = bench();
    bench.ram.write_u64(DIRECTORY + 8 * 8, TABLE | 7).unwrap();
    map(&bench, 0, FIRST, 0);
    map(&bench, 1, SECOND, 0);
    if ring == 3 {
        to_ring3(&mut bench);
    }
    bench
}

/// Where the bench's small pages have this linear address.
fn physical(linear: u64) -> u64 {
    [FIRST, SECOND][((linear - VIRTUAL) >> 12) as usize] + (linear & 0xfff)
}

fn word(bench: &Bench, linear: u64) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|n| bench.ram.read_u8(physical(linear + n as u64)).unwrap()))
}

fn set_word(bench: &Bench, linear: u64, value: u64) {
    for (n, byte) in (0..).zip(value.to_le_bytes()) {
        bench.ram.write(physical(linear + n), &[byte]).unwrap();
    }
}

/// Loads instructions and a HLT; where each of them is.
fn load(bench: &mut Bench, parts: &[Program]) -> Vec<u64> {
    let (mut code, mut places) = (Vec::new(), Vec::new());
    for part in parts {
        places.push(CODE + code.len() as u64);
        code.extend(assemble(64, CODE, |a| part(a).unwrap()));
    }
    places.push(CODE + code.len() as u64);
    code.push(0xf4); // hlt
    bench.ram.write(CODE, &code).unwrap();
    places
}

fn start(bench: &mut Bench) {
    (bench.cpu.rip, bench.cpu.gpr[RSP]) = (CODE, STACK);
}

fn expect_hlt(exit: &Exit) {
    assert!(matches!(exit, Exit::Sensitive(insn) if insn.routine == Routine::Hlt), "{exit:?}");
}

/// How often the engine was asked about memory.
fn asked(bench: &Bench) -> u64 {
    let counts = bench.engine.counters();
    let about = |what: &str| what.contains("software TLB") || what.contains("apart");
    counts.iter().filter(|(what, _)| about(what)).map(|(_, n)| n).sum()
}

/// Error code of a page that is absent, by ring and for a write or a read.
fn absent(ring: u8, write: bool) -> u32 {
    u32::from(write) << 1 | if ring == 3 { 4 } else { 0 }
}
