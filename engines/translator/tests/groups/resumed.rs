//! Groups in the middle of which the engine is asked, and may forget what their first access found.

use iced_x86::code_asm::*;
use vcpu::{Engine, Entry, Exit, Invalidation};
use x86::register::gpr::*;

use crate::common::pages::*;
use crate::{ALIAS, DEVICE, FIRST, Program, SECOND, USED, expect_hlt, load, start, two_pages};

/// While a device is asked in the middle of a group, the group's page moves.
#[test]
fn a_device_in_the_middle() {
    let moves = [
        None,
        Some(Invalidation::Page { linear: VIRTUAL }),
        Some(Invalidation::AddressSpace),
        Some(Invalidation::AllPages),
        Some(Invalidation::Everything),
    ];
    let by_field: &[Program] = &[
        |a| a.mov(rax, qword_ptr(rbx)),
        |a| a.mov(rcx, qword_ptr(rsi)),
        |a| a.mov(rdx, qword_ptr(rbx + 8)),
        |a| a.mov(qword_ptr(rbx + 0x10), rdx),
    ];
    let by_stack: &[Program] = &[
        |a| a.mov(rsp, rbx),
        |a| a.mov(rax, qword_ptr(rsp)),
        |a| a.mov(rcx, qword_ptr(rsi)),
        |a| a.mov(rdx, qword_ptr(rsp + 8)),
        |a| a.mov(qword_ptr(rsp + 0x10), rdx),
    ];
    for (ring, program) in [(3, by_field), (3, by_stack), (0, by_stack)] {
        for what in &moves {
            let mut bench = two_pages(ring);
            load(&mut bench, program);
            for (page, value) in [(FIRST, 1), (SECOND, 2)] {
                bench.ram.write_u64(page, value).unwrap();
                bench.ram.write_u64(page + 8, value + 10).unwrap();
            }
            (bench.cpu.gpr[RBX], bench.cpu.gpr[RSI]) = (VIRTUAL, DEVICE);
            for round in 1..5 {
                map(&bench, 0, FIRST, USED);
                bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL });
                for page in [FIRST, SECOND] {
                    bench.ram.write_u64(page + 0x10, 0).unwrap();
                }
                start(&mut bench);
                let exit = bench.exit();
                assert!(matches!(exit, Exit::Mmio(mmio) if mmio.gpa == DEVICE), "{exit:?}");
                assert_eq!(bench.cpu.gpr[RAX], 1);
                if let Some(what) = *what {
                    map(&bench, 0, SECOND, USED);
                    bench.engine.invalidate(what);
                }
                let exit = bench.engine.run(&mut bench.cpu, Entry::Complete(round));
                expect_hlt(&exit);
                let (page, other, value) =
                    if what.is_some() { (SECOND, FIRST, 12) } else { (FIRST, SECOND, 11) };
                assert_eq!((bench.cpu.gpr[RCX], bench.cpu.gpr[RDX]), (round, value), "{what:?}");
                assert_eq!(bench.ram.read_u64(page + 0x10).unwrap(), value);
                assert_eq!(bench.ram.read_u64(other + 0x10).unwrap(), 0);
            }
        }
    }
}

/// The access in the middle asks the engine for a page that takes the group's place in the software TLB.
#[test]
fn a_page_in_the_middle_takes_its_place() {
    let mut bench = two_pages(3);
    load(
        &mut bench,
        &[
            |a| a.mov(rax, qword_ptr(rbx)),
            |a| a.mov(r9, qword_ptr(rsi)),
            |a| a.add(rax, qword_ptr(rbx + 8)),
            |a| a.add(qword_ptr(rsi + 8), rax),
            |a| a.mov(qword_ptr(rbx + 0x10), r9),
        ],
    );
    map(&bench, 0, SECOND, USED);
    map(&bench, 1, FIRST, USED);
    for round in 0..200 {
        for (page, value) in [(FIRST, 1), (SECOND, 2)] {
            bench.ram.write_u64(page, value).unwrap();
            bench.ram.write_u64(page + 8, value * 10).unwrap();
        }
        if round % 3 == 0 {
            bench.engine.invalidate(Invalidation::AddressSpace);
        }
        // Only the first page's alias has its place.
        let (other, at, first, second) = [(SECOND, ALIAS, 2, 20), (FIRST, ALIAS + 0x1000, 1, 10)][round % 2];
        (bench.cpu.gpr[RBX], bench.cpu.gpr[RSI]) = (VIRTUAL, at);
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RAX], 22, "round {round}");
        assert_eq!(bench.ram.read_u64(other + 8).unwrap(), second + 22, "round {round}");
        assert_eq!(bench.ram.read_u64(SECOND + 0x10).unwrap(), first, "round {round}");
    }
}

/// The first access of a group is a device's, while its hint knows a page.
#[test]
fn a_device_at_the_beginning() {
    let mut bench = two_pages(3);
    load(&mut bench, &[|a| a.mov(rax, qword_ptr(rbx)), |a| a.mov(rcx, qword_ptr(rbx + 8))]);
    bench.ram.write_u64(FIRST, 1).unwrap();
    bench.ram.write_u64(FIRST + 8, 2).unwrap();
    for round in 0..4 {
        bench.cpu.gpr[RBX] = VIRTUAL;
        again(&mut bench);
        assert_eq!((bench.cpu.gpr[RAX], bench.cpu.gpr[RCX]), (1, 2));
        bench.cpu.gpr[RBX] = DEVICE;
        start(&mut bench);
        let mut exit = bench.exit();
        for n in 0..2 {
            assert!(matches!(exit, Exit::Mmio(mmio) if mmio.gpa == DEVICE + n * 8), "{exit:?}");
            exit = bench.engine.run(&mut bench.cpu, Entry::Complete(round + n));
        }
        expect_hlt(&exit);
        assert_eq!((bench.cpu.gpr[RAX], bench.cpu.gpr[RCX]), (round, round + 1));
    }
}
