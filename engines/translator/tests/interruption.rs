//! Ways to stop running code: kicks into loops of every kind, single steps, interrupt shadows and windows.

mod common;

use std::time::{Duration, Instant};

use common::pages::to_ring3;
use common::{Bench, CODE, DATA, STACK, assemble};
use iced_x86::code_asm::*;
use vcpu::{Engine, Exit, Shadow};
use x86::classify::Routine;
use x86::register::gpr::*;
use x86::{Exception, Rflags, Vector};

/// Kicks a running program from another thread and expects it to stop soon, wherever it is.
fn expect_kicked(bench: &mut Bench, what: &str) {
    for round in 0..3 {
        let kicker = bench.engine.kicker();
        let since = Instant::now();
        let exit = std::thread::scope(|scope| {
            scope.spawn(move || {
                // Long enough for the loop to be translated and linked.
                let until = Instant::now() + Duration::from_millis(15);
                while Instant::now() < until {
                    std::thread::yield_now();
                }
                kicker.kick();
            });
            bench.exit()
        });
        assert!(matches!(exit, Exit::Kicked), "{what}, round {round}: {exit:?} at {:#x}", bench.cpu.rip);
        assert!(since.elapsed() < Duration::from_secs(2), "{what}, round {round}");
    }
}

fn kicked_in(what: &str, program: impl FnOnce(&mut CodeAssembler)) {
    let mut bench = Bench::long_mode();
    bench.load(program);
    expect_kicked(&mut bench, what);
}

#[test]
fn kicks_reach_direct_loops() {
    kicked_in("jmp $", |a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.jmp(top).unwrap();
    });
    kicked_in("inc; jmp", |a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.inc(rax).unwrap();
        a.jmp(top).unwrap();
    });
    kicked_in("jcc back with flags live", |a| {
        let mut top = a.create_label();
        a.xor(eax, eax).unwrap();
        a.stc().unwrap();
        a.set_label(&mut top).unwrap();
        a.adc(rbx, 0).unwrap();
        a.lea(rcx, qword_ptr(rcx + 1)).unwrap();
        a.cmp(eax, 1).unwrap();
        a.jb(top).unwrap();
    });
    kicked_in("two blocks forwards and back", |a| {
        let mut top = a.create_label();
        let mut middle = a.create_label();
        a.set_label(&mut top).unwrap();
        a.jmp(middle).unwrap();
        a.ud2().unwrap();
        a.set_label(&mut middle).unwrap();
        a.nop().unwrap();
        a.jmp(top).unwrap();
    });
    kicked_in("loop", |a| {
        let mut top = a.create_label();
        let mut inner = a.create_label();
        a.set_label(&mut top).unwrap();
        a.mov(ecx, 1000u32).unwrap();
        a.set_label(&mut inner).unwrap();
        a.loop_(inner).unwrap();
        a.jmp(top).unwrap();
    });
    kicked_in("jrcxz", |a| {
        let mut top = a.create_label();
        a.xor(ecx, ecx).unwrap();
        a.set_label(&mut top).unwrap();
        a.jrcxz(top).unwrap();
    });
    kicked_in("loopne", |a| {
        let mut top = a.create_label();
        a.mov(rcx, -1i64).unwrap();
        a.test(rcx, rcx).unwrap();
        a.set_label(&mut top).unwrap();
        a.loopne(top).unwrap();
    });
}

#[test]
fn kicks_reach_indirect_loops() {
    kicked_in("jmp rax", |a| {
        let mut top = a.create_label();
        a.lea(rax, ptr(top)).unwrap();
        a.set_label(&mut top).unwrap();
        a.jmp(rax).unwrap();
    });
    kicked_in("jmp through memory", |a| {
        let mut top = a.create_label();
        a.lea(rax, ptr(top)).unwrap();
        a.mov(rbx, DATA).unwrap();
        a.mov(qword_ptr(rbx), rax).unwrap();
        a.set_label(&mut top).unwrap();
        a.jmp(qword_ptr(rbx)).unwrap();
    });
    kicked_in("call and return", |a| {
        let mut top = a.create_label();
        let mut function = a.create_label();
        a.set_label(&mut top).unwrap();
        a.call(function).unwrap();
        a.jmp(top).unwrap();
        a.set_label(&mut function).unwrap();
        a.ret().unwrap();
    });
    kicked_in("a return to itself", |a| {
        let mut top = a.create_label();
        a.lea(rax, ptr(top)).unwrap();
        a.set_label(&mut top).unwrap();
        a.push(rax).unwrap();
        a.ret().unwrap();
    });
    kicked_in("calls that never return", |a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.mov(rsp, STACK).unwrap();
        a.call(top).unwrap();
    });
    kicked_in("a call through a register", |a| {
        let mut top = a.create_label();
        let mut function = a.create_label();
        a.lea(rbx, ptr(function)).unwrap();
        a.set_label(&mut top).unwrap();
        a.call(rbx).unwrap();
        a.cmp(rbx, 0).unwrap();
        a.jne(top).unwrap();
        a.set_label(&mut function).unwrap();
        a.ret().unwrap();
    });
}

#[test]
fn kicks_reach_loops_across_pages() {
    for ring in [0, 3] {
        for flags_live in [false, true] {
            let mut bench = Bench::long_mode();
            if ring == 3 {
                to_ring3(&mut bench);
            }
            let far = CODE + 0x5000;
            // The second page of the loop is above the first and below it in turns.
            for [first, second] in [[CODE, far], [far, CODE]] {
                let leap = |from, to| {
                    assemble(64, from, |a| {
                        if flags_live {
                            a.adc(rax, 0).unwrap();
                        }
                        a.jmp(to).unwrap();
                    })
                };
                bench.ram.write(first, &leap(first, second)).unwrap();
                bench.ram.write(second, &leap(second, first)).unwrap();
                bench.cpu.rip = first;
                expect_kicked(&mut bench, &format!("two pages, ring {ring}, flags live: {flags_live}"));
            }
        }
    }
    // An instruction that reaches into the next page, jumping to itself.
    let mut bench = Bench::long_mode();
    let at = CODE + 0x1000 - 2;
    bench.ram.write(at, &[0xe9, 0xfb, 0xff, 0xff, 0xff]).unwrap();
    bench.cpu.rip = at;
    expect_kicked(&mut bench, "an instruction on two pages");
    // A stack slot that straddles pages, so that every push is slow.
    kicked_in("slow calls", |a| {
        let mut top = a.create_label();
        let mut function = a.create_label();
        a.mov(rsp, DATA + 0x1004).unwrap();
        a.set_label(&mut top).unwrap();
        a.call(function).unwrap();
        a.jmp(top).unwrap();
        a.set_label(&mut function).unwrap();
        a.ret().unwrap();
    });
}

#[test]
fn kicks_reach_long_strings_and_come_back() {
    let mut bench = Bench::long_mode();
    // The destination goes round in the lower 2 MiB of data; the count is for ever.
    bench.load(|a| {
        let mut top = a.create_label();
        a.xor(eax, eax).unwrap();
        a.set_label(&mut top).unwrap();
        a.mov(rdi, DATA).unwrap();
        a.mov(ecx, 0x10_0000u32).unwrap();
        a.rep().stosb().unwrap();
        a.mov(rsi, DATA).unwrap();
        a.mov(rdi, DATA).unwrap();
        a.mov(ecx, 0x10_0000u32).unwrap();
        a.repe().cmpsb().unwrap();
        a.jmp(top).unwrap();
    });
    expect_kicked(&mut bench, "rep stosb and repe cmpsb");
}

#[test]
fn kicks_reach_narrow_loops() {
    let mut bench = Bench::real_mode();
    bench.load(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.push(ax).unwrap();
        a.pop(bx).unwrap();
        a.mov(cx, 3u32).unwrap();
        a.loop_(top).unwrap();
        a.jmp(top).unwrap();
    });
    expect_kicked(&mut bench, "real mode");
}

fn single_step() -> Exception {
    Exception { detail: 1 << 14, ..Exception::new(Vector::Debug) }
}

#[test]
fn single_steps_trap_behind_each_instruction() {
    let mut bench = Bench::long_mode();
    let mut stops = Vec::new();
    bench.load(|a| {
        let mut over = a.create_label();
        let mut function = a.create_label();
        a.mov(ebx, DATA as u32).unwrap();
        a.add(qword_ptr(rbx), 1).unwrap();
        a.call(function).unwrap();
        a.jmp(over).unwrap();
        a.set_label(&mut function).unwrap();
        a.ret().unwrap();
        a.set_label(&mut over).unwrap();
        a.mov(edi, DATA as u32).unwrap();
        a.mov(ecx, 2u32).unwrap();
        a.rep().stosb().unwrap();
        a.nop().unwrap();
    });
    bench.cpu.rflags |= Rflags::TF;
    loop {
        match bench.exit() {
            Exit::Exception(exception) => {
                assert_eq!(exception, single_step());
                stops.push(bench.cpu.rip - CODE);
            }
            Exit::Sensitive(insn) if insn.routine == Routine::Hlt => break,
            other => panic!("{other:?}"),
        }
        assert!(stops.len() < 100);
    }
    // mov 5, add 4, call 5, [jmp 2], ret 1, mov 5, mov 5, rep stosb 2, nop 1.
    assert_eq!(stops, [5, 9, 16, 14, 17, 22, 27, 27, 29, 30]);
    assert_eq!(bench.ram.read_u64(DATA).unwrap(), 0);
}

#[test]
fn a_step_over_a_fault_is_the_fault() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(rax, qword_ptr(0x4000_0000)).unwrap();
    });
    bench.cpu.rflags |= Rflags::TF;
    assert_eq!(bench.fault(), Exception::page_fault(0x4000_0000, 0));
    assert_eq!(bench.cpu.rip, CODE);
}

#[test]
fn a_shadow_lasts_one_instruction() {
    for shadow in [Shadow::Sti, Shadow::MovSs] {
        let mut bench = Bench::long_mode();
        bench.load(|a| {
            a.inc(rax).unwrap();
            a.inc(rax).unwrap();
            a.inc(rax).unwrap();
        });
        bench.cpu.gpr[RAX] = 0;
        bench.cpu.rflags |= Rflags::IF;
        bench.cpu.shadow = shadow;
        bench.engine.request_interrupt_window(true);
        assert!(matches!(bench.exit(), Exit::Kicked));
        assert_eq!(bench.cpu.gpr[RAX], 1);
        assert_eq!(bench.cpu.shadow, Shadow::None);
        assert_eq!(bench.cpu.rip, CODE + 3);
    }
    // The trap that a load of SS holds off is its own.
    for shadow in [Shadow::Sti, Shadow::MovSs] {
        let mut bench = Bench::long_mode();
        bench.load(|a| {
            a.inc(rax).unwrap();
            a.inc(rax).unwrap();
            a.inc(rax).unwrap();
        });
        bench.cpu.rflags |= Rflags::TF;
        bench.cpu.shadow = shadow;
        assert_eq!(bench.fault(), single_step());
        assert_eq!(bench.cpu.rip, CODE + 3, "{shadow:?}");
    }
}

/// Nothing may come between STI and a HLT that begins another block.
#[test]
fn a_kick_behind_sti_finds_its_shadow() {
    let run = |first: u8, enabled: bool| {
        let mut bench = Bench::long_mode();
        bench.ram.write(CODE + 0xfff, &[first, 0xf4]).unwrap();
        bench.cpu.rip = CODE + 0x1000;
        bench.cpu.rflags.set(Rflags::IF, enabled);
        bench.engine.kicker().kick();
        bench.engine.request_interrupt_window(true);
        assert!(matches!(bench.exit(), Exit::Kicked));
        let shadow = bench.cpu.shadow;
        bench.run();
        assert_eq!(bench.cpu.rip, CODE + 0x1000);
        shadow
    };
    assert_eq!(run(0xfb, true), Shadow::Sti);
    assert_eq!(run(0xfb, false), Shadow::None);
    assert_eq!(run(0x90, true), Shadow::None);
}

#[test]
fn an_awaited_window_opens_behind_the_shadow_of_sti() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.inc(rax).unwrap();
        a.sti().unwrap();
        a.inc(rax).unwrap();
        a.inc(rax).unwrap();
    });
    bench.cpu.gpr[RAX] = 0;
    bench.engine.request_interrupt_window(true);
    assert!(matches!(bench.exit(), Exit::Kicked));
    assert_eq!(bench.cpu.gpr[RAX], 2, "one instruction after STI");
    assert!(bench.cpu.rflags.contains(Rflags::IF));
    assert_eq!(bench.cpu.shadow, Shadow::None);
    bench.engine.request_interrupt_window(false);
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 3);
    // Nobody waits: nothing happens.
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.sti().unwrap();
        a.inc(rax).unwrap();
    });
    bench.run();
    // HLT in the shadow leaves to the monitor, which wakes at once.
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.sti().unwrap();
    });
    bench.engine.request_interrupt_window(true);
    bench.run();
    assert!(bench.cpu.rflags.contains(Rflags::IF));
}
