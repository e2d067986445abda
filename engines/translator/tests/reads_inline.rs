//! Control registers and segment bases, which generated code reads, and bases it writes, without the monitor.

mod common;

use common::pages::to_ring3;
use common::{Bench, DATA};
use iced_x86::code_asm::*;
use vcpu::{Engine, Exit};
use x86::classify::Routine;
use x86::register::gpr::*;
use x86::{Cr4, Rflags, SegmentRegister};

fn callouts(bench: &Bench) -> u64 {
    let counters = bench.engine.counters();
    counters.into_iter().find(|(what, _)| *what == "callouts to the monitor").unwrap().1
}

fn leaves_for(bench: &mut Bench) -> Routine {
    match bench.exit() {
        Exit::Sensitive(insn) => insn.routine,
        other => panic!("{other:?} at {:#x}", bench.cpu.rip),
    }
}

#[test]
fn bases_are_read_and_written_in_any_ring() {
    for ring3 in [false, true] {
        let mut bench = Bench::long_mode();
        bench.cpu.cr4 |= Cr4::FSGSBASE;
        bench.cpu.segment_mut(SegmentRegister::Gs).base = 0x1234_5678_9abc;
        bench.ram.write_u64(DATA + 8, 77).unwrap();
        bench.load(|a| {
            a.rdgsbase(rsi).unwrap();
            a.rdgsbase(r8d).unwrap();
            a.rdgsbase(r10).unwrap();
            a.mov(r9, DATA).unwrap();
            a.stc().unwrap();
            a.wrfsbase(r9).unwrap();
            a.setc(bl).unwrap();
            a.mov(rax, -1i64).unwrap();
            a.wrgsbase(eax).unwrap();
            a.rdgsbase(rdx).unwrap();
            a.mov(rdi, qword_ptr(8).fs()).unwrap();
            a.mov(rax, 0xffff_8000_0000_0000u64).unwrap();
            a.wrfsbase(rax).unwrap();
        });
        if ring3 {
            to_ring3(&mut bench);
        }
        bench.run();
        assert_eq!(callouts(&bench), 1, "HLT");
        let gpr = bench.cpu.gpr;
        assert_eq!([RSI, R8, R10].map(|n| gpr[n]), [0x1234_5678_9abc, 0x5678_9abc, 0x1234_5678_9abc]);
        assert_eq!([RDX, RDI, RBX].map(|n| gpr[n]), [0xffff_ffff, 77, 1]);
        assert_eq!(bench.cpu.segment(SegmentRegister::Fs).base, 0xffff_8000_0000_0000);
        assert_eq!(bench.cpu.segment(SegmentRegister::Gs).base, 0xffff_ffff);
    }
}

#[test]
fn what_may_be_no_base_is_left_to_the_routine() {
    for wide in [1 << 47, 0xffff_7fff_ffff_ffff] {
        let mut bench = Bench::long_mode();
        bench.cpu.cr4 |= Cr4::FSGSBASE;
        bench.cpu.gpr[RCX] = wide;
        bench.load(|a| {
            a.stc().unwrap();
            a.wrgsbase(rcx).unwrap();
            a.adc(rax, 0).unwrap();
        });
        let start = bench.cpu.rip;
        assert_eq!(leaves_for(&mut bench), Routine::Wrgsbase);
        assert_eq!((bench.cpu.rip, bench.cpu.gpr[RCX]), (start + 1, wide));
        assert!(bench.cpu.rflags.contains(Rflags::CF));
        assert_eq!(bench.cpu.segment(SegmentRegister::Gs).base, 0);
    }
    let mut bench = Bench::long_mode();
    bench.load(|a| a.rdfsbase(rax).unwrap());
    assert_eq!(leaves_for(&mut bench), Routine::Rdfsbase, "CR4 forbids it");
}

#[test]
fn control_registers_are_read_in_ring_0() {
    let mut bench = Bench::long_mode();
    bench.cpu.cr2 = 0xdead_beef_0000;
    bench.load(|a| {
        a.mov(rax, cr0).unwrap();
        a.mov(r9, cr2).unwrap();
        a.mov(rcx, cr3).unwrap();
        a.mov(rdx, cr4).unwrap();
    });
    bench.run();
    assert_eq!(callouts(&bench), 1, "HLT");
    let cpu = &bench.cpu;
    let expected = [cpu.cr0.bits(), cpu.cr2, cpu.cr3, cpu.cr4.bits()];
    assert_eq!([RAX, R9, RCX, RDX].map(|n| cpu.gpr[n]), expected);
}

#[test]
fn control_registers_are_the_monitors_else() {
    let reads: [fn(&mut CodeAssembler); 2] = [|a| a.mov(rax, cr8).unwrap(), |a| a.mov(rax, cr2).unwrap()];
    for (ring3, read) in [false, true].into_iter().zip(reads) {
        let mut bench = Bench::long_mode();
        bench.load(read);
        if ring3 {
            to_ring3(&mut bench);
        }
        assert_eq!(leaves_for(&mut bench), Routine::MovFromCr);
    }
}
