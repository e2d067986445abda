//! Several engines on one memory, each on a thread of its own: what one writes the others execute, and what is locked is
//! indivisible to all.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{Bench, CODE, DATA, assemble};
use iced_x86::code_asm::*;
use vcpu::{Engine, Exit};
use x86::classify::Routine;
use x86::register::gpr::*;

/// Runs each to its HLT, side by side. A guest that gets nowhere is a failure, not a wait.
fn run_all<const N: usize>(benches: [Bench; N]) -> [Bench; N] {
    let (sender, receiver) = mpsc::channel();
    let threads = benches.map(|mut bench| {
        let sender = sender.clone();
        thread::spawn(move || {
            loop {
                match bench.exit() {
                    Exit::Kicked => {}
                    Exit::Sensitive(insn) if insn.routine == Routine::Hlt => break,
                    other => panic!("{other:?} at {:#x}, rax {:#x}", bench.cpu.rip, bench.cpu.gpr[RAX]),
                }
            }
            let _ = sender.send(());
            bench
        })
    });
    drop(sender);
    for _ in 0..N {
        receiver.recv_timeout(Duration::from_secs(100)).expect("a guest hangs, or its thread has panicked");
    }
    threads.map(|thread| thread.join().expect("no panic"))
}

/// Loads a program for one of several at an address.
fn load_at(bench: &mut Bench, at: u64, program: impl FnOnce(&mut CodeAssembler)) {
    let code = assemble(64, at, |a| {
        program(a);
        a.hlt().unwrap();
    });
    bench.ram.write(at, &code).unwrap();
    bench.cpu.rip = at;
}

const ROUNDS: u32 = 20_000;

/// The operands are in the page that the code is in, which no guest code may write unseen.
#[test]
fn locked_instructions_are_indivisible_on_watched_pages() {
    let mut benches = Bench::several::<2>();
    let counters = CODE + 0x800;
    for bench in &mut benches {
        load_at(bench, CODE, |a| {
            let (mut again, mut retry) = (a.create_label(), a.create_label());
            a.mov(rsi, counters).unwrap();
            a.mov(ecx, ROUNDS).unwrap();
            a.set_label(&mut again).unwrap();
            a.lock().inc(qword_ptr(rsi)).unwrap();
            a.lock().add(byte_ptr(rsi + 8), 1).unwrap();
            a.mov(edx, 1u32).unwrap();
            a.lock().xadd(word_ptr(rsi + 10), dx).unwrap();
            a.lock().btc(dword_ptr(rsi + 12), 5).unwrap();
            a.mov(eax, dword_ptr(rsi + 16)).unwrap();
            a.set_label(&mut retry).unwrap();
            a.lea(edx, ptr(rax + 1)).unwrap();
            a.lock().cmpxchg(dword_ptr(rsi + 16), edx).unwrap();
            a.jne(retry).unwrap();
            a.dec(ecx).unwrap();
            a.jne(again).unwrap();
        });
    }
    let [bench, _] = run_all(benches);
    let all = u64::from(2 * ROUNDS);
    assert_eq!(bench.ram.read_u64(counters), Ok(all));
    assert_eq!(bench.ram.read_u8(counters + 8), Ok(all as u8));
    assert_eq!(bench.ram.read_u16(counters + 10), Ok(all as u16));
    assert_eq!(bench.ram.read_u32(counters + 12), Ok(0), "changed so many times");
    assert_eq!(bench.ram.read_u32(counters + 16), Ok(all as u32));
}

/// A spin lock of XCHG and a ticket of CMPXCHG16B on a watched page keep a counter that is neither locked nor watched.
#[test]
fn locks_lock() {
    let mut benches = Bench::several::<2>();
    let lock = CODE + 0x800;
    for bench in &mut benches {
        load_at(bench, CODE, |a| {
            let (mut again, mut spin) = (a.create_label(), a.create_label());
            let (mut free, mut other) = (a.create_label(), a.create_label());
            a.mov(rsi, lock).unwrap();
            a.mov(rdi, DATA).unwrap();
            a.mov(r8d, ROUNDS).unwrap();
            a.set_label(&mut again).unwrap();
            a.mov(eax, 1u32).unwrap();
            a.xchg(dword_ptr(rsi), eax).unwrap();
            a.test(eax, eax).unwrap();
            a.je(free).unwrap();
            a.set_label(&mut spin).unwrap();
            a.pause().unwrap();
            a.cmp(dword_ptr(rsi), 0).unwrap();
            a.jne(spin).unwrap();
            a.jmp(again).unwrap();
            a.set_label(&mut free).unwrap();
            a.add(qword_ptr(rdi), 1).unwrap();
            a.mov(dword_ptr(rsi), 0).unwrap();
            // Both halves count up together.
            a.set_label(&mut other).unwrap();
            a.mov(rax, qword_ptr(rsi + 16)).unwrap();
            a.mov(rdx, rax).unwrap();
            a.lea(rbx, ptr(rax + 1)).unwrap();
            a.mov(rcx, rbx).unwrap();
            a.lock().cmpxchg16b(xmmword_ptr(rsi + 16)).unwrap();
            a.jne(other).unwrap();
            a.dec(r8d).unwrap();
            a.jne(again).unwrap();
        });
    }
    let [bench, _] = run_all(benches);
    let all = u64::from(2 * ROUNDS);
    assert_eq!(bench.ram.read_u64(DATA), Ok(all));
    assert_eq!((bench.ram.read_u64(lock + 16), bench.ram.read_u64(lock + 24)), (Ok(all), Ok(all)));
}

/// One changes an instruction over and over and says so; the other, which hears of it by an ordinary load, never executes what
/// was there before. The writer has been writing the page for long when the other first translates it.
#[test]
fn changed_code_is_not_executed_as_it_was() {
    let [mut writer, mut runner] = Bench::several::<2>();
    const CALLED: i32 = 0x40;
    const DONE: i32 = 0x80;
    let (function, said) = (0x3_0000_u64, DATA);
    let code = assemble(64, function, |a| {
        a.mov(eax, 0u32).unwrap();
        a.ret().unwrap();
    });
    runner.ram.write(function, &code).unwrap();
    load_at(&mut writer, CODE, |a| {
        let (mut hot, mut again) = (a.create_label(), a.create_label());
        a.mov(rsi, function + 1).unwrap();
        a.mov(rdi, said).unwrap();
        a.xor(ecx, ecx).unwrap();
        a.set_label(&mut hot).unwrap();
        a.inc(ecx).unwrap();
        a.mov(dword_ptr(rsi), ecx).unwrap();
        a.mov(dword_ptr(rdi), ecx).unwrap();
        a.cmp(dword_ptr(rdi + CALLED), 0).unwrap();
        a.je(hot).unwrap();
        a.mov(edx, ROUNDS).unwrap();
        a.set_label(&mut again).unwrap();
        a.inc(ecx).unwrap();
        a.mov(dword_ptr(rsi), ecx).unwrap();
        a.mov(dword_ptr(rdi), ecx).unwrap();
        a.dec(edx).unwrap();
        a.jne(again).unwrap();
        a.mov(dword_ptr(rdi + DONE), 1).unwrap();
    });
    load_at(&mut runner, CODE + 0x1000, |a| {
        let (mut again, mut wait, mut stale) = (a.create_label(), a.create_label(), a.create_label());
        let mut end = a.create_label();
        a.mov(rsi, function).unwrap();
        a.mov(rdi, said).unwrap();
        a.set_label(&mut wait).unwrap();
        a.pause().unwrap();
        a.cmp(dword_ptr(rdi), 1000).unwrap();
        a.jb(wait).unwrap();
        a.set_label(&mut again).unwrap();
        a.mov(r8d, dword_ptr(rdi + DONE)).unwrap();
        a.mov(ebx, dword_ptr(rdi)).unwrap();
        a.call(rsi).unwrap();
        a.mov(dword_ptr(rdi + CALLED), 1).unwrap();
        a.cmp(eax, ebx).unwrap();
        a.jb(stale).unwrap();
        a.test(r8d, r8d).unwrap();
        a.je(again).unwrap();
        a.jmp(end).unwrap();
        a.set_label(&mut stale).unwrap();
        a.ud2().unwrap();
        a.set_label(&mut end).unwrap();
    });
    let [writer, runner] = run_all([writer, runner]);
    assert_eq!(runner.cpu.gpr[RAX], writer.cpu.gpr[RCX]);
}

/// Each writes functions into pages and calls them, where another has done the same just before: all wait for each other to
/// give up writing, and nobody for ever.
#[test]
fn all_translate_what_the_others_write() {
    const PAGES: u32 = 64;
    const TIMES: u32 = 40;
    let mut benches = Bench::several::<3>();
    let first = 0x10_0000_u64;
    for (n, bench) in (0_u32..).zip(&mut benches) {
        load_at(bench, CODE + 0x1000 * u64::from(n), |a| {
            let (mut times, mut pages) = (a.create_label(), a.create_label());
            a.mov(ebp, TIMES).unwrap();
            a.set_label(&mut times).unwrap();
            a.mov(rsi, first).unwrap();
            a.mov(ebx, PAGES).unwrap();
            a.set_label(&mut pages).unwrap();
            // mov eax, imm32; ret, each at a place of its own in the page.
            a.lea(rdi, ptr(rsi + 0x100 * n)).unwrap();
            a.mov(byte_ptr(rdi), 0xb8).unwrap();
            a.mov(dword_ptr(rdi + 1), ebx).unwrap();
            a.mov(byte_ptr(rdi + 5), 0xc3).unwrap();
            a.call(rdi).unwrap();
            a.sub(eax, ebx).unwrap();
            a.add(r12, rax).unwrap();
            a.add(rsi, 0x1000).unwrap();
            a.dec(ebx).unwrap();
            a.jne(pages).unwrap();
            a.dec(ebp).unwrap();
            a.jne(times).unwrap();
        });
        bench.cpu.gpr[R12] = 0;
        bench.cpu.gpr[4] += 0x1000 * u64::from(n);
    }
    for bench in run_all(benches) {
        assert_eq!(bench.cpu.gpr[R12], 0, "each has called what it wrote");
    }
}

/// What a mask leaves out is another's, and stays as that one has it.
#[test]
fn masked_stores_leave_the_others_alone() {
    let [mut one, mut other] = Bench::several::<2>();
    let vector = CODE + 0x800;
    load_at(&mut one, CODE, |a| {
        let mut again = a.create_label();
        a.mov(rsi, vector).unwrap();
        a.vmovdqu(ymm1, ymmword_ptr(rsi + 0x40)).unwrap();
        a.mov(ecx, ROUNDS).unwrap();
        a.set_label(&mut again).unwrap();
        a.vmovd(xmm0, ecx).unwrap();
        a.vpmaskmovd(ymmword_ptr(rsi), ymm1, ymm0).unwrap();
        a.dec(ecx).unwrap();
        a.jne(again).unwrap();
    });
    load_at(&mut other, CODE + 0x400, |a| {
        let mut again = a.create_label();
        a.mov(rsi, vector).unwrap();
        a.mov(ecx, ROUNDS).unwrap();
        a.set_label(&mut again).unwrap();
        a.inc(dword_ptr(rsi + 4)).unwrap();
        a.dec(ecx).unwrap();
        a.jne(again).unwrap();
    });
    // The first element only.
    one.ram.write_u64(vector + 0x40, 0x8000_0000).unwrap();
    let [one, _] = run_all([one, other]);
    assert_eq!((one.ram.read_u32(vector), one.ram.read_u32(vector + 4)), (Ok(1), Ok(ROUNDS)));
}

/// Who waits by PAUSE gives the host's processor away; who is alone need not leave guest code for it.
#[test]
fn a_pause_gives_way() {
    let yields = |bench: &Bench| {
        let counters = bench.engine.counters();
        counters.iter().find(|(name, _)| name.contains("gave its processor")).map(|(_, n)| *n)
    };
    let pauses = |a: &mut CodeAssembler| {
        let mut again = a.create_label();
        a.mov(ecx, 1000).unwrap();
        a.stc().unwrap();
        a.set_label(&mut again).unwrap();
        a.pause().unwrap();
        a.inc(rbx).unwrap();
        a.loop_(again).unwrap();
        a.setb(al).unwrap();
    };
    let [mut several, _] = Bench::several::<2>();
    let mut alone = Bench::long_mode();
    for bench in [&mut several, &mut alone] {
        bench.cpu.gpr[RBX] = 0;
        bench.load(pauses);
        bench.run();
        assert_eq!((bench.cpu.gpr[RBX], bench.cpu.gpr[RAX] & 0xff), (1000, 1));
    }
    assert!(yields(&several) > Some(10), "{:?}", yields(&several));
    assert_eq!(yields(&alone), Some(0));
}
