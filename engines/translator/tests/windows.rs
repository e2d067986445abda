//! Windows: what the host's page tables find for ring 3 is what the guest's tables say, no more and no longer.

mod common;

use std::sync::Arc;

use common::pages::*;
use common::{Bench, CODE, DATA, DIRECTLY, STACK, assemble};
use host::stub::Stubs;
use iced_x86::code_asm::*;
use translator::{Options, Promotion, Windowing};
use vcpu::{Engine, Exit, Invalidation};
use x86::Exception;
use x86::register::gpr::*;

const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// Frames that do not lie as the pages do.
const FRAMES: u64 = DATA;
/// An instruction.
type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// How many pages the roaming program goes over.
const PAGES: u64 = 64;

fn ring3(windows: Windowing) -> Bench {
    let mut bench = with_small_pages(Bench::long_mode_with(Options { windows, ..Options::default() }));
    to_ring3(&mut bench);
    bench
}

fn frame(page: u64) -> u64 {
    FRAMES + (PAGES - 1 - page) * 0x1000
}

/// How many of these there were; none is known of code that is not translated.
fn translated(bench: &Bench, what: &str) -> Option<u64> {
    (!DIRECTLY).then(|| counted(bench, what))
}

fn counted(bench: &Bench, what: &str) -> u64 {
    let counts = bench.engine.counters();
    counts.iter().find(|(name, _)| name.contains(what)).expect("such a counter").1
}

fn entry(bench: &Bench, page: u64) -> u64 {
    bench.ram.read_u64(TABLE + page * 8).unwrap()
}

/// Adds 1 to a word of each of the pages, rcx times.
fn load_roaming(bench: &mut Bench) {
    bench.load(|a| {
        let (mut round, mut next) = (a.create_label(), a.create_label());
        a.set_label(&mut round).unwrap();
        a.mov(rbx, VIRTUAL).unwrap();
        a.set_label(&mut next).unwrap();
        a.inc(qword_ptr(rbx + 0x10)).unwrap();
        a.add(rbx, 0x1000).unwrap();
        a.cmp(rbx, (VIRTUAL + PAGES * 0x1000) as i32).unwrap();
        a.jne(next).unwrap();
        a.dec(rcx).unwrap();
        a.jne(round).unwrap();
    });
}

/// Reads and changes a word of the first page.
fn load_touching(bench: &mut Bench) {
    bench.load(|a| {
        a.mov(rbx, VIRTUAL).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.add(qword_ptr(rbx), 0x10).unwrap();
    });
}

#[test]
fn pages_that_are_hot_are_mapped() {
    let mut bench = ring3(Windowing::Hot);
    (0..PAGES).for_each(|page| map(&bench, page, frame(page), 0));
    load_roaming(&mut bench);
    bench.cpu.gpr[RCX] = 4000;
    again(&mut bench);
    assert!(translated(&bench, "mapped into windows").is_none_or(|mapped| mapped == PAGES));
    assert!(translated(&bench, "taken out").is_none_or(|taken| taken == 0));
    for page in 0..PAGES {
        assert_eq!(bench.ram.read_u64(frame(page) + 0x10).unwrap(), 4000, "page {page}");
        assert_eq!(entry(&bench, page) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
    }
    let asked = counted(&bench, "missed the software TLB");
    bench.cpu.gpr[RCX] = 100_000;
    again(&mut bench);
    assert!(DIRECTLY || counted(&bench, "missed the software TLB") == asked, "no miss is left");
    assert_eq!(bench.ram.read_u64(frame(3) + 0x10).unwrap(), 104_000);
}

#[test]
fn a_program_that_only_passes_by_has_none() {
    let mut bench = ring3(Windowing::Hot);
    (0..PAGES).for_each(|page| map(&bench, page, frame(page), 0));
    load_roaming(&mut bench);
    bench.cpu.gpr[RCX] = 8;
    again(&mut bench);
    assert_eq!(counted(&bench, "mapped into windows"), 0);
}

/// Where ring 3 is run directly once it is found busy, there are none either.
#[test]
fn who_may_be_run_directly_has_none() {
    if DIRECTLY {
        return;
    }
    let mut bench = ring3(Windowing::Hot);
    let stubs = Arc::new(Stubs::start(1).expect("processes to run ring 3 in"));
    bench.engine.set_stubs(&stubs, Promotion::Busy);
    (0..PAGES).for_each(|page| map(&bench, page, frame(page), 0));
    load_roaming(&mut bench);
    bench.cpu.gpr[RCX] = 4000;
    again(&mut bench);
    assert_eq!(bench.ram.read_u64(frame(5) + 0x10).unwrap(), 4000);
    assert_eq!(counted(&bench, "mapped into windows"), 0);
}

#[test]
fn an_access_may_span_pages_that_lie_apart() {
    let mut bench = ring3(Windowing::All);
    map(&bench, 0, frame(0), 0);
    map(&bench, 1, frame(1), 0);
    bench.load(|a| {
        a.mov(rbx, VIRTUAL + 0xff9).unwrap();
        a.mov(al, byte_ptr(rbx)).unwrap();
        a.mov(qword_ptr(rbx), rdx).unwrap();
        a.vmovdqu(ymm1, ymmword_ptr(rbx - 0x10)).unwrap();
        a.vmovdqu(ymmword_ptr(rbx + 0x40), ymm1).unwrap();
    });
    bench.cpu.gpr[RDX] = 0x1122_3344_5566_7788;
    for _ in 0..3 {
        again(&mut bench);
        assert_eq!(bench.ram.read_u64(frame(0) + 0xff8).unwrap(), 0x2233_4455_6677_8800);
        assert_eq!(bench.ram.read_u8(frame(1)).unwrap(), 0x11);
        assert_eq!(bench.ram.read_u64(frame(1) + 0x49).unwrap(), 0x1122_3344_5566_7788);
    }
    assert!(translated(&bench, "mapped into windows").is_none_or(|mapped| mapped >= 2));
}

/// A page that is gone, or another, once it has been flushed.
#[test]
fn what_is_flushed_is_seen() {
    for flush in [Invalidation::Page { linear: VIRTUAL }, Invalidation::AddressSpace, Invalidation::AllPages]
    {
        let mut bench = ring3(Windowing::All);
        map(&bench, 0, frame(0), 0);
        bench.ram.write_u64(frame(0), 1).unwrap();
        bench.ram.write_u64(frame(1), 2).unwrap();
        load_touching(&mut bench);
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RAX], 1);
        assert!(translated(&bench, "mapped into windows").is_none_or(|mapped| mapped == 1));
        map(&bench, 0, frame(1), 0);
        bench.engine.invalidate(flush);
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RAX], 2, "{flush:?}");
        assert_eq!(bench.ram.read_u64(frame(0)).unwrap(), 0x11);
        bench.ram.write_u64(TABLE, 0).unwrap();
        bench.engine.invalidate(flush);
        (bench.cpu.rip, bench.cpu.gpr[RSP]) = (CODE, STACK);
        assert_eq!(bench.fault(), Exception::page_fault(VIRTUAL, 4), "{flush:?}");
        assert_eq!(bench.ram.read_u64(frame(1)).unwrap(), 0x12);
    }
}

/// A table that is again as it was before a page of it was mapped.
#[test]
fn a_page_that_came_and_went_between_two_looks() {
    let mut bench = ring3(Windowing::All);
    map(&bench, 1, frame(1), ACCESSED | DIRTY);
    bench.load(|a| {
        a.mov(rax, qword_ptr(VIRTUAL + 0x1000)).unwrap();
        a.mov(rbx, qword_ptr(VIRTUAL + 0x2000)).unwrap();
    });
    // The first page is mapped, and the table compared.
    for _ in 0..2 {
        bench.engine.invalidate(Invalidation::AddressSpace);
        (bench.cpu.rip, bench.cpu.gpr[RSP]) = (CODE, STACK);
        assert_eq!(bench.fault(), Exception::page_fault(VIRTUAL + 0x2000, 4));
    }
    map(&bench, 2, frame(2), ACCESSED | DIRTY);
    again(&mut bench);
    bench.ram.write_u64(TABLE + 2 * 8, 0).unwrap();
    bench.engine.invalidate(Invalidation::AddressSpace);
    (bench.cpu.rip, bench.cpu.gpr[RSP]) = (CODE, STACK);
    assert_eq!(bench.fault(), Exception::page_fault(VIRTUAL + 0x2000, 4));
}

/// Rights that end, in the entry and in the tables above it.
#[test]
fn rights_that_end_are_seen() {
    let mut bench = ring3(Windowing::All);
    load_touching(&mut bench);
    let writes = Exception::page_fault(VIRTUAL, 7);
    let reads = Exception::page_fault(VIRTUAL, 5);
    let above = bench.ram.read_u64(DIRECTORY).unwrap();
    let spoils: [(u64, u64, Exception); 4] = [
        (TABLE, WRITABLE, writes),
        (TABLE, USER, reads),
        (DIRECTORY, WRITABLE, writes),
        (DIRECTORY, USER, reads),
    ];
    for (place, right, fault) in spoils {
        for flush in [Invalidation::Page { linear: VIRTUAL }, Invalidation::AddressSpace] {
            bench.ram.write_u64(DIRECTORY, above).unwrap();
            map(&bench, 0, frame(0), 0);
            bench.engine.invalidate(flush);
            again(&mut bench);
            bench.ram.write_u64(place, bench.ram.read_u64(place).unwrap() & !right).unwrap();
            bench.engine.invalidate(flush);
            let before = bench.ram.read_u64(frame(0)).unwrap();
            (bench.cpu.rip, bench.cpu.gpr[RSP]) = (CODE, STACK);
            assert_eq!(bench.fault(), fault, "{place:#x} without {right}, {flush:?}");
            assert_eq!(bench.ram.read_u64(frame(0)).unwrap(), before);
        }
    }
}

/// Who clears the accessed and dirty bits and flushes finds them set by the next access.
#[test]
fn accessed_and_dirty_bits_are_set_again() {
    let mut bench = ring3(Windowing::All);
    load_touching(&mut bench);
    for flush in [Invalidation::Page { linear: VIRTUAL }, Invalidation::AddressSpace] {
        map(&bench, 0, frame(0), 0);
        bench.engine.invalidate(flush);
        again(&mut bench);
        assert_eq!(entry(&bench, 0) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
        bench.ram.write_u64(TABLE, entry(&bench, 0) & !DIRTY).unwrap();
        bench.engine.invalidate(flush);
        bench.load(|a| a.mov(rax, qword_ptr(VIRTUAL)).unwrap());
        again(&mut bench);
        assert_eq!(entry(&bench, 0) & DIRTY, 0, "a read leaves it clear");
        load_touching(&mut bench);
        again(&mut bench);
        assert_eq!(entry(&bench, 0) & DIRTY, DIRTY, "{flush:?}");
    }
}

/// The address spaces of several programs, each with its own page at the same address, in turns.
#[test]
fn every_address_space_has_its_own() {
    const ROOTS: u64 = 0x10_0000;
    let mut bench = ring3(Windowing::All);
    load_touching(&mut bench);
    let spaces = 40;
    let (root, above) = (bench.cpu.cr3, bench.ram.read_u64(bench.cpu.cr3).unwrap() & !0xfff);
    for n in 0..spaces {
        // Tables of four levels and a frame.
        let [top, pointers, directory, table, page] = [0, 1, 2, 3, 4].map(|k| ROOTS + (n * 5 + k) * 0x1000);
        bench.ram.write_u64(top, pointers | 7).unwrap();
        bench.ram.write_u64(pointers, bench.ram.read_u64(above).unwrap()).unwrap();
        bench.ram.write_u64(pointers + 8, directory | 7).unwrap();
        bench.ram.write_u64(directory, table | 7).unwrap();
        bench.ram.write_u64(table, page | 7).unwrap();
        bench.ram.write_u64(page, n).unwrap();
    }
    for turn in 0..3 {
        for n in 0..spaces {
            bench.cpu.cr3 = ROOTS + n * 5 * 0x1000;
            bench.engine.invalidate(Invalidation::AddressSpace);
            again(&mut bench);
            assert_eq!(bench.cpu.gpr[RAX], n + turn * 0x10);
        }
    }
    assert!(translated(&bench, "mapped into windows").is_none_or(|mapped| mapped == spaces), "each once");
    bench.cpu.cr3 = root;
}

/// More gigabytes than there are windows.
#[test]
fn windows_make_room() {
    const POINTERS: u64 = 0x9000;
    let mut bench = ring3(Windowing::All);
    map(&bench, 0, frame(0), 0);
    (1..512).for_each(|gigabyte| bench.ram.write_u64(POINTERS + gigabyte * 8, DIRECTORY | 7).unwrap());
    bench.load(|a| {
        let mut next = a.create_label();
        a.mov(rcx, 511_u64).unwrap();
        a.mov(rbx, VIRTUAL).unwrap();
        a.mov(rdx, VIRTUAL).unwrap();
        a.set_label(&mut next).unwrap();
        a.inc(qword_ptr(rbx)).unwrap();
        a.add(rbx, rdx).unwrap();
        a.dec(rcx).unwrap();
        a.jne(next).unwrap();
    });
    for round in 1..=8 {
        again(&mut bench);
        assert_eq!(bench.ram.read_u64(frame(0)).unwrap(), 511 * round);
    }
}

/// A page that is flushed all the time is let alone, and found.
#[test]
fn a_restless_page() {
    let mut bench = ring3(Windowing::All);
    load_touching(&mut bench);
    for n in 0..1500 {
        map(&bench, 0, frame(n % 2), 0);
        bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL });
        again(&mut bench);
        assert_eq!(bench.cpu.gpr[RAX], n / 2 * 0x10);
    }
    assert!(counted(&bench, "mapped into windows") < 600);
}

#[test]
fn large_pages() {
    let mut bench = ring3(Windowing::All);
    let large = 4 << 20;
    bench.ram.write_u64(DIRECTORY, large | LARGE | 7).unwrap();
    bench.load(|a| {
        a.mov(rbx, VIRTUAL + 0x1f_f008).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.mov(qword_ptr(rbx - 0x10_0000), rax).unwrap();
    });
    bench.ram.write_u64(large + 0x1f_f008, 77).unwrap();
    again(&mut bench);
    assert_eq!(bench.ram.read_u64(large + 0xf_f008).unwrap(), 77);
    again(&mut bench);
    // For reading, then anew for writing.
    assert!(translated(&bench, "mapped into windows").is_none_or(|mapped| mapped == 2));
    // Smaller ones in its place.
    bench.ram.write_u64(DIRECTORY, TABLE | 7).unwrap();
    map(&bench, 0x1ff, frame(0), 0);
    map(&bench, 0xff, frame(1), 0);
    bench.ram.write_u64(frame(0) + 8, 78).unwrap();
    bench.engine.invalidate(Invalidation::AddressSpace);
    again(&mut bench);
    assert_eq!(bench.ram.read_u64(frame(1) + 8).unwrap(), 78);
    assert_eq!(bench.ram.read_u64(large + 0xf_f008).unwrap(), 77);
}

/// Code that is changed through a window, in small pages and large ones.
#[test]
fn code_may_lie_in_a_window() {
    for is_large in [false, true] {
        let mut bench = ring3(Windowing::All);
        let physical = 6 << 20;
        match is_large {
            true => bench.ram.write_u64(DIRECTORY, physical | LARGE | 7).unwrap(),
            false => map(&bench, 0, physical, 0),
        }
        bench.load(|a| {
            a.mov(rbx, VIRTUAL).unwrap();
            // Data beside the code, before there is any.
            a.mov(dword_ptr(rbx + 0x100), ecx).unwrap();
            a.call(rbx).unwrap();
            a.mov(edx, eax).unwrap();
            // The immediate operand of what has run.
            a.mov(dword_ptr(rbx + 1), ecx).unwrap();
            a.call(rbx).unwrap();
        });
        function(&bench, physical, 1);
        for n in 2..6 {
            bench.cpu.gpr[RCX] = n;
            again(&mut bench);
            assert_eq!((bench.cpu.gpr[RDX], bench.cpu.gpr[RAX]), (n - 1, n), "large: {is_large}");
        }
        assert!(translated(&bench, "mapped into windows").is_none_or(|mapped| mapped > 0));
    }
}

/// A page that was mapped beside another, before there was code in it that anybody knew of.
#[test]
fn code_may_lie_beside_what_is_used() {
    let mut bench = ring3(Windowing::All);
    map(&bench, 0, frame(0), ACCESSED | DIRTY);
    map(&bench, 1, frame(1), ACCESSED | DIRTY);
    function(&bench, frame(1), 1);
    bench.load(|a| {
        let mut store = a.create_label();
        a.mov(rbx, VIRTUAL + 1).unwrap();
        a.call(store).unwrap();
        a.mov(rsi, VIRTUAL + 0x1000).unwrap();
        a.call(rsi).unwrap();
        a.mov(edx, eax).unwrap();
        // The same store as before, which has the window by now.
        a.mov(rbx, VIRTUAL + 0x1001).unwrap();
        a.call(store).unwrap();
        a.call(rsi).unwrap();
        a.hlt().unwrap();
        a.set_label(&mut store).unwrap();
        a.mov(dword_ptr(rbx), ecx).unwrap();
        a.ret().unwrap();
    });
    for n in 2..6 {
        bench.cpu.gpr[RCX] = n;
        again(&mut bench);
        assert_eq!((bench.cpu.gpr[RDX], bench.cpu.gpr[RAX]), (n - 1, n));
    }
}

/// A fault in the middle of everything: registers that live in memory, a lent one, flags that are put by, a group.
#[test]
fn a_fault_finds_all_as_it_was() {
    let programs: [Program; 7] = [
        |a| a.add(r9, qword_ptr(rbx + 0x1000)),
        |a| a.adc(qword_ptr(rbx + 0x1000), r10),
        |a| a.add(ah, byte_ptr(rbx + 0x1000)),
        |a| a.mov(byte_ptr(rbx + 0x1000), ch),
        |a| a.push(qword_ptr(rbx + 0x1000)),
        |a| a.vaddpd(ymm3, ymm4, ymmword_ptr(rbx + 0xff0)),
        |a| a.xadd(qword_ptr(rbx + 0x1000), r11),
    ];
    for (n, program) in programs.into_iter().enumerate() {
        let mut bench = ring3(Windowing::All);
        map(&bench, 0, frame(0), 0);
        let at = CODE + assemble(64, CODE, |a| a.mov(rax, qword_ptr(rbx + 0x800)).unwrap()).len() as u64;
        bench.load(|a| {
            a.mov(rax, qword_ptr(rbx + 0x800)).unwrap();
            program(a).unwrap();
            a.mov(qword_ptr(rbx + 0x808), rax).unwrap();
            a.jc(CODE).unwrap();
        });
        for round in 0..4 {
            bench.ram.write_u64(TABLE + 8, 0).unwrap();
            bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL + 0x1000 });
            bench.cpu.gpr = std::array::from_fn(|k| 0x1111_1111 * k as u64);
            (bench.cpu.rip, bench.cpu.gpr[RSP], bench.cpu.gpr[RBX]) = (CODE, STACK, VIRTUAL);
            bench.ram.write_u64(frame(0) + 0x800, 0x1234_5678).unwrap();
            let (mut before, flags) = (bench.cpu.gpr, bench.cpu.rflags);
            before[RAX] = 0x1234_5678;
            let fault = bench.fault();
            assert_eq!(fault.detail, VIRTUAL + 0x1000, "program {n}, round {round}");
            assert_eq!((bench.cpu.rip, bench.cpu.gpr), (at, before), "program {n}, round {round}");
            // The others overwrite them.
            assert!(n != 1 || bench.cpu.rflags == flags, "{:?}", bench.cpu.rflags);
            map(&bench, 1, frame(1), 0);
            again_from_here(&mut bench);
        }
    }
}

fn again_from_here(bench: &mut Bench) {
    loop {
        match bench.exit() {
            Exit::Kicked => {}
            Exit::Sensitive(_) => return,
            other => panic!("{other:?} at {:#x}", bench.cpu.rip),
        }
    }
}

/// Memory of a device beside mapped pages.
#[test]
fn a_device_beside() {
    const DEVICE: u64 = 0x3000_0000;
    let mut bench = ring3(Windowing::All);
    map(&bench, 0, frame(0), 0);
    map(&bench, 1, DEVICE, 0);
    bench.load(|a| {
        a.mov(rbx, VIRTUAL).unwrap();
        a.inc(qword_ptr(rbx)).unwrap();
        a.add(rbx, 0x1000).unwrap();
        a.mov(dword_ptr(rbx + 4), ecx).unwrap();
        a.inc(qword_ptr(rbx - 0x1000)).unwrap();
    });
    for round in 1..4 {
        (bench.cpu.rip, bench.cpu.gpr[RCX]) = (CODE, round);
        let Exit::Mmio(mmio) = bench.exit() else { panic!("no device") };
        assert_eq!((mmio.gpa, mmio.size, mmio.write), (DEVICE + 4, 4, Some(round)));
        let exit = bench.engine.run(&mut bench.cpu, vcpu::Entry::Complete(0));
        assert!(matches!(exit, Exit::Sensitive(_)), "{exit:?}");
        assert_eq!(bench.ram.read_u64(frame(0)).unwrap(), 2 * round);
    }
}
