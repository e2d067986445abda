//! What is scarce: room in the translation cache, slots of the software TLB, and what the guest may ask of
//! XSAVE.

mod common;

use common::{Bench, CODE, DATA};
use iced_x86::code_asm::*;
use translator::Options;
use vcpu::{Engine, Exit};
use x86::register::gpr::*;
use x86::{Exception, Vector};

/// Two addresses this far apart share a slot of the software TLB, however many it has up to 8192.
const TLB_REACH: u64 = 8192 << 12;

/// Blocks by the thousand, each linked to the next, some times round; gives what they add up in rax.
fn blocks(bench: &mut Bench, blocks: u64, rounds: u32) {
    bench.cpu.rip = DATA;
    let code = common::assemble(64, DATA, |a| {
        let mut top = a.create_label();
        a.mov(ecx, rounds).unwrap();
        a.xor(eax, eax).unwrap();
        a.set_label(&mut top).unwrap();
        for n in 0..blocks {
            let mut next = a.create_label();
            a.add(rax, (n % 100) as i32).unwrap();
            a.mov(rbx, rax).unwrap();
            a.test(rbx, rbx).unwrap();
            a.jmp(next).unwrap();
            a.set_label(&mut next).unwrap();
            a.nop().unwrap();
        }
        a.dec(ecx).unwrap();
        a.jnz(top).unwrap();
        a.hlt().unwrap();
    });
    bench.ram.write(DATA, &code).unwrap();
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], u64::from(rounds) * (blocks / 100) * 4950);
    assert_eq!(bench.cpu.gpr[RCX], 0);
}

#[test]
fn a_program_larger_than_the_cache() {
    let options = Options { cache_bytes: 256 << 10, ..Options::default() };
    blocks(&mut Bench::long_mode_with(options), 6000, 3);
}

/// Of a program that is a little larger than the cache most is still there in the next round, once it has gone some rounds
/// through all of it in one order.
#[test]
fn a_program_somewhat_larger_than_the_cache() {
    let counted = |n: u64, rounds: u32| {
        let mut bench = Bench::long_mode_with(Options { cache_bytes: 4 << 20, ..Options::default() });
        blocks(&mut bench, n, rounds);
        let counts = bench.engine.counters();
        let count = |name: &str| counts.iter().find(|(is, _)| is.contains(name)).unwrap().1;
        (count("blocks translated"), count("the cache was emptied"))
    };
    let fits = (4..).map(|n| n * 1500).find(|n| counted(*n, 1).1 > 0).unwrap();
    let n = fits * 11 / 10 / 100 * 100;
    let (translated, emptied) = counted(n, 16);
    assert!(emptied > 0 && translated > n, "{translated} of {n}, {emptied}");
    assert!(translated < 7 * n, "{translated} of {n} in 16 rounds");
}

#[test]
fn returns_into_an_emptied_cache() {
    let options = Options { cache_bytes: 256 << 10, ..Options::default() };
    let mut bench = Bench::long_mode_with(options);
    // Each call fills the cache anew before it returns into a block that is gone by then.
    bench.cpu.rip = DATA;
    let code = common::assemble(64, DATA, |a| {
        let mut top = a.create_label();
        let mut filler = a.create_label();
        let mut end = a.create_label();
        a.mov(ecx, 5u32).unwrap();
        a.xor(eax, eax).unwrap();
        a.set_label(&mut top).unwrap();
        a.call(filler).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(top).unwrap();
        a.jmp(end).unwrap();
        a.set_label(&mut filler).unwrap();
        for _ in 0..4000 {
            let mut next = a.create_label();
            a.inc(rax).unwrap();
            a.jmp(next).unwrap();
            a.set_label(&mut next).unwrap();
            a.nop().unwrap();
        }
        a.ret().unwrap();
        a.set_label(&mut end).unwrap();
        a.hlt().unwrap();
    });
    bench.ram.write(DATA, &code).unwrap();
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 20_000);
}

/// A bench whose RAM shows up again at every multiple of [`TLB_REACH`] needs no more RAM than it has: the page
/// tables repeat 2 MiB pages.
fn with_conflicts() -> Bench {
    let bench = Bench::long_mode();
    let (pointers, directory) = (0x9000, 0xa000);
    bench.ram.write_u64(pointers, directory | 7).unwrap();
    for n in 0..512u64 {
        // Eight 2 MiB pages of RAM, over and over.
        bench.ram.write_u64(directory + n * 8, (n % 8) << 21 | 0x87).unwrap();
    }
    bench
}

#[test]
fn operands_that_share_a_tlb_slot() {
    let mut bench = with_conflicts();
    bench.ram.write_u64(DATA + 0x10, 0x1122_3344_5566_7788).unwrap();
    bench.load(|a| {
        let mut function = a.create_label();
        let mut over = a.create_label();
        a.mov(rsp, DATA + 0x800).unwrap();
        a.mov(rbx, DATA + TLB_REACH).unwrap();
        a.mov(r8d, 20u32).unwrap();
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.push(qword_ptr(rbx + 0x10)).unwrap();
        a.pop(qword_ptr(rbx + 0x18)).unwrap();
        a.lea(rax, ptr(function)).unwrap();
        a.mov(qword_ptr(rbx + 0x20), rax).unwrap();
        a.call(qword_ptr(rbx + 0x20)).unwrap();
        a.mov(rsi, DATA + 0x10).unwrap();
        a.lea(rdi, qword_ptr(rbx + 0x30)).unwrap();
        a.movsq().unwrap();
        a.mov(ecx, 2u32).unwrap();
        a.rep().movsb().unwrap();
        a.mov(rsi, DATA + 0x10).unwrap();
        a.lea(rdi, qword_ptr(rbx + 0x30)).unwrap();
        a.mov(ecx, 1u32).unwrap();
        a.repe().cmpsq().unwrap();
        a.dec(r8d).unwrap();
        a.jnz(top).unwrap();
        a.jmp(over).unwrap();
        a.set_label(&mut function).unwrap();
        a.inc(rdx).unwrap();
        a.ret().unwrap();
        a.set_label(&mut over).unwrap();
    });
    bench.cpu.gpr[RDX] = 0;
    bench.run();
    let value = 0x1122_3344_5566_7788;
    assert_eq!(bench.ram.read_u64(DATA + 0x18).unwrap(), value);
    assert_eq!(bench.ram.read_u64(DATA + 0x30).unwrap(), value);
    assert_eq!(bench.cpu.gpr[RDX], 20);
    assert_eq!(bench.cpu.gpr[RSP], DATA + 0x800);
}

#[test]
fn data_and_code_that_share_a_page() {
    // Every store goes to a page that holds the running block, none of them to its bytes.
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        let mut top = a.create_label();
        a.mov(rbx, CODE + 0x800).unwrap();
        a.mov(ecx, 1000u32).unwrap();
        a.set_label(&mut top).unwrap();
        a.add(qword_ptr(rbx), rcx).unwrap();
        a.push(rcx).unwrap();
        a.pop(qword_ptr(rbx + 8)).unwrap();
        a.lock().xadd(qword_ptr(rbx + 16), rcx).unwrap();
        a.mov(rcx, qword_ptr(rbx + 8)).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(top).unwrap();
    });
    bench.run();
    assert_eq!(bench.ram.read_u64(CODE + 0x800).unwrap(), 500_500);
    assert_eq!(bench.ram.read_u64(CODE + 0x808).unwrap(), 1);
    assert_eq!(bench.ram.read_u64(CODE + 0x810).unwrap(), 500_500);
}

#[test]
fn xrstor_refused_leaves_its_mask() {
    // A header with reserved bits, in the middle of a page and across two.
    for at in [DATA, DATA + 0xe00] {
        let mut bench = Bench::long_mode();
        bench.ram.write_u64(at + 512, 1 << 62).unwrap();
        bench.load(|a| {
            a.mov(rbx, at).unwrap();
            a.mov(eax, 0xffff_ffffu32).unwrap();
            a.mov(edx, 0xffff_ffffu32).unwrap();
            a.stc().unwrap();
            a.xrstor64(ptr(rbx)).unwrap();
        });
        assert_eq!(bench.fault(), Exception::gp(0), "{at:#x}");
        assert_eq!(bench.cpu.gpr[RAX], 0xffff_ffff);
        assert_eq!(bench.cpu.gpr[RDX], 0xffff_ffff);
        assert!(bench.cpu.rflags.contains(x86::Rflags::CF));
    }
}

#[test]
fn xsave_gives_what_xrstor_took() {
    for at in [DATA, DATA + 0xf40] {
        let mut bench = Bench::long_mode();
        bench.load(|a| {
            a.mov(rbx, at).unwrap();
            a.mov(eax, 7u32).unwrap();
            a.xor(edx, edx).unwrap();
            a.mov(rcx, 0x0123_4567_89ab_cdefu64).unwrap();
            a.movq(xmm9, rcx).unwrap();
            a.fld1().unwrap();
            a.xsave64(ptr(rbx)).unwrap();
            a.pxor(xmm9, xmm9).unwrap();
            a.fninit().unwrap();
            a.xrstor64(ptr(rbx)).unwrap();
            a.movq(rsi, xmm9).unwrap();
            a.fistp(dword_ptr(rbx - 8)).unwrap();
        });
        bench.run();
        assert_eq!(bench.cpu.gpr[RSI], 0x0123_4567_89ab_cdef);
        assert_eq!(bench.ram.read_u32(at - 8).unwrap(), 1);
        assert_eq!(bench.cpu.gpr[RAX], 7);
    }
}

#[test]
fn code_without_memory_is_fatal_and_clear() {
    let mut bench = Bench::long_mode();
    bench.cpu.rip = 0x3000_0000;
    match bench.exit() {
        Exit::Fatal(error) => assert!(error.to_string().contains("0x30000000"), "{error}"),
        other => panic!("{other:?}"),
    }
    // And code that is not mapped is a page fault.
    bench.cpu.rip = 0x1_0000_0000;
    let exception = bench.fault();
    assert_eq!((exception.vector, exception.detail), (Vector::PageFault, 0x1_0000_0000));
}
