//! Code of ring 3 whose page is mapped at several addresses: translated once, it does at each of them what it would do
//! there.

mod common;

use std::sync::Arc;

use common::pages::*;
use common::{Bench, CODE, DATA, DIRECTLY, STACK, assemble};
use iced_x86::code_asm::*;
use iced_x86::{Code, Instruction, MemoryOperand, Register};
use translator::Options;
use vcpu::{DebugEvent, DebugPoints, Engine, Entry, Exit, Invalidation};
use x86::classify::Routine;
use x86::register::gpr::*;
use x86::{Efer, Exception, Rflags, Vector};

/// Where the same tables show the mapped pages once more. The second is where no 32-bit displacement reaches, and has the
/// same lower half, so that it has the same slots of the jump table and the victim table.
const ELSEWHERE: u64 = VIRTUAL + (32 << 20);
const FAR: u64 = VIRTUAL + 0x7f00_0000_0000;

/// The code under test; what it calls and reads in other pages lies behind it.
const SHARED: u64 = DATA;

fn ring3() -> Bench {
    let mut bench = bench();
    bench.ram.write_u64(DIRECTORY + 16 * 8, TABLE | 7).unwrap();
    bench.ram.write_u64(0x8000 + 0xfe * 8, 0x9000 | 7).unwrap();
    to_ring3(&mut bench);
    bench
}

fn translated(bench: &Bench) -> u64 {
    bench.engine.counters().into_iter().find(|(what, _)| *what == "blocks translated").unwrap().1
}

fn place(bench: &Bench, physical: u64, linear: u64, program: impl FnOnce(&mut CodeAssembler)) {
    bench.ram.write(physical, &assemble(64, linear, program)).unwrap();
}

/// An operand that is relative to rip.
fn relative(target: u64) -> MemoryOperand {
    MemoryOperand::with_base_displ(Register::RIP, target as i64)
}

fn lea(a: &mut CodeAssembler, to: Register, target: u64) {
    a.add_instruction(Instruction::with2(Code::Lea_r64_m, to, relative(target)).unwrap()).unwrap();
}

/// Maps the shared page and two of its own behind it, of which the first returns `n` and the second holds it.
fn map_three(bench: &Bench, first: u64, n: u64) {
    let own = DATA + (n << 16);
    map(bench, first, SHARED, 0);
    map(bench, first + 1, own, 0);
    map(bench, first + 2, own + 0x1000, 0);
    function(bench, own, n as u32);
    bench.ram.write_u64(own + 0x1008, n).unwrap();
}

#[test]
fn what_depends_on_the_address_is_right_at_each() {
    let mut bench = ring3();
    map_three(&bench, 0, 1);
    map_three(&bench, 40, 2);
    place(&bench, SHARED, VIRTUAL, |a| {
        let (mut function, mut here, mut over) = (a.create_label(), a.create_label(), a.create_label());
        a.call(function).unwrap();
        a.set_label(&mut here).unwrap();
        a.lea(rcx, ptr(here)).unwrap();
        lea(a, Register::R9, VIRTUAL + 0x2000);
        let held = relative(VIRTUAL + 0x2008);
        a.add_instruction(Instruction::with2(Code::Mov_r64_rm64, Register::RDX, held).unwrap()).unwrap();
        a.add_instruction(Instruction::with1(Code::Push_rm64, held).unwrap()).unwrap();
        a.pop(rsi).unwrap();
        let counted = relative(VIRTUAL + 0x2010);
        a.add_instruction(Instruction::with2(Code::Add_rm64_imm8, counted, 3).unwrap()).unwrap();
        // Into another page and back, directly and through a register.
        a.call(VIRTUAL + 0x1000).unwrap();
        a.mov(rdi, rax).unwrap();
        lea(a, Register::R10, VIRTUAL + 0x1000);
        a.call(r10).unwrap();
        a.mov(r8, rax).unwrap();
        a.cmp(rax, rdi).unwrap();
        a.je(over).unwrap();
        a.ud2().unwrap();
        a.set_label(&mut over).unwrap();
        a.lea(r11, ptr(over)).unwrap();
        a.hlt().unwrap();
        a.set_label(&mut function).unwrap();
        a.mov(rbx, qword_ptr(rsp)).unwrap();
        a.ret().unwrap();
    });
    let mut blocks = Vec::new();
    let spaces = [bench.cpu.cr3, 0xc000, 0xd000, 0xe000];
    let mut tables = vec![0; 4096];
    bench.ram.read(spaces[0], &mut tables).unwrap();
    spaces[1..].iter().for_each(|top| bench.ram.write(*top, &tables).unwrap());
    let starts = [(VIRTUAL, 1), (VIRTUAL + 40 * 0x1000, 2), (ELSEWHERE, 1), (FAR, 1)];
    for _ in 0..2 {
        for ((start, n), space) in starts.into_iter().zip(spaces) {
            bench.cpu.cr3 = space;
            bench.engine.invalidate(Invalidation::AddressSpace);
            let own = DATA + (n << 16);
            let before = bench.ram.read_u64(own + 0x1010).unwrap();
            run_from(&mut bench, start);
            let gpr = bench.cpu.gpr;
            assert_eq!((gpr[RBX], gpr[RCX], gpr[R9]), (start + 5, start + 5, start + 0x2000));
            assert_eq!([RDX, RSI, RDI, R8].map(|n| gpr[n]), [n; 4], "at {start:#x}");
            assert_eq!((gpr[R10], gpr[R11] + 7), (start + 0x1000, bench.cpu.rip));
            assert_eq!(bench.cpu.rip & !0xfff, start);
            assert_eq!(bench.ram.read_u64(own + 0x1010).unwrap(), before + 3);
            blocks.push(translated(&bench));
        }
    }
    if DIRECTLY {
        return;
    }
    assert_eq!(blocks[1] - blocks[0], 1, "the function that each address has for itself");
    assert_eq!(blocks[1..], [blocks[1]; 7], "{blocks:?}");
}

#[test]
fn a_branch_beyond_what_a_displacement_reaches_from_the_page() {
    let mut bench = ring3();
    map(&bench, 0, SHARED, 0);
    // jmp +0x7fffffff at the end of the page: past 2 GiB from the beginning of the page.
    bench.ram.write(SHARED + 0xff0, &[0xe9, 0xff, 0xff, 0xff, 0x7f]).unwrap();
    for base in [VIRTUAL, FAR] {
        bench.cpu.rip = base + 0xff0;
        let target = base + 0xff5 + 0x7fff_ffff;
        assert_eq!(bench.fault(), Exception::page_fault(target, 4 | 16), "user, fetch");
    }
}

/// The caller is in ring 3 too; it calls the same code at one address, then at the other, many times.
#[test]
fn two_addresses_in_turns() {
    for other in [ELSEWHERE, FAR, VIRTUAL + 0x7000] {
        let mut bench = ring3();
        map(&bench, 0, SHARED, 0);
        map(&bench, 7, SHARED, 0);
        place(&bench, SHARED, VIRTUAL, |a| {
            lea(a, Register::RAX, VIRTUAL);
            a.ret().unwrap();
        });
        bench.load(|a| {
            let mut top = a.create_label();
            a.mov(ecx, 1000).unwrap();
            a.set_label(&mut top).unwrap();
            a.call(rbx).unwrap();
            a.add(rdx, rax).unwrap();
            a.call(rsi).unwrap();
            a.sub(rdx, rax).unwrap();
            a.dec(ecx).unwrap();
            a.jnz(top).unwrap();
        });
        (bench.cpu.gpr[RBX], bench.cpu.gpr[RSI], bench.cpu.gpr[RDX]) = (VIRTUAL, other, 0);
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RDX] as i64, 1000 * (VIRTUAL as i64 - other as i64));
        let missed = bench.engine.counters();
        let missed = missed.iter().find(|(what, _)| what.contains("found no block")).unwrap().1;
        assert!(missed < 20, "{missed} misses: one address keeps the other out");
        assert!(translated(&bench) < 10);
    }
}

/// A block that is dropped is entered at none of its addresses, whichever table has it.
#[test]
fn changed_code_is_changed_at_each_address() {
    for writes_at in [VIRTUAL, ELSEWHERE, FAR] {
        let mut bench = ring3();
        map(&bench, 0, SHARED, 0);
        function(&bench, SHARED, 1);
        bench.load(|a| {
            // In between, one of them is in the victim table.
            for (n, address) in [rbx, rsi, rdi, rdi, rsi, rbx].into_iter().enumerate() {
                if n == 3 {
                    a.mov(byte_ptr(rbp + 1), 2).unwrap();
                }
                a.call(address).unwrap();
                a.lea(rdx, ptr(rdx + rdx * 8)).unwrap();
                a.add(rdx, rax).unwrap();
            }
        });
        for round in 0..3 {
            function(&bench, SHARED, 1);
            bench.engine.invalidate(Invalidation::Code { gpa: SHARED, len: 6 });
            let gpr = &mut bench.cpu.gpr;
            (gpr[RBX], gpr[RSI], gpr[RDI]) = (VIRTUAL, ELSEWHERE, FAR);
            (gpr[RBP], gpr[RDX]) = (writes_at, 0);
            again(&mut bench);
            let expected = [1, 1, 1, 2, 2, 2].iter().fold(0, |sum, n| sum * 9 + n);
            assert_eq!(bench.cpu.gpr[RDX], expected, "round {round}, written at {writes_at:#x}");
        }
    }
}

#[test]
fn an_instruction_across_pages_whose_second_differs() {
    let mut bench = ring3();
    // mov eax, imm32; ret with its immediate on the second page.
    bench.ram.write(SHARED + 0xfff, &[0xb8]).unwrap();
    for (first, n) in [(0, 1), (40, 2)] {
        map_three(&bench, first, n);
        bench.ram.write(DATA + (n << 16), &[n as u8, 0, 0, 0, 0xc3]).unwrap();
    }
    bench.load(|a| {
        for _ in 0..3 {
            for address in [rbx, rsi] {
                a.call(address).unwrap();
                a.lea(rdx, ptr(rdx + rdx * 8)).unwrap();
                a.add(rdx, rax).unwrap();
            }
        }
    });
    for _ in 0..2 {
        let gpr = &mut bench.cpu.gpr;
        (gpr[RBX], gpr[RSI], gpr[RDX]) = (VIRTUAL + 0xfff, VIRTUAL + 40 * 0x1000 + 0xfff, 0);
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RDX], [1, 2, 1, 2, 1, 2].iter().fold(0, |sum, n| sum * 9 + n));
    }
}

/// Whatever leaves guest code leaves at the right address: here of faults, of a loop that is kicked, of a device's access.
#[test]
fn exits_are_where_the_code_is() {
    let mut bench = ring3();
    map(&bench, 0, SHARED, 0);
    place(&bench, SHARED, VIRTUAL, |a| {
        a.xor(ecx, ecx).unwrap(); // + 0
        a.div(ecx).unwrap(); // + 2
    });
    place(&bench, SHARED + 0x100, VIRTUAL, |a| {
        a.nop().unwrap(); // + 0
        a.mov(eax, dword_ptr(rbx)).unwrap(); // + 1
        a.hlt().unwrap(); // + 3
    });
    place(&bench, SHARED + 0x200, VIRTUAL, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.inc(rax).unwrap();
        a.jmp(top).unwrap();
    });
    for base in [VIRTUAL, FAR, ELSEWHERE] {
        bench.cpu.rip = base;
        assert_eq!(bench.fault(), Exception::new(Vector::DivideError));
        assert_eq!(bench.cpu.rip, base + 2);
        // Memory that is not there, then a device.
        for (at, fault) in [(VIRTUAL + 0x9000, true), (0x1000_0000, false)] {
            (bench.cpu.rip, bench.cpu.gpr[RBX]) = (base + 0x100, at);
            if fault {
                assert_eq!(bench.fault(), Exception::page_fault(at, 4));
                assert_eq!(bench.cpu.rip, base + 0x101);
                continue;
            }
            let exit = bench.exit();
            assert!(matches!(exit, Exit::Mmio(mmio) if mmio.gpa == at), "{exit:?}");
            assert_eq!(bench.cpu.rip, base + 0x101);
            let exit = bench.engine.run(&mut bench.cpu, Entry::Complete(0x77));
            assert!(matches!(exit, Exit::Sensitive(insn) if insn.routine == Routine::Hlt), "{exit:?}");
            assert_eq!((bench.cpu.rip, bench.cpu.gpr[RAX]), (base + 0x103, 0x77));
        }
        bench.cpu.rip = base + 0x200;
        let kicker = bench.engine.kicker();
        std::thread::scope(|scope| {
            scope.spawn(|| kicker.kick());
            assert!(matches!(bench.exit(), Exit::Kicked));
        });
        assert!((base + 0x200..base + 0x208).contains(&bench.cpu.rip), "{:#x}", bench.cpu.rip);
        let blocks = bench.engine.blocks_at(base + 0x101);
        assert!(DIRECTLY || blocks.iter().any(|block| block.rip == base + 0x100));
    }
}

#[test]
fn a_system_call_returns_to_where_it_was_made() {
    let mut bench = ring3();
    let kernel = CODE + 0x800;
    bench.cpu.efer |= Efer::SCE;
    (bench.cpu.msrs.star, bench.cpu.msrs.lstar) = (0x0023_0010 << 32, kernel);
    let masked = Rflags::STATUS | Rflags::IF | Rflags::DF | Rflags::TF | Rflags::AC;
    bench.cpu.msrs.sfmask = masked.bits();
    bench.ram.write(kernel, &assemble(64, kernel, |a| a.sysretq().unwrap())).unwrap();
    map(&bench, 0, SHARED, 0);
    place(&bench, SHARED, VIRTUAL, |a| {
        a.syscall().unwrap();
        lea(a, Register::RDX, VIRTUAL + 2);
        a.hlt().unwrap();
    });
    for base in [VIRTUAL, FAR, ELSEWHERE, VIRTUAL] {
        bench.cpu.load_flat_segments(0x33, 0x2b, vcpu::Width::Long, 3);
        run_from(&mut bench, base);
        assert_eq!((bench.cpu.gpr[RCX], bench.cpu.gpr[RDX]), (base + 2, base + 2));
        assert_eq!(bench.cpu.cpl(), 3);
    }
}

#[test]
fn a_breakpoint_is_at_one_address() {
    let mut bench = ring3();
    map(&bench, 0, SHARED, 0);
    place(&bench, SHARED, VIRTUAL, |a| {
        a.mov(eax, 1).unwrap(); // + 0
        a.inc(eax).unwrap(); // + 5
        a.ret().unwrap();
    });
    bench.load(|a| {
        a.call(rbx).unwrap();
    });
    let call = |bench: &mut Bench, base: u64| {
        bench.cpu.gpr[RBX] = base;
        again(bench);
    };
    let addresses = [VIRTUAL, VIRTUAL + 0x7000, FAR + 0x3000];
    [0, 7, 3].iter().for_each(|page| map(&bench, *page, SHARED, 0));
    addresses.iter().for_each(|base| call(&mut bench, *base));
    for broken in addresses {
        let points = DebugPoints::new([broken + 5], Vec::new());
        bench.engine.set_debug_points(&Arc::new(points));
        for base in addresses {
            if base != broken {
                call(&mut bench, base);
                continue;
            }
            (bench.cpu.rip, bench.cpu.gpr[RSP], bench.cpu.gpr[RBX]) = (CODE, STACK, base);
            let exit = bench.exit();
            assert!(matches!(exit, Exit::Debug { event: DebugEvent::Breakpoint, .. }), "{exit:?}");
            assert_eq!(bench.cpu.rip, base + 5);
        }
        bench.engine.set_debug_points(&Arc::default());
        addresses.iter().for_each(|base| call(&mut bench, *base));
    }
    let before = translated(&bench);
    addresses.iter().for_each(|base| call(&mut bench, *base));
    assert_eq!(translated(&bench), before, "as if there had been none");
}

/// A prefix makes a branch one of 16 bits on AMD's processors, and means nothing on Intel's.
#[test]
fn a_branch_with_an_operand_size_prefix() {
    let amd = matches!(host::cpu::vendor().as_str(), "AuthenticAMD" | "HygonGenuine");
    let mut bench = ring3();
    for (first, n) in [(0, 1), (4, 2)] {
        map_three(&bench, first, n);
    }
    // jmp to the next page, by a relative operand of 2 or of 4 bytes. Truncated, that is in the first 64 KiB.
    let relative: &[u8] = if amd { &[0x66, 0xe9, 0xfc, 0x0f] } else { &[0x66, 0xe9, 0xfa, 0x0f, 0, 0] };
    bench.ram.write(SHARED, relative).unwrap();
    function(&bench, 0x1000, 11);
    function(&bench, 0x5000, 12);
    bench.load(|a| {
        a.call(rbx).unwrap();
    });
    for (base, n) in [(VIRTUAL, 1), (VIRTUAL + 0x4000, 2), (FAR, 1), (VIRTUAL, 1)] {
        bench.cpu.gpr[RBX] = base;
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RAX], if amd { 10 + n } else { n });
    }
}

/// Emptying the cache gives all away anew, in the middle of looking for a block.
#[test]
fn addresses_are_right_while_the_cache_is_emptied() {
    const LIST: u64 = 0x60_0000;
    let functions = |first: u64, count: u64| (0..count).map(move |n| VIRTUAL + (first << 12) + n * 0x100);
    for others in (300..700).step_by(20) {
        let options = Options { cache_bytes: 256 << 10, ..Options::default() };
        let mut bench = with_small_pages(Bench::long_mode_with(options));
        to_ring3(&mut bench);
        for page in 0..80 {
            map(&bench, page, 0x80_0000 + (page << 12), 0);
        }
        let calls: Vec<_> = [0, 1, 2].into_iter().flat_map(|_| functions(0, 128)).collect();
        // One of each page first.
        let pages = (0..8).map(|page| VIRTUAL + (page << 12));
        let calls: Vec<_> = pages.chain(functions(16, others)).chain(calls).collect();
        for at in functions(0, 128).chain(functions(16, others)) {
            place(&bench, 0x80_0000 + (at - VIRTUAL), at, |a| {
                lea(a, Register::RAX, at);
                a.ret().unwrap();
            });
        }
        for (n, at) in (0..).zip(&calls) {
            bench.ram.write_u64(LIST + n * 8, *at).unwrap();
        }
        bench.load(|a| {
            let (mut top, mut right) = (a.create_label(), a.create_label());
            a.set_label(&mut top).unwrap();
            a.call(qword_ptr(rsi)).unwrap();
            a.cmp(rax, qword_ptr(rsi)).unwrap();
            a.je(right).unwrap();
            a.inc(rdx).unwrap();
            a.set_label(&mut right).unwrap();
            a.add(rsi, 8).unwrap();
            a.dec(rcx).unwrap();
            a.jnz(top).unwrap();
        });
        let gpr = &mut bench.cpu.gpr;
        (gpr[RSI], gpr[RCX], gpr[RDX]) = (LIST, calls.len() as u64, 0);
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RDX], 0, "after {others} other functions");
    }
}
