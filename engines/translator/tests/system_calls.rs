//! System calls, which generated code carries out as jumps: what the kernel and the program see afterwards.

mod common;

use common::{Bench, CODE, assemble};
use iced_x86::code_asm::*;
use vcpu::Exit;
use x86::classify::Routine;
use x86::register::gpr::*;
use x86::{Cr0, Efer, Rflags, SegmentRegister};

/// Where the kernel's entry point lies.
const KERNEL: u64 = CODE + 0x100;
/// STAR: the kernel's CS is 10h; SYSRET's base is 23h, so that a program's CS is 33h and its SS 2bh.
const STAR: u64 = 0x0023_0010 << 32;

/// A vCPU in ring 3 whose kernel is `kernel`.
fn in_a_program(program: impl FnOnce(&mut CodeAssembler), kernel: impl FnOnce(&mut CodeAssembler)) -> Bench {
    let mut bench = Bench::long_mode();
    bench.cpu.cr0 |= Cr0::AM;
    bench.cpu.efer |= Efer::SCE;
    bench.cpu.msrs.star = STAR;
    bench.cpu.msrs.lstar = KERNEL;
    let masked = Rflags::STATUS | Rflags::IF | Rflags::DF | Rflags::TF | Rflags::AC;
    bench.cpu.msrs.sfmask = masked.bits();
    bench.cpu.load_flat_segments(0x33, 0x2b, vcpu::Width::Long, 3);
    bench.load(program);
    let kernel = assemble(64, KERNEL, kernel);
    bench.ram.write(KERNEL, &kernel).expect("in RAM");
    bench
}

/// Runs to HLT; gives CS and SS as the guest has read them into eax and ebx, which is as the monitor finds them.
fn selectors_read(bench: &mut Bench) -> (u16, u16) {
    match bench.exit() {
        Exit::Sensitive(insn) if insn.routine == Routine::Hlt => {}
        other => panic!("{other:?} at {:#x}", bench.cpu.rip),
    }
    let read = (bench.cpu.gpr[RAX] as u16, bench.cpu.gpr[RBX] as u16);
    let selector = |segment| bench.cpu.segment(segment).selector;
    assert_eq!(read, (selector(SegmentRegister::Cs), selector(SegmentRegister::Ss)));
    read
}

/// Linux executes IRET with its own CS to serialise, after it has changed code; often without any exit since the
/// system call.
#[test]
fn a_kernel_reads_its_own_selectors() {
    let mut bench = in_a_program(
        |a| a.syscall().unwrap(),
        |a| {
            a.mov(eax, cs).unwrap();
            a.mov(ebx, ss).unwrap();
            a.hlt().unwrap();
        },
    );
    assert_eq!(selectors_read(&mut bench), (0x10, 0x18));
    assert_eq!(bench.cpu.cpl(), 0);
}

#[test]
fn a_program_reads_its_own_selectors_after_sysret() {
    let mut bench = in_a_program(
        |a| {
            a.syscall().unwrap();
            a.mov(eax, cs).unwrap();
            a.mov(ebx, ss).unwrap();
            a.hlt().unwrap();
        },
        |a| a.sysretq().unwrap(),
    );
    assert_eq!(selectors_read(&mut bench), (0x33, 0x2b));
    assert_eq!(bench.cpu.cpl(), 3);
}

/// The others are loaded by routines only, so that what the context holds of them is right.
#[test]
fn data_selectors_are_read_inline() {
    let mut bench = in_a_program(
        |a| {
            a.mov(eax, ds).unwrap();
            a.syscall().unwrap();
        },
        |a| {
            a.mov(ebx, es).unwrap();
            a.hlt().unwrap();
        },
    );
    bench.run();
    assert_eq!((bench.cpu.gpr[RAX], bench.cpu.gpr[RBX]), (16, 16));
}
