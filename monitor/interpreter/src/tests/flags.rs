//! CLI, STI, PUSHF, POPF.

use vcpu::Shadow;
use x86::{Cr0, Cr4, Exception, Rflags, Vector};

use super::{Bench, layout};

const CLI: &[u8] = &[0xfa];
const STI: &[u8] = &[0xfb];
const PUSHF: &[u8] = &[0x9c];
const POPF: &[u8] = &[0x9d];

#[test]
fn cli_and_sti_at_ring_0() {
    let mut bench = Bench::long(0);
    bench.expect(STI, |cpu| {
        cpu.rflags |= Rflags::IF;
        cpu.shadow = Shadow::Sti;
    });
    // With IF set already there is nothing to hold off.
    bench.expect(STI, |cpu| cpu.shadow = Shadow::None);
    bench.expect(CLI, |cpu| cpu.rflags -= Rflags::IF);
}

#[test]
fn ring_3_needs_iopl_or_a_virtual_flag() {
    let mut bench = Bench::long(3);
    bench.cpu.rflags |= Rflags::IF;
    bench.expect_fault(CLI, Exception::gp(0));
    bench.expect_fault(STI, Exception::gp(0));
    bench.cpu.cr4 |= Cr4::PVI;
    bench.expect(STI, |cpu| cpu.rflags |= Rflags::VIF);
    bench.expect(CLI, |cpu| cpu.rflags -= Rflags::VIF);
    bench.cpu.rflags |= Rflags::VIP;
    bench.expect_fault(STI, Exception::gp(0));
    bench.cpu.rflags |= Rflags::IOPL;
    bench.expect(CLI, |cpu| cpu.rflags -= Rflags::IF);
}

#[test]
fn virtual_8086_mode() {
    let mut bench = Bench::virtual_8086(0);
    bench.expect_fault(CLI, Exception::gp(0));
    bench.expect_fault(PUSHF, Exception::gp(0));
    bench.expect_fault(POPF, Exception::gp(0));
    bench.cpu.cr4 |= Cr4::VME;
    bench.expect(STI, |cpu| cpu.rflags |= Rflags::VIF);
    bench.expect(PUSHF, |cpu| cpu.gpr[4] -= 2);
    // IOPL reads as 3, IF as VIF.
    assert_eq!(bench.machine.peek(layout::STACK - 2, 2), 0x3202);
    bench.machine.poke(layout::STACK - 2, 2, 0x0001);
    bench.expect(POPF, |cpu| {
        cpu.gpr[4] += 2;
        cpu.rflags -= Rflags::VIF;
        cpu.rflags |= Rflags::CF;
    });
    // 32-bit forms stay forbidden, and so does setting TF.
    bench.expect_fault(&[0x66, 0x9c], Exception::gp(0));
    bench.machine.poke(layout::STACK, 2, 0x100);
    bench.expect_fault(POPF, Exception::gp(0));
    let mut bench = Bench::virtual_8086(3);
    bench.expect(PUSHF, |cpu| cpu.gpr[4] -= 2);
    assert_eq!(bench.machine.peek(layout::STACK - 2, 2), 0x3002);
}

#[test]
fn pushf_hides_vm_and_rf() {
    let mut bench = Bench::long(0);
    bench.cpu.rflags |= Rflags::RF | Rflags::ID | Rflags::ZF;
    bench.expect(PUSHF, |cpu| {
        cpu.gpr[4] -= 8;
        cpu.rflags -= Rflags::RF;
    });
    assert_eq!(bench.machine.peek(layout::STACK - 8, 8), 0x20_0042);
}

#[test]
fn popf_changes_what_the_ring_may() {
    let all = u64::MAX;
    let ring_0 = Rflags::STATUS
        | Rflags::TF
        | Rflags::IF
        | Rflags::DF
        | Rflags::IOPL
        | Rflags::NT
        | Rflags::AC
        | Rflags::ID;
    for (cpl, iopl, withheld) in
        [(0, 0, Rflags::empty()), (3, 0, Rflags::IOPL | Rflags::IF), (3, 3, Rflags::empty())]
    {
        let mut bench = Bench::long(cpl);
        bench.cpu.rflags |= Rflags::from_bits_truncate(iopl << 12);
        bench.machine.poke(layout::STACK, 8, all);
        bench.expect(POPF, |cpu| {
            cpu.gpr[4] += 8;
            cpu.rflags |= ring_0 - withheld;
        });
    }
}

#[test]
fn popfw_leaves_the_upper_half() {
    let mut bench = Bench::protected(0);
    bench.cpu.rflags |= Rflags::AC | Rflags::ID;
    bench.machine.poke(layout::STACK, 4, 0);
    bench.expect(&[0x66, 0x9d], |cpu| cpu.gpr[4] += 2);
    bench.expect(POPF, |cpu| {
        cpu.gpr[4] += 4;
        cpu.rflags = Rflags::FIXED;
    });
}

#[test]
fn a_page_fault_on_the_stack_is_precise() {
    let mut bench = Bench::long(3);
    bench.machine.set_pte(layout::STACK, 0x65);
    bench.expect_fault(PUSHF, Exception::page_fault(layout::STACK - 8, 7));
    bench.machine.set_pte(layout::STACK, 0x63);
    bench.expect_fault(POPF, Exception::page_fault(layout::STACK, 5));
}

#[test]
fn a_push_across_pages_writes_both_or_none() {
    let mut bench = Bench::long(0);
    bench.cpu.gpr[4] = 0xb004;
    bench.machine.set_pte(0xb000, 0);
    bench.expect_fault(PUSHF, Exception::page_fault(0xb000, 2));
    bench.machine.set_pte(0xb000, 0x63);
    bench.expect(PUSHF, |cpu| cpu.gpr[4] = 0xaffc);
    assert_eq!(bench.machine.peek(0xaffc, 8), 2);
}

#[test]
fn ring_3_may_want_its_accesses_aligned() {
    let misaligned = Exception::with_code(Vector::AlignmentCheck, 0);
    const STORES: &[u8] = &[0x66, 0x8c, 0x1c, 0x24]; // mov [rsp], ds
    const ENTERS: &[u8] = &[0xc8, 0, 0, 0];
    const TELLS: &[u8] = &[0x0f, 0x01, 0x0c, 0x24]; // sidt [rsp]
    let mut bench = Bench::long(3);
    bench.cpu.gpr[4] = layout::STACK + 1;
    bench.cpu.rflags |= Rflags::AC;
    for instruction in [PUSHF, POPF, STORES, ENTERS, TELLS] {
        bench.cpu.cr0 |= Cr0::AM;
        bench.expect_fault(instruction, misaligned);
        let before = bench.cpu.clone();
        bench.cpu.cr0 -= Cr0::AM;
        assert!(bench.run(instruction).is_ok());
        bench.cpu = before;
    }
    // Supervisors' are not checked.
    let mut bench = Bench::long(0);
    bench.cpu.gpr[4] = layout::STACK + 1;
    bench.cpu.rflags |= Rflags::AC;
    bench.cpu.cr0 |= Cr0::AM;
    bench.expect(PUSHF, |cpu| cpu.gpr[4] -= 8);
}

#[test]
fn stac_and_clac() {
    let mut bench = Bench::long(0);
    bench.expect(&[0x0f, 0x01, 0xcb], |cpu| cpu.rflags |= Rflags::AC);
    bench.expect(&[0x0f, 0x01, 0xca], |cpu| cpu.rflags -= Rflags::AC);
    Bench::long(3).expect_fault(&[0x0f, 0x01, 0xcb], Exception::UD);
}

#[test]
fn a_step_is_owed_by_the_flag_at_the_start() {
    let mut bench = Bench::long(0);
    bench.cpu.rflags |= Rflags::TF;
    bench.machine.poke(layout::STACK, 8, 0);
    assert!(bench.run(POPF).is_ok());
    assert_eq!(bench.effects.debug_trap, 1 << 14);
    bench.machine.poke(layout::STACK, 8, 0x100);
    bench.cpu.gpr[4] = layout::STACK;
    assert!(bench.run(POPF).is_ok());
    assert_eq!(bench.effects.debug_trap, 0);
}
