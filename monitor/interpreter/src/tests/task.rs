//! Hardware task switches.

use vcpu::{Event, Invalidation};
use x86::register::gpr;
use x86::{Cr0, Exception, Rflags, Segment, SegmentRegister, Vector};

use super::machine::{CODE32, DATA, flat};
use super::{Bench, layout as l};
use crate::Outcome;

/// The other task's segment, its selector, and what its registers are.
const OTHER: u64 = 0x9000;
const OTHER_SELECTOR: u16 = l::SPARE;
const OTHER_RIP: u64 = 0x1_2000;
const OTHER_STACK: u64 = 0xe000;
const BUSY: u64 = 1 << 41;
const IRET: &[u8] = &[0xcf];

fn far(opcode: u8, selector: u16) -> [u8; 7] {
    let [low, high] = selector.to_le_bytes();
    // The offset counts for nothing.
    [opcode, 0xf4, 0xf4, 0xf4, 0xf4, low, high]
}

fn jump(selector: u16) -> [u8; 7] {
    far(0xea, selector)
}

fn call(selector: u16) -> [u8; 7] {
    far(0x9a, selector)
}

/// Ring 0 of protected mode with another task of 32 bits.
fn bench() -> Bench {
    let bench = Bench::protected(0);
    bench.machine.set_descriptor(l::TSS_SELECTOR, 0x0000_8b00_0000_0067 | l::TSS << 16);
    bench.machine.set_descriptor(OTHER_SELECTOR, 0x0000_8900_0000_0067 | OTHER << 16);
    for (at, size, value) in [
        (0x20, 4, OTHER_RIP),
        (0x24, 4, (Rflags::CF | Rflags::FIXED).bits()),
        (0x48, 2, l::DATA_0.into()),
        (0x4c, 2, l::CODE32_0.into()),
        (0x50, 2, l::DATA_0.into()),
        (0x54, 2, l::DATA_0.into()),
        (0x58, 2, 0),
        (0x5c, 2, l::DATA_0.into()),
        (0x60, 2, l::LDT_SELECTOR.into()),
    ] {
        bench.machine.poke(OTHER + at, size, value);
    }
    for index in 0..8 {
        bench.machine.poke(OTHER + 0x28 + index * 4, 4, 0xabc0 + index);
    }
    bench.machine.poke(OTHER + 0x38, 4, OTHER_STACK);
    bench
}

/// The state as the other task's segment has it.
fn other(cpu: &mut vcpu::CpuState) {
    cpu.rip = OTHER_RIP;
    cpu.rflags = Rflags::CF | Rflags::FIXED;
    for index in 0..8 {
        cpu.gpr[index] = 0xabc0 + index as u64;
    }
    cpu.gpr[gpr::RSP] = OTHER_STACK;
    cpu.segments = [flat(l::DATA_0, DATA); 6];
    *cpu.segment_mut(SegmentRegister::Cs) = flat(l::CODE32_0, CODE32);
    *cpu.segment_mut(SegmentRegister::Fs) = Segment::default();
    cpu.ldtr = Segment { base: l::LDT, limit: 0xff, selector: l::LDT_SELECTOR, attributes: 0x82 };
    cpu.tr = Segment { base: OTHER, limit: 0x67, selector: OTHER_SELECTOR, attributes: 0x8b };
    cpu.cr0 |= Cr0::TS;
}

fn busy(bench: &Bench, selector: u16) -> bool {
    bench.machine.peek(l::GDT + u64::from(selector), 8) & BUSY != 0
}

#[test]
fn a_jump_leaves_a_task_for_good() {
    let mut bench = bench();
    bench.cpu.rflags |= Rflags::ZF;
    bench.cpu.dr[7] = 0x4ff;
    let before = bench.cpu.clone();
    bench.expect(&jump(OTHER_SELECTOR), |cpu| {
        other(cpu);
        // Local breakpoints end with the task.
        cpu.dr[7] = 0x4aa;
    });
    assert_eq!((busy(&bench, l::TSS_SELECTOR), busy(&bench, OTHER_SELECTOR)), (false, true));
    assert_eq!(bench.stack(l::TSS + 0x20, 4, 2), [before.rip + 7, (Rflags::ZF | Rflags::FIXED).bits()]);
    assert_eq!(bench.stack(l::TSS + 0x28, 4, 8), before.gpr[..8]);
    let selectors = [l::DATA_0, l::CODE32_0, l::DATA_0, l::DATA_0, l::DATA_0, l::DATA_0].map(u64::from);
    assert_eq!(bench.stack(l::TSS + 0x48, 4, 6), selectors);
    // No way back is noted.
    assert_eq!(bench.machine.peek(OTHER, 2), 0);
    // It is busy now, so nobody may go there again.
    bench.expect_fault(&jump(OTHER_SELECTOR), Exception::gp(OTHER_SELECTOR.into()));
}

#[test]
fn a_call_nests_and_iret_returns() {
    let mut bench = bench();
    let before = bench.cpu.clone();
    bench.expect(&call(OTHER_SELECTOR), |cpu| {
        other(cpu);
        cpu.rflags |= Rflags::NT;
    });
    assert!(busy(&bench, l::TSS_SELECTOR) && busy(&bench, OTHER_SELECTOR));
    assert_eq!(bench.machine.peek(OTHER, 2), l::TSS_SELECTOR.into());
    assert_eq!(bench.run(IRET), Ok(Outcome::Done));
    let mut expected = before;
    expected.rip += 7;
    expected.cr0 |= Cr0::TS;
    assert_eq!(bench.cpu, expected);
    assert_eq!((busy(&bench, l::TSS_SELECTOR), busy(&bench, OTHER_SELECTOR)), (true, false));
    // It goes on behind its IRET another time, with NT gone.
    assert_eq!(bench.stack(OTHER + 0x20, 4, 2), [OTHER_RIP + 1, (Rflags::CF | Rflags::FIXED).bits()]);
}

#[test]
fn a_task_gate_gets_the_error_code_on_the_new_stack() {
    let mut bench = bench();
    bench.gate(13, 0x85, OTHER_SELECTOR, 0);
    let rip = bench.cpu.rip;
    bench.deliver(Event::Exception(Exception::gp(0x50)));
    assert_eq!(bench.cpu.tr.selector, OTHER_SELECTOR);
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[gpr::RSP]), (OTHER_RIP, OTHER_STACK - 4));
    assert_eq!(bench.machine.peek(OTHER_STACK - 4, 4), 0x50);
    // The old task would try its instruction again.
    assert_eq!(bench.stack(l::TSS + 0x20, 4, 2), [rip, (Rflags::RF | Rflags::FIXED).bits()]);
}

#[test]
fn int_n_through_a_task_gate_is_a_call() {
    let mut bench = bench();
    bench.gate(0x80, 0xe5, OTHER_SELECTOR, 0);
    bench.expect(&[0xcd, 0x80], |cpu| {
        other(cpu);
        cpu.rflags |= Rflags::NT;
    });
    assert_eq!(bench.machine.peek(l::TSS + 0x20, 4), l::CODE + 2);
}

#[test]
fn what_is_wrong_with_a_task_is_told_before_it_begins() {
    let code = u32::from(OTHER_SELECTOR);
    let faults = [
        // Absent; too small; no TSS; a gate of the table that names one is refused by its privilege.
        (0x0000_0900_0000_0067, Exception::with_code(Vector::SegmentNotPresent, code)),
        (0x0000_8900_0000_0066, Exception::with_code(Vector::InvalidTss, code)),
        (0x0000_8200_0000_0067, Exception::gp(code)),
        (0x0000_8b00_0000_0067, Exception::gp(code)),
    ];
    for (raw, fault) in faults {
        let mut bench = bench();
        bench.machine.set_descriptor(OTHER_SELECTOR, raw | OTHER << 16);
        bench.expect_fault(&call(OTHER_SELECTOR), fault);
    }
    let mut bench = bench();
    bench.machine.set_descriptor(OTHER_SELECTOR, 0x0000_8900_0000_0067 | OTHER << 16);
    bench.cpu.rflags |= Rflags::NT;
    // IRET wants a busy one.
    bench.machine.poke(l::TSS, 2, OTHER_SELECTOR.into());
    bench.expect_fault(IRET, Exception::with_code(Vector::InvalidTss, code));
    let mut outer = Bench::protected(3);
    outer.machine.set_descriptor(OTHER_SELECTOR, 0x0000_8900_0000_0067 | OTHER << 16);
    outer.expect_fault(&call(OTHER_SELECTOR | 3), Exception::gp(code));
}

#[test]
fn a_bad_segment_is_the_new_tasks_fault() {
    for (at, selector, fault) in [
        (0x50, l::ABSENT, Exception::ss(l::ABSENT.into())),
        (0x50, 0, Exception::with_code(Vector::InvalidTss, 0)),
        (0x4c, l::DATA_0, Exception::with_code(Vector::InvalidTss, l::DATA_0.into())),
        (0x54, l::ABSENT, Exception::with_code(Vector::SegmentNotPresent, l::ABSENT.into())),
        (0x60, l::DATA_0, Exception::with_code(Vector::InvalidTss, l::DATA_0.into())),
    ] {
        let mut bench = bench();
        bench.machine.poke(OTHER + at, 2, selector.into());
        assert_eq!(bench.run(&call(OTHER_SELECTOR)), Err(fault));
        assert_eq!((bench.cpu.tr.selector, bench.cpu.rip), (OTHER_SELECTOR, OTHER_RIP));
        assert!(busy(&bench, OTHER_SELECTOR));
    }
}

#[test]
fn paging_and_the_trap_bit_come_with_the_task() {
    let mut bench = bench();
    // 32-bit tables that map everything onto itself by one 4 MiB page.
    bench.machine.poke(l::PML4, 4, 0xe7);
    bench.cpu.cr3 = l::PML4 + 0x1000;
    bench.machine.poke(l::PML4 + 0x1000, 4, 0xe7);
    bench.cpu.cr4 = x86::Cr4::PSE;
    bench.cpu.cr0 |= Cr0::PG;
    bench.machine.poke(OTHER + 0x1c, 4, l::PML4);
    bench.machine.poke(OTHER + 0x64, 2, 1);
    assert_eq!(bench.run(&jump(OTHER_SELECTOR)), Ok(Outcome::Done));
    assert_eq!(bench.cpu.cr3, l::PML4);
    assert_eq!(bench.effects.debug_trap, 1 << 15);
    assert_eq!(bench.effects.invalidations.drain().collect::<Vec<_>>(), [Invalidation::AddressSpace]);
}

#[test]
fn a_task_of_16_bits() {
    let mut bench = bench();
    bench.machine.set_descriptor(OTHER_SELECTOR, 0x0000_8100_0000_002b | OTHER << 16);
    let fields = [0x2000, 0x4003, 1, 2, 3, 4, 0x7000, 6, 7, 8];
    bench.put(OTHER + 0x0e, 2, &fields);
    let selectors = [l::DATA_0, l::CODE16_0, l::DATA16_0, l::DATA_0, 0].map(u64::from);
    bench.put(OTHER + 0x22, 2, &selectors);
    assert_eq!(bench.run(&call(OTHER_SELECTOR)), Ok(Outcome::Done));
    assert_eq!(bench.cpu.gpr[..8], fields[2..]);
    assert_eq!((bench.cpu.rip, bench.cpu.rflags.bits()), (0x2000, 0x4003));
    assert_eq!(bench.cpu.segment(SegmentRegister::Ss).selector, l::DATA16_0);
    // It has no FS and GS.
    assert!(!bench.cpu.segment(SegmentRegister::Gs).is_present());
    // And saves in its own format.
    assert_eq!(bench.run(IRET), Ok(Outcome::Done));
    assert_eq!(bench.stack(OTHER + 0x0e, 2, 2), [0x2001, 3]);
}

#[test]
fn a_virtual_8086_task() {
    let mut bench = bench();
    bench.machine.poke(OTHER + 0x24, 4, (Rflags::VM | Rflags::FIXED).bits());
    bench.machine.poke(OTHER + 0x4c, 2, 0x1234);
    assert_eq!(bench.run(&jump(OTHER_SELECTOR)), Ok(Outcome::Done));
    let cs = Segment { base: 0x1_2340, limit: 0xffff, selector: 0x1234, attributes: 0xf3 };
    assert_eq!((*bench.cpu.segment(SegmentRegister::Cs), bench.cpu.cpl()), (cs, 3));
}
