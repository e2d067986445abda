//! Breakpoints in the debug registers, and alignment checks.

mod common;

use common::{Bench, CODE, DATA, STACK};
use iced_x86::code_asm::*;
use vcpu::{Exit, Shadow};
use x86::register::gpr::*;
use x86::{Cr0, Exception, Rflags, SegmentRegister, Vector};

const EXECUTE: u64 = 0;
const WRITE: u64 = 1;
const ACCESS: u64 = 3;

/// Enables breakpoint `n` for `len` bytes.
fn set(bench: &mut Bench, n: usize, address: u64, kind: u64, len: u64) {
    let code = match len {
        1 => 0,
        2 => 1,
        4 => 3,
        _ => 2,
    };
    bench.cpu.dr[n] = address;
    bench.cpu.dr[7] |= 2 << (2 * n) | kind << (16 + 4 * n) | code << (18 + 4 * n);
}

fn debug(detail: u64) -> Exception {
    Exception { detail, ..Exception::new(Vector::Debug) }
}

#[test]
fn code_is_stopped_before_it_runs_and_passed_with_rf() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.inc(rax).unwrap();
        a.inc(rax).unwrap();
        a.inc(rax).unwrap();
    });
    bench.cpu.gpr[RAX] = 0;
    set(&mut bench, 2, CODE + 3, EXECUTE, 1);
    assert_eq!(bench.fault(), debug(4));
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[RAX]), (CODE + 3, 1));
    // As often as it is tried.
    assert_eq!(bench.fault(), debug(4));
    bench.cpu.rflags |= Rflags::RF;
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 3);
    assert!(!bench.cpu.rflags.contains(Rflags::RF));
}

#[test]
fn a_load_of_ss_hides_a_breakpoint_behind_it_where_the_maker_says() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.inc(rax).unwrap();
        a.inc(rax).unwrap();
    });
    set(&mut bench, 0, CODE, EXECUTE, 1);
    bench.cpu.shadow = Shadow::MovSs;
    if matches!(host::cpu::vendor().as_str(), "AuthenticAMD" | "HygonGenuine") {
        assert_eq!(bench.fault(), debug(1));
        return;
    }
    assert!(matches!(bench.exit(), Exit::Kicked));
    assert_eq!((bench.cpu.rip, bench.cpu.shadow), (CODE + 3, Shadow::None));
}

#[test]
fn data_are_told_of_behind_the_access() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(ebx, DATA as u32).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.add(dword_ptr(rbx + 8), 1).unwrap();
        a.push(rax).unwrap();
        a.lea(rdi, qword_ptr(rbx + 0x10)).unwrap();
        a.mov(ecx, 3u32).unwrap();
        a.rep().stosb().unwrap();
    });
    set(&mut bench, 0, DATA, WRITE, 8);
    set(&mut bench, 1, DATA + 8, WRITE, 4);
    set(&mut bench, 2, STACK - 8, ACCESS, 4);
    set(&mut bench, 3, DATA + 0x11, WRITE, 1);
    // The load is none of what they wait for.
    assert_eq!(bench.fault(), debug(2));
    assert_eq!((bench.cpu.rip, bench.ram.read_u32(DATA + 8).unwrap()), (CODE + 12, 1));
    assert_eq!(bench.fault(), debug(4));
    assert_eq!(bench.cpu.rip, CODE + 13);
    // In the midst of a string.
    assert_eq!(bench.fault(), debug(8));
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[RCX]), (CODE + 22, 1));
    bench.run();
    assert_eq!(bench.cpu.gpr[RCX], 0);
}

#[test]
fn a_step_and_a_breakpoint_are_one_trap() {
    let mut bench = Bench::protected(32);
    bench.load(|a| {
        a.mov(dword_ptr(DATA as u32), eax).unwrap();
    });
    set(&mut bench, 3, DATA + 2, ACCESS, 1);
    bench.cpu.rflags |= Rflags::TF;
    assert_eq!(bench.fault(), debug(8 | 1 << 14));
}

#[test]
fn a_fault_goes_before_a_breakpoint_on_its_access() {
    let mut bench = Bench::long_mode();
    // Behind what is mapped.
    let address = 1 << 30;
    bench.load(|a| {
        a.mov(rax, qword_ptr(rbx)).unwrap();
    });
    bench.cpu.gpr[RBX] = address;
    set(&mut bench, 0, address, ACCESS, 8);
    assert_eq!(bench.fault(), Exception::page_fault(address, 0));
}

#[test]
fn alignment_is_checked_in_ring_3_where_both_flags_say_so() {
    for (cpl, am, ac, faults) in
        [(3, true, true, true), (3, false, true, false), (3, true, false, false), (0, true, true, false)]
    {
        let mut bench = Bench::long_mode();
        bench.load(|a| {
            a.mov(al, byte_ptr(rbx)).unwrap();
            a.mov(cx, word_ptr(rbx + 1)).unwrap();
            a.mov(edx, dword_ptr(rbx + 1)).unwrap();
        });
        bench.cpu.gpr[RBX] = DATA + 1;
        if cpl == 3 {
            for register in [SegmentRegister::Cs, SegmentRegister::Ss] {
                bench.cpu.segment_mut(register).attributes |= 3 << 5;
            }
        }
        bench.cpu.cr0.set(Cr0::AM, am);
        bench.cpu.rflags.set(Rflags::AC, ac);
        let end = bench.exit();
        match end {
            Exit::Exception(exception) if faults => {
                assert_eq!(exception, Exception::with_code(Vector::AlignmentCheck, 0));
                assert_eq!(bench.cpu.rip, CODE + 6, "the double word");
            }
            Exit::Sensitive(_) if !faults => assert_eq!(bench.cpu.rip, CODE + 9),
            other => panic!("{other:?} for {cpl} {am} {ac}"),
        }
    }
}

#[test]
fn alignment_of_a_vector_is_that_of_its_elements() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.movups(xmm0, xmmword_ptr(rbx)).unwrap();
        a.movups(xmmword_ptr(rbx + 1), xmm0).unwrap();
    });
    bench.cpu.gpr[RBX] = DATA + 4;
    for register in [SegmentRegister::Cs, SegmentRegister::Ss] {
        bench.cpu.segment_mut(register).attributes |= 3 << 5;
    }
    bench.cpu.cr0 |= Cr0::AM;
    bench.cpu.rflags |= Rflags::AC;
    assert_eq!(bench.fault(), Exception::with_code(Vector::AlignmentCheck, 0));
    assert_eq!(bench.cpu.rip, CODE + 3, "the load is of four aligned elements");
}
