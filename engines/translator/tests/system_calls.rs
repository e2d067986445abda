//! System calls, which generated code carries out as jumps: what the kernel and the program see afterwards.

mod common;

use common::{Bench, CODE, DATA, assemble};
use iced_x86::code_asm::*;
use vcpu::{Engine, Exit};
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

/// Where the table of descriptors lies, and a stack frame of IRET's.
const GDT: u64 = DATA + 0x2000;
const FRAME: u64 = DATA + 0x3000;

fn descriptors() -> [u64; 7] {
    let (kernel_code, kernel_data) = (0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff);
    let (code, data, narrow) = (0x00af_fb00_0000_ffff, 0x00cf_f300_0000_ffff, 0x00cf_fb00_0000_ffff);
    [0, 0, kernel_code, kernel_data, narrow, data, code]
}

/// A kernel that executes IRETQ, after which whatever is there runs to a HLT.
fn in_a_kernel(frame: [u64; 5]) -> Bench {
    let mut bench = in_a_program(|a| a.nop().unwrap(), |a| a.nop().unwrap());
    bench.cpu.load_flat_segments(0x10, 0x18, vcpu::Width::Long, 0);
    for register in [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Fs, SegmentRegister::Gs] {
        *bench.cpu.segment_mut(register) = x86::Segment::default();
    }
    for (n, descriptor) in descriptors().into_iter().enumerate() {
        bench.ram.write_u64(GDT + n as u64 * 8, descriptor).unwrap();
    }
    for (n, word) in frame.into_iter().enumerate() {
        bench.ram.write_u64(FRAME + n as u64 * 8, word).unwrap();
    }
    (bench.cpu.gdtr.base, bench.cpu.gdtr.limit) = (GDT, 0x7f);
    bench.load(|a| {
        a.mov(rsp, FRAME).unwrap();
        // Marks the tables' entries; what comes then is found without the engine.
        a.mov(rax, qword_ptr(rsp)).unwrap();
        a.sub(rax, rax).unwrap();
        a.iretq().unwrap();
    });
    // mov eax, cs; mov ebx, ss; hlt
    bench.ram.write(KERNEL, &[0x8c, 0xc8, 0x8c, 0xd3, 0xf4]).unwrap();
    bench
}

/// The routine of the first exit, and where that is.
fn first_exit(bench: &mut Bench) -> (Routine, u64) {
    match bench.exit() {
        Exit::Sensitive(insn) => (insn.routine, bench.cpu.rip),
        other => panic!("{other:?} at {:#x}", bench.cpu.rip),
    }
}

const STACK_THEN: u64 = 0x1234_5678_9abc;

#[test]
fn a_kernel_returns_by_iret() {
    let flags =
        (Rflags::CF | Rflags::OF | Rflags::IF | Rflags::DF | Rflags::IOPL | Rflags::ID | Rflags::RF).bits();
    for (code, stack, ring) in [(0x33, 0x2b, 3), (0x10, 0x18, 0)] {
        let mut bench = in_a_kernel([KERNEL, 0xdead_0000 | code, flags, STACK_THEN, 0xbeef_0000 | stack]);
        assert_eq!(first_exit(&mut bench), (Routine::Hlt, KERNEL + 4));
        let read = (bench.cpu.gpr[RAX], bench.cpu.gpr[RBX]);
        assert_eq!(read, (code, stack));
        assert_eq!(bench.cpu.gpr[RSP], STACK_THEN);
        assert_eq!(bench.cpu.cpl(), ring);
        let kept = (Rflags::from_bits_retain(flags) | Rflags::FIXED) - Rflags::RF;
        assert_eq!(bench.cpu.rflags - Rflags::RF, kept);
        let flat = bench.cpu.clone();
        bench.cpu.load_flat_segments(code as u16, stack as u16, vcpu::Width::Long, ring);
        assert_eq!(bench.cpu.segments, flat.segments);
    }
}

/// What is the routine's: it finds everything as it was before.
#[test]
fn an_unusual_iret_is_left_to_its_routine() {
    type Change = fn(&mut Bench);
    let usual = [KERNEL, 0x33, 2, STACK_THEN, 0x2b];
    let word = |n: usize, value: u64| {
        let mut frame = usual;
        frame[n] = value;
        frame
    };
    let frames = [
        word(0, 1 << 47),
        word(1, 0x23),
        word(1, 0x30),
        word(1, 0),
        word(2, Rflags::TF.bits()),
        word(2, Rflags::NT.bits()),
        word(2, Rflags::AC.bits()),
        word(4, 0),
        word(4, 0x28),
        [KERNEL, 0x10, 2, STACK_THEN, 0],
        [KERNEL, 0x10, 2, STACK_THEN, 0x2b],
    ];
    let changes: [Change; 8] = [
        |bench| bench.cpu.nmi_blocked = true,
        |bench| bench.cpu.rflags |= Rflags::NT,
        |bench| bench.cpu.gdtr.limit = 0x36,
        |bench| *bench.cpu.segment_mut(SegmentRegister::Fs) = *bench.cpu.segment(SegmentRegister::Ss),
        |bench| bench.engine.request_interrupt_window(true),
        // Not accessed yet; of another width; with another limit.
        |bench| bench.ram.write_u64(GDT + 0x30, 0x00af_fa00_0000_ffff).unwrap(),
        |bench| bench.ram.write_u64(GDT + 0x30, 0x00cf_fb00_0000_ffff).unwrap(),
        |bench| bench.ram.write_u64(GDT + 0x28, 0x00cf_f300_0000_fffe).unwrap(),
    ];
    let nothing: Change = |_| {};
    let cases = frames.into_iter().map(|frame| (frame, nothing));
    for (n, (frame, change)) in cases.chain(changes.map(|change| (usual, change))).enumerate() {
        let mut bench = in_a_kernel(frame);
        change(&mut bench);
        let (routine, rip) = first_exit(&mut bench);
        assert_eq!(routine, Routine::Iret, "case {n}");
        assert_eq!(bench.cpu.gpr[RSP], FRAME, "case {n}");
        assert_eq!(bench.cpu.cpl(), 0, "case {n}");
        assert_eq!(bench.ram.read_u8(rip + 1), Ok(0xcf), "case {n}");
        // Of the subtraction.
        let status = bench.cpu.rflags & Rflags::STATUS;
        assert_eq!(status, Rflags::ZF | Rflags::PF, "case {n}");
    }
}
