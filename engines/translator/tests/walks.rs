//! Pages that a kernel's code finds by itself, walking the tables without the engine, against the walk of [`x86::paging`].

use std::cell::RefCell;

mod common;
#[allow(dead_code)] // It needs a part of it.
#[path = "differential/random.rs"]
mod random;

use common::pages::*;
use common::{Bench, CODE, DATA, assemble};
use iced_x86::code_asm::*;
use memory::GuestRam;
use random::Random;
use vcpu::{Engine, Exit, Invalidation};
use x86::paging::{self, Access, AccessKind, PageTables, PagingContext};
use x86::register::gpr::*;
use x86::{Cr4, Exception, Rflags};

const ACCESSED: u64 = 0x20;
const DIRTY: u64 = 0x40;
const SECOND: u64 = 0xe000;

/// A copy of the page tables, to walk without an engine.
struct Tables(RefCell<Vec<u8>>);

impl Tables {
    fn of(ram: &GuestRam) -> Self {
        let mut bytes = vec![0; 0x1_0000];
        ram.read(0, &mut bytes).unwrap();
        Self(bytes.into())
    }
}

impl PageTables for Tables {
    fn read_u32(&self, _: u64) -> u32 {
        unreachable!("not in long mode")
    }
    fn read_u64(&self, gpa: u64) -> u64 {
        let at = gpa as usize;
        self.0.borrow().get(at..at + 8).map_or(u64::MAX, |word| u64::from_le_bytes(word.try_into().unwrap()))
    }
    fn compare_exchange_u32(&self, _: u64, _: u32, _: u32) -> bool {
        unreachable!("not in long mode")
    }
    fn compare_exchange_u64(&self, gpa: u64, current: u64, new: u64) -> bool {
        assert_eq!(self.read_u64(gpa), current);
        self.0.borrow_mut()[gpa as usize..][..8].copy_from_slice(&new.to_le_bytes());
        true
    }
}

fn counted(bench: &Bench) -> u64 {
    let name = "pages that generated code has looked up";
    bench.engine.counters().into_iter().find(|(known, _)| *known == name).unwrap().1
}

fn program(write: bool, size: u64) -> Vec<u8> {
    assemble(64, CODE, |a| {
        match (write, size) {
            (false, 1) => a.mov(al, byte_ptr(rbx)),
            (false, _) => a.mov(rax, qword_ptr(rbx)),
            (true, 1) => a.mov(byte_ptr(rbx), al),
            (true, _) => a.mov(qword_ptr(rbx), rax),
        }
        .unwrap();
        a.hlt().unwrap();
    })
}

/// Runs to the end, or to a fault.
fn outcome(bench: &mut Bench) -> Result<(), Exception> {
    bench.cpu.rip = CODE;
    loop {
        match bench.exit() {
            Exit::Kicked => {}
            Exit::Exception(fault) => return Err(fault),
            // No memory is there.
            Exit::Sensitive(_) | Exit::Mmio(_) => return Ok(()),
            other => panic!("{other:?}"),
        }
    }
}

/// An entry for the page at `to` with all bits at random that may be.
fn entry(random: &mut Random, to: u64) -> u64 {
    let mut entry = to | PRESENT | WRITABLE | USER | ACCESSED | DIRTY;
    for bit in [PRESENT, WRITABLE, USER, ACCESSED, DIRTY] {
        if random.chance(12) {
            entry &= !bit;
        }
    }
    if random.chance(20) { entry | GLOBAL } else { entry }
}

#[test]
fn each_access_ends_as_the_manual_says() {
    let mut bench = bench();
    let mut random = Random::new(11);
    let before = counted(&bench);
    for round in 0..6000 {
        let ram = &bench.ram;
        // The first gigabyte's entry, that of the second, of its first two megabytes, of the page.
        ram.write_u64(0x9000, 0x87 | ACCESSED | DIRTY).unwrap();
        // The second half of all addresses is as the first.
        ram.write_u64(0x8000 + 256 * 8, ram.read_u64(0x8000).unwrap()).unwrap();
        ram.write_u64(0x9008, entry(&mut random, DIRECTORY)).unwrap();
        let large = random.chance(25);
        let reserved = if random.chance(10) { 1 << random.pick(&[13, 17, 20]) } else { 0 };
        let table = match large {
            // Bit 12 of a large page is one of its memory type's.
            true => entry(&mut random, LARGE) | reserved | random.pick(&[0, 1 << 12]),
            false => entry(&mut random, TABLE),
        };
        ram.write_u64(DIRECTORY, table).unwrap();
        let to = random.pick(&[DATA, DATA + 0x5000, 0x7fff_f000, 1 << 45]);
        ram.write_u64(TABLE + 8, entry(&mut random, to)).unwrap();
        ram.write_u64(TABLE + 16, entry(&mut random, DATA + 0x1000)).unwrap();
        let (write, size) = (random.chance(50), random.pick(&[1, 8]));
        let page = if large { 0x5_2000 } else { 0x1000 };
        let linear = VIRTUAL + page + random.pick(&[0, 8, 0x7f5, 0xff8, 0xff9, 0xfff]);
        let linear = if random.chance(50) { linear | 0xffff_8000_0000_0000 } else { linear };
        let linear = if random.chance(3) { linear ^ 1 << 50 } else { linear };
        bench.cpu.cr4.set(Cr4::SMAP, random.chance(50));
        bench.cpu.rflags.set(Rflags::AC, random.chance(50));
        bench.cpu.gpr[RBX] = linear;
        bench.cpu.gpr[RAX] = random.next();
        ram.write(CODE, &program(write, size)).unwrap();
        bench.engine.invalidate(Invalidation::Code { gpa: CODE, len: 16 });
        bench.engine.invalidate(Invalidation::AllPages);
        let cpu = &bench.cpu;
        let paging = PagingContext::new(cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, cpu.rflags, 40);
        let tables = Tables::of(&bench.ram);
        let kind = if write { AccessKind::Write } else { AccessKind::Read };
        let walk = |at: u64| {
            let access = Access::explicit(kind, false);
            let found = paging::walk(&paging, &tables, at, access);
            found.map(|_| ()).map_err(|code| Exception::page_fault(at, code))
        };
        let whole = paging::is_canonical(linear, false);
        let next = (linear | 0xfff) + 1;
        let expected = match whole {
            false => Err(Exception::gp(0)),
            true if linear + size > next => walk(linear).and_then(|()| walk(next)),
            true => walk(linear),
        };
        // The code's own page.
        let code = Access::explicit(AccessKind::Execute, false);
        paging::walk(&paging, &tables, CODE, code).unwrap();
        let seen = outcome(&mut bench);
        assert_eq!(
            seen,
            expected,
            "round {round}: {linear:#x}, {size} bytes, write: {write}, {cpu:?}",
            cpu = bench.cpu
        );
        let now = Tables::of(&bench.ram);
        let same = now.0.borrow()[0x9000..0xc000] == tables.0.borrow()[0x9000..0xc000];
        assert!(same, "round {round}: other accessed and dirty bits");
    }
    assert!(counted(&bench) - before > 1000, "{} pages", counted(&bench) - before);
}

/// Reads `pages` pages from [`VIRTUAL`] on, and writes 7 behind what it has read.
fn read_all(bench: &mut Bench, pages: u64) -> u64 {
    bench.cpu.rip = CODE;
    bench.load(|a| {
        let mut more = a.create_label();
        a.mov(rbx, VIRTUAL).unwrap();
        a.mov(rcx, pages).unwrap();
        a.xor(eax, eax).unwrap();
        a.set_label(&mut more).unwrap();
        a.add(rax, qword_ptr(rbx)).unwrap();
        a.mov(qword_ptr(rbx + 8), 7).unwrap();
        a.add(rbx, 0x1000).unwrap();
        a.dec(rcx).unwrap();
        a.jne(more).unwrap();
    });
    again(bench);
    bench.cpu.gpr[RAX]
}

/// Maps pages so that nothing has to be marked.
fn map_all(bench: &Bench, pages: u64, to: u64) {
    for page in 0..pages {
        map(bench, page, to, ACCESSED | DIRTY);
    }
    bench.ram.write_u64(DIRECTORY, TABLE | 7 | ACCESSED).unwrap();
    bench.ram.write_u64(0x9008, DIRECTORY | 7 | ACCESSED).unwrap();
}

#[test]
fn what_was_looked_up_is_flushed() {
    const PAGES: u64 = 300;
    for flush in [Invalidation::AddressSpace, Invalidation::AllPages] {
        let mut bench = bench();
        bench.ram.write_u64(DATA, 1).unwrap();
        bench.ram.write_u64(SECOND, 2).unwrap();
        map_all(&bench, PAGES, DATA);
        // Once for the tables above; what comes then is found without the engine.
        read_all(&mut bench, 1);
        let before = counted(&bench);
        assert_eq!(read_all(&mut bench, PAGES), PAGES);
        bench.engine.invalidate(flush);
        assert!(counted(&bench) - before >= PAGES - 10, "{} pages", counted(&bench) - before);
        map_all(&bench, PAGES, SECOND);
        assert_eq!(read_all(&mut bench, PAGES), 2 * PAGES, "{flush:?}");
        assert_eq!(bench.ram.read_u64(SECOND + 8), Ok(7));
    }
}

#[test]
fn a_flushed_page_is_looked_up_again() {
    let mut bench = bench();
    bench.ram.write_u64(DATA, 1).unwrap();
    bench.ram.write_u64(SECOND, 2).unwrap();
    map_all(&bench, 8, DATA);
    assert_eq!(read_all(&mut bench, 8), 8);
    map_all(&bench, 8, SECOND);
    for page in 0..8 {
        bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL + page * 0x1000 });
        assert_eq!(read_all(&mut bench, 8), 9 + page);
    }
    // One of a large page, of which each part has an entry of its own.
    bench.ram.write_u64(DIRECTORY, (4 << 20) | LARGE | 7 | ACCESSED | DIRTY).unwrap();
    bench.engine.invalidate(Invalidation::AllPages);
    let former = read_all(&mut bench, 64);
    bench.ram.write_u64(DIRECTORY, (2 << 20) | LARGE | 7 | ACCESSED | DIRTY).unwrap();
    for page in 0..64 {
        bench.ram.write_u64((2 << 20) + page * 0x1000, 3).unwrap();
    }
    bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL + 0x1_0000 });
    assert_ne!(former, 3 * 64);
    assert_eq!(read_all(&mut bench, 64), 3 * 64);
}

#[test]
fn a_flush_in_a_page_of_a_gigabyte_is_one_of_all() {
    const FAR: u64 = 5 << 20;
    let mut bench = bench();
    let read = |bench: &mut Bench| {
        bench.cpu.rip = CODE;
        bench.load(|a| {
            a.mov(rbx, VIRTUAL + FAR).unwrap();
            a.mov(rax, qword_ptr(rbx)).unwrap();
        });
        again(bench);
        bench.cpu.gpr[RAX]
    };
    bench.ram.write_u64(FAR, 5).unwrap();
    bench.ram.write_u64(0x9008, LARGE | 7 | ACCESSED | DIRTY).unwrap();
    let before = counted(&bench);
    assert_eq!(read(&mut bench), 5);
    // It becomes one of small pages, of which this is in the second table.
    bench.ram.write_u64(0x9008, DIRECTORY | 7 | ACCESSED).unwrap();
    bench.ram.write_u64(DIRECTORY + 16, TABLE | 7 | ACCESSED).unwrap();
    bench.ram.write_u64(TABLE + 256 * 8, DATA | 7 | ACCESSED | DIRTY).unwrap();
    bench.ram.write_u64(DATA, 6).unwrap();
    assert_eq!(read(&mut bench), 5, "as a processor may");
    bench.engine.invalidate(Invalidation::Page { linear: VIRTUAL + (700 << 20) });
    assert_eq!(read(&mut bench), 6);
    assert_eq!(counted(&bench) - before, 2);
}

#[test]
fn a_page_that_was_looked_up_for_writing_becomes_code() {
    let mut bench = bench();
    map_all(&bench, 2, DATA);
    let set = |n: u32| u64::from(n) << 8 | 0xb8 | 0xc3 << 40; // mov eax, n; ret
    bench.load(|a| {
        a.mov(rbx, VIRTUAL).unwrap();
        a.mov(rsi, set(1)).unwrap();
        a.mov(rdi, set(2)).unwrap();
        a.mov(qword_ptr(rbx), rsi).unwrap();
        a.call(rbx).unwrap();
        a.mov(ebp, eax).unwrap();
        a.mov(qword_ptr(rbx), rdi).unwrap();
        a.call(rbx).unwrap();
        a.shl(ebp, 8).unwrap();
        a.or(eax, ebp).unwrap();
    });
    again(&mut bench);
    assert_eq!(bench.cpu.gpr[RAX], 0x102);
    again(&mut bench);
    assert_eq!(bench.cpu.gpr[RAX], 0x102);
}

#[test]
fn what_straddles_is_done_at_once_where_the_pages_follow_each_other() {
    const TIMES: u32 = 100;
    let name = "instructions run apart from their block";
    let apart =
        |bench: &Bench| bench.engine.counters().into_iter().find(|(known, _)| *known == name).unwrap().1;
    for (second, at_once) in [(DATA + 0x1000, true), (DATA + 0x3000, false)] {
        let mut bench = bench();
        map_all(&bench, 1, DATA);
        map(&bench, 1, second, ACCESSED | DIRTY);
        bench.load(|a| {
            let mut more = a.create_label();
            a.mov(rbx, VIRTUAL + 0xffb).unwrap();
            a.mov(ecx, TIMES).unwrap();
            a.set_label(&mut more).unwrap();
            a.add(qword_ptr(rbx), 0x101).unwrap();
            a.mov(rax, qword_ptr(rbx)).unwrap();
            a.dec(ecx).unwrap();
            a.jne(more).unwrap();
        });
        bench.ram.write_u64(DATA + 0xff8, 0x0504_0302_01aa_bbcc).unwrap();
        bench.ram.write_u64(second, 0xddee_ff08_0706).unwrap();
        again(&mut bench);
        let low = bench.ram.read_u64(DATA + 0xff8).unwrap() >> 24;
        let high = bench.ram.read_u64(second).unwrap() & 0xff_ffff;
        assert_eq!(bench.cpu.gpr[RAX], high << 40 | low);
        assert_eq!(bench.cpu.gpr[RAX], 0x0807_0605_0403_0201 + 0x101 * u64::from(TIMES));
        assert_eq!(bench.ram.read_u64(DATA + 0xff8).unwrap() & 0xff_ffff, 0xaa_bbcc);
        assert_eq!(bench.ram.read_u64(second).unwrap() >> 24, 0xdd_eeff);
        assert_eq!(apart(&bench) < 4, at_once, "{}", apart(&bench));
    }
}
