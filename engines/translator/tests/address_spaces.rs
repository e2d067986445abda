//! Address spaces that take turns: what was known of one is taken up again when it comes back, as far as its tables still say so.

mod common;

use common::pages::*;
use common::{Bench, CODE, DATA, DIRECTLY};
use iced_x86::code_asm::*;
use vcpu::{Engine, Exit, Invalidation};
use x86::register::gpr::*;
use x86::{Efer, Vector};

/// Tables of the other address space, which has the same identity-mapped gigabyte.
const OTHER: u64 = 0xc000;
const OTHER_TABLE: u64 = OTHER + 0x3000;
/// What each has of its own: two functions and a page of data, at the same addresses.
const OWN: [u64; 2] = [DATA, DATA + 0x8000];
const ACCESSED: u64 = 0x20;
const DIRTY: u64 = 0x40;

/// Two spaces. The program calls a function directly and another through a register, counts in memory, and has what they
/// return in rax and rcx, what it counts in rdx.
struct Two(Bench);

impl Two {
    fn new() -> Self {
        let mut bench = bench();
        bench.cpu.efer |= Efer::NXE;
        bench.ram.write_u64(OTHER, (OTHER + 0x1000) | 7).unwrap();
        bench.ram.write_u64(OTHER + 0x1000, 0x87).unwrap();
        bench.ram.write_u64(OTHER + 0x1008, (OTHER + 0x2000) | 7).unwrap();
        bench.ram.write_u64(OTHER + 0x2000, OTHER_TABLE | 7).unwrap();
        for (n, own) in OWN.into_iter().enumerate() {
            function(&bench, own, 10 + n as u32);
            function(&bench, own + 0x1000, 20 + n as u32);
            bench.ram.write_u64(own + 0x2000, 100 * n as u64).unwrap();
            for page in 0..3 {
                bench.ram.write_u64(Self::entry(n, page), (own + page * 0x1000) | 7).unwrap();
            }
        }
        bench.load(|a| {
            a.mov(rbx, VIRTUAL + 0x1000).unwrap();
            a.call(rbx).unwrap();
            a.mov(rcx, rax).unwrap();
            a.mov(rbx, VIRTUAL + 0x2000).unwrap();
            a.inc(qword_ptr(rbx)).unwrap();
            a.mov(rdx, qword_ptr(rbx)).unwrap();
            a.call(VIRTUAL).unwrap();
        });
        to_ring3(&mut bench);
        Self(bench)
    }

    /// Where the entry of a page is in the tables of a space.
    fn entry(space: usize, page: u64) -> u64 {
        [TABLE, OTHER_TABLE][space] + page * 8
    }

    fn switch(&mut self, space: usize) {
        self.0.cpu.cr3 = [0x8000, OTHER][space];
        self.0.engine.invalidate(Invalidation::AddressSpace);
    }

    /// What the functions return and what has been counted.
    fn visit(&mut self, space: usize) -> [u64; 3] {
        self.switch(space);
        again(&mut self.0);
        [RCX, RAX, RDX].map(|register| self.0.cpu.gpr[register])
    }

    fn settle(&mut self) {
        for round in 1..4 {
            assert_eq!(self.visit(0), [20, 10, round]);
            assert_eq!(self.visit(1), [21, 11, 100 + round]);
        }
    }

    /// Jumps, links and accesses that have needed the engine; of no interest where code is not translated.
    fn needed(&self) -> [u64; 3] {
        let counters = self.0.engine.counters();
        let of = |name| counters.iter().find(|(what, _)| *what == name).expect("is counted").1;
        let misses = "accesses that missed the software TLB";
        ["indirect jumps that found no block", "direct jumps linked", misses].map(of)
    }
}

#[test]
fn what_was_known_is_taken_up_again() {
    let mut two = Two::new();
    two.settle();
    let before = two.needed();
    for round in 4..20 {
        assert_eq!(two.visit(0), [20, 10, round]);
        assert_eq!(two.visit(1), [21, 11, 100 + round]);
    }
    assert!(DIRECTLY || two.needed() == before);
    // It begins anew now and then, so that what has fallen out of use is not looked up for ever.
    (20..80)
        .for_each(|round| assert_eq!((two.visit(0), two.visit(1)), ([20, 10, round], [21, 11, 100 + round])));
    assert!(two.needed() > before);
}

#[test]
fn code_that_is_elsewhere_meanwhile_is_found_there() {
    for page in 0..2 {
        let mut two = Two::new();
        two.settle();
        function(&two.0, DATA + 0x1_0000, 77);
        two.0.ram.write_u64(Two::entry(0, page), (DATA + 0x1_0000) | 7).unwrap();
        let expected = if page == 0 { [20, 77, 4] } else { [77, 10, 4] };
        assert_eq!(two.visit(0), expected, "page {page}");
        assert_eq!(two.visit(1), [21, 11, 104]);
    }
}

#[test]
fn code_that_moves_while_it_is_current_is_found_there() {
    for page in 0..2 {
        let mut two = Two::new();
        two.settle();
        assert_eq!(two.visit(0), [20, 10, 4]);
        function(&two.0, DATA + 0x1_0000, 77);
        two.0.ram.write_u64(Two::entry(0, page), (DATA + 0x1_0000) | 7).unwrap();
        // What was taken up again has to be flushed as what was met.
        two.0.engine.invalidate(Invalidation::Page { linear: VIRTUAL + page * 0x1000 });
        again(&mut two.0);
        let found = [RCX, RAX, RDX].map(|register| two.0.cpu.gpr[register]);
        assert_eq!(found, if page == 0 { [20, 77, 5] } else { [77, 10, 5] }, "page {page}");
    }
}

#[test]
fn code_that_was_written_meanwhile_is_seen() {
    let mut two = Two::new();
    two.settle();
    function(&two.0, OWN[0], 78);
    function(&two.0, OWN[0] + 0x1000, 79);
    assert_eq!(two.visit(0), [79, 78, 4]);
}

#[test]
fn data_that_is_elsewhere_meanwhile_is_found_there() {
    let mut two = Two::new();
    two.settle();
    two.0.ram.write_u64(DATA + 0x1_0000, 5000).unwrap();
    two.0.ram.write_u64(Two::entry(0, 2), (DATA + 0x1_0000) | 7).unwrap();
    assert_eq!(two.visit(0), [20, 10, 5001]);
    assert_eq!(two.0.ram.read_u64(OWN[0] + 0x2000).unwrap(), 3);
}

#[test]
fn what_is_forbidden_meanwhile_faults() {
    const PRESENT_FETCH: u32 = 0x15;
    const PRESENT_WRITE: u32 = 7;
    let own = |page: u64| OWN[0] + page * 0x1000;
    // Page, its entry then, whether it is fetched or written, and the error code.
    let cases = [
        (0, 0, true, 0x14),
        (0, own(0) | 7 | 1 << 63, true, PRESENT_FETCH),
        (1, own(1) | 3, true, PRESENT_FETCH),
        (2, own(2) | 5, false, PRESENT_WRITE),
        (2, 0, false, 6),
    ];
    for (page, entry, fetched, code) in cases {
        let mut two = Two::new();
        two.settle();
        two.0.ram.write_u64(Two::entry(0, page), entry).unwrap();
        two.switch(0);
        (two.0.cpu.rip, two.0.cpu.gpr[RSP]) = (CODE, common::STACK);
        let Exit::Exception(fault) = two.0.exit() else { panic!("{entry:#x} did not fault") };
        let expected = (Vector::PageFault, Some(code), VIRTUAL + page * 0x1000);
        assert_eq!((fault.vector, fault.error_code, fault.detail), expected, "{entry:#x}");
        assert_eq!(two.0.cpu.rip == expected.2, fetched);
    }
}

#[test]
fn marks_that_were_cleared_meanwhile_are_made_again() {
    let mut two = Two::new();
    two.settle();
    for page in 0..3 {
        two.0.ram.write_u64(Two::entry(0, page), (OWN[0] + page * 0x1000) | 7).unwrap();
    }
    // Nothing is marked that is not used.
    two.switch(0);
    two.0.cpu.rip = CODE;
    two.0.load(|a| a.nop().unwrap());
    again(&mut two.0);
    let marks = |two: &Two, page| two.0.ram.read_u64(Two::entry(0, page)).unwrap() & (ACCESSED | DIRTY);
    assert_eq!([0, 1, 2].map(|page| marks(&two, page)), [0; 3]);

    let mut two = Two::new();
    two.settle();
    for page in 0..3 {
        two.0.ram.write_u64(Two::entry(0, page), (OWN[0] + page * 0x1000) | 7).unwrap();
    }
    assert_eq!(two.visit(0), [20, 10, 4]);
    assert_eq!([0, 1, 2].map(|page| marks(&two, page)), [ACCESSED, ACCESSED, ACCESSED | DIRTY]);
}

/// Functions of each page of code that two spaces share.
const FUNCTIONS: u64 = 6;

/// A program that calls all functions of two pages, through a register and directly. It weighs what they return by its place
/// in the order of calls, and has the sum in rdx.
fn shared() -> Two {
    let mut two = Two::new();
    for page in 0..2 {
        for n in 0..FUNCTIONS {
            let at = OWN[0] + page * 0x1000 + n * 0x40;
            function(&two.0, at, (100 * (page + 1) + n) as u32);
        }
    }
    two.0.cpu.rip = CODE;
    two.0.load(|a| {
        a.xor(edx, edx).unwrap();
        for (place, at) in calls() {
            match place % 2 {
                0 => {
                    a.mov(rbx, at).unwrap();
                    a.call(rbx).unwrap();
                }
                _ => a.call(at).unwrap(),
            }
            a.imul_3(rax, rax, place as i32 + 1).unwrap();
            a.add(rdx, rax).unwrap();
        }
    });
    two
}

/// The calls by their place in the order: from one page to the other and back.
fn calls() -> impl Iterator<Item = (u64, u64)> {
    (0..2 * FUNCTIONS).map(|place| (place, VIRTUAL + place / 2 % 2 * 0x1000 + place / 2 * 0x40))
}

/// What comes out of them if the pages of functions are where `pages` says.
fn sum(pages: [u64; 2]) -> u64 {
    let returned = |at: u64| 100 * (pages[(at >> 12 & 1) as usize] + 1) + (at & 0xfff) / 0x40;
    calls().map(|(place, at)| returned(at) * (place + 1)).sum()
}

/// Lets a space have these pages of functions.
fn map_functions(two: &Two, space: usize, pages: [u64; 2]) {
    for (n, page) in (0..).zip(pages) {
        let entry = (OWN[0] + page * 0x1000) | 7;
        two.0.ram.write_u64(Two::entry(space, n), entry).unwrap();
    }
}

#[test]
fn a_new_address_space_knows_code_that_others_have_run() {
    let mut two = shared();
    map_functions(&two, 1, [0, 1]);
    assert_eq!(two.visit(0)[2], sum([0, 1]));
    let first = two.needed();
    assert_eq!(two.visit(1)[2], sum([0, 1]));
    let [jumps, links, _] = std::array::from_fn(|n| two.needed()[n] - first[n]);
    if DIRECTLY {
        return;
    }
    // The first space left guest code for each of them, and for returns; this one does for each page at most.
    assert!(first[0] + first[1] >= 4 * FUNCTIONS, "{first:?}");
    assert!(jumps + links <= 6, "{jumps} and {links}");
}

#[test]
fn a_new_address_space_finds_other_code_there() {
    for pages in [[1, 0], [1, 1], [0, 0], [0, 1]] {
        let mut two = shared();
        map_functions(&two, 1, pages);
        for round in 0..3 {
            assert_eq!(two.visit(0)[2], sum([0, 1]), "round {round}");
            assert_eq!(two.visit(1)[2], sum(pages), "round {round}, {pages:?}");
        }
        // The same space, whose tables have changed.
        let again = [pages[1], pages[0]];
        map_functions(&two, 1, again);
        assert_eq!(two.visit(1)[2], sum(again), "{pages:?} before");
        // New code in a page that is known.
        function(&two.0, OWN[0], 7);
        two.0.engine.invalidate(Invalidation::Code { gpa: OWN[0], len: 8 });
        map_functions(&two, 1, [0, 1]);
        assert_eq!(two.visit(1)[2], sum([0, 1]) - 93 * 3, "{pages:?} before");
    }
}
