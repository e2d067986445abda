//! Indirect jumps to where no code can be: the jump faults, and has had no effect.

mod common;

use common::{Bench, CODE, DATA, STACK};
use iced_x86::code_asm::*;
use x86::Exception;
use x86::register::gpr::*;

/// Not canonical.
const NOWHERE: u64 = 0xaaaa_aaaa_aaaa_aaaa;
/// Outside of a page, so that a slot straddles two.
const STRADDLING: u64 = STACK - 0xffc;

fn expect_fault_at(bench: &mut Bench, at: u64, stack: u64) {
    assert_eq!(bench.fault(), Exception::gp(0));
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[RSP]), (CODE + at, stack));
}

fn long(stack: u64, program: impl FnOnce(&mut CodeAssembler)) -> Bench {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.cmp(rbx, rcx).unwrap();
        program(a);
    });
    bench.cpu.gpr[RBX] = NOWHERE;
    bench.cpu.gpr[RDX] = DATA;
    bench.cpu.gpr[RSP] = stack;
    for at in [DATA, stack] {
        bench.ram.write(at, &NOWHERE.to_le_bytes()).unwrap();
    }
    bench
}

#[test]
fn jumps_calls_and_returns() {
    for stack in [STACK - 0x100, STRADDLING] {
        let programs: [fn(&mut CodeAssembler); 6] = [
            |a| a.jmp(rbx).unwrap(),
            |a| a.jmp(qword_ptr(rdx)).unwrap(),
            |a| a.call(rbx).unwrap(),
            |a| a.call(qword_ptr(rdx)).unwrap(),
            |a| a.ret().unwrap(),
            |a| a.ret_1(0x10).unwrap(),
        ];
        for program in programs {
            expect_fault_at(&mut long(stack, program), 3, stack);
        }
    }
}

#[test]
fn stepped_ones_too() {
    let mut bench = long(STACK - 0x100, |a| a.ret().unwrap());
    bench.cpu.rip = CODE + 3;
    bench.cpu.rflags |= x86::Rflags::TF;
    expect_fault_at(&mut bench, 3, STACK - 0x100);
}

#[test]
fn an_offset_beyond_the_code_segment() {
    let mut bench = Bench::protected(32);
    bench.load(|a| a.call(ebx).unwrap());
    bench.cpu.gpr[RBX] = 0x20_0000;
    bench.cpu.segment_mut(x86::SegmentRegister::Cs).limit = 0x1f_ffff;
    expect_fault_at(&mut bench, 0, STACK);
}

/// A processor would fault at the jump.
#[test]
fn a_direct_jump_faults_where_it_leads() {
    const LAST_PAGE: u64 = 0x7fff_ffff_f000;
    const TABLES: u64 = 0x9_0000;
    let mut bench = Bench::long_mode();
    let top = bench.cpu.cr3 + 255 * 8;
    for (entry, to) in
        (0..4).map(|n| TABLES + n * 0x1000 + 511 * 8).zip([TABLES + 0x1000, TABLES + 0x2000, CODE])
    {
        bench.ram.write_u64(entry, to | 7).unwrap();
    }
    bench.ram.write_u64(top, TABLES | 7).unwrap();
    // jmp $ + 0x1005
    bench.load_bytes(&[0xe9, 0, 0x10, 0, 0]);
    bench.cpu.rip = LAST_PAGE;
    assert_eq!(bench.fault(), Exception::gp(0));
    assert_eq!(bench.cpu.rip, LAST_PAGE + 0x1005);
}
