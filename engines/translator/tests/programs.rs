//! Short programs under the translator, with what they must leave behind.

mod common;

use common::{Bench, DATA, STACK};
use iced_x86::code_asm::*;
use vcpu::Exit;
use x86::register::gpr::*;
use x86::{Exception, Vector};

#[test]
fn registers_and_flags_pass_through() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(rax, 5u64).unwrap();
        a.mov(r9, 7u64).unwrap();
        a.mov(r10, 11u64).unwrap();
        a.imul_2(r9, r10).unwrap();
        a.add(rax, r9).unwrap();
        a.cmp(rax, 82).unwrap();
        a.setz(r11b).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 82);
    assert_eq!(bench.cpu.gpr[R9], 77);
    assert_eq!(bench.cpu.gpr[R11] & 0xff, 1);
}

#[test]
fn memory_stack_and_calls() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        let mut function = a.create_label();
        let mut over = a.create_label();
        a.mov(rbx, DATA).unwrap();
        a.mov(qword_ptr(rbx + 8), 0x1234).unwrap();
        a.mov(r9, 3u64).unwrap();
        a.push(r9).unwrap();
        a.call(function).unwrap();
        a.pop(rcx).unwrap();
        a.jmp(over).unwrap();
        a.set_label(&mut function).unwrap();
        a.mov(rax, qword_ptr(rsp + 8)).unwrap();
        a.add(rax, qword_ptr(rbx + 8)).unwrap();
        a.mov(qword_ptr(rbx + rax * 8 - 0x1237 * 8 + 16), rax).unwrap();
        a.ret().unwrap();
        a.set_label(&mut over).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 0x1237);
    assert_eq!(bench.cpu.gpr[RCX], 3);
    assert_eq!(bench.cpu.gpr[RSP], STACK);
    assert_eq!(bench.ram.read_u64(DATA + 16).unwrap(), 0x1237);
}

#[test]
fn loops_and_flags_across_memory_accesses() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        let mut top = a.create_label();
        a.mov(rbx, DATA).unwrap();
        a.mov(rcx, 1000u64).unwrap();
        a.xor(eax, eax).unwrap();
        a.set_label(&mut top).unwrap();
        a.add(rax, rcx).unwrap();
        a.mov(qword_ptr(rbx + rcx * 8), rax).unwrap();
        a.adc(dword_ptr(rbx), 1).unwrap();
        a.dec(rcx).unwrap();
        a.mov(r8, qword_ptr(rbx + 8)).unwrap();
        a.jnz(top).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 500_500);
    assert_eq!(bench.ram.read_u32(DATA).unwrap(), 1000);
}

#[test]
fn strings_in_bulk_and_across_pages() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(rdi, DATA + 100).unwrap();
        a.mov(ecx, 10000u32).unwrap();
        a.mov(eax, 0x5au32).unwrap();
        a.rep().stosb().unwrap();
        a.mov(rsi, DATA).unwrap();
        a.mov(rdi, DATA + 0x10000).unwrap();
        a.mov(ecx, 2000u32).unwrap();
        a.rep().movsq().unwrap();
        a.mov(rdi, DATA + 0x10000).unwrap();
        a.mov(ecx, 1000u32).unwrap();
        a.xor(eax, eax).unwrap();
        a.repe().scasb().unwrap();
    });
    bench.run();
    let mut copy = vec![0; 16000];
    bench.ram.read(DATA + 0x10000, &mut copy).unwrap();
    assert!(copy[..100].iter().all(|b| *b == 0));
    assert!(copy[100..10100].iter().all(|b| *b == 0x5a));
    assert!(copy[10100..].iter().all(|b| *b == 0));
    assert_eq!(bench.cpu.gpr[RDI], DATA + 0x10000 + 101);
    assert_eq!(bench.cpu.gpr[RCX], 899);
}

#[test]
fn straddling_accesses_bounce() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(rbx, DATA + 0xffc).unwrap();
        a.mov(rax, 0x1122_3344_5566_7788u64).unwrap();
        a.mov(qword_ptr(rbx), rax).unwrap();
        a.add(qword_ptr(rbx), 1).unwrap();
        a.lock().xadd(qword_ptr(rbx), rax).unwrap();
        a.movdqu(xmm0, xmmword_ptr(rbx - 4)).unwrap();
        a.movq(rcx, xmm0).unwrap();
        a.mov(rsp, DATA + 0x1004).unwrap();
        a.push(rax).unwrap();
        a.pop(rdx).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 0x1122_3344_5566_7789);
    assert_eq!(bench.cpu.gpr[RDX], 0x1122_3344_5566_7789);
    assert_eq!(
        bench.cpu.gpr[RCX] >> 32,
        0x1122_3344_5566_7788u64.wrapping_add(0x1122_3344_5566_7789) & 0xffff_ffff
    );
}

#[test]
fn code_that_changes_itself() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        let mut top = a.create_label();
        let mut patched = a.create_label();
        a.xor(ebx, ebx).unwrap();
        a.lea(rsi, ptr(patched)).unwrap();
        a.set_label(&mut top).unwrap();
        a.mov(byte_ptr(rsi + 1), bl).unwrap();
        a.set_label(&mut patched).unwrap();
        a.mov(eax, 0u32).unwrap();
        a.add(edx, eax).unwrap();
        a.inc(ebx).unwrap();
        a.cmp(ebx, 100).unwrap();
        a.jb(top).unwrap();
    });
    bench.cpu.gpr[RDX] = 0;
    bench.run();
    assert_eq!(bench.cpu.gpr[RDX], 4950);
}

#[test]
fn faults_are_precise() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(rax, 1u64).unwrap();
        a.mov(r9, 5u64).unwrap();
        a.mov(rcx, 0x8000_0000_0000u64).unwrap();
        a.add(r9, qword_ptr(rcx)).unwrap();
    });
    let Exit::Exception(exception) = bench.exit() else { panic!() };
    assert_eq!(exception, Exception::gp(0));
    assert_eq!(bench.cpu.gpr[R9], 5);
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(rcx, 0x4000_0000u64).unwrap();
        a.push(qword_ptr(rcx)).unwrap();
    });
    let Exit::Exception(exception) = bench.exit() else { panic!() };
    assert_eq!(exception, Exception::page_fault(0x4000_0000, 0));
    assert_eq!(bench.cpu.gpr[RSP], STACK);
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.xor(edx, edx).unwrap();
        a.xor(ecx, ecx).unwrap();
        a.div(rcx).unwrap();
    });
    let Exit::Exception(exception) = bench.exit() else { panic!() };
    assert_eq!(exception.vector, Vector::DivideError);
    assert_eq!(bench.cpu.rip, common::CODE + 4);
}

#[test]
fn indirect_jumps_and_bits() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        let mut target = a.create_label();
        let mut end = a.create_label();
        a.lea(r11, ptr(target)).unwrap();
        a.mov(ecx, 50u32).unwrap();
        a.mov(rbx, DATA).unwrap();
        a.jmp(r11).unwrap();
        a.set_label(&mut target).unwrap();
        a.lock().bts(qword_ptr(rbx), rcx).unwrap();
        a.dec(ecx).unwrap();
        a.jz(end).unwrap();
        a.jmp(r11).unwrap();
        a.set_label(&mut end).unwrap();
        a.mov(ecx, 100u32).unwrap();
        a.bts(dword_ptr(rbx), ecx).unwrap();
    });
    bench.run();
    assert_eq!(bench.ram.read_u64(DATA).unwrap(), (1 << 51) - 2);
    assert_eq!(bench.ram.read_u64(DATA + 8).unwrap(), 1 << 36);
}

#[test]
fn strings_go_backwards_and_overlap() {
    let mut bench = Bench::long_mode();
    let pattern: Vec<u8> = (0..20_000u32).map(|n| (n * 7 + n / 256) as u8).collect();
    bench.ram.write(DATA, &pattern).unwrap();
    bench.load(|a| {
        a.std().unwrap();
        a.mov(rsi, DATA + 16_000 - 8).unwrap();
        a.mov(rdi, DATA + 16_000 + 100 - 8).unwrap();
        a.mov(ecx, 2000u32).unwrap();
        a.rep().movsq().unwrap();
        a.mov(rsi, DATA + 0x10_0000 - 1).unwrap();
        a.mov(rdi, DATA + 0x10_0000 - 4).unwrap();
        a.mov(ecx, 9000u32).unwrap();
        a.mov(byte_ptr(rsi), 0x11).unwrap();
        a.mov(byte_ptr(rsi - 1), 0x22).unwrap();
        a.mov(byte_ptr(rsi - 2), 0x33).unwrap();
        a.rep().movsb().unwrap();
        a.cld().unwrap();
    });
    bench.run();
    let mut moved = vec![0; 16_000];
    bench.ram.read(DATA + 100, &mut moved).unwrap();
    assert_eq!(moved, pattern[..16_000]);
    let mut repeated = vec![0; 9003];
    bench.ram.read(DATA + 0x10_0000 - 9003, &mut repeated).unwrap();
    repeated.reverse();
    assert!(repeated.iter().enumerate().all(|(n, byte)| *byte == [0x11, 0x22, 0x33][n % 3]));
    assert!(!bench.cpu.rflags.contains(x86::Rflags::DF));
}
