//! SYSCALL, SYSRET, SYSENTER, SYSEXIT.

use x86::register::gpr;
use x86::{Cr0, Efer, Exception, Rflags, SegmentRegister};

use super::machine::{CODE32, CODE64, DATA, flat};
use super::{Bench, layout as l};

const SYSCALL: &[u8] = &[0x0f, 0x05];
const SYSRETQ: &[u8] = &[0x48, 0x0f, 0x07];
const SYSRETL: &[u8] = &[0x0f, 0x07];
const SYSENTER: &[u8] = &[0x0f, 0x34];
const SYSEXIT: &[u8] = &[0x0f, 0x35];
const SYSEXITQ: &[u8] = &[0x48, 0x0f, 0x35];
const ENTRY: u64 = 0xffff_8000_0010_0000;

fn prepare(mut bench: Bench) -> Bench {
    bench.cpu.msrs.star = 0x001b_0008 << 32;
    bench.cpu.msrs.lstar = ENTRY;
    bench.cpu.msrs.cstar = ENTRY + 0x100;
    bench.cpu.msrs.sfmask = (Rflags::IF | Rflags::TF | Rflags::DF).bits();
    bench.cpu.msrs.sysenter_cs = 8;
    bench.cpu.msrs.sysenter_eip = ENTRY + 0x200;
    bench.cpu.msrs.sysenter_esp = 0xffff_8000_0020_0000;
    bench
}

fn load(cpu: &mut vcpu::CpuState, cs: x86::Segment, ss: x86::Segment) {
    *cpu.segment_mut(SegmentRegister::Cs) = cs;
    *cpu.segment_mut(SegmentRegister::Ss) = ss;
}

#[test]
fn syscall_and_sysret() {
    let mut bench = prepare(Bench::long(3));
    bench.cpu.rflags |= Rflags::IF | Rflags::ZF | Rflags::RF;
    bench.expect(SYSCALL, |cpu| {
        cpu.gpr[gpr::RCX] = l::CODE + 2;
        cpu.gpr[gpr::R11] = 0x242;
        cpu.rip = ENTRY;
        cpu.rflags = Rflags::ZF | Rflags::FIXED;
        load(cpu, flat(8, CODE64), flat(0x10, DATA));
    });
    bench.cpu.gpr[gpr::R11] = 0x3_0346;
    bench.expect(SYSRETQ, |cpu| {
        cpu.rip = l::CODE + 2;
        cpu.rflags = Rflags::from_bits_retain(0x346);
        load(cpu, flat(0x2b, CODE64), flat(0x23, DATA));
    });
}

#[test]
fn syscall_from_compatibility_mode_is_amds() {
    let mut bench = prepare(Bench::compatibility());
    bench.expect(SYSCALL, |cpu| {
        cpu.gpr[gpr::RCX] = l::CODE + 2;
        cpu.gpr[gpr::R11] = 2;
        cpu.rip = ENTRY + 0x100;
        load(cpu, flat(8, CODE64), flat(0x10, DATA));
    });
    bench.expect(SYSRETL, |cpu| {
        cpu.rip = l::CODE + 2;
        load(cpu, flat(0x1b, CODE32), flat(0x23, DATA));
    });
    let mut intel = prepare(Bench::compatibility());
    intel.machine.amd = false;
    intel.expect_fault(SYSCALL, Exception::UD);
}

#[test]
fn syscall_must_be_enabled_and_sysret_privileged() {
    let mut bench = prepare(Bench::long(3));
    bench.expect_fault(SYSRETQ, Exception::gp(0));
    bench.cpu.efer -= Efer::SCE;
    bench.expect_fault(SYSCALL, Exception::UD);
    bench.expect_fault(SYSRETQ, Exception::UD);
}

#[test]
fn a_return_to_nowhere_faults_where_the_maker_says() {
    let mut bench = prepare(Bench::long(0));
    bench.cpu.gpr[gpr::RCX] = 1 << 47;
    bench.machine.amd = false;
    bench.expect_fault(SYSRETQ, Exception::gp(0));
    bench.machine.amd = true;
    assert!(bench.run(SYSRETQ).is_ok());
    assert_eq!((bench.cpu.rip, bench.cpu.cpl()), (1 << 47, 3));
}

#[test]
fn legacy_mode_syscall() {
    let mut bench = prepare(Bench::protected(3));
    bench.cpu.efer = Efer::SCE;
    bench.cpu.msrs.star |= 0x1_8000;
    bench.cpu.rflags |= Rflags::IF | Rflags::CF;
    bench.expect(SYSCALL, |cpu| {
        cpu.gpr[gpr::RCX] = l::CODE + 2;
        cpu.rip = 0x1_8000;
        cpu.rflags -= Rflags::IF;
        load(cpu, flat(8, CODE32), flat(0x10, DATA));
    });
    bench.expect(SYSRETL, |cpu| {
        cpu.rip = l::CODE + 2;
        cpu.rflags |= Rflags::IF;
        load(cpu, flat(0x1b, CODE32), flat(0x23, DATA));
    });
}

#[test]
fn sysenter_and_sysexit() {
    let mut amd = prepare(Bench::long(3));
    amd.expect_fault(SYSENTER, Exception::UD);
    let mut bench = prepare(Bench::long(3));
    bench.machine.amd = false;
    bench.cpu.rflags |= Rflags::IF;
    bench.expect(SYSENTER, |cpu| {
        cpu.rip = ENTRY + 0x200;
        cpu.gpr[gpr::RSP] = 0xffff_8000_0020_0000;
        cpu.rflags -= Rflags::IF;
        load(cpu, flat(8, CODE64), flat(0x10, DATA));
    });
    bench.cpu.gpr[gpr::RDX] = 0x40_0000;
    bench.cpu.gpr[gpr::RCX] = 0x7000_0000;
    bench.expect(SYSEXITQ, |cpu| {
        cpu.rip = 0x40_0000;
        cpu.gpr[gpr::RSP] = 0x7000_0000;
        load(cpu, flat(0x2b, CODE64), flat(0x33, DATA));
    });
    bench.expect_fault(SYSEXITQ, Exception::gp(0));
    let mut legacy = prepare(Bench::protected(0));
    legacy.cpu.gpr[gpr::RDX] = 0x1000;
    legacy.cpu.gpr[gpr::RCX] = 0x2000;
    legacy.expect(SYSEXIT, |cpu| {
        cpu.rip = 0x1000;
        cpu.gpr[gpr::RSP] = 0x2000;
        load(cpu, flat(0x1b, CODE32), flat(0x23, DATA));
    });
    legacy.cpu.msrs.sysenter_cs = 3;
    legacy.expect_fault(SYSENTER, Exception::gp(0));
    legacy.cpu.cr0 -= Cr0::PE;
    legacy.cpu.rip = 0;
    legacy.expect_fault(SYSENTER, Exception::gp(0));
}

#[test]
fn a_step_over_syscall_is_owed_only_if_tf_survives() {
    let mut bench = prepare(Bench::long(3));
    bench.cpu.rflags |= Rflags::TF;
    assert!(bench.run(SYSCALL).is_ok());
    assert_eq!(bench.effects.debug_trap, 0);
    let mut bench = prepare(Bench::long(3));
    bench.cpu.msrs.sfmask = 0;
    bench.cpu.rflags |= Rflags::TF;
    assert!(bench.run(SYSCALL).is_ok());
    assert_ne!(bench.effects.debug_trap, 0);
}

#[test]
fn a_step_over_sysret_is_owed_if_it_brings_tf() {
    let mut bench = prepare(Bench::long(0));
    bench.cpu.gpr[gpr::RCX] = l::CODE;
    bench.cpu.gpr[gpr::R11] = (Rflags::TF | Rflags::FIXED).bits();
    assert!(bench.run(SYSRETL).is_ok());
    assert_eq!((bench.effects.debug_trap, bench.cpu.cpl()), (1 << 14, 3));
    // And not if it takes it away.
    let mut bench = prepare(Bench::long(0));
    bench.cpu.rflags |= Rflags::TF;
    bench.cpu.gpr[gpr::RCX] = l::CODE;
    bench.cpu.gpr[gpr::R11] = Rflags::FIXED.bits();
    assert!(bench.run(SYSRETQ).is_ok());
    assert_eq!(bench.effects.debug_trap, 0);
}
