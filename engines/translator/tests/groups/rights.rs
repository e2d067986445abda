//! Groups of which some accesses may not be made: those before are done, the one at fault is not.

use iced_x86::code_asm::*;
use vcpu::{Engine, Invalidation};
use x86::Exception;
use x86::register::gpr::*;

use crate::common::pages::*;
use crate::common::{Bench, CODE};
use crate::{
    DIRTY, FIRST, HELD_BY_NONE, Program, SECOND, absent, expect_hlt, load, set_word, start, two_pages, word,
};

#[test]
fn a_follower_meets_an_absent_page() {
    for warm in [false, true] {
        for write in [false, true] {
            let mut bench = two_pages(3);
            let last: Program = match write {
                true => |a| a.add(qword_ptr(rbx + 0x18), 1),
                false => |a| a.xchg(qword_ptr(rbx + 0x18), rcx),
            };
            let places = load(
                &mut bench,
                &[
                    |a| a.mov(rax, qword_ptr(rbx + 8)),
                    |a| a.mov(qword_ptr(rbx), rax),
                    |a| a.cmp(rax, 0),
                    last,
                    |a| a.mov(qword_ptr(rbx + 0x10), 0),
                ],
            );
            bench.cpu.gpr[RBX] = VIRTUAL + 0xfe8;
            if warm {
                (0..4).for_each(|_| again(&mut bench));
            }
            bench.ram.write_u64(TABLE + 8, 0).unwrap();
            bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL + 0x1000 });
            for value in 1..8 {
                set_word(&bench, VIRTUAL + 0xff0, value);
                set_word(&bench, VIRTUAL + 0xff8, value);
                bench.cpu.gpr[RCX] = 77;
                start(&mut bench);
                let fault = Exception::page_fault(VIRTUAL + 0x1000, absent(3, true));
                assert_eq!(bench.fault(), fault, "warm: {warm}, write: {write}");
                assert_eq!(bench.cpu.rip, places[3]);
                assert_eq!((bench.cpu.gpr[RAX], bench.cpu.gpr[RCX]), (value, 77));
                assert_eq!(word(&bench, VIRTUAL + 0xfe8), value);
                assert_eq!(word(&bench, VIRTUAL + 0xff8), value, "the one behind it");
            }
            // Once it is there, it goes on where it was.
            map(&bench, 1, SECOND, 0);
            set_word(&bench, VIRTUAL + 0x1000, 40);
            let exit = bench.exit();
            expect_hlt(&exit);
            assert_eq!(word(&bench, VIRTUAL + 0x1000), if write { 41 } else { 77 });
            assert_eq!(word(&bench, VIRTUAL + 0xff8), 0);
        }
    }
}

/// The stack's, which has groups in ring 0 too: what lies lower is absent.
#[test]
fn a_push_meets_an_absent_page() {
    for ring in [0, 3] {
        let mut bench = two_pages(ring);
        let places = load(&mut bench, &[|a| a.mov(rsp, rbx), |a| a.push(rax), |a| a.push(rcx)]);
        bench.cpu.gpr[RBX] = VIRTUAL + 0x1008;
        for value in 1..8 {
            bench.ram.write_u64(TABLE, 0).unwrap();
            bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL });
            (bench.cpu.gpr[RAX], bench.cpu.gpr[RCX]) = (value, value + 100);
            start(&mut bench);
            assert_eq!(bench.fault(), Exception::page_fault(VIRTUAL + 0xff8, absent(ring, true)));
            assert_eq!((bench.cpu.rip, bench.cpu.gpr[RSP]), (places[2], VIRTUAL + 0x1000));
            assert_eq!(word(&bench, VIRTUAL + 0x1000), value);
            map(&bench, 0, FIRST, 0);
            let exit = bench.exit();
            expect_hlt(&exit);
            assert_eq!(word(&bench, VIRTUAL + 0xff8), value + 100);
            again(&mut bench);
        }
    }
}

#[test]
fn reads_pass_where_the_write_faults() {
    let mut bench = two_pages(3);
    let places = load(
        &mut bench,
        &[
            |a| a.mov(rax, qword_ptr(rbx)),
            |a| a.mov(rcx, qword_ptr(rbx + 8)),
            |a| a.mov(qword_ptr(rbx + 0x10), rax),
            |a| a.mov(rdx, qword_ptr(rbx + 0x10)),
        ],
    );
    bench.cpu.gpr[RBX] = VIRTUAL + 0x100;
    for round in 1..8 {
        // Read only and shared, then a copy that may be written, as after a fork.
        bench.ram.write_u64(TABLE, FIRST | PRESENT | USER).unwrap();
        bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL });
        bench.ram.write_u64(FIRST + 0x100, round).unwrap();
        bench.ram.write_u64(FIRST + 0x108, round + 100).unwrap();
        bench.ram.write_u64(FIRST + 0x110, 55).unwrap();
        start(&mut bench);
        assert_eq!(bench.fault(), Exception::page_fault(VIRTUAL + 0x110, 7), "user, write, present");
        assert_eq!(bench.cpu.rip, places[2]);
        assert_eq!((bench.cpu.gpr[RAX], bench.cpu.gpr[RCX]), (round, round + 100));
        bench.ram.write_u64(SECOND + 0x100, round + 200).unwrap();
        map(&bench, 0, SECOND, 0);
        bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL });
        let exit = bench.exit();
        expect_hlt(&exit);
        assert_eq!(bench.cpu.gpr[RDX], round);
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RDX], round + 200);
        assert_eq!(bench.ram.read_u64(SECOND + 0x110).unwrap(), round + 200);
        assert_eq!(bench.ram.read_u64(FIRST + 0x110).unwrap(), 55, "the shared one");
    }
}

/// A page is not dirty until it is written, though another access was checked for that before.
#[test]
fn a_write_that_is_not_reached() {
    let mut bench = two_pages(3);
    let places = load(
        &mut bench,
        &[|a| a.mov(rax, qword_ptr(rbx)), |a| a.mov(rcx, qword_ptr(rsi)), |a| a.mov(qword_ptr(rbx + 8), rcx)],
    );
    (bench.cpu.gpr[RBX], bench.cpu.gpr[RSI]) = (VIRTUAL, VIRTUAL + 0x1000);
    let is_dirty = |bench: &Bench| bench.ram.read_u64(TABLE).unwrap() & DIRTY != 0;
    for _ in 0..6 {
        map(&bench, 0, FIRST, 0);
        bench.ram.write_u64(TABLE + 8, 0).unwrap();
        bench.engine.invalidate(Invalidation::AddressSpace);
        start(&mut bench);
        assert_eq!(bench.fault(), Exception::page_fault(VIRTUAL + 0x1000, absent(3, false)));
        assert_eq!(bench.cpu.rip, places[1]);
        assert!(!is_dirty(&bench));
        map(&bench, 1, SECOND, 0);
        let exit = bench.exit();
        expect_hlt(&exit);
        assert!(is_dirty(&bench));
    }
}

#[test]
fn bases_that_are_not_canonical() {
    let programs: [(&[Program], Exception); 3] = [
        (
            &[
                |a| a.mov(rax, qword_ptr(rbx + 8)),
                |a| a.mov(qword_ptr(rbx), rax),
                |a| a.mov(rcx, qword_ptr(rbx + 0x10)),
            ],
            Exception::gp(0),
        ),
        (&[|a| a.mov(qword_ptr(rbp + 8), rax), |a| a.mov(rcx, qword_ptr(rbp))], Exception::ss(0)),
        (
            &[|a| a.mov(rax, qword_ptr(rbx + rdx * 2 + 8)), |a| a.mov(rcx, qword_ptr(rbx + rdx * 2))],
            Exception::gp(0),
        ),
    ];
    for (program, fault) in programs {
        let mut bench = two_pages(3);
        load(&mut bench, program);
        (bench.cpu.gpr[RAX], bench.cpu.gpr[RDX]) = (5, 0);
        for _ in 0..4 {
            let nowhere =
                [HELD_BY_NONE, HELD_BY_NONE + 0xff0, HELD_BY_NONE - 8, 1 << 63, 1 << 47, !(1 << 47) - 0x20];
            for base in nowhere {
                // With the hint empty and full.
                bench.engine.invalidate(Invalidation::AddressSpace);
                for (base, faults) in [(base, true), (VIRTUAL, false), (base, true)] {
                    (bench.cpu.gpr[RBX], bench.cpu.gpr[RBP]) = (base, base);
                    if !faults {
                        again(&mut bench);
                        continue;
                    }
                    start(&mut bench);
                    assert_eq!(bench.fault(), fault, "{base:#x}");
                    assert_eq!(bench.cpu.rip, CODE, "{base:#x}");
                }
            }
        }
    }
}

/// A group whose first field is in the last page there is below the hole, and the second in the hole.
#[test]
fn a_follower_that_is_not_canonical() {
    let mut bench = two_pages(3);
    let tables = [0x8000 + 255 * 8, 0xc000 + 511 * 8, 0xd000 + 511 * 8, 0xe000 + 511 * 8];
    for (entry, to) in tables.into_iter().zip([0xc000, 0xd000, 0xe000, FIRST]) {
        bench.ram.write_u64(entry, to | 7).unwrap();
    }
    let places = load(
        &mut bench,
        &[
            |a| a.mov(rax, qword_ptr(rbx)),
            |a| a.mov(qword_ptr(rbx - 8), rax),
            |a| a.mov(rcx, qword_ptr(rbx + 8)),
        ],
    );
    bench.ram.write_u64(FIRST + 0xff8, 42).unwrap();
    for _ in 0..6 {
        bench.ram.write_u64(FIRST + 0xff0, 0).unwrap();
        bench.cpu.gpr[RBX] = (1 << 47) - 8;
        start(&mut bench);
        assert_eq!(bench.fault(), Exception::gp(0));
        assert_eq!((bench.cpu.rip, bench.cpu.gpr[RAX]), (places[2], 42));
        assert_eq!(bench.ram.read_u64(FIRST + 0xff0).unwrap(), 42);
    }
}
