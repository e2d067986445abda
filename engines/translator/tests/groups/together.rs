//! Accesses of one group that lie in one page, in two, or one of them in both.

use iced_x86::code_asm::*;
use vcpu::{Engine, Invalidation};
use x86::register::gpr::*;

use crate::common::pages::*;
use crate::{asked, load, set_word, two_pages, word};

/// In one page, in two, and with a field that lies in both.
#[test]
fn fields() {
    for spilled in [false, true] {
        for at in [0x800, 0xfc0, 0xfc8, 0xfe0, 0xfe8, 0xff8, 0xff4, 0xfc4] {
            let mut bench = two_pages(3);
            let base = if spilled { r10 } else { rsi };
            bench.load(|a| {
                let mut top = a.create_label();
                a.set_label(&mut top).unwrap();
                a.mov(rax, qword_ptr(base + 0x10)).unwrap();
                a.add(rax, qword_ptr(base)).unwrap();
                a.mov(qword_ptr(base + 0x18), rax).unwrap();
                a.add(base, 8).unwrap();
                a.add(rax, qword_ptr(base + 0x18)).unwrap();
                a.sub(base, 0x10).unwrap();
                a.mov(qword_ptr(base + 0x30), rax).unwrap();
                a.lea(base, ptr(base + 8)).unwrap();
                a.inc(byte_ptr(base + 0x30)).unwrap();
                if !spilled {
                    // It cannot be named beside a register that needs a prefix.
                    a.add(byte_ptr(base + 0x31), ah).unwrap();
                }
                a.mov(r9, qword_ptr(base + rcx * 8)).unwrap();
                a.add(r9, qword_ptr(base + rcx * 8 + 8)).unwrap();
                a.mov(qword_ptr(base + rcx * 8 + 0x28), r9).unwrap();
                a.add(qword_ptr(base), r9).unwrap();
                a.dec(rdi).unwrap();
                a.jnz(top).unwrap();
            });
            let place = |n: u64| VIRTUAL + at + n * 8;
            let mut words: [u64; 8] = std::array::from_fn(|n| 0x0123_4567_89ab_cdef << n);
            (0..8).for_each(|n| set_word(&bench, place(n), words[n as usize]));
            let mut asked_before = 0;
            for rounds in [2, 1000] {
                asked_before = asked(&bench) - asked_before;
                let base = if spilled { R10 } else { RSI };
                (bench.cpu.gpr[base], bench.cpu.gpr[RCX], bench.cpu.gpr[RDI]) = (place(0), 2, rounds);
                again(&mut bench);
                for _ in 0..rounds {
                    words[3] = words[2].wrapping_add(words[0]);
                    words[5] = words[3].wrapping_add(words[4]);
                    let [_, high, ..] = words[5].to_le_bytes();
                    let mut bytes = words[6].to_le_bytes();
                    bytes[0] = bytes[0].wrapping_add(1);
                    bytes[1] = bytes[1].wrapping_add(if spilled { 0 } else { high });
                    words[6] = u64::from_le_bytes(bytes);
                    words[7] = words[2].wrapping_add(words[3]);
                    words[0] = words[0].wrapping_add(words[7]);
                }
                let found: [u64; 8] = std::array::from_fn(|n| word(&bench, place(n as u64)));
                assert_eq!(found, words, "at {at:#x}, {rounds} rounds, spilled: {spilled}");
                assert_eq!(bench.cpu.gpr[base], place(0));
            }
            let asked = asked(&bench) - asked_before;
            // A field across pages is the engine's each time.
            assert!(at % 8 != 0 || asked < 20, "asked {asked} times at {at:#x}");
        }
    }
}

#[test]
fn pushes_and_pops() {
    for ring in [0, 3] {
        for top in [0x800, 0x1000, 0x1008, 0x1010, 0x1018, 0x1030, 0x100c] {
            let mut bench = two_pages(ring);
            bench.load(|a| {
                let mut again = a.create_label();
                a.mov(rsp, rbx).unwrap();
                a.set_label(&mut again).unwrap();
                a.push(rax).unwrap();
                a.push(r9).unwrap();
                a.mov(rcx, qword_ptr(rsp + 8)).unwrap();
                a.add(qword_ptr(rsp), rcx).unwrap();
                a.push(7).unwrap();
                a.pop(rsi).unwrap();
                a.sub(rsp, 0x20).unwrap();
                a.mov(qword_ptr(rsp + 0x18), rsi).unwrap();
                a.push(rsp).unwrap();
                a.pop(rbp).unwrap();
                a.lea(rsp, ptr(rsp + 0x18)).unwrap();
                a.add(rsi, qword_ptr(rsp)).unwrap();
                a.add(rsp, 8).unwrap();
                a.pop(r9).unwrap();
                a.pop(rax).unwrap();
                a.add(rax, rsi).unwrap();
                a.dec(rdi).unwrap();
                a.jnz(again).unwrap();
            });
            let mut asked_before = 0;
            for rounds in [2, 1000] {
                asked_before = asked(&bench) - asked_before;
                let gpr = &mut bench.cpu.gpr;
                (gpr[RBX], gpr[RAX], gpr[R9], gpr[RDI]) = (VIRTUAL + top, 3, 5, rounds);
                again(&mut bench);
                let (mut a, mut b) = (3, 5);
                for _ in 0..rounds {
                    (a, b) = (a + 14, a + b);
                }
                let gpr = &bench.cpu.gpr;
                assert_eq!((gpr[RAX], gpr[R9]), (a, b), "ring {ring}, {top:#x}, {rounds} rounds");
                assert_eq!((gpr[RSP], gpr[RBP]), (VIRTUAL + top, VIRTUAL + top - 0x30));
            }
            let asked = asked(&bench) - asked_before;
            // The stack's hints ask once in 128 misses.
            assert!(top % 8 != 0 || asked < 100, "asked {asked} times at {top:#x}, ring {ring}");
        }
    }
}

/// Two kinds of base that go by the stack's hint: the second's page is not the first's.
#[test]
fn half_a_stack_pointer() {
    for ring in [0, 3] {
        let mut bench = two_pages(ring);
        load(
            &mut bench,
            &[
                |a| a.mov(rsp, rbx),
                |a| a.mov(rax, qword_ptr(rsp)),
                |a| a.mov(rcx, qword_ptr(esp + 0x1000)),
                |a| a.mov(rdx, qword_ptr(rsp + 8)),
                |a| a.mov(qword_ptr(rsp + 0x10), rdx),
                |a| a.mov(qword_ptr(esp + 0x1008), rcx),
                |a| a.mov(qword_ptr(rsp + 0x18), rax),
            ],
        );
        bench.cpu.gpr[RBX] = VIRTUAL;
        for round in 1..5 {
            let words =
                [(0, round), (8, round + 10), (0x1000, round + 20), (0x1008, 0), (0x1010, 0), (0x1018, 0)];
            words.into_iter().for_each(|(at, value)| set_word(&bench, VIRTUAL + at, value));
            again(&mut bench);
            assert_eq!(
                [RAX, RCX, RDX].map(|n| bench.cpu.gpr[n]),
                [round, round + 20, round + 10],
                "ring {ring}"
            );
            let written = [0x10, 0x18, 0x1008].map(|at| word(&bench, VIRTUAL + at));
            assert_eq!(written, [round + 10, round, round + 20], "ring {ring}, round {round}");
            assert_eq!([0x1010, 0x1018].map(|n| word(&bench, VIRTUAL + n)), [0, 0]);
        }
    }
}

/// Changed code is changed where its groups are checked apart, too.
#[test]
fn code_that_changes_where_it_is_apart() {
    let mut bench = two_pages(3);
    let places = load(
        &mut bench,
        &[|a| a.mov(rax, qword_ptr(rbx)), |a| a.mov(ecx, 1), |a| a.mov(qword_ptr(rbx + 8), rcx)],
    );
    bench.cpu.gpr[RBX] = VIRTUAL + 0xff8;
    for round in 1..8u32 {
        bench.ram.write(places[1] + 1, &round.to_le_bytes()).unwrap();
        bench.engine.invalidate(Invalidation::Code { gpa: places[1] + 1, len: 4 });
        for _ in 0..3 {
            again(&mut bench);
            assert_eq!(word(&bench, VIRTUAL + 0x1000), u64::from(round));
        }
    }
}
