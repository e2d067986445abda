//! Far jumps, calls and returns.

use x86::register::gpr;
use x86::{Exception, Segment, SegmentRegister, Vector};

use super::machine::{CODE32, CODE64, DATA, flat};
use super::{Bench, layout as l};

const TARGET: u32 = 0x1_9000;

fn direct(opcode: u8, selector: u16, offset: u32) -> Vec<u8> {
    let mut bytes = vec![opcode];
    bytes.extend(offset.to_le_bytes());
    bytes.extend(selector.to_le_bytes());
    bytes
}

fn jump(selector: u16) -> Vec<u8> {
    direct(0xea, selector, TARGET)
}

fn call(selector: u16) -> Vec<u8> {
    direct(0x9a, selector, TARGET)
}

fn call_gate(selector: u16, offset: u64, kind: u8, parameters: u8) -> u64 {
    (offset & 0xffff)
        | u64::from(selector) << 16
        | u64::from(parameters) << 32
        | u64::from(kind) << 40
        | (offset >> 16 & 0xffff) << 48
}

#[test]
fn real_mode() {
    let mut bench = Bench::real();
    bench.expect(&[0xea, 0x34, 0x12, 0x00, 0x20], |cpu| {
        cpu.rip = 0x1234;
        let cs = cpu.segment_mut(SegmentRegister::Cs);
        (cs.selector, cs.base) = (0x2000, 0x2_0000);
    });
    bench.expect(&[0x9a, 0x00, 0x01, 0x00, 0x30], |cpu| {
        cpu.rip = 0x100;
        cpu.gpr[gpr::RSP] -= 4;
        let cs = cpu.segment_mut(SegmentRegister::Cs);
        (cs.selector, cs.base) = (0x3000, 0x3_0000);
    });
    assert_eq!(bench.stack(l::STACK - 4, 2, 2), [0x1239, 0x2000]);
    // retf 2
    bench.expect(&[0xca, 2, 0], |cpu| {
        cpu.rip = 0x1239;
        cpu.gpr[gpr::RSP] += 6;
        let cs = cpu.segment_mut(SegmentRegister::Cs);
        (cs.selector, cs.base) = (0x2000, 0x2_0000);
    });
    // A 32-bit offset beyond 64 KiB.
    let mut far = vec![0x66, 0xea];
    far.extend([0, 0, 1, 0, 0, 0x20]);
    bench.expect_fault(&far, Exception::gp(0));
}

#[test]
fn protected_mode_to_16_bit_code() {
    let mut bench = Bench::protected(0);
    bench.expect_fault(&jump(l::CODE16_0), Exception::gp(0));
    bench.expect(&direct(0xea, l::CODE16_0, 0x9000), |cpu| {
        cpu.rip = 0x9000;
        *cpu.segment_mut(SegmentRegister::Cs) =
            Segment { base: 0, limit: 0xffff, selector: l::CODE16_0, attributes: 0x9b };
    });
}

#[test]
fn protected_mode_checks() {
    let mut bench = Bench::protected(3);
    for (selector, fault) in [
        (0, Exception::gp(0)),
        (l::DATA_3, Exception::gp(0x20)),
        (l::CODE32_0, Exception::gp(0x40)),
        (0x203, Exception::gp(0x200)),
    ] {
        bench.expect_fault(&jump(selector), fault);
        bench.expect_fault(&call(selector), fault);
    }
    bench.machine.set_descriptor(l::SPARE, 0x00cf_7b00_0000_ffff);
    let absent = Exception::with_code(Vector::SegmentNotPresent, l::SPARE.into());
    bench.expect_fault(&jump(l::SPARE | 3), absent);
    // Conforming code is entered without a change of ring.
    bench.expect(&call(l::CONFORMING), |cpu| {
        cpu.rip = TARGET.into();
        cpu.gpr[gpr::RSP] -= 8;
        *cpu.segment_mut(SegmentRegister::Cs) =
            Segment { base: 0, limit: u32::MAX, selector: l::CONFORMING | 3, attributes: 0xc09f };
    });
    assert_eq!(bench.stack(l::STACK - 8, 4, 2), [l::CODE + 7, l::CODE32_3.into()]);
    // and left by RETF.
    bench.expect(&[0xcb], |cpu| {
        cpu.rip = l::CODE + 7;
        cpu.gpr[gpr::RSP] += 8;
        *cpu.segment_mut(SegmentRegister::Cs) = flat(l::CODE32_3, CODE32);
    });
}

#[test]
fn through_a_call_gate_to_ring_0_and_back() {
    let mut bench = Bench::protected(3);
    bench.machine.set_descriptor(l::SPARE, call_gate(l::CODE32_0, 0x1_9000, 0xec, 2));
    bench.put(l::STACK, 4, &[11, 22]);
    bench.expect(&call(l::SPARE | 3), |cpu| {
        cpu.rip = 0x1_9000;
        cpu.gpr[gpr::RSP] = l::STACK_0 - 24;
        *cpu.segment_mut(SegmentRegister::Cs) = flat(l::CODE32_0, CODE32);
        *cpu.segment_mut(SegmentRegister::Ss) = flat(l::DATA_0, DATA);
    });
    let frame = [l::CODE + 7, l::CODE32_3.into(), 11, 22, l::STACK, l::DATA_3.into()];
    assert_eq!(bench.stack(l::STACK_0 - 24, 4, 6), frame);
    *bench.cpu.segment_mut(SegmentRegister::Fs) = flat(l::DATA_0, DATA);
    bench.expect(&[0xca, 8, 0], |cpu| {
        cpu.rip = l::CODE + 7;
        cpu.gpr[gpr::RSP] = l::STACK + 8;
        *cpu.segment_mut(SegmentRegister::Cs) = flat(l::CODE32_3, CODE32);
        *cpu.segment_mut(SegmentRegister::Ss) = flat(l::DATA_3, DATA);
        *cpu.segment_mut(SegmentRegister::Fs) = Segment::default();
    });
    // A jump through it may not change the ring, and the gate's DPL counts.
    bench.expect_fault(&jump(l::SPARE | 3), Exception::gp(l::CODE32_0.into()));
    bench.machine.set_descriptor(l::SPARE, call_gate(l::CODE32_0, 0x1_9000, 0x8c, 0));
    bench.expect_fault(&call(l::SPARE | 3), Exception::gp(l::SPARE.into()));
}

#[test]
fn through_a_16_bit_call_gate_in_the_same_ring() {
    let mut bench = Bench::protected(0);
    bench.machine.set_descriptor(l::SPARE, call_gate(l::CODE32_0, 0xffff_9000, 0x84, 3));
    bench.expect(&call(l::SPARE), |cpu| {
        cpu.rip = 0x9000;
        cpu.gpr[gpr::RSP] -= 4;
    });
    assert_eq!(bench.stack(l::STACK - 4, 2, 2), [(l::CODE + 7) & 0xffff, l::CODE32_0.into()]);
}

#[test]
fn between_compatibility_and_64_bit_mode() {
    let mut bench = Bench::compatibility();
    bench.expect(&jump(l::CODE64_3), |cpu| {
        cpu.rip = TARGET.into();
        *cpu.segment_mut(SegmentRegister::Cs) = flat(l::CODE64_3, CODE64);
    });
    // jmp far [rax], 32-bit pointer
    bench.cpu.gpr[gpr::RAX] = l::DATA;
    bench.machine.poke(l::DATA, 6, u64::from(l::CODE32_3) << 32 | 0x4567);
    bench.expect(&[0xff, 0x28], |cpu| {
        cpu.rip = 0x4567;
        *cpu.segment_mut(SegmentRegister::Cs) = flat(l::CODE32_3, CODE32);
    });
    // L and D together are no code segment in long mode.
    bench.machine.set_descriptor(l::SPARE, 0x00ef_fb00_0000_ffff);
    bench.expect_fault(&jump(l::SPARE | 3), Exception::gp(l::SPARE.into()));
}

#[test]
fn through_a_64_bit_call_gate() {
    let mut bench = Bench::long(3);
    bench.machine.set_descriptor(l::SPARE, call_gate(l::CODE64_0, 0x1_9000, 0xec, 0));
    bench.machine.poke(l::GDT + u64::from(l::SPARE) + 8, 8, 0xffff_8000);
    bench.cpu.gpr[gpr::RAX] = l::DATA;
    bench.machine.poke(l::DATA, 6, u64::from(l::SPARE | 3) << 32);
    bench.expect(&[0xff, 0x18], |cpu| {
        cpu.rip = 0xffff_8000_0001_9000;
        cpu.gpr[gpr::RSP] = l::STACK_0 - 32;
        *cpu.segment_mut(SegmentRegister::Cs) = flat(l::CODE64_0, CODE64);
        *cpu.segment_mut(SegmentRegister::Ss) = Segment::default();
    });
    let frame = [l::CODE + 2, l::CODE64_3.into(), l::STACK, l::DATA_3.into()];
    assert_eq!(bench.stack(l::STACK_0 - 32, 8, 4), frame);
    // retfq
    bench.expect(&[0x48, 0xcb], |cpu| {
        cpu.rip = l::CODE + 2;
        cpu.gpr[gpr::RSP] = l::STACK;
        *cpu.segment_mut(SegmentRegister::Cs) = flat(l::CODE64_3, CODE64);
        *cpu.segment_mut(SegmentRegister::Ss) = flat(l::DATA_3, DATA);
    });
    // A type in the upper half.
    bench.machine.poke(l::GDT + u64::from(l::SPARE) + 13, 1, 1);
    bench.expect_fault(&[0xff, 0x18], Exception::gp(l::SPARE.into()));
}

#[test]
fn far_returns_are_checked() {
    let mut bench = Bench::long(3);
    for (selector, fault) in [
        (l::CODE64_0, Exception::gp(l::CODE64_0.into())),
        (0, Exception::gp(0)),
        (l::DATA_3, Exception::gp(0x20)),
    ] {
        bench.put(l::STACK, 8, &[0x1_9000, selector.into()]);
        bench.expect_fault(&[0x48, 0xcb], fault);
    }
    bench.put(l::STACK, 8, &[1 << 50, l::CODE64_3.into()]);
    bench.expect_fault(&[0x48, 0xcb], Exception::gp(0));
}

#[test]
fn there_are_no_tasks_in_long_mode() {
    let mut long = Bench::compatibility();
    long.expect_fault(&jump(l::TSS_SELECTOR | 3), Exception::gp(l::TSS_SELECTOR.into()));
}
