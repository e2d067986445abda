//! A bare vCPU with a part of its memory mapped in small pages, which tests map as they like.

use iced_x86::code_asm::*;
use vcpu::Exit;
use x86::classify::Routine;
use x86::register::gpr::RSP;

use super::{Bench, CODE, STACK, assemble};

/// Behind the identity-mapped gigabyte: 4 KiB pages as the tests map them.
pub const VIRTUAL: u64 = 1 << 30;
/// Their page table.
pub const TABLE: u64 = 0xb000;
/// The page directory above it.
pub const DIRECTORY: u64 = 0xa000;
/// Bits of a page table's entry.
pub const PRESENT: u64 = 1;
pub const WRITABLE: u64 = 2;
pub const USER: u64 = 4;
pub const LARGE: u64 = 0x80;
pub const GLOBAL: u64 = 0x100;

/// A vCPU whose second gigabyte has page tables, empty as yet.
pub fn bench() -> Bench {
    with_small_pages(Bench::long_mode())
}

/// The same for one that is there.
pub fn with_small_pages(bench: Bench) -> Bench {
    bench.ram.write_u64(0x9008, DIRECTORY | 7).unwrap();
    bench.ram.write_u64(DIRECTORY, TABLE | 7).unwrap();
    bench
}

/// Maps the page with this number from [`VIRTUAL`] on for any ring.
pub fn map(bench: &Bench, page: u64, to: u64, flags: u64) {
    bench.ram.write_u64(TABLE + page * 8, to | flags | PRESENT | WRITABLE | USER).unwrap();
}

/// `mov eax, n; ret`
pub fn function(bench: &Bench, physical: u64, n: u32) {
    let code = assemble(64, physical, |a| {
        a.mov(eax, n).unwrap();
        a.ret().unwrap();
    });
    bench.ram.write(physical, &code).unwrap();
}

/// Runs the program from its start to its HLT.
pub fn again(bench: &mut Bench) {
    run_from(bench, CODE);
}

/// Runs from an address to a HLT.
pub fn run_from(bench: &mut Bench, rip: u64) {
    bench.cpu.rip = rip;
    bench.cpu.gpr[RSP] = STACK;
    loop {
        match bench.exit() {
            Exit::Kicked => {}
            Exit::Sensitive(insn) if insn.routine == Routine::Hlt => return,
            other => panic!("{other:?} at {:#x}", bench.cpu.rip),
        }
    }
}

/// From here on the vCPU runs in ring 3. HLT still comes to the monitor.
pub fn to_ring3(bench: &mut Bench) {
    for segment in &mut bench.cpu.segments {
        segment.attributes |= 3 << 5;
    }
}
