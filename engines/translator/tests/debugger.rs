//! Breakpoints, watchpoints and steps of a debugger outside the guest.

mod common;

use std::sync::Arc;

use common::{Bench, CODE, DATA, DATA_LOW};
use iced_x86::code_asm::*;
use vcpu::{DebugEvent, DebugPoints, Engine, Entry, Exit, Watchpoint};
use x86::Rflags;
use x86::debug::dr6;
use x86::register::gpr::*;

fn set(bench: &mut Bench, breakpoints: &[u64], watchpoints: &[Watchpoint]) {
    let points = DebugPoints::new(breakpoints.iter().copied(), watchpoints.to_vec());
    bench.engine.set_debug_points(&Arc::new(points));
}

/// Runs to where the debugger is told; of what, and what the guest is owed.
#[track_caller]
fn told(bench: &mut Bench, entry: Entry) -> (DebugEvent, u64) {
    match bench.engine.run(&mut bench.cpu, entry) {
        Exit::Debug { event, owed } => (event, owed),
        other => panic!("{other:?} at {:#x}", bench.cpu.rip),
    }
}

const BROKEN: (DebugEvent, u64) = (DebugEvent::Breakpoint, 0);
const STEPPED: (DebugEvent, u64) = (DebugEvent::Stepped, 0);

/// A loop that counts rcx down and rax up, from 3 and 0.
fn count(bench: &mut Bench) {
    bench.load(|a| {
        let mut again = a.create_label();
        a.xor(eax, eax).unwrap(); // CODE
        a.mov(ecx, 3u32).unwrap(); // CODE + 2
        a.set_label(&mut again).unwrap();
        a.inc(rax).unwrap(); // CODE + 7
        a.dec(rcx).unwrap(); // CODE + 10
        a.jnz(again).unwrap(); // CODE + 13
    });
}

#[test]
fn a_breakpoint_is_hit_each_time_and_passed_by_a_step() {
    let mut bench = Bench::long_mode();
    count(&mut bench);
    set(&mut bench, &[CODE + 10], &[]);
    for n in 1..=3 {
        assert_eq!(told(&mut bench, Entry::Resume), BROKEN);
        assert_eq!((bench.cpu.rip, bench.cpu.gpr[RAX]), (CODE + 10, n));
        // Still there.
        assert_eq!(told(&mut bench, Entry::Resume), BROKEN);
        assert_eq!(told(&mut bench, Entry::Step), STEPPED);
        assert_eq!(bench.cpu.rip, CODE + 13);
    }
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 3);
}

#[test]
fn breakpoints_come_and_go_in_code_that_has_run() {
    for inside in [CODE, CODE + 7, CODE + 13] {
        let mut bench = Bench::long_mode();
        count(&mut bench);
        bench.run();
        bench.cpu.rip = CODE;
        set(&mut bench, &[inside], &[]);
        assert_eq!(told(&mut bench, Entry::Resume), BROKEN);
        assert_eq!(bench.cpu.rip, inside);
        set(&mut bench, &[], &[]);
        bench.run();
        assert_eq!(bench.cpu.gpr[RAX], 3);
    }
}

#[test]
fn all_but_the_blocks_with_breakpoints_stay() {
    let translated = |bench: &Bench| {
        bench.engine.counters().into_iter().find(|(what, _)| *what == "blocks translated").unwrap().1
    };
    let mut bench = Bench::long_mode();
    count(&mut bench);
    bench.run();
    let before = translated(&bench);
    set(&mut bench, &[CODE + 0x800], &[]);
    bench.cpu.rip = CODE;
    bench.run();
    assert_eq!(translated(&bench), before, "a breakpoint elsewhere costs nothing");
    set(&mut bench, &[CODE + 2], &[]);
    bench.cpu.rip = CODE;
    assert_eq!(told(&mut bench, Entry::Resume), BROKEN);
    assert_eq!(translated(&bench), before + 2, "what is before it, and the breakpoint itself");
}

#[test]
fn an_instruction_across_pages_and_one_that_is_none_can_have_one() {
    let mut bench = Bench::long_mode();
    // Up to 4 bytes before the end of the page: nop, then mov eax, imm32 across it, then no instruction.
    let start = CODE + 0xffb;
    bench.ram.write(start, &[0x90, 0xb8, 1, 2, 3, 4, 0x0f, 0xff]).unwrap();
    bench.cpu.rip = start;
    set(&mut bench, &[start + 1, start + 6], &[]);
    for at in [start + 1, start + 6] {
        assert_eq!(told(&mut bench, Entry::Resume), BROKEN);
        assert_eq!(bench.cpu.rip, at);
        set(&mut bench, &[start + 6], &[]);
    }
    assert_eq!(bench.cpu.gpr[RAX], 0x0403_0201);
}

#[test]
fn a_breakpoints_address_is_linear_in_real_mode() {
    let mut bench = Bench::real_mode();
    bench.load(|a| {
        a.inc(ax).unwrap();
        a.inc(ax).unwrap();
    });
    set(&mut bench, &[1, CODE + 1], &[]);
    assert_eq!(told(&mut bench, Entry::Resume), BROKEN);
    assert_eq!((bench.cpu.rip, bench.cpu.linear_rip()), (1, CODE + 1));
}

#[test]
fn a_step_is_one_instruction_beside_the_guests_own() {
    let mut bench = Bench::long_mode();
    count(&mut bench);
    assert_eq!(told(&mut bench, Entry::Step), STEPPED);
    assert_eq!(bench.cpu.rip, CODE + 2);
    bench.cpu.rflags |= Rflags::TF;
    assert_eq!(told(&mut bench, Entry::Step), (DebugEvent::Stepped, dr6::BS));
    assert_eq!(bench.cpu.rip, CODE + 7);
    bench.cpu.rflags -= Rflags::TF;
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 3);
}

#[test]
fn a_step_whose_access_a_device_answers_is_one_step() {
    let mut bench = Bench::long_mode();
    // Behind RAM, but mapped.
    let device = 0x1000_0000;
    bench.load(|a| {
        a.mov(eax, dword_ptr(rbx)).unwrap();
        a.inc(rax).unwrap();
    });
    bench.cpu.gpr[RBX] = device;
    let exit = bench.engine.run(&mut bench.cpu, Entry::Step);
    assert!(matches!(exit, Exit::Mmio(mmio) if mmio.gpa == device), "{exit:?}");
    assert_eq!(told(&mut bench, Entry::Complete(0x77)), STEPPED);
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[RAX]), (CODE + 2, 0x77));
}

#[test]
fn watchpoints_wait_for_their_kind_of_access() {
    let program = |bench: &mut Bench| {
        bench.load(|a| {
            a.mov(rax, qword_ptr(rbx)).unwrap(); // CODE
            a.mov(dword_ptr(rbx + 4), eax).unwrap(); // CODE + 3
            a.inc(rcx).unwrap(); // CODE + 6
        });
        bench.cpu.gpr[RBX] = DATA;
    };
    let point = |read, write| Watchpoint { linear: DATA + 6, len: 1, read, write };
    for (point, after) in
        [(point(true, false), CODE + 3), (point(false, true), CODE + 6), (point(true, true), CODE + 3)]
    {
        let mut bench = Bench::long_mode();
        program(&mut bench);
        set(&mut bench, &[], &[point]);
        assert_eq!(told(&mut bench, Entry::Resume), (DebugEvent::Watchpoint(point), 0));
        assert_eq!(bench.cpu.rip, after);
        // And are no concern of the guest's debug registers.
        assert_eq!(bench.cpu.dr[7] & 0xff, 0);
        set(&mut bench, &[], &[]);
        bench.run();
    }
}

#[test]
fn who_reads_and_writes_does_both() {
    for (read, write) in [(true, false), (false, true)] {
        let mut bench = Bench::long_mode();
        bench.load(|a| {
            a.mov(dword_ptr(rbx), eax).unwrap(); // CODE
            a.mov(eax, dword_ptr(rbx)).unwrap(); // CODE + 2
            a.add(dword_ptr(rbx), eax).unwrap(); // CODE + 4
        });
        bench.cpu.gpr[RBX] = DATA;
        let point = Watchpoint { linear: DATA, len: 4, read, write };
        set(&mut bench, &[], &[point]);
        for after in [if write { CODE + 2 } else { CODE + 4 }, CODE + 6] {
            assert_eq!(told(&mut bench, Entry::Resume), (DebugEvent::Watchpoint(point), 0));
            assert_eq!(bench.cpu.rip, after);
        }
        bench.run();
    }
}

#[test]
fn a_watchpoint_and_a_breakpoint_work_together() {
    let mut bench = Bench::real_mode();
    bench.load(|a| {
        a.mov(byte_ptr(0x10), al).unwrap(); // CODE
        a.inc(ax).unwrap(); // CODE + 3
    });
    let point = Watchpoint { linear: DATA_LOW + 0x10, len: 2, read: false, write: true };
    set(&mut bench, &[CODE + 3], &[point]);
    assert_eq!(told(&mut bench, Entry::Resume), (DebugEvent::Watchpoint(point), 0));
    assert_eq!(told(&mut bench, Entry::Resume), BROKEN);
    assert_eq!(bench.cpu.rip, 3);
    assert_eq!(told(&mut bench, Entry::Step), STEPPED);
    bench.run();
}
