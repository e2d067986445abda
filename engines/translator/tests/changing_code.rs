//! Code that changes: by itself, through another mapping, by a device. What runs next is always what memory
//! holds, as on the processor.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Bench, CODE, DATA, assemble};
use iced_x86::code_asm::*;
use vcpu::{Engine, Exit};
use x86::classify::Routine;
use x86::register::gpr::*;

/// The gigabyte from here on shows the first once more.
const ALIAS: u64 = 1 << 30;

fn with_alias() -> Bench {
    let bench = Bench::long_mode();
    // The second entry of the page-directory-pointer table.
    bench.ram.write_u64(0x9008, 0x87).expect("in RAM");
    bench
}

#[test]
fn the_very_next_instruction() {
    for distance in [0, 1, 5, 40] {
        let mut bench = Bench::long_mode();
        bench.load(|a| {
            let mut patched = a.create_label();
            a.lea(rsi, ptr(patched)).unwrap();
            a.mov(byte_ptr(rsi + 1), 42).unwrap();
            for _ in 0..distance {
                a.inc(rdx).unwrap();
            }
            a.set_label(&mut patched).unwrap();
            a.mov(eax, 1u32).unwrap();
        });
        bench.run();
        assert_eq!(bench.cpu.gpr[RAX], 42, "{distance} instructions between");
    }
}

#[test]
fn an_instruction_across_two_pages() {
    let mut bench = Bench::long_mode();
    // mov eax, imm32 with its opcode on one page and its operand's upper half on the next.
    let at = CODE + 0x1000 - 3;
    let patched = assemble(64, at, |a| {
        a.mov(eax, 0x1111_1111u32).unwrap();
        a.ret().unwrap();
    });
    bench.ram.write(at, &patched).unwrap();
    bench.load(|a| {
        a.mov(rbx, at).unwrap();
        a.call(rbx).unwrap();
        a.mov(r8, rax).unwrap();
        a.mov(byte_ptr(rbx + 4), 0x22).unwrap();
        a.call(rbx).unwrap();
        a.mov(r9, rax).unwrap();
        a.mov(byte_ptr(rbx + 1), 0x33).unwrap();
        a.call(rbx).unwrap();
        a.mov(r10, rax).unwrap();
        // Both at once.
        a.mov(dword_ptr(rbx + 1), 0x4444_4444).unwrap();
        a.call(rbx).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[R8], 0x1111_1111);
    assert_eq!(bench.cpu.gpr[R9], 0x2211_1111);
    assert_eq!(bench.cpu.gpr[R10], 0x2211_1133);
    assert_eq!(bench.cpu.gpr[RAX], 0x4444_4444);
}

#[test]
fn through_another_mapping() {
    let mut bench = with_alias();
    bench.load(|a| {
        let mut top = a.create_label();
        let mut patched = a.create_label();
        a.lea(rsi, ptr(patched)).unwrap();
        a.mov(rdi, ALIAS).unwrap();
        a.add(rsi, rdi).unwrap();
        a.mov(ecx, 50u32).unwrap();
        a.xor(edx, edx).unwrap();
        a.set_label(&mut top).unwrap();
        a.mov(byte_ptr(rsi + 1), cl).unwrap();
        a.set_label(&mut patched).unwrap();
        a.mov(eax, 0u32).unwrap();
        a.add(rdx, rax).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(top).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RDX], 51 * 25);
}

#[test]
fn the_same_code_at_two_addresses() {
    let mut bench = with_alias();
    let function = assemble(64, DATA, |a| {
        let mut here = a.create_label();
        // rip-relative, so that the two differ.
        a.set_label(&mut here).unwrap();
        a.lea(rax, ptr(here)).unwrap();
        a.add(rax, 1).unwrap();
        a.ret().unwrap();
    });
    bench.ram.write(DATA, &function).unwrap();
    bench.load(|a| {
        a.mov(rbx, DATA).unwrap();
        a.mov(rcx, DATA + ALIAS).unwrap();
        a.call(rbx).unwrap();
        a.mov(r8, rax).unwrap();
        a.call(rcx).unwrap();
        a.mov(r9, rax).unwrap();
        // One write changes both.
        a.mov(byte_ptr(rbx + (function.len() - 5)), 5).unwrap();
        a.call(rbx).unwrap();
        a.mov(r10, rax).unwrap();
        a.call(rcx).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[R8], DATA + 1);
    assert_eq!(bench.cpu.gpr[R9], DATA + ALIAS + 1);
    assert_eq!(bench.cpu.gpr[R10], DATA + 5);
    assert_eq!(bench.cpu.gpr[RAX], DATA + ALIAS + 5);
}

#[test]
fn copied_over_code_and_pushed_onto_it() {
    let mut bench = Bench::long_mode();
    let versions = [7u32, 8, 9].map(|n| {
        assemble(64, DATA, |a| {
            a.add(eax, n).unwrap();
            a.add(eax, n).unwrap();
            a.ret().unwrap();
        })
    });
    for (n, version) in versions.iter().enumerate() {
        bench.ram.write(DATA + 0x1000 + n as u64 * 0x100, version).unwrap();
    }
    bench.load(|a| {
        a.mov(rbx, DATA).unwrap();
        a.xor(eax, eax).unwrap();
        for n in 0..3 {
            a.mov(rdi, rbx).unwrap();
            a.lea(rsi, qword_ptr(rbx + (0x1000 + n * 0x100))).unwrap();
            a.mov(ecx, 11u32).unwrap();
            a.rep().movsb().unwrap();
            a.call(rbx).unwrap();
        }
        // ret, nop ... by a push.
        a.mov(rdx, 0x9090_9090_9090_90c3u64).unwrap();
        a.mov(rbp, rsp).unwrap();
        a.lea(rsp, qword_ptr(rbx + 8)).unwrap();
        a.push(rdx).unwrap();
        a.mov(rsp, rbp).unwrap();
        a.call(rbx).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 2 * (7 + 8 + 9));
}

#[test]
fn a_loop_that_rewrites_its_own_branch() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        let mut top = a.create_label();
        let mut branch = a.create_label();
        a.lea(rsi, ptr(branch)).unwrap();
        a.xor(ecx, ecx).unwrap();
        a.mov(edx, 0x9090u32).unwrap();
        a.set_label(&mut top).unwrap();
        a.inc(ecx).unwrap();
        a.movzx(eax, word_ptr(rsi)).unwrap();
        // At last the jump becomes two no-operations.
        a.cmp(ecx, 1000).unwrap();
        a.cmove(eax, edx).unwrap();
        a.mov(word_ptr(rsi), ax).unwrap();
        a.set_label(&mut branch).unwrap();
        a.jmp(top).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RCX], 1000);
}

#[test]
fn a_device_writes_while_code_runs() {
    let mut bench = Bench::long_mode();
    // mov eax, 0 / cmp eax, 100 / jne: until somebody changes the 0.
    bench.load(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.mov(eax, 0u32).unwrap();
        a.inc(rcx).unwrap();
        a.cmp(eax, 100).unwrap();
        a.jne(top).unwrap();
    });
    let ram = bench.ram.clone();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for value in 1..=100u8 {
                ram.write(CODE + 1, &[value]).unwrap();
                std::thread::yield_now();
            }
            done.store(true, Ordering::Release);
        });
        let since = Instant::now();
        loop {
            match bench.exit() {
                Exit::Kicked => {}
                Exit::Sensitive(insn) if insn.routine == Routine::Hlt => break,
                other => panic!("{other:?}"),
            }
            assert!(since.elapsed() < Duration::from_secs(20), "the write is never seen");
        }
        assert!(done.load(Ordering::Acquire) || bench.cpu.gpr[RAX] == 100);
    });
    assert_eq!(bench.cpu.gpr[RAX], 100);
}

#[test]
fn a_write_while_the_engine_rests_is_seen_at_once() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(eax, 1u32).unwrap();
    });
    for value in [1u8, 2, 3] {
        bench.ram.write(CODE + 1, &[value]).unwrap();
        bench.cpu.rip = CODE;
        // The write may have kicked.
        while matches!(bench.exit(), Exit::Kicked) {}
        assert_eq!(bench.cpu.gpr[RAX], u64::from(value));
    }
    // A kick without a cause is kept for the next run, and only that.
    bench.engine.kicker().kick();
    bench.cpu.rip = CODE;
    assert!(matches!(bench.exit(), Exit::Kicked));
    assert!(matches!(bench.exit(), Exit::Sensitive(_)));
}
