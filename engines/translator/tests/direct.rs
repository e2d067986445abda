//! Direct execution: what ring 3 does on the bare processor is what the guest's processor would have done, and whatever a
//! processor would have stopped for comes to the engine.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::pages::*;
use common::{Bench, CODE, DATA, STACK, assemble};
use host::Stubs;
use iced_x86::code_asm::*;
use iced_x86::{Code, Instruction};
use translator::Promotion;
use vcpu::{Engine, Entry, Exit, Invalidation, Width};
use x86::classify::Routine;
use x86::register::gpr::*;
use x86::{Cr4, Efer, Exception, Rflags, SegmentRegister, Vector};

/// Where the kernel's entry point is.
const KERNEL: u64 = CODE + 0x8000;
const STAR: u64 = 0x0023_0010 << 32;

/// A vCPU in ring 3, all of which runs directly.
fn ring3() -> Bench {
    let mut bench = with_small_pages(Bench::long_mode());
    bench.run_directly();
    to_ring3(&mut bench);
    bench
}

fn counted(bench: &Bench, what: &str) -> u64 {
    let counts = bench.engine.counters();
    counts.iter().find(|(name, _)| name.contains(what)).expect("such a counter").1
}

fn bursts(bench: &Bench) -> u64 {
    counted(bench, "bursts of direct execution")
}

/// Expects the next exit to be for a sensitive instruction at this address.
fn expect_routine(bench: &mut Bench, routine: Routine, rip: u64) {
    loop {
        match bench.exit() {
            Exit::Kicked => {}
            Exit::Sensitive(insn) if insn.routine == routine => break,
            other => panic!("{other:?} at {:#x}", bench.cpu.rip),
        }
    }
    assert_eq!(bench.cpu.rip, rip);
}

#[test]
fn all_registers_go_there_and_come_back() {
    let mut bench = ring3();
    bench.load(|a| {
        a.pushfq().unwrap();
        a.pop(r15).unwrap();
        a.xchg(rax, r14).unwrap();
        a.vpaddq(ymm3, ymm2, ymm2).unwrap();
        a.fld1().unwrap();
        a.mov(rsi, qword_ptr(8).fs()).unwrap();
        a.mov(qword_ptr(8).gs(), rdi).unwrap();
        a.std().unwrap();
        a.cmp(r8, r9).unwrap();
    });
    let gpr: [u64; 16] = std::array::from_fn(|n| 0x1111_2222_3333_0000 + n as u64);
    bench.cpu.gpr = gpr;
    bench.cpu.gpr[RSP] = STACK;
    bench.cpu.rflags |= Rflags::CF | Rflags::OF;
    bench.cpu.segment_mut(SegmentRegister::Fs).base = DATA;
    bench.cpu.segment_mut(SegmentRegister::Gs).base = DATA + 0x100;
    bench.ram.write_u64(DATA + 8, 77).unwrap();
    let pattern: [u8; 32] = std::array::from_fn(|n| n as u8 + 1);
    let area = &mut bench.cpu.fpu.area;
    area[160 + 2 * 16..][..16].copy_from_slice(&pattern[..16]);
    area[576 + 2 * 16..][..16].copy_from_slice(&pattern[16..]);
    area[512] |= 7;
    bench.run();
    assert!(bursts(&bench) > 0);
    let mut expected = gpr;
    (expected[RAX], expected[14], expected[RSI], expected[RSP]) = (gpr[14], gpr[RAX], 77, STACK);
    expected[15] = (Rflags::CF | Rflags::OF | Rflags::IF | Rflags::FIXED).bits();
    assert_eq!(bench.cpu.gpr, expected);
    assert_eq!(bench.ram.read_u64(DATA + 0x108).unwrap(), gpr[RDI]);
    let flags = Rflags::CF | Rflags::SF | Rflags::AF | Rflags::PF | Rflags::DF | Rflags::IF | Rflags::FIXED;
    assert_eq!(bench.cpu.rflags, flags);
    let area = &bench.cpu.fpu.area;
    let doubled = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| area[at + n]));
    let word = |n: usize| u64::from_le_bytes(std::array::from_fn(|k| pattern[8 * n + k]));
    assert_eq!(doubled(160 + 3 * 16), 2 * word(0));
    assert_eq!(doubled(576 + 3 * 16 + 8), 2 * word(3));
    assert_eq!(area[32..42], [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f], "1.0 in ST(0)");
}

#[test]
fn what_is_sensitive_comes_to_the_engine() {
    let mut bench = ring3();
    bench.cpu.tsc_offset = 0_u64.wrapping_sub(host::cpu::rdtsc());
    bench.load(|a| {
        a.nop().unwrap();
        a.cpuid().unwrap(); // + 1
        a.rdtsc().unwrap(); // + 3
        a.mov(ecx, eax).unwrap();
        a.mov(ebx, edx).unwrap();
        a.int(0x80).unwrap(); // + 9
        a.int3().unwrap(); // + 11
        a.in_(al, dx).unwrap(); // + 12
    });
    bench.cpu.gpr[RDX] = 0x61;
    expect_routine(&mut bench, Routine::Cpuid, CODE + 1);
    bench.cpu.rip += 2;
    bench.cpu.gpr[RAX] = 0x1_2345_6789;
    expect_routine(&mut bench, Routine::Int, CODE + 9);
    assert_eq!(bench.cpu.gpr[RBX], 0, "the guest's counter, not the host's");
    bench.cpu.rip += 2;
    expect_routine(&mut bench, Routine::Int3, CODE + 11);
    bench.cpu.rip += 1;
    expect_routine(&mut bench, Routine::In, CODE + 12);
    assert!(bursts(&bench) >= 4);
}

#[test]
fn a_counter_that_is_the_hosts_is_read_directly() {
    let mut bench = ring3();
    bench.load(|a| {
        a.nop().unwrap();
        a.rdtsc().unwrap();
        a.mov(ecx, eax).unwrap();
        a.mov(ebx, edx).unwrap();
        // What is translated for RDTSC ends here.
        a.jmp(rsi).unwrap();
        a.int(0x80).unwrap(); // + 9
    });
    let mut read = |offset: u64| {
        bench.cpu.tsc_offset = offset;
        bench.cpu.rip = CODE;
        bench.cpu.gpr[RSI] = CODE + 9;
        let before = bursts(&bench);
        expect_routine(&mut bench, Routine::Int, CODE + 9);
        (bench.cpu.gpr[RBX] << 32 | bench.cpu.gpr[RCX], bursts(&bench) - before)
    };
    read(0);
    let (before, (counter, directly)) = (host::cpu::rdtsc(), read(0));
    assert!((before..host::cpu::rdtsc()).contains(&counter));
    // And if it is not, RDTSC ends a burst.
    let (counter, otherwise) = read(0_u64.wrapping_sub(before));
    assert!(counter < host::cpu::rdtsc() - before && otherwise > directly, "{directly} {otherwise}");
    assert!(read(0).0 > before, "it is the host's again");
}

#[test]
fn system_calls_go_to_the_kernel_and_back() {
    let mut bench = ring3();
    bench.cpu.efer |= Efer::SCE;
    (bench.cpu.msrs.star, bench.cpu.msrs.lstar) = (STAR, KERNEL);
    let masked = Rflags::STATUS | Rflags::IF | Rflags::DF | Rflags::TF | Rflags::AC;
    bench.cpu.msrs.sfmask = masked.bits();
    bench.load(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.mov(eax, 5).unwrap();
        a.syscall().unwrap();
        a.add(rbx, rax).unwrap();
        a.dec(r12).unwrap();
        a.jne(top).unwrap();
    });
    let kernel = assemble(64, KERNEL, |a| {
        a.mov(r13, rcx).unwrap();
        a.lea(rax, ptr(rax + rax * 2)).unwrap();
        a.sysretq().unwrap();
    });
    bench.ram.write(KERNEL, &kernel).unwrap();
    bench.cpu.gpr[12] = 500;
    bench.run();
    assert_eq!((bench.cpu.gpr[RBX], bench.cpu.gpr[13]), (500 * 15, CODE + 7));
    assert!(bursts(&bench) >= 500);
}

/// Each fault as the guest's tables have it, with its own error code, and nothing done.
#[test]
fn faults_are_the_guests() {
    let mut bench = ring3();
    let (present, absent) = (VIRTUAL, VIRTUAL + 0x5000);
    map(&bench, 0, DATA, 0);
    let entry = bench.ram.read_u64(TABLE).unwrap();
    let rights = |bench: &mut Bench, entry: u64| {
        bench.ram.write_u64(TABLE, entry).unwrap();
        bench.engine.invalidate(Invalidation::Page { linear: present });
    };
    bench.load(|a| {
        a.mov(rcx, qword_ptr(rax)).unwrap(); // + 0
        a.mov(qword_ptr(rax), rcx).unwrap(); // + 3
        a.jmp(rax).unwrap(); // + 6
    });
    let expect = |bench: &mut Bench, at: u64, offset: u64, fault: Exception| {
        (bench.cpu.rip, bench.cpu.gpr[RAX]) = (CODE + offset, at);
        assert_eq!(bench.fault(), fault, "at {offset}");
        assert_eq!(bench.cpu.rip, if offset == 6 { at } else { CODE + offset });
    };
    expect(&mut bench, absent, 0, Exception::page_fault(absent, 4));
    expect(&mut bench, absent, 3, Exception::page_fault(absent, 6));
    expect(&mut bench, absent, 6, Exception::page_fault(absent, 0x14));
    rights(&mut bench, entry & !WRITABLE);
    expect(&mut bench, present, 3, Exception::page_fault(present, 7));
    rights(&mut bench, entry & !USER);
    expect(&mut bench, present, 0, Exception::page_fault(present, 5));
    rights(&mut bench, entry | 1 << 63);
    expect(&mut bench, present, 6, Exception::page_fault(present, 0x15));
    assert_eq!(counted(&bench, "blocks translated"), 0);
    // Not canonical, and another's half.
    expect(&mut bench, 1 << 60, 0, Exception::gp(0));
    expect(&mut bench, u64::MAX - 0xfff, 0, Exception::page_fault(u64::MAX - 0xfff, 4));
    bench.load(|a| {
        a.xor(ecx, ecx).unwrap();
        a.div(ecx).unwrap();
    });
    bench.engine.invalidate(Invalidation::Code { gpa: CODE, len: 16 });
    bench.cpu.rip = CODE;
    assert_eq!(bench.fault(), Exception::new(Vector::DivideError));
    assert_eq!(bench.cpu.rip, CODE + 2);
}

/// Accessed and dirty bits as a processor sets them: those of a write by the write.
#[test]
fn marks_are_those_of_the_accesses() {
    const ACCESSED: u64 = 1 << 5;
    const DIRTY: u64 = 1 << 6;
    let mut bench = ring3();
    (0..3).for_each(|page| map(&bench, page, DATA + page * 0x1000, 0));
    bench.load(|a| {
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.mov(qword_ptr(rbx + 0x1000), rax).unwrap();
    });
    bench.cpu.gpr[RBX] = VIRTUAL;
    bench.run();
    let marks = |page: u64| bench.ram.read_u64(TABLE + page * 8).unwrap() & (ACCESSED | DIRTY);
    assert_eq!([0, 1, 2].map(marks), [ACCESSED, ACCESSED | DIRTY, 0]);
    assert!(bursts(&bench) > 0);
}

#[test]
fn code_that_is_written_is_seen() {
    let mut bench = ring3();
    // By the program itself, then by somebody else.
    bench.load(|a| {
        a.call(rdi).unwrap();
        a.mov(ebx, eax).unwrap();
        a.mov(dword_ptr(rdi + 1), 22).unwrap();
        a.call(rdi).unwrap();
    });
    let at = CODE + 0x3000;
    function(&bench, at, 11);
    bench.cpu.gpr[RDI] = at;
    again(&mut bench);
    assert_eq!((bench.cpu.gpr[RBX], bench.cpu.gpr[RAX]), (11, 22));
    function(&bench, at, 33);
    again(&mut bench);
    assert_eq!((bench.cpu.gpr[RBX], bench.cpu.gpr[RAX]), (33, 22));
    // What becomes sensitive does not run there.
    bench.ram.write(at, &[0x90, 0x0f, 0xa2, 0xc3]).unwrap();
    (bench.cpu.rip, bench.cpu.gpr[RSP]) = (CODE, STACK);
    expect_routine(&mut bench, Routine::Cpuid, at + 1);
}

/// A program begins with code that asks what the processor is, and has breakpoints there; they go to what runs then.
#[test]
fn breakpoints_are_given_up_for_others() {
    let mut bench = ring3();
    let (first, second) = (CODE + 0x3000, CODE + 0x4000);
    for page in [first, second] {
        let code = assemble(64, page, |a| {
            let mut end = a.create_label();
            a.jmp(end).unwrap();
            (0..3).for_each(|_| a.cpuid().unwrap());
            a.set_label(&mut end).unwrap();
            a.ret().unwrap();
        });
        bench.ram.write(page, &code).unwrap();
    }
    bench.load(|a| a.call(rdi).unwrap());
    let mut bursts_of_call = |page: u64| {
        let before = bursts(&bench);
        bench.cpu.gpr[RDI] = page;
        again(&mut bench);
        bursts(&bench) - before
    };
    bursts_of_call(first);
    let (by_itself, begun) = (bursts_of_call(first), Instant::now());
    assert!(bursts_of_call(second) > by_itself, "three of four are taken");
    while bursts_of_call(second) > by_itself {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}

/// Linux has calls at an address that every program has, and emulates them; here that is the guest's to do.
#[test]
fn the_hosts_own_page_is_not_there() {
    const PAGE: u64 = 0xffff_ffff_ff60_0000;
    let mut bench = ring3();
    bench.load(|a| {
        a.call(rbx).unwrap(); // + 0
    });
    bench.cpu.gpr[RBX] = PAGE;
    assert_eq!(bench.fault(), Exception::page_fault(PAGE, 0x14));
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[RSP]), (PAGE, STACK - 8));
    assert_eq!(bench.ram.read_u64(STACK - 8).unwrap(), CODE + 2);
    assert!(bursts(&bench) > 0);
}

#[test]
fn a_program_that_steps_itself_is_trapped() {
    let mut bench = ring3();
    bench.load(|a| {
        a.pushfq().unwrap(); // + 0
        a.or(dword_ptr(rsp), 0x100).unwrap(); // + 1
        a.popfq().unwrap(); // + 8
        a.nop().unwrap(); // + 9
    });
    let trap = bench.fault();
    assert_eq!((trap.vector, trap.detail & 1 << 14), (Vector::Debug, 1 << 14));
    assert_eq!(bench.cpu.rip, CODE + 10);
    assert!(bench.cpu.rflags.contains(Rflags::TF));
}

#[test]
fn a_far_jump_leads_to_compatibility_mode() {
    let mut bench = ring3();
    bench.load(|a| {
        a.push(0x23).unwrap();
        a.push(rbx).unwrap();
        a.add_instruction(Instruction::with(Code::Retfq)).unwrap();
    });
    bench.cpu.gpr[RBX] = CODE + 0x100;
    let narrow = assemble(32, CODE + 0x100, |a| {
        a.inc(eax).unwrap();
        a.hlt().unwrap();
    });
    bench.ram.write(CODE + 0x100, &narrow).unwrap();
    bench.cpu.gpr[RAX] = 0xffff_ffff_ffff;
    expect_routine(&mut bench, Routine::Hlt, CODE + 0x101);
    assert_eq!(bench.cpu.gpr[RAX] as u32, 0);
    assert_eq!(bench.cpu.segment(SegmentRegister::Cs).selector, 0x23);
    assert!(!bench.cpu.segment(SegmentRegister::Cs).has(x86::Segment::LONG));
}

/// A vCPU in ring 3 with one stub, about to count in memory for good.
fn counting(when: Promotion) -> (Bench, Arc<Stubs>) {
    let mut bench = ring3();
    let stubs = Arc::new(Stubs::start(1).unwrap());
    bench.engine.set_stubs(&stubs, when);
    bench.load(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.inc(qword_ptr(rbx)).unwrap();
        a.jmp(top).unwrap();
    });
    bench.cpu.gpr[RBX] = DATA;
    (bench, stubs)
}

/// Runs ring 3, and finds it running again and again, until it has been run directly three times more.
fn be_busy(bench: &mut Bench) {
    let (kicker, done) = (bench.engine.kicker(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                kicker.kick();
                std::thread::yield_now();
            }
        });
        let before = bursts(bench);
        while bursts(bench) < before + 3 {
            assert!(matches!(bench.exit(), Exit::Kicked));
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Has ring 3 do nothing but what cannot be done directly, in a loop at this address, until it is translated for good.
fn be_demoted(bench: &mut Bench, code: u64) {
    bench.ram.write(code, &[0x0f, 0xa2, 0xeb, 0xfc]).unwrap();
    bench.engine.invalidate(Invalidation::Code { gpa: code, len: 16 });
    bench.cpu.rip = code;
    let before = counted(bench, "given up");
    // Where others want the processor, too, a burst now and then is taken for a long one.
    let demoted = (0..300_000).any(|_| {
        expect_routine(bench, Routine::Cpuid, code);
        bench.cpu.rip += 2;
        counted(bench, "given up") > before
    });
    assert!(demoted);
}

/// Who is found running again and again is promoted; who comes back all the time is not for long.
#[test]
fn busy_programs_are_promoted_and_others_demoted() {
    let mut bench = ring3();
    let stubs = Arc::new(Stubs::start(1).unwrap());
    bench.engine.set_stubs(&stubs, Promotion::Busy);
    bench.load_bytes(&[0xeb, 0xfe]);
    be_busy(&mut bench);
    assert_eq!(stubs.left(), 0);
    be_demoted(&mut bench, CODE);
    bench.engine.dismiss();
    assert_eq!(stubs.left(), 1);
}

/// Who has been demoted and is promoted once more finds there what it had.
#[test]
fn who_rests_keeps_what_is_mapped() {
    let (mut bench, _stubs) = counting(Promotion::Busy);
    // A burst may be interrupted before it has come to its first access.
    while counted(&bench, "was not mapped") == 0 {
        be_busy(&mut bench);
    }
    // CPUID leaves something else there.
    be_demoted(&mut bench, CODE + 0x1000);
    (bench.cpu.rip, bench.cpu.gpr[RBX]) = (CODE, DATA);
    let (promoted, missed) = (counted(&bench, "spaces run directly"), counted(&bench, "was not mapped"));
    let value = bench.ram.read_u64(DATA).unwrap();
    be_busy(&mut bench);
    assert!(counted(&bench, "spaces run directly") > promoted);
    assert_eq!(counted(&bench, "was not mapped"), missed);
    assert!(bench.ram.read_u64(DATA).unwrap() > value);
}

/// What nobody can know any more is not guessed.
#[test]
fn a_process_that_is_killed_is_fatal_and_clear() {
    let (mut bench, stubs) = counting(Promotion::Always);
    let (pid, ram) = (stubs.pids()[0].to_string(), bench.ram.clone());
    let exit = std::thread::scope(|scope| {
        scope.spawn(move || {
            // Earlier it would be no more than a process that cannot be used.
            while ram.read_u64(DATA).unwrap() == 0 {
                std::thread::yield_now();
            }
            let killed = std::process::Command::new("sh").args(["-c", &format!("kill -9 {pid}")]).status();
            assert!(killed.unwrap().success());
        });
        bench.engine.run(&mut bench.cpu, Entry::Resume)
    });
    let Exit::Fatal(error) = exit else { panic!("{exit:?}") };
    let why = std::error::Error::source(&error).map(ToString::to_string);
    assert!(error.to_string().contains("process"), "{error}: {why:?}");
}

/// Whether the processor lets ring 3 read them or Linux does it for it.
#[test]
fn table_selectors_are_those_of_linux() {
    let mut bench = ring3();
    bench.cpu.cr4 |= Cr4::UMIP;
    bench.load(|a| {
        a.sldt(eax).unwrap();
        a.str(ebx).unwrap();
    });
    (bench.cpu.gpr[RAX], bench.cpu.gpr[RBX]) = (7, 7);
    bench.run();
    assert_eq!((bench.cpu.gpr[RAX] as u16, bench.cpu.gpr[RBX] as u16), (0, 0x40));
    assert!(bursts(&bench) > 0);
}

/// States in which the processor would do something else than the guest's.
#[test]
fn what_differs_from_the_host_is_translated() {
    let changes: [fn(&mut Bench); 6] = [
        |bench| bench.cpu.rflags -= Rflags::IF,
        |bench| bench.cpu.cr4 -= Cr4::OSXMMEXCPT,
        |bench| bench.cpu.cr4.toggle(Cr4::FSGSBASE),
        |bench| bench.cpu.tr.selector = 0x48,
        |bench| bench.cpu.segment_mut(SegmentRegister::Fs).selector = 0x2b,
        |bench| bench.cpu.load_flat_segments(0x43, 0x3b, Width::Long, 3),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut bench = ring3();
        bench.load(|a| a.inc(rax).unwrap());
        change(&mut bench);
        bench.run();
        assert_eq!((bench.cpu.gpr[RAX], bursts(&bench)), (1, 0), "{n}");
    }
}
