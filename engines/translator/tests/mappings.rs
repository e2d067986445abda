//! Page tables that change under running code: what was flushed is seen, in data and in code, in every ring.

mod common;

use common::pages::*;
use common::{CODE, DATA, assemble};
use iced_x86::code_asm::*;
use vcpu::{Engine, Invalidation};
use x86::register::gpr::*;
use x86::{Cr4, Exception, Vector};

/// Where the two sets of tables for two address spaces begin.
const OTHER: u64 = 0xc000;

const FLUSHES: [Invalidation; 3] =
    [Invalidation::Page { linear: VIRTUAL }, Invalidation::AddressSpace, Invalidation::AllPages];

#[test]
fn data_moves() {
    for flush in FLUSHES {
        let mut bench = bench();
        bench.ram.write_u64(DATA, 1).unwrap();
        bench.ram.write_u64(DATA + 0x1000, 2).unwrap();
        map(&bench, 0, DATA, 0);
        bench.load(|a| {
            a.mov(rbx, VIRTUAL).unwrap();
            a.mov(rax, qword_ptr(rbx)).unwrap();
            a.add(qword_ptr(rbx), 0x10).unwrap();
        });
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RAX], 1);
        map(&bench, 0, DATA + 0x1000, 0);
        bench.engine.invalidate(flush);
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RAX], 2, "{flush:?}");
        assert_eq!(bench.ram.read_u64(DATA).unwrap(), 0x11);
        assert_eq!(bench.ram.read_u64(DATA + 0x1000).unwrap(), 0x12);
    }
}

#[test]
fn code_moves() {
    for flush in FLUSHES {
        for ring3 in [false, true] {
            for indirect in [false, true] {
                let mut bench = bench();
                function(&bench, DATA, 1);
                function(&bench, DATA + 0x1000, 2);
                map(&bench, 0, DATA, 0);
                bench.load(|a| {
                    if indirect {
                        a.mov(rbx, VIRTUAL).unwrap();
                        a.call(rbx).unwrap();
                    } else {
                        a.call(VIRTUAL).unwrap();
                    }
                });
                if ring3 {
                    to_ring3(&mut bench);
                }
                // Twice, so that everything is translated and linked.
                again(&mut bench);
                again(&mut bench);
                assert_eq!(bench.cpu.gpr[RAX], 1);
                map(&bench, 0, DATA + 0x1000, 0);
                bench.engine.invalidate(flush);
                again(&mut bench);
                assert_eq!(bench.cpu.gpr[RAX], 2, "{flush:?}, ring 3: {ring3}, indirect: {indirect}");
            }
        }
    }
}

#[test]
fn global_pages_outlive_an_address_space() {
    let mut bench = bench();
    bench.cpu.cr4 |= Cr4::PGE;
    function(&bench, DATA, 1);
    function(&bench, DATA + 0x1000, 2);
    map(&bench, 0, DATA, GLOBAL);
    bench.load(|a| {
        a.call(VIRTUAL).unwrap();
    });
    again(&mut bench);
    assert_eq!(bench.cpu.gpr[RAX], 1);
    map(&bench, 0, DATA + 0x1000, GLOBAL);
    bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL });
    again(&mut bench);
    assert_eq!(bench.cpu.gpr[RAX], 2);
}

#[test]
fn two_address_spaces() {
    let mut bench = bench();
    // The other has tables of its own, with the same identity-mapped gigabyte.
    let [top, pointers, directory, table] = [0, 1, 2, 3].map(|n| OTHER + n * 0x1000);
    bench.ram.write_u64(top, pointers | 7).unwrap();
    bench.ram.write_u64(pointers, 0x87).unwrap();
    bench.ram.write_u64(pointers + 8, directory | 7).unwrap();
    bench.ram.write_u64(directory, table | 7).unwrap();
    function(&bench, DATA, 1);
    function(&bench, DATA + 0x1000, 2);
    map(&bench, 0, DATA, 0);
    bench.ram.write_u64(table, (DATA + 0x1000) | 7).unwrap();
    bench.load(|a| {
        a.mov(rbx, VIRTUAL).unwrap();
        a.mov(cl, byte_ptr(rbx + 1)).unwrap();
        a.call(rbx).unwrap();
    });
    let spaces = [(bench.cpu.cr3, 1), (top, 2)];
    for round in 0..6 {
        let (tables, expected) = spaces[round % 2];
        bench.cpu.cr3 = tables;
        bench.engine.invalidate(Invalidation::AddressSpace);
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RAX], expected, "round {round}");
        assert_eq!(bench.cpu.gpr[RCX] & 0xff, expected);
    }
}

#[test]
fn a_large_global_page_is_split() {
    for ring3 in [false, true] {
        let mut bench = bench();
        bench.cpu.cr4 |= Cr4::PGE;
        // A 2 MiB page whose first 4 KiB page calls into its second: linked, for the mapping is one.
        let base = 0x60_0000;
        let caller = assemble(64, VIRTUAL, |a| {
            a.call(VIRTUAL + 0x1000).unwrap();
            a.ret().unwrap();
        });
        bench.ram.write(base, &caller).unwrap();
        function(&bench, base + 0x1000, 1);
        function(&bench, DATA, 2);
        let rights = PRESENT | WRITABLE | USER | LARGE | GLOBAL;
        bench.ram.write_u64(DIRECTORY, base | rights).unwrap();
        bench.load(|a| {
            a.call(VIRTUAL).unwrap();
        });
        if ring3 {
            to_ring3(&mut bench);
        }
        again(&mut bench);
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RAX], 1);
        // The caller stays where it was, what it calls does not.
        map(&bench, 0, base, GLOBAL);
        map(&bench, 1, DATA, GLOBAL);
        bench.ram.write_u64(DIRECTORY, TABLE | 7).unwrap();
        bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL + 0x1000 });
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RAX], 2, "ring 3: {ring3}");
    }
}

#[test]
fn an_instruction_whose_second_page_moves() {
    let mut bench = bench();
    // mov eax, imm32; ret with its immediate on the second page.
    bench.ram.write(DATA + 0xfff, &[0xb8]).unwrap();
    bench.ram.write(DATA + 0x1000, &[1, 0, 0, 0, 0xc3]).unwrap();
    bench.ram.write(DATA + 0x2000, &[2, 0, 0, 0, 0xc3]).unwrap();
    map(&bench, 0, DATA, 0);
    map(&bench, 1, DATA + 0x1000, 0);
    bench.load(|a| {
        a.call(VIRTUAL + 0xfff).unwrap();
    });
    for (page, expected) in [(DATA + 0x1000, 1), (DATA + 0x2000, 2), (DATA + 0x1000, 1)] {
        map(&bench, 1, page, 0);
        bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL + 0x1000 });
        again(&mut bench);
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RAX], expected);
    }
    // And when it is gone, the fault is the second page's.
    bench.ram.write_u64(TABLE + 8, 0).unwrap();
    bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL + 0x1000 });
    bench.cpu.rip = CODE;
    let exception = bench.fault();
    assert_eq!((exception.vector, exception.detail), (Vector::PageFault, VIRTUAL + 0x1000));
    assert_eq!(bench.cpu.rip, VIRTUAL + 0xfff);
}

#[test]
fn rights_are_those_of_the_ring() {
    let mut bench = bench();
    map(&bench, 0, DATA, 0);
    // A supervisor's page.
    bench.ram.write_u64(TABLE + 8, (DATA + 0x1000) | PRESENT | WRITABLE).unwrap();
    bench.load(|a| {
        a.mov(rbx, VIRTUAL).unwrap();
        a.mov(qword_ptr(rbx + 0x1000), 1).unwrap();
        a.mov(rax, qword_ptr(rbx + 0x1000)).unwrap();
    });
    again(&mut bench);
    assert_eq!(bench.cpu.gpr[RAX], 1);
    to_ring3(&mut bench);
    bench.cpu.rip = CODE;
    assert_eq!(bench.fault(), Exception::page_fault(VIRTUAL + 0x1000, 7), "user, write, present");
}
