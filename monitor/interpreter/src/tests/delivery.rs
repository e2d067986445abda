//! Interrupts and exceptions through every kind of table.

use vcpu::{Activity, Event, Shadow};
use x86::register::gpr;
use x86::{Exception, Rflags, Segment, SegmentRegister, Vector};

use super::machine::{CODE32, CODE64, flat};
use super::{Bench, layout as l};

/// P, DPL 0, interrupt gate.
const INTERRUPT: u8 = 0x8e;
/// P, DPL 0, trap gate.
const TRAP: u8 = 0x8f;
/// P, DPL 3, trap gate.
const USER_TRAP: u8 = 0xef;

const HANDLER: u64 = 0x1_8000;

fn set_segment(cpu: &mut vcpu::CpuState, register: SegmentRegister, segment: Segment) {
    *cpu.segment_mut(register) = segment;
}

#[test]
fn an_interrupt_from_ring_3_in_long_mode() {
    let mut bench = Bench::long(3);
    bench.long_gate(0x40, INTERRUPT, l::CODE64_0, 0xffff_8000_1234_5678, 0);
    bench.cpu.rflags |= Rflags::IF | Rflags::TF | Rflags::NT | Rflags::ZF;
    bench.cpu.shadow = Shadow::None;
    bench.cpu.activity = Activity::Halted;
    let mut expected = bench.cpu.clone();
    let flags = expected.rflags.bits();
    expected.rflags -= Rflags::IF | Rflags::TF | Rflags::NT;
    expected.rip = 0xffff_8000_1234_5678;
    expected.gpr[gpr::RSP] = l::STACK_0 - 40;
    expected.activity = Activity::Running;
    set_segment(&mut expected, SegmentRegister::Cs, flat(l::CODE64_0, CODE64));
    set_segment(&mut expected, SegmentRegister::Ss, Segment::default());
    bench.deliver(Event::Interrupt(0x40));
    assert_eq!(bench.cpu, expected);
    assert_eq!(
        bench.stack(l::STACK_0 - 40, 8, 5),
        [l::CODE, l::CODE64_3.into(), flags, l::STACK, l::DATA_3.into()]
    );
}

#[test]
fn a_page_fault_at_ring_0_aligns_the_stack_and_sets_cr2() {
    let mut bench = Bench::long(0);
    bench.long_gate(14, TRAP, l::CODE64_0, HANDLER, 0);
    bench.cpu.gpr[gpr::RSP] = l::STACK - 5;
    bench.cpu.rflags |= Rflags::IF;
    let mut expected = bench.cpu.clone();
    expected.cr2 = 0xdead_0000;
    expected.rip = HANDLER;
    expected.gpr[gpr::RSP] = l::STACK - 16 - 48;
    bench.deliver(Event::Exception(Exception::page_fault(0xdead_0000, 2)));
    assert_eq!(bench.cpu, expected);
    assert_eq!(
        bench.stack(l::STACK - 64, 8, 6),
        // A fault shows RF.
        [2, l::CODE, l::CODE64_0.into(), 0x1_0202, l::STACK - 5, l::DATA_0.into()]
    );
}

#[test]
fn an_nmi_on_its_own_stack() {
    let mut bench = Bench::long(0);
    bench.long_gate(2, INTERRUPT, l::CODE64_0, HANDLER, 1);
    let mut expected = bench.cpu.clone();
    expected.nmi_blocked = true;
    expected.rip = HANDLER;
    expected.gpr[gpr::RSP] = l::STACK_IST - 40;
    bench.deliver(Event::Nmi);
    assert_eq!(bench.cpu, expected);
}

#[test]
fn software_interrupts_respect_the_gate() {
    let mut bench = Bench::long(3);
    bench.long_gate(0x80, INTERRUPT, l::CODE64_0, HANDLER, 0);
    bench.expect_fault(&[0xcd, 0x80], Exception::gp(0x402));
    bench.expect_fault(&[0xcd, 0x81], Exception::gp(0x40a));
    bench.long_gate(0x80, 0x6e, l::CODE64_0, HANDLER, 0);
    bench.expect_fault(&[0xcd, 0x80], Exception::with_code(Vector::SegmentNotPresent, 0x402));
    bench.long_gate(0x80, USER_TRAP, l::CODE64_0, HANDLER, 0);
    assert!(bench.run(&[0xcd, 0x80]).is_ok());
    assert_eq!(bench.cpu.rip, HANDLER);
    assert_eq!(bench.stack(l::STACK_0 - 40, 8, 1), [l::CODE + 2]);
    // INT1 does not ask for the DPL.
    let mut bench = Bench::long(3);
    bench.long_gate(1, INTERRUPT, l::CODE64_0, HANDLER, 0);
    bench.expect_fault(&[0xcc], Exception::gp(0x1a));
    assert!(bench.run(&[0xf1]).is_ok());
    assert_eq!(bench.cpu.rip, HANDLER);
}

#[test]
fn bad_handlers_in_long_mode() {
    let cases: [(u16, u64, Exception); 6] = [
        (0, HANDLER, Exception::gp(0)),
        (l::DATA_0, HANDLER, Exception::gp(l::DATA_0.into())),
        // 32-bit code cannot handle anything in long mode.
        (l::CODE32_0, HANDLER, Exception::gp(l::CODE32_0.into())),
        (0x200, HANDLER, Exception::gp(0x200)),
        (l::CODE64_0, 1 << 60, Exception::gp(0)),
        (l::ABSENT, HANDLER, Exception::gp(l::ABSENT.into())),
    ];
    for (selector, target, fault) in cases {
        let mut bench = Bench::long(0);
        bench.long_gate(0x80, TRAP, selector, target, 0);
        bench.expect_fault(&[0xcd, 0x80], fault);
    }
    // The stack's page is missing.
    let mut bench = Bench::long(3);
    bench.long_gate(0x80, USER_TRAP, l::CODE64_0, HANDLER, 0);
    bench.machine.set_pte(l::STACK_0, 0);
    bench.expect_fault(&[0xcd, 0x80], Exception::page_fault(l::STACK_0 - 40, 2));
    // The TSS is too short.
    bench.cpu.tr.limit = 8;
    let short = Exception::with_code(Vector::InvalidTss, l::TSS_SELECTOR.into());
    bench.expect_fault(&[0xcd, 0x80], short);
}

#[test]
fn faults_in_delivery_become_double_faults() {
    // #GP without a gate: its own delivery faults with #NP or #GP, which makes #DF.
    let mut bench = Bench::long(0);
    bench.long_gate(8, TRAP, l::CODE64_0, HANDLER, 0);
    bench.deliver(Event::Exception(Exception::gp(0)));
    assert_eq!(bench.cpu.rip, HANDLER);
    assert_eq!(bench.stack(bench.cpu.gpr[gpr::RSP], 8, 2), [0, l::CODE]);
    // A benign interrupt without a gate: the #GP is taken in its turn, EXT set.
    let mut bench = Bench::long(0);
    bench.long_gate(13, TRAP, l::CODE64_0, HANDLER, 0);
    bench.deliver(Event::Interrupt(0x40));
    assert_eq!(bench.stack(bench.cpu.gpr[gpr::RSP], 8, 2), [0x203, l::CODE]);
    // Nothing at all: shutdown, and the state is that of the start.
    let mut bench = Bench::long(0);
    let mut expected = bench.cpu.clone();
    expected.activity = Activity::Shutdown;
    bench.deliver(Event::Exception(Exception::UD));
    assert_eq!(bench.cpu, expected);
}

#[test]
fn page_faults_in_delivery() {
    // #GP whose handler's stack faults: the page fault is taken in its turn.
    let mut bench = Bench::long(0);
    bench.long_gate(13, TRAP, l::CODE64_0, HANDLER, 0);
    bench.long_gate(14, TRAP, l::CODE64_0, HANDLER + 1, 1);
    bench.machine.set_pte(l::STACK, 0);
    bench.deliver(Event::Exception(Exception::gp(0)));
    assert_eq!((bench.cpu.rip, bench.cpu.cr2), (HANDLER + 1, l::STACK - 48));
    // A page fault in the delivery of a page fault: double fault, CR2 of the second.
    let mut bench = Bench::long(0);
    bench.long_gate(14, TRAP, l::CODE64_0, HANDLER, 0);
    bench.long_gate(8, TRAP, l::CODE64_0, HANDLER + 2, 1);
    bench.machine.set_pte(l::STACK, 0);
    bench.deliver(Event::Exception(Exception::page_fault(0x1234, 0)));
    assert_eq!((bench.cpu.rip, bench.cpu.cr2), (HANDLER + 2, l::STACK - 48));
}

#[test]
fn real_mode_uses_the_vector_table() {
    let mut bench = Bench::real();
    bench.machine.poke(0x21 * 4, 4, 0x2345_0100);
    bench.cpu.rflags |= Rflags::IF | Rflags::TF;
    let mut expected = bench.cpu.clone();
    expected.rflags -= Rflags::IF | Rflags::TF;
    expected.rip = 0x100;
    expected.gpr[gpr::RSP] -= 6;
    let cs = expected.segment_mut(SegmentRegister::Cs);
    (cs.selector, cs.base) = (0x2345, 0x2_3450);
    assert!(bench.run(&[0xcd, 0x21]).is_ok());
    assert_eq!(bench.cpu, expected);
    assert_eq!(bench.stack(l::STACK - 6, 2, 3), [2, 0x1000, 0x302]);
    assert_eq!(bench.effects.debug_trap, 0);
    // No error code there.
    let mut bench = Bench::real();
    bench.deliver(Event::Exception(Exception::gp(0)));
    assert_eq!(bench.cpu.gpr[gpr::RSP], l::STACK - 6);
}

#[test]
fn protected_mode_to_an_inner_ring() {
    let mut bench = Bench::protected(3);
    bench.gate(0x80, USER_TRAP, l::CODE32_0, HANDLER);
    bench.cpu.rflags |= Rflags::IF;
    let mut expected = bench.cpu.clone();
    expected.rip = HANDLER;
    expected.gpr[gpr::RSP] = l::STACK_0 - 20;
    set_segment(&mut expected, SegmentRegister::Cs, flat(l::CODE32_0, CODE32));
    set_segment(&mut expected, SegmentRegister::Ss, flat(l::DATA_0, 0xc093));
    assert!(bench.run(&[0xcd, 0x80]).is_ok());
    assert_eq!(bench.cpu, expected);
    assert_eq!(
        bench.stack(l::STACK_0 - 20, 4, 5),
        [l::CODE + 2, l::CODE32_3.into(), 0x202, l::STACK, l::DATA_3.into()]
    );
}

#[test]
fn protected_mode_in_the_same_ring_through_a_16_bit_gate() {
    let mut bench = Bench::protected(0);
    bench.gate(13, 0x86, l::CODE32_0, 0x9_8000);
    bench.deliver(Event::Exception(Exception::gp(0x18)));
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[gpr::RSP]), (0x8000, l::STACK - 8));
    assert_eq!(bench.stack(l::STACK - 8, 2, 4), [0x18, l::CODE & 0xffff, 0x40, 2]);
}

#[test]
fn a_conforming_handler_stays_in_ring_3() {
    let mut bench = Bench::protected(3);
    bench.gate(0x80, USER_TRAP, l::CONFORMING, HANDLER);
    assert!(bench.run(&[0xcd, 0x80]).is_ok());
    assert_eq!(bench.cpu.cpl(), 3);
    assert_eq!(bench.cpu.segment(SegmentRegister::Cs).selector, l::CONFORMING | 3);
    assert_eq!(bench.cpu.gpr[gpr::RSP], l::STACK - 12);
}

#[test]
fn bad_inner_stacks() {
    let cases = [
        (0, Exception::with_code(Vector::InvalidTss, 0)),
        (l::DATA_3, Exception::with_code(Vector::InvalidTss, 0x20)),
        (l::CODE32_0, Exception::with_code(Vector::InvalidTss, 0x40)),
        (0x100, Exception::with_code(Vector::InvalidTss, 0x100)),
    ];
    for (selector, fault) in cases {
        let mut bench = Bench::protected(3);
        bench.gate(0x80, USER_TRAP, l::CODE32_0, HANDLER);
        bench.machine.poke(l::TSS + 8, 2, selector.into());
        bench.expect_fault(&[0xcd, 0x80], fault);
    }
    let mut bench = Bench::protected(3);
    bench.gate(0x80, USER_TRAP, l::CODE32_0, HANDLER);
    bench.machine.set_descriptor(l::SPARE, 0x00cf_1300_0000_ffff);
    bench.machine.poke(l::TSS + 8, 2, l::SPARE.into());
    bench.expect_fault(&[0xcd, 0x80], Exception::ss(l::SPARE.into()));
}

#[test]
fn virtual_8086_mode_to_ring_0_and_reflected() {
    let mut bench = Bench::virtual_8086(3);
    bench.gate(0x21, USER_TRAP, l::CODE32_0, HANDLER);
    assert!(bench.run(&[0xcd, 0x21]).is_ok());
    assert_eq!(bench.cpu.rip, HANDLER);
    assert!(!bench.cpu.rflags.contains(Rflags::VM));
    assert_eq!(bench.cpu.segment(SegmentRegister::Ds), &Segment::default());
    assert_eq!(
        bench.stack(l::STACK_0 - 36, 4, 9),
        [2, 0x1000, 0x2_3002, l::STACK, 0, 0x2000, 0x2000, 0x2000, 0x2000]
    );
    // IOPL below 3: the monitor is asked.
    let mut bench = Bench::virtual_8086(0);
    bench.gate(0x21, USER_TRAP, l::CODE32_0, HANDLER);
    bench.expect_fault(&[0xcd, 0x21], Exception::gp(0));
    // With VME and a clear redirection bit it stays inside, whatever IOPL is.
    bench.cpu.cr4 |= x86::Cr4::VME;
    bench.cpu.tr.limit = 0x100;
    bench.machine.poke(l::TSS + 102, 2, 0x88);
    bench.machine.poke(0x21 * 4, 4, 0x2345_0100);
    bench.cpu.rflags |= Rflags::VIF;
    assert!(bench.run(&[0xcd, 0x21]).is_ok());
    assert_eq!(bench.cpu.rip, 0x100);
    assert!(!bench.cpu.rflags.contains(Rflags::VIF));
    assert_eq!(bench.stack(l::STACK - 6, 2, 3), [2, 0x1000, 0x3202]);
}

#[test]
fn a_debug_exception_tells_dr6() {
    let mut bench = Bench::long(0);
    bench.long_gate(1, TRAP, l::CODE64_0, HANDLER, 0);
    bench.cpu.dr[6] = 0xffff_0ff5;
    bench.cpu.dr[7] = 0x2400;
    let step = Exception { detail: 1 << 14, ..Exception::new(Vector::Debug) };
    bench.deliver(Event::Exception(step));
    assert_eq!((bench.cpu.dr[6], bench.cpu.dr[7]), (0xffff_4ff0, 0x400));
    // A trap shows RF as it was.
    assert_eq!(bench.stack(bench.cpu.gpr[gpr::RSP] + 16, 8, 1), [2]);
}

#[test]
fn into_and_hlt() {
    let mut bench = Bench::protected(0);
    bench.expect(&[0xce], |_| {});
    bench.gate(4, TRAP, l::CODE32_0, HANDLER);
    bench.cpu.rflags |= Rflags::OF;
    assert!(bench.run(&[0xce]).is_ok());
    assert_eq!(bench.cpu.rip, HANDLER);
    let mut bench = Bench::long(0);
    let mut expected = bench.cpu.clone();
    expected.rip += 1;
    expected.activity = Activity::Halted;
    bench.cpu.shadow = Shadow::Sti;
    assert_eq!(bench.run(&[0xf4]), Ok(crate::Outcome::Halt));
    assert_eq!(bench.cpu, expected);
    Bench::long(3).expect_fault(&[0xf4], Exception::gp(0));
}
