//! Flags that are put by to the end of a block.

use iced_x86::code_asm::*;
use vcpu::{Engine, Entry, Exit, Invalidation};
use x86::register::gpr::*;
use x86::{Cr0, Exception, Rflags};

use crate::common::pages::*;
use crate::common::{Bench, CODE, DATA, assemble};
use crate::{DEVICE, HELD_BY_NONE, Program, absent, expect_hlt, load, set_word, start, two_pages};

const NUMBERS: [(u64, u64); 5] = [(1, 2), (2, 2), (i64::MIN as u64, 1), (0x10, 1), (u64::MAX, 3)];

/// The flags that a comparison sets.
fn compared(a: u64, b: u64) -> Rflags {
    let result = a.wrapping_sub(b);
    let mut flags = Rflags::empty();
    flags.set(Rflags::CF, a < b);
    flags.set(Rflags::ZF, a == b);
    flags.set(Rflags::SF, (result as i64) < 0);
    flags.set(Rflags::OF, (a as i64).checked_sub(b as i64).is_none());
    flags.set(Rflags::PF, (result as u8).count_ones().is_multiple_of(2));
    flags.set(Rflags::AF, a & 15 < b & 15);
    flags
}

fn status(bench: &Bench) -> Rflags {
    bench.cpu.rflags & Rflags::STATUS
}

#[test]
fn flags_outlive_pops_and_far_jumps() {
    for ring in [0, 3] {
        // The pops in one page, in two, and one of them in both.
        for top in [0x800, 0x1000, 0x1008, 0x1010, 0x100c] {
            let mut bench = two_pages(ring);
            map(&bench, 2, DATA + 0x8_0000, 0);
            map(&bench, 3, DATA + 0x9_0000, 0);
            let callee = assemble(64, VIRTUAL + 0x2000, |a| {
                a.push(rbp).unwrap();
                a.push(r9).unwrap();
                a.cmp(rax, rcx).unwrap();
                a.mov(r10, qword_ptr(rsp + 8)).unwrap();
                a.pop(r9).unwrap();
                a.pop(rbp).unwrap();
                a.call(VIRTUAL + 0x3000).unwrap();
                a.hlt().unwrap();
            });
            let target = assemble(64, VIRTUAL + 0x3000, |a| {
                a.setc(dl).unwrap();
                a.mov(rsi, qword_ptr(rsp)).unwrap();
                a.lea(rsp, ptr(rsp + 8)).unwrap();
                a.ret().unwrap();
            });
            bench.ram.write(DATA + 0x8_0000, &callee).unwrap();
            bench.ram.write(DATA + 0x9_0000, &target).unwrap();
            load(&mut bench, &[|a| a.mov(rsp, rbx), |a| a.call(rdi), |a| a.setc(dh), |a| a.lahf()]);
            for _ in 0..3 {
                for (a, b) in NUMBERS {
                    let gpr = &mut bench.cpu.gpr;
                    (gpr[RBX], gpr[RDI], gpr[RAX], gpr[RCX]) = (VIRTUAL + top, VIRTUAL + 0x2000, a, b);
                    (gpr[RDX], gpr[RBP], gpr[R9]) = (0, 8, 9);
                    again(&mut bench);
                    let flags = compared(a, b);
                    assert_eq!(status(&bench), flags, "ring {ring}, {top:#x}");
                    let gpr = &bench.cpu.gpr;
                    let carry = u64::from(flags.contains(Rflags::CF));
                    assert_eq!(gpr[RDX], carry << 8 | carry);
                    let low = (flags - Rflags::OF).bits() | 2;
                    assert_eq!(gpr[RAX] >> 8 & 0xff, low, "lahf");
                    assert_eq!((gpr[RBP], gpr[R9], gpr[R10]), (8, 9, 8));
                    assert_eq!(gpr[RSI] >> 12, (VIRTUAL + 0x2000) >> 12);
                    assert_eq!(gpr[RSP], VIRTUAL + top);
                }
            }
        }
    }
}

/// Each pop of a run may be the one that faults.
#[test]
fn flags_at_a_fault() {
    for ring in [0, 3] {
        let mut bench = two_pages(ring);
        let places = load(
            &mut bench,
            &[
                |a| a.mov(rsp, rbx),
                |a| a.cmp(rax, rcx),
                |a| a.pop(rsi),
                |a| a.pop(rdi),
                |a| a.pop(r9),
                |a| a.ret(),
            ],
        );
        let below = VIRTUAL + 0x2000;
        let absent = Exception::page_fault(below, absent(ring, false));
        let cases = (0..4).map(|n| (below - 8 * n, absent, n));
        let nowhere =
            [1 << 63, HELD_BY_NONE, HELD_BY_NONE + 0xff0, HELD_BY_NONE - 8, 1 << 47, !(1 << 47) - 7];
        let cases = cases.chain(nowhere.map(|top| (top, Exception::ss(0), 0)));
        let cases: Vec<_> = cases.collect();
        for _ in 0..4 {
            for (n, (a, b)) in NUMBERS.into_iter().enumerate() {
                for (top, fault, pops) in &cases {
                    let gpr = &mut bench.cpu.gpr;
                    (gpr[RBX], gpr[RAX], gpr[RCX]) = (*top, a, b);
                    (gpr[RSI], gpr[RDI], gpr[R9]) = (0x77, 0x77, 0x77);
                    if *fault == Exception::ss(0) {
                        // The processor finds it, since an empty hint adds nothing.
                        bench.engine.invalidate(Invalidation::AddressSpace);
                    }
                    start(&mut bench);
                    assert_eq!(bench.fault(), *fault, "ring {ring}, {top:#x}, numbers {n}");
                    assert_eq!(status(&bench), compared(a, b), "ring {ring}, {top:#x}");
                    assert_eq!(bench.cpu.rip, places[2 + *pops as usize]);
                    assert_eq!(bench.cpu.gpr[RSP], top + pops * 8);
                    let untouched = [RSI, RDI, R9].into_iter().filter(|reg| bench.cpu.gpr[*reg] == 0x77);
                    assert_eq!(untouched.count() as u64, 3 - pops);
                }
            }
        }
    }
}

/// The engine is asked in the middle of what leaves flags alone.
#[test]
fn flags_at_a_device() {
    for ring in [0, 3] {
        let mut bench = two_pages(ring);
        let places = load(
            &mut bench,
            &[
                |a| a.mov(rsp, rbx),
                |a| a.cmp(rax, rcx),
                |a| a.pop(rsi),
                |a| a.mov(rdi, qword_ptr(rdx)),
                |a| a.pop(r9),
                |a| a.ret(),
            ],
        );
        bench.ram.write(CODE + 0x1800, &[0xf4]).unwrap();
        for top in [VIRTUAL + 0x800, VIRTUAL + 0xff0, VIRTUAL + 0xff8] {
            [4, 5, CODE + 0x1800]
                .into_iter()
                .zip(0..)
                .for_each(|(value, n)| set_word(&bench, top + n * 8, value));
            for (a, b) in NUMBERS.repeat(2) {
                let gpr = &mut bench.cpu.gpr;
                (gpr[RBX], gpr[RAX], gpr[RCX], gpr[RDX]) = (top, a, b, DEVICE);
                start(&mut bench);
                let exit = bench.exit();
                assert!(matches!(exit, Exit::Mmio(mmio) if mmio.gpa == DEVICE), "{exit:?}");
                assert_eq!((bench.cpu.rip, status(&bench)), (places[3], compared(a, b)));
                let exit = bench.engine.run(&mut bench.cpu, Entry::Complete(6));
                expect_hlt(&exit);
                assert_eq!((bench.cpu.rip, status(&bench)), (CODE + 0x1800, compared(a, b)));
                assert_eq!([RSI, RDI, R9].map(|n| bench.cpu.gpr[n]), [4, 6, 5]);
            }
        }
    }
}

/// A kernel gives a task its vector registers when it first uses them: be that at the first of a group, or at another.
#[test]
fn vectors_that_are_not_there_yet() {
    let parts: [Program; 5] = [
        |a| a.cmp(rax, rcx),
        |a| a.movups(xmm0, xmmword_ptr(rsp)),
        |a| a.pop(rsi),
        |a| a.movups(xmm1, xmmword_ptr(rsp)),
        |a| a.pop(rdi),
    ];
    for ring in [0, 3] {
        for first in [1, 3] {
            for top in [VIRTUAL + 0x800, VIRTUAL + 0xff8] {
                let mut bench = two_pages(ring);
                let mut parts = parts.to_vec();
                if first == 3 {
                    parts.remove(1);
                }
                parts.insert(0, |a| a.mov(rsp, rbx));
                parts.push(|a| a.ret());
                let places = load(&mut bench, &parts);
                let traps = parts.len() - if first == 3 { 3 } else { 5 };
                for (a, b) in NUMBERS {
                    set_word(&bench, top, 5);
                    set_word(&bench, top + 8, 6);
                    set_word(&bench, top + 0x10, *places.last().unwrap());
                    let gpr = &mut bench.cpu.gpr;
                    (gpr[RBX], gpr[RAX], gpr[RCX], gpr[RSI]) = (top, a, b, 0);
                    bench.cpu.cr0 |= Cr0::TS;
                    start(&mut bench);
                    assert_eq!(bench.fault(), Exception::NM);
                    assert_eq!((bench.cpu.rip, status(&bench)), (places[traps], compared(a, b)));
                    assert_eq!(bench.cpu.gpr[RSI], if first == 3 { 5 } else { 0 });
                    bench.cpu.cr0 -= Cr0::TS;
                    let exit = bench.exit();
                    expect_hlt(&exit);
                    assert_eq!(status(&bench), compared(a, b));
                    assert_eq!((bench.cpu.gpr[RSI], bench.cpu.gpr[RDI]), (5, 6));
                }
            }
        }
    }
}
