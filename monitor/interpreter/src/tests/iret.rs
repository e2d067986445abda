//! IRET in every direction.

use x86::register::gpr;
use x86::{Cr4, Exception, Rflags, Segment, SegmentRegister, Vector};

use super::machine::{CODE32, CODE64, DATA, flat};
use super::{Bench, layout as l};
use crate::Outcome;

const IRETQ: &[u8] = &[0x48, 0xcf];
const IRET: &[u8] = &[0xcf];
const TARGET: u64 = 0x1_9000;

#[test]
fn to_ring_3_in_long_mode() {
    let mut bench = Bench::long(0);
    bench.cpu.nmi_blocked = true;
    bench.put(l::STACK, 8, &[TARGET, l::CODE64_3.into(), 0x21_0a46, 0x7fff_0000, l::DATA_3.into()]);
    bench.expect(IRETQ, |cpu| {
        cpu.rip = TARGET;
        cpu.nmi_blocked = false;
        cpu.gpr[gpr::RSP] = 0x7fff_0000;
        cpu.rflags = Rflags::from_bits_retain(0x21_0a46);
        cpu.segments = [Segment::default(); 6];
        *cpu.segment_mut(SegmentRegister::Cs) = flat(l::CODE64_3, CODE64);
        *cpu.segment_mut(SegmentRegister::Ss) = flat(l::DATA_3, DATA);
    });
}

#[test]
fn to_the_same_ring_with_a_null_stack_segment() {
    let mut bench = Bench::long(0);
    bench.put(l::STACK, 8, &[TARGET, l::CODE64_0.into(), 2, l::STACK + 0x40, 0]);
    bench.expect(IRETQ, |cpu| {
        cpu.rip = TARGET;
        cpu.gpr[gpr::RSP] = l::STACK + 0x40;
        *cpu.segment_mut(SegmentRegister::Ss) = Segment::default();
    });
    assert_eq!(bench.cpu.cpl(), 0);
}

#[test]
fn to_compatibility_mode() {
    let mut bench = Bench::long(0);
    bench.put(l::STACK, 8, &[TARGET, l::CODE32_3.into(), 2, 0xdead_beef_0000_1000, l::DATA_3.into()]);
    assert_eq!(bench.run(IRETQ), Ok(Outcome::Done));
    assert_eq!(bench.cpu.segment(SegmentRegister::Cs), &flat(l::CODE32_3, CODE32));
    // A 32-bit stack has no more of it.
    assert_eq!(bench.cpu.gpr[gpr::RSP], 0x1000);
}

#[test]
fn segments_of_ring_0_are_dropped_but_not_their_bases() {
    let mut bench = Bench::long(0);
    bench.cpu.segment_mut(SegmentRegister::Gs).base = 0x40_0000;
    bench.put(l::STACK, 8, &[TARGET, l::CODE64_3.into(), 2, l::STACK, l::DATA_3.into()]);
    assert_eq!(bench.run(IRETQ), Ok(Outcome::Done));
    let gs = Segment { base: 0x40_0000, ..Segment::default() };
    assert_eq!(*bench.cpu.segment(SegmentRegister::Gs), gs);
    assert_eq!(*bench.cpu.segment(SegmentRegister::Ds), Segment::default());
}

#[test]
fn ring_3_changes_neither_if_nor_iopl() {
    let mut bench = Bench::long(3);
    bench.cpu.rflags |= Rflags::IF;
    bench.put(l::STACK, 8, &[TARGET, l::CODE64_3.into(), 0x3002, l::STACK, l::DATA_3.into()]);
    bench.expect(IRETQ, |cpu| cpu.rip = TARGET);
}

#[test]
fn bad_frames_in_long_mode() {
    let cases: [([u64; 5], Exception); 8] = [
        ([TARGET, 0, 2, l::STACK, 0], Exception::gp(0)),
        // To an inner ring.
        ([TARGET, l::CODE64_3 as u64 - 3, 2, l::STACK, 0], Exception::gp(0x28)),
        ([1 << 60, l::CODE64_3.into(), 2, l::STACK, l::DATA_3.into()], Exception::gp(0)),
        ([TARGET, l::DATA_3.into(), 2, l::STACK, l::DATA_3.into()], Exception::gp(0x20)),
        ([TARGET, 0x203, 2, l::STACK, l::DATA_3.into()], Exception::gp(0x200)),
        // Ring 3 needs a stack segment of its own.
        ([TARGET, l::CODE64_3.into(), 2, l::STACK, 3], Exception::gp(0)),
        ([TARGET, l::CODE64_3.into(), 2, l::STACK, l::DATA_0.into()], Exception::gp(0x10)),
        ([TARGET, l::CODE64_0.into(), 2, l::STACK, l::ABSENT.into()], Exception::ss(0x68)),
    ];
    for (frame, fault) in cases {
        let mut bench = Bench::long(0);
        bench.put(l::STACK, 8, &frame);
        bench.expect_fault(IRETQ, fault);
    }
    let mut bench = Bench::long(0);
    bench.cpu.rflags |= Rflags::NT;
    bench.expect_fault(IRETQ, Exception::gp(0));
    let mut bench = Bench::long(3);
    bench.put(l::STACK, 8, &[TARGET, l::CODE64_0.into(), 2, l::STACK, 0]);
    bench.expect_fault(IRETQ, Exception::gp(l::CODE64_0.into()));
}

#[test]
fn protected_mode_same_and_outer_ring() {
    let mut bench = Bench::protected(0);
    bench.put(l::STACK, 4, &[TARGET, l::CODE32_0.into(), 0x202]);
    bench.expect(IRET, |cpu| {
        cpu.rip = TARGET;
        cpu.rflags |= Rflags::IF;
        cpu.gpr[gpr::RSP] += 12;
    });
    let mut bench = Bench::protected(0);
    bench.put(l::STACK, 4, &[TARGET, l::CODE32_3.into(), 0x3202, 0x8000, l::DATA_3.into()]);
    *bench.cpu.segment_mut(SegmentRegister::Fs) = flat(l::DATA_3, DATA);
    bench.expect(IRET, |cpu| {
        cpu.rip = TARGET;
        cpu.rflags |= Rflags::IF | Rflags::IOPL;
        cpu.gpr[gpr::RSP] = 0x8000;
        let kept = *cpu.segment(SegmentRegister::Fs);
        cpu.segments = [Segment::default(); 6];
        *cpu.segment_mut(SegmentRegister::Fs) = kept;
        *cpu.segment_mut(SegmentRegister::Cs) = flat(l::CODE32_3, CODE32);
        *cpu.segment_mut(SegmentRegister::Ss) = flat(l::DATA_3, DATA);
    });
    let mut bench = Bench::protected(0);
    bench.put(l::STACK, 4, &[TARGET, l::CODE16_0.into(), 2]);
    let fault = bench.run(IRET);
    assert_eq!(fault, Err(Exception::gp(0)), "beyond the limit of 64 KiB");
    bench.machine.set_descriptor(l::SPARE, 0x00cf_1b00_0000_ffff);
    bench.put(l::STACK, 4, &[TARGET, l::SPARE.into(), 2]);
    let absent = Exception::with_code(Vector::SegmentNotPresent, l::SPARE.into());
    bench.expect_fault(IRET, absent);
}

#[test]
fn a_16_bit_frame() {
    let mut bench = Bench::protected(0);
    bench.put(l::STACK, 2, &[0x9000, l::CODE32_0.into(), 0x0203]);
    bench.cpu.rflags |= Rflags::AC;
    bench.expect(&[0x66, 0xcf], |cpu| {
        cpu.rip = 0x9000;
        cpu.rflags |= Rflags::IF | Rflags::CF;
        cpu.gpr[gpr::RSP] += 6;
    });
}

#[test]
fn to_virtual_8086_mode_and_back_by_a_fault() {
    let mut bench = Bench::protected(0);
    let frame = [0x100, 0x1000, 0x2_0202, 0x7000, 0x9000, 1, 2, 3, 4];
    bench.put(l::STACK, 4, &frame);
    bench.expect(IRET, |cpu| {
        cpu.rip = 0x100;
        cpu.rflags = Rflags::VM | Rflags::IF | Rflags::FIXED;
        cpu.gpr[gpr::RSP] = 0x7000;
        let paragraph = |selector: u16| Segment {
            base: u64::from(selector) << 4,
            limit: 0xffff,
            selector,
            attributes: 0xf3,
        };
        // In the order of SegmentRegister: ES, CS, SS, DS, FS, GS.
        cpu.segments = [1, 0x1000, 0x9000, 2, 3, 4].map(paragraph);
    });
    assert_eq!(bench.cpu.cpl(), 3);
}

#[test]
fn in_real_and_virtual_8086_mode() {
    for mut bench in [Bench::real(), Bench::virtual_8086(3)] {
        bench.put(l::STACK, 2, &[0x34, 0x1200, 0x7202]);
        let iopl = !bench.cpu.rflags.contains(Rflags::VM);
        bench.expect(IRET, |cpu| {
            cpu.rip = 0x34;
            cpu.rflags |= Rflags::IF | Rflags::NT;
            if iopl {
                cpu.rflags |= Rflags::IOPL;
            }
            cpu.gpr[gpr::RSP] += 6;
            let cs = cpu.segment_mut(SegmentRegister::Cs);
            (cs.selector, cs.base) = (0x1200, 0x1_2000);
        });
    }
    let mut bench = Bench::virtual_8086(0);
    bench.expect_fault(IRET, Exception::gp(0));
    bench.cpu.cr4 |= Cr4::VME;
    bench.put(l::STACK, 2, &[0x34, 0x1200, 0x0202]);
    bench.expect(IRET, |cpu| {
        cpu.rip = 0x34;
        cpu.rflags |= Rflags::VIF;
        cpu.gpr[gpr::RSP] += 6;
        let cs = cpu.segment_mut(SegmentRegister::Cs);
        (cs.selector, cs.base) = (0x1200, 0x1_2000);
    });
}
