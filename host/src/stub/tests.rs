use super::*;
use crate::{Mapping, PAGE_SIZE, Protection};

const MEMORY: usize = 16 * PAGE_SIZE;
const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x7f00_0000_0000;
/// Bits of a page fault's error code.
const PRESENT: u32 = 1;
const WRITE: u32 = 2;
const USER: u32 = 4;

struct Bench {
    stub: Stub,
    view: Mapping,
    _memory: Memfd,
}

fn bench(code: &[u8]) -> Bench {
    let stubs = Stubs::start(1).unwrap();
    let memory = Memfd::new("test", MEMORY).unwrap();
    let view = Mapping::shared(&memory, 0, MEMORY, Protection::ReadWrite).unwrap();
    let stub = stubs.take(&memory).unwrap().expect("one was started");
    assert!(stubs.take(&memory).unwrap().is_none());
    // SAFETY: the mapping is longer.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), view.as_ptr(), code.len()) };
    let mut bench = Bench { stub, view, _memory: memory };
    let (len, write) = (PAGE_SIZE as u64, false);
    let code = Change::Map { at: CODE, len, offset: 0, write, execute: true };
    let data = Change::Map { at: DATA, len, offset: len, write: true, execute: false };
    bench.stub.change(&[code, data]).unwrap();
    bench
}

fn registers() -> Registers {
    let mut registers =
        Registers { rip: CODE, rflags: 0x202, selectors: [0, 0x33, 0x2b, 0, 0, 0], ..Registers::default() };
    registers.gpr.iter_mut().zip(0x1111..).for_each(|(gpr, value)| *gpr = value);
    registers.gpr[3] = DATA;
    registers
}

#[test]
fn code_runs_on_the_registers_and_memory_that_it_is_given() {
    // mov [rbx], rcx; lea rcx, [rcx + rdi]; movq xmm3, rcx; syscall
    let code = [0x48, 0x89, 0x0b, 0x48, 0x8d, 0x0c, 0x39, 0x66, 0x48, 0x0f, 0x6e, 0xd9, 0x0f, 0x05];
    let mut bench = bench(&code);
    let mut now = registers();
    now.bases = [0x1234_5000, 0x6789_a000];
    assert_eq!(bench.stub.run(&mut now, None).unwrap(), Stop::SystemCall);
    let before = registers();
    assert_eq!(now.rip, CODE + code.len() as u64);
    assert_eq!(now.gpr[0], before.gpr[0], "rax is not taken for a number");
    assert_eq!(now.gpr[1], now.rip, "as SYSCALL does it");
    assert_eq!(now.gpr[12..], before.gpr[12..]);
    assert_eq!(now.bases, [0x1234_5000, 0x6789_a000]);
    let sum = before.gpr[1] + before.gpr[7];
    assert_eq!(bench.stub.vectors()[160 + 48..][..8], sum.to_le_bytes());
    // SAFETY: within the mapping.
    let word = unsafe { bench.view.as_ptr().add(PAGE_SIZE).cast::<u64>().read_volatile() };
    assert_eq!(word, before.gpr[1]);
}

#[test]
fn how_long_code_has_run_is_told() {
    let mut bench = bench(&[0xff, 0xc9, 0x75, 0xfc, 0x0f, 0x05]); // 1: dec ecx; jnz 1b; syscall
    let mut now = registers();
    now.gpr[1] = 10_000_000;
    let begun = crate::cpu::rdtsc();
    assert_eq!(bench.stub.run(&mut now, None).unwrap(), Stop::SystemCall);
    let all = crate::cpu::rdtsc() - begun;
    // A turn takes a cycle of the processor's, whose clock may be several times the counter's.
    assert!((1_000_000..=all).contains(&bench.stub.cycles()), "{} of {all}", bench.stub.cycles());
}

#[test]
fn nothing_else_is_there() {
    // mov rax, [rsi]
    let mut bench = bench(&[0x48, 0x8b, 0x06]);
    let here = std::ptr::from_ref(&bench) as u64;
    let stack = here & !0xfff;
    for address in [0, here, stack, DATA + PAGE_SIZE as u64, 0x7fff_ffff_e000] {
        let mut now = registers();
        now.gpr[6] = address;
        let stop = bench.stub.run(&mut now, None).unwrap();
        assert_eq!(stop, Stop::PageFault { address, error: USER });
        assert_eq!(now.rip, CODE);
    }
}

#[test]
fn its_own_breakpoints_stop_it() {
    let mut bench = bench(&[0xcc]); // int3
    let mut now = registers();
    assert!(matches!(bench.stub.run(&mut now, None).unwrap(), Stop::Fault { signal: libc::SIGTRAP, .. }));
    assert_eq!(now.rip, CODE + 1);
}

#[test]
fn the_processor_stops_at_breakpoints() {
    let mut bench = bench(&[0x90, 0x0f, 0xa2, 0x0f, 0x05]); // nop; cpuid; syscall
    bench.stub.set_breakpoints([None, None, None, Some(CODE + 1)]).unwrap();
    let mut now = registers();
    assert!(matches!(
        bench.stub.run(&mut now, None).unwrap(),
        Stop::Fault { signal: libc::SIGTRAP, code: 4, .. }
    ));
    const RF: u64 = 1 << 16;
    now.rflags &= !RF;
    assert_eq!(now, Registers { rip: CODE + 1, ..registers() });
    bench.stub.set_breakpoints([Some(CODE + 100), None, None, None]).unwrap();
    assert_eq!(bench.stub.run(&mut now, None).unwrap(), Stop::SystemCall);
}

#[test]
fn an_endless_loop_is_interrupted() {
    let mut bench = bench(&[0xeb, 0xfe]);
    let interrupter = bench.stub.interrupter();
    let mut now = registers();
    std::thread::scope(|scope| {
        scope.spawn(move || interrupter.interrupt());
        assert_eq!(bench.stub.run(&mut now, None).unwrap(), Stop::Interrupted);
    });
    assert_eq!((now.rip, now.gpr), (CODE, registers().gpr));
}

#[test]
fn what_was_mapped_can_be_taken_away() {
    let mut bench = bench(&[0x48, 0x8b, 0x03, 0x0f, 0x05]); // mov rax, [rbx]; syscall
    assert_eq!(bench.stub.run(&mut registers(), None).unwrap(), Stop::SystemCall);
    bench.stub.change(&[Change::Unmap { at: DATA, len: PAGE_SIZE as u64 }]).unwrap();
    assert!(matches!(bench.stub.run(&mut registers(), None).unwrap(), Stop::PageFault { address: DATA, .. }));
}

#[test]
fn one_that_is_given_back_can_be_taken_by_another_thread() {
    let stubs = Stubs::start(1).unwrap();
    let memory = Memfd::new("test", MEMORY).unwrap();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| {
                let mut stub = stubs.take(&memory).unwrap().expect("it is there");
                let mut now = registers();
                let fault = stub.run(&mut now, None).unwrap();
                assert!(matches!(fault, Stop::PageFault { address: CODE, .. }), "nothing is left: {fault:?}");
                stubs.give_back(stub);
            });
            taken.join().unwrap();
        });
        assert_eq!(stubs.left(), 1);
    }
}

/// What the guest's code gets hold of in the stub's own pages, as an attacker who has found them.
fn own_pages(bench: &Bench) -> (u64, u64) {
    let base = bench.stub.own().start;
    (base, base + PAGE_SIZE as u64)
}

#[test]
fn who_says_that_it_stands_and_runs_on_is_not_believed() {
    // mov dword [rsi], 1; mov ecx, 100000000; dec ecx; jnz; mov [rbx], rcx; syscall
    let code = [
        0xc7, 0x06, 1, 0, 0, 0, 0xb9, 0x00, 0xe1, 0xf5, 0x05, 0xff, 0xc9, 0x75, 0xfc, 0x48, 0x89, 0x0b, 0x0f,
        0x05,
    ];
    let mut bench = bench(&code);
    let mut now = registers();
    now.gpr[6] = own_pages(&bench).1 + super::mail::WORDS as u64;
    assert_eq!(bench.stub.run(&mut now, None).unwrap(), Stop::SystemCall);
    assert_eq!(now.rip, CODE + code.len() as u64);
    // SAFETY: within the mapping.
    assert_eq!(unsafe { bench.view.as_ptr().add(PAGE_SIZE).cast::<u64>().read_volatile() }, 0);
}

#[test]
fn no_system_call_is_to_be_had_by_jumping_to_the_stubs_own() {
    let mut bench = bench(&[0x41, 0xff, 0xe4]); // jmp r12
    let (base, mail) = own_pages(&bench);
    // munmap, read, write and rt_sigreturn, by each SYSCALL that there is.
    let mut code = [0; PAGE_SIZE];
    let program = super::image::program(base).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&program, &mut code, 0).unwrap();
    let places: Vec<u64> =
        (0x100..PAGE_SIZE - 1).filter(|at| code[*at..*at + 2] == [0x0f, 0x05]).map(|at| at as u64).collect();
    assert!(places.len() > 10, "{places:?}");
    for place in places {
        for number in [libc::SYS_munmap, libc::SYS_rt_sigreturn, libc::SYS_read, libc::SYS_mmap] {
            let mut now = registers();
            now.gpr[0] = number as u64;
            (now.gpr[12], now.gpr[7]) = (base + place, DATA);
            (now.gpr[4], now.gpr[2]) = (mail + 0x6000, 1 << 12);
            let stop = bench.stub.run(&mut now, None).unwrap();
            assert_eq!((stop, now.rip), (Stop::SystemCall, base + place + 2), "{number} at {place:#x}");
            assert_eq!(now.gpr, [0; 16], "nothing of the stub's own registers");
        }
    }
}

/// Jumps to where the stub says that it stands, having added this to the number of the command that it waits for.
fn stands_by_itself(add: u8) {
    // add dword [rsi], imm8; jmp r12
    let mut bench = bench(&[0x83, 0x06, add, 0x41, 0xff, 0xe4]);
    for _ in 0..3 {
        let base = bench.stub.own().start;
        let mut now = registers();
        now.gpr[12] = super::image::Place::Told.address(base) - 2;
        (now.gpr[0], now.gpr[7]) = (libc::SYS_write as u64, 1);
        (now.gpr[6], now.gpr[2]) = (super::image::awaited(base), 4);
        bench.stub.run(&mut now, None).unwrap();
    }
    // It is still there, and does as it is told.
    bench.stub.change(&[Change::Unmap { at: DATA, len: PAGE_SIZE as u64 }]).unwrap();
    let mut now = registers();
    (now.gpr[6], now.gpr[12]) = (DATA, CODE);
    let stop = bench.stub.run(&mut now, None).unwrap();
    assert!(matches!(stop, Stop::PageFault { address: DATA, .. }), "{stop:?} {now:x?}");
}

#[test]
fn who_jumps_to_where_the_stub_stands_stands() {
    stands_by_itself(1);
    stands_by_itself(77);
}

#[test]
fn who_waits_for_the_last_command_comes_back_without_anything() {
    stands_by_itself(0);
}

#[test]
fn orders_cannot_be_written() {
    let mut bench = bench(&[0x89, 0x06]); // mov [rsi], eax
    let orders = own_pages(&bench).1;
    let mut now = registers();
    now.gpr[6] = orders;
    let stop = bench.stub.run(&mut now, None).unwrap();
    assert_eq!(stop, Stop::PageFault { address: orders, error: PRESENT | WRITE | USER });
}

#[test]
fn what_is_run_often_for_a_short_time_runs_on_another_processor() {
    let mut benches = [bench(&[0x0f, 0x05]), bench(&[0x0f, 0x05])];
    let mut affinity = crate::Affinity::of_this_thread().unwrap();
    // One by itself, then both in turn.
    for n in 0..2000 {
        let (first, second) = benches.split_at_mut(1);
        let (first, second) = (&mut first[0].stub, &mut second[0].stub);
        let (stub, last) = if n >= 1000 && n % 2 == 0 { (second, first) } else { (first, second) };
        stub.bind(&mut affinity);
        let mut now = registers();
        now.gpr[12] = n;
        assert_eq!(stub.run(&mut now, (n >= 1000).then_some(&*last)).unwrap(), Stop::SystemCall);
        assert_eq!(now.gpr[12], n);
    }
}
