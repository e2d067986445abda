//! Innocuous instructions that 64-bit mode lacks.

use x86::register::gpr;
use x86::{Exception, Rflags, Segment, SegmentRegister, Vector};

use super::{Bench, layout as l};

/// AX and flags after an instruction, from AX and flags before.
fn adjust(bytes: &[u8], ax: u16, flags: Rflags) -> (u16, Rflags) {
    let mut bench = Bench::protected(3);
    bench.cpu.gpr[gpr::RAX] = 0xffff_0000 | u64::from(ax);
    bench.cpu.rflags |= flags;
    let mut after = (0, Rflags::empty());
    bench.run(bytes).unwrap();
    after.0 = bench.cpu.gpr[gpr::RAX] as u16;
    after.1 = bench.cpu.rflags & Rflags::STATUS;
    let mut expected = Bench::protected(3).cpu;
    expected.gpr[gpr::RAX] = 0xffff_0000 | u64::from(after.0);
    expected.rflags |= after.1;
    expected.rip += bytes.len() as u64;
    assert_eq!(bench.cpu, expected);
    after
}

#[test]
fn ascii_adjustments() {
    let none = Rflags::empty();
    let carried = Rflags::AF | Rflags::CF;
    assert_eq!(adjust(&[0x37], 0x000f, none), (0x0105, carried | Rflags::PF));
    assert_eq!(adjust(&[0x37], 0x00ff, none), (0x0205, carried | Rflags::PF));
    assert_eq!(adjust(&[0x37], 0x0010, none), (0x0000, Rflags::ZF | Rflags::PF));
    assert_eq!(adjust(&[0x37], 0x0001, Rflags::AF), (0x0107, carried));
    assert_eq!(adjust(&[0x3f], 0x020f, none), (0x0109, carried | Rflags::PF));
    assert_eq!(adjust(&[0x3f], 0x0203, none), (0x0203, Rflags::PF));
    // AAM and AAD with base 10 and 16.
    assert_eq!(adjust(&[0xd4, 10], 0x0043, Rflags::CF), (0x0607, none));
    assert_eq!(adjust(&[0xd4, 16], 0x00f0, none), (0x0f00, Rflags::ZF | Rflags::PF));
    assert_eq!(adjust(&[0xd5, 10], 0x0607, none), (0x0043, none));
    let mut bench = Bench::protected(3);
    bench.expect_fault(&[0xd4, 0], Exception::new(Vector::DivideError));
}

/// DAA and DAS from their definition in terms of decimal digits, for operands that are such.
#[test]
fn decimal_adjustments_of_every_sum() {
    let bcd = |value: u32| (value / 10 % 10 * 16 + value % 10) as u8;
    for a in 0..100 {
        for b in 0..100 {
            let sum = bcd(a).wrapping_add(bcd(b));
            let mut flags = Rflags::empty();
            flags.set(Rflags::CF, u32::from(bcd(a)) + u32::from(bcd(b)) > 0xff);
            flags.set(Rflags::AF, (bcd(a) & 15) + (bcd(b) & 15) > 15);
            let (ax, after) = adjust(&[0x27], sum.into(), flags);
            assert_eq!((ax as u8, after.contains(Rflags::CF)), (bcd(a + b), a + b > 99));
            let difference = bcd(a).wrapping_sub(bcd(b));
            let mut flags = Rflags::empty();
            flags.set(Rflags::CF, bcd(a) < bcd(b));
            flags.set(Rflags::AF, bcd(a) & 15 < bcd(b) & 15);
            let (ax, after) = adjust(&[0x2f], difference.into(), flags);
            assert_eq!((ax as u8, after.contains(Rflags::CF)), (bcd(100 + a - b), a < b));
        }
    }
}

#[test]
fn salc() {
    assert_eq!(adjust(&[0xd6], 0x1234, Rflags::CF), (0x12ff, Rflags::CF));
    assert_eq!(adjust(&[0xd6], 0x1234, Rflags::empty()), (0x1200, Rflags::empty()));
}

#[test]
fn pusha_and_popa() {
    let mut bench = Bench::protected(3);
    let before = bench.cpu.gpr;
    bench.expect(&[0x60], |cpu| cpu.gpr[gpr::RSP] -= 32);
    let mut pushed: Vec<u64> = before[..8].to_vec();
    pushed.reverse();
    assert_eq!(bench.stack(l::STACK - 32, 4, 8), pushed);
    bench.cpu.gpr[..4].fill(0);
    bench.cpu.gpr[5..8].fill(0);
    bench.expect(&[0x61], |cpu| cpu.gpr = before);
    // 16-bit, which leaves the upper halves.
    bench.put(l::STACK, 2, &[7, 6, 5, 99, 3, 2, 1, 0]);
    bench.expect(&[0x66, 0x61], |cpu| {
        for index in [0, 1, 2, 3, 5, 6, 7] {
            cpu.gpr[index] = cpu.gpr[index] & !0xffff | index as u64;
        }
        cpu.gpr[3] = cpu.gpr[3] & !0xffff | 3;
        cpu.gpr[gpr::RSP] += 16;
    });
}

#[test]
fn bound() {
    let mut bench = Bench::protected(3);
    bench.cpu.gpr[gpr::RAX] = l::DATA;
    bench.put(l::DATA, 4, &[-5_i64 as u64, 5]);
    for inside in [-5_i32, 0, 5] {
        bench.cpu.gpr[gpr::RCX] = u64::from(inside as u32);
        bench.expect(&[0x62, 0x08], |_| {});
    }
    for outside in [-6_i32, 6] {
        bench.cpu.gpr[gpr::RCX] = u64::from(outside as u32);
        bench.expect_fault(&[0x62, 0x08], Exception::new(Vector::BoundRange));
    }
    // The upper bound is out of reach; Intel's processors need none for an index below the lower.
    let ds = bench.cpu.segment_mut(SegmentRegister::Ds);
    ds.limit = l::DATA as u32 + 3;
    bench.cpu.gpr[gpr::RCX] = u64::from(-6_i32 as u32);
    bench.expect_fault(&[0x62, 0x08], Exception::gp(0));
    bench.machine.amd = false;
    bench.expect_fault(&[0x62, 0x08], Exception::new(Vector::BoundRange));
}

#[test]
fn enter() {
    let mut bench = Bench::long(3);
    let rbp = bench.cpu.gpr[gpr::RBP];
    bench.expect(&[0xc8, 0x10, 0, 0], |cpu| {
        cpu.gpr[gpr::RBP] = l::STACK - 8;
        cpu.gpr[gpr::RSP] = l::STACK - 8 - 16;
    });
    assert_eq!(bench.stack(l::STACK - 8, 8, 1), [rbp]);
    let mut bench = Bench::protected(3);
    bench.cpu.gpr[gpr::RBP] = l::DATA + 0x100;
    bench.put(l::DATA + 0xf8, 4, &[222, 111]);
    bench.expect(&[0xc8, 4, 0, 3], |cpu| {
        cpu.gpr[gpr::RBP] = l::STACK - 4;
        cpu.gpr[gpr::RSP] = l::STACK - 20;
    });
    assert_eq!(bench.stack(l::STACK - 16, 4, 4), [l::STACK - 4, 222, 111, l::DATA + 0x100]);
}

/// The frame pointer is the whole of ESP even where only SP is the stack's.
#[test]
fn enter_on_a_16_bit_stack() {
    let mut bench = Bench::protected(3);
    let high = 0xabcd_0000;
    let stack = bench.cpu.segment_mut(SegmentRegister::Ss);
    stack.base = l::STACK & !0xffff;
    stack.attributes &= !Segment::BIG;
    let top = high | l::STACK & 0xffff;
    bench.cpu.gpr[gpr::RSP] = top;
    bench.expect(&[0xc8, 4, 0, 1], |cpu| {
        cpu.gpr[gpr::RBP] = top - 4;
        cpu.gpr[gpr::RSP] = top - 12;
    });
    assert_eq!(bench.stack(l::STACK - 8, 4, 1), [top - 4]);
}

#[test]
fn clzero() {
    let mut bench = Bench::long(3);
    bench.put(l::DATA, 8, &[1; 24]);
    bench.cpu.gpr[gpr::RAX] = l::DATA + 0x47;
    bench.expect(&[0x0f, 0x01, 0xfc], |_| {});
    let mut expected = [1; 24];
    expected[8..16].fill(0);
    assert_eq!(bench.stack(l::DATA, 8, 24), expected);
}
