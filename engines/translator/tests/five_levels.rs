//! Page tables of five levels: addresses that four do not reach, and those that five do not.

mod common;

use common::{Bench, CODE, DATA, STACK};
use iced_x86::code_asm::*;
use x86::register::gpr::*;
use x86::{Cr4, Exception};

/// Memory once more, by the fifth level's entry ABh.
const HIGH: u64 = 0xab << 48;
/// A fifth level above the bench's own tables.
const TOP: u64 = 0x7000;

fn five_levels() -> Bench {
    let mut bench = Bench::long_mode();
    for slot in [0, 0xab] {
        bench.ram.write_u64(TOP + slot * 8, bench.cpu.cr3 | 7).unwrap();
    }
    bench.cpu.cr3 = TOP;
    bench.cpu.cr4 |= Cr4::LA57;
    bench
}

#[test]
fn data_stack_and_code() {
    let mut bench = five_levels();
    bench.load(|a| {
        let (mut up_there, mut here) = (a.create_label(), a.create_label());
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.add(dword_ptr(rbx + 0xffc), eax).unwrap();
        a.add(qword_ptr(rbx + 0xffc), rax).unwrap();
        a.push(rax).unwrap();
        a.lea(rdx, qword_ptr(up_there)).unwrap();
        a.add(rdx, rcx).unwrap();
        a.call(rdx).unwrap();
        a.hlt().unwrap();
        a.set_label(&mut up_there).unwrap();
        a.call(here).unwrap();
        a.set_label(&mut here).unwrap();
        a.pop(rsi).unwrap();
        a.ret().unwrap();
    });
    bench.ram.write(DATA, &5u64.to_le_bytes()).unwrap();
    (bench.cpu.gpr[RBX], bench.cpu.gpr[RCX], bench.cpu.gpr[RSP]) = (HIGH + DATA, HIGH, HIGH + STACK);
    bench.run();
    assert_eq!((bench.cpu.gpr[RAX], bench.cpu.gpr[RSP]), (5, HIGH + STACK - 8));
    assert_eq!(bench.cpu.gpr[RSI] & !0xfff, HIGH + CODE);
    assert_eq!(bench.ram.read_u64(DATA + 0xffc).unwrap(), 10);
    assert_eq!(bench.ram.read_u64(STACK - 8).unwrap(), 5);
}

/// Loads and stores by rbx, pushes, jumps to rbx.
const PROGRAMS: [fn(&mut CodeAssembler); 4] = [
    |a| a.mov(rax, qword_ptr(rbx)).unwrap(),
    |a| a.mov(qword_ptr(rbx), rax).unwrap(),
    |a| a.push(rax).unwrap(),
    |a| a.jmp(rbx).unwrap(),
];

/// What each raises at this address.
fn faults(bench: fn() -> Bench, at: u64) -> [Exception; 4] {
    PROGRAMS.map(|program| {
        let mut bench = bench();
        bench.load(program);
        bench.cpu.gpr[RBX] = at;
        bench.cpu.gpr[RSP] = at + 8;
        let fault = bench.fault();
        // Code that is not there is missed by the jump's target, code that cannot be by the jump.
        let jumped = fault.vector == x86::Vector::PageFault && bench.cpu.rip == at;
        assert!(bench.cpu.rip == CODE || jumped, "{fault:?} at {:#x}", bench.cpu.rip);
        fault
    })
}

#[test]
fn what_is_not_mapped_and_what_cannot_be() {
    let nowhere = [Exception::gp(0), Exception::gp(0), Exception::ss(0), Exception::gp(0)];
    let absent = 0x00cd << 48;
    let page = [0, 2, 2, 16].map(|error| Exception::page_fault(absent, error));
    assert_eq!(faults(five_levels, absent), page);
    // Among them the page that an empty hint holds.
    for at in [1 << 56, 0x8000_5a5a_5a5a_5000, 0xfeff << 48] {
        assert_eq!(faults(five_levels, at), nowhere, "{at:#x}");
        assert_eq!(faults(Bench::long_mode, at), nowhere, "{at:#x}");
    }
    assert_eq!(faults(Bench::long_mode, HIGH), nowhere);
}
