//! Every mode, page size, error-code bit and A/D rule, on a memory of a few words.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::*;

/// Words by address; absent ones read as ones. `interfere` makes that many exchanges fail first.
#[derive(Default)]
struct Memory {
    words: RefCell<HashMap<u64, u32>>,
    interfere: Cell<u32>,
}

impl Memory {
    fn put32(&self, at: u64, value: u32) {
        self.words.borrow_mut().insert(at, value);
    }

    fn put(&self, at: u64, value: u64) {
        self.put32(at, value as u32);
        self.put32(at + 4, (value >> 32) as u32);
    }

    fn interrupted(&self) -> bool {
        let left = self.interfere.get();
        self.interfere.set(left.saturating_sub(1));
        left != 0
    }
}

impl PageTables for Memory {
    fn read_u32(&self, gpa: u64) -> u32 {
        self.words.borrow().get(&gpa).copied().unwrap_or(!0)
    }

    fn read_u64(&self, gpa: u64) -> u64 {
        u64::from(self.read_u32(gpa)) | u64::from(self.read_u32(gpa + 4)) << 32
    }

    fn compare_exchange_u32(&self, gpa: u64, current: u32, new: u32) -> bool {
        let equal = !self.interrupted() && self.read_u32(gpa) == current;
        if equal {
            self.put32(gpa, new);
        }
        equal
    }

    fn compare_exchange_u64(&self, gpa: u64, current: u64, new: u64) -> bool {
        let equal = !self.interrupted() && self.read_u64(gpa) == current;
        if equal {
            self.put(gpa, new);
        }
        equal
    }
}

const ROOT: u64 = 0x1000;
const L4: u64 = 0x2000;
const L3: u64 = 0x3000;
const L2: u64 = 0x4000;
const L1: u64 = 0x5000;
const PAGE: u64 = 0xab_cdef_0000;
const OPEN: u64 = P | RW | US;
/// Indices 1, 2, 3, 4 from the PML4 down, offset 0x678.
const LINEAR: u64 = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x678;

fn context(mode: PagingMode) -> PagingContext {
    PagingContext {
        mode,
        cr3: ROOT,
        wp: true,
        nxe: true,
        smep: true,
        smap: true,
        pge: true,
        ac: false,
        physical_bits: 40,
    }
}

/// A 4-level tree in which each level holds the given entry for [`LINEAR`]; zero stands for "the next table,
/// all allowed".
fn four_level(pml4e: u64, pdpte: u64, pde: u64, pte: u64) -> Memory {
    let memory = Memory::default();
    let or = |given, usual| if given == 0 { usual } else { given };
    memory.put(ROOT + 8, or(pml4e, L3 | OPEN));
    memory.put(L3 + 2 * 8, or(pdpte, L2 | OPEN));
    memory.put(L2 + 3 * 8, or(pde, L1 | OPEN));
    memory.put(L1 + 4 * 8, or(pte, PAGE | OPEN));
    memory
}

const USER_READ: Access = Access::explicit(AccessKind::Read, true);
const USER_WRITE: Access = Access::explicit(AccessKind::Write, true);
const USER_FETCH: Access = Access::explicit(AccessKind::Execute, true);
const KERNEL_READ: Access = Access::explicit(AccessKind::Read, false);
const KERNEL_WRITE: Access = Access::explicit(AccessKind::Write, false);
const KERNEL_FETCH: Access = Access::explicit(AccessKind::Execute, false);

#[test]
fn off_is_identity_within_32_bits() {
    let t = walk(&context(PagingMode::Off), &Memory::default(), 0x1_0010_ffef, USER_WRITE).unwrap();
    assert_eq!(t.physical, 0x10_ffef);
    assert!(t.readable && t.writable && t.executable);
}

#[test]
fn four_level_4k_sets_accessed_then_dirty() {
    let memory = four_level(0, 0, 0, 0);
    let context = context(PagingMode::FourLevel);
    let read = walk(&context, &memory, LINEAR, USER_READ).unwrap();
    assert_eq!(
        read,
        Translation {
            physical: PAGE | 0x678,
            size: PageSize::Size4K,
            readable: true,
            writable: false,
            executable: true,
            user: true,
            global: false,
            accessed: true,
            dirty: false,
        }
    );
    for at in [ROOT + 8, L3 + 16, L2 + 24, L1 + 32] {
        assert_eq!(memory.read_u64(at) & (A | D), A, "after a read, entry at {at:#x}");
    }
    let write = walk(&context, &memory, LINEAR, USER_WRITE).unwrap();
    assert_eq!(write, Translation { writable: true, dirty: true, ..read });
    for at in [ROOT + 8, L3 + 16, L2 + 24] {
        assert_eq!(memory.read_u64(at) & (A | D), A, "dirty belongs to leaves only, {at:#x}");
    }
    assert_eq!(memory.read_u64(L1 + 32), PAGE | OPEN | A | D);
    assert!(walk(&context, &memory, LINEAR, USER_READ).unwrap().writable);
}

#[test]
fn probe_and_faults_leave_memory_alone() {
    let memory = four_level(0, 0, 0, PAGE | P | US);
    let before = memory.words.borrow().clone();
    let context = context(PagingMode::FourLevel);
    assert!(probe(&context, &memory, LINEAR, USER_READ).unwrap().readable);
    assert_eq!(walk(&context, &memory, LINEAR, USER_WRITE), Err(7));
    assert_eq!(*memory.words.borrow(), before);
}

#[test]
fn large_pages_of_four_level() {
    let two = 0x12_3460_0000 | OPEN | PS | G;
    let memory = four_level(0, 0, two, 0);
    let t = walk(&context(PagingMode::FourLevel), &memory, LINEAR, USER_WRITE).unwrap();
    assert_eq!((t.physical, t.size, t.global), (0x12_3460_4678, PageSize::Size2M, true));
    assert_eq!(memory.read_u64(L2 + 24), two | A | D);

    let one = 0x12_4000_0000 | OPEN | PS | 1 << 12;
    let memory = four_level(0, one, 0, 0);
    let t = walk(&context(PagingMode::FourLevel), &memory, LINEAR, USER_READ).unwrap();
    assert_eq!((t.physical, t.size), (0x12_4060_4678, PageSize::Size1G), "bit 12 is PAT");
    assert_eq!(memory.read_u64(L3 + 16), one | A);
}

#[test]
fn the_entry_of_a_page() {
    let context = context(PagingMode::FourLevel);
    let pte = PAGE | P | RW | A;
    let found = entry_of_page(&context, &four_level(0, L2 | P | US, 0, pte), LINEAR).unwrap();
    assert_eq!(found, PageEntry { address: L1 + 32, value: pte, rights: US, large: false });
    assert!(found.accessed());
    let two = 0x12_3460_0000 | OPEN | PS;
    let found = entry_of_page(&context, &four_level(0, 0, two, 0), LINEAR).unwrap();
    assert_eq!(found, PageEntry { address: L2 + 24, value: two, rights: RW | US, large: true });
    assert!(!found.accessed());
    assert_eq!(entry_of_page(&context, &four_level(0, 0x12_4000_0000 | OPEN | PS, 0, 0), LINEAR), None);
    assert_eq!(entry_of_page(&context, &four_level(0, 0, L1 | RW, 0), LINEAR), None, "not present");
    let pae = PagingContext { mode: PagingMode::Pae, ..context };
    assert_eq!(entry_of_page(&pae, &four_level(0, 0, 0, 0), LINEAR), None);
}

#[test]
fn five_level_has_one_more() {
    let memory = four_level(0, 0, 0, 0);
    memory.put(L4 + 8 * 0x1ff, ROOT | OPEN);
    let high = LINEAR | 0xffff << 48;
    let context = PagingContext { cr3: L4, ..context(PagingMode::FiveLevel) };
    assert_eq!(walk(&context, &memory, high, USER_READ).unwrap().physical, PAGE | 0x678);
    assert_eq!(walk(&context, &memory, high & !(1 << 48), USER_READ), Err(13), "absent memory reads as ones");
}

#[test]
fn pae_walks_its_four_pointers() {
    let memory = Memory::default();
    let linear = 2 << 30 | 3 << 21 | 4 << 12 | 5;
    memory.put(ROOT + 0x20 + 16, L2 | P);
    memory.put(L2 + 24, L1 | OPEN);
    memory.put(L1 + 32, PAGE | OPEN | NX);
    let pae = PagingContext { cr3: ROOT + 0x20, ..context(PagingMode::Pae) };
    let t = walk(&pae, &memory, linear, USER_WRITE).unwrap();
    assert_eq!((t.physical, t.executable, t.writable), (PAGE | 5, false, true));
    assert_eq!(memory.read_u64(ROOT + 0x30), L2 | P, "a PDPTE has no accessed bit");
    assert_eq!(walk(&pae, &memory, linear, USER_FETCH), Err(0x15));
    let wide = linear | 0xffff_ffff << 32;
    assert_eq!(walk(&pae, &memory, wide, USER_READ).unwrap().physical, PAGE | 5, "32 bits of address");

    memory.put(L2 + 24, 0x4020_0000 | OPEN | PS);
    let t = walk(&pae, &memory, linear, USER_READ).unwrap();
    assert_eq!((t.physical, t.size), (0x4020_4005, PageSize::Size2M));

    memory.put(L2 + 24, L1 | OPEN | 1 << 52);
    assert_eq!(walk(&pae, &memory, linear, USER_READ), Err(13), "bits 62:52 are reserved in PAE");
    for bad in [1, 2, 5, 6, 7, 8, 40, 52, 63] {
        memory.put(ROOT + 0x30, L2 | P | 1 << bad);
        assert_eq!(walk(&pae, &memory, linear, KERNEL_READ), Err(9), "PDPTE bit {bad}");
    }
    memory.put(ROOT + 0x30, 0);
    assert_eq!(walk(&pae, &memory, linear, USER_WRITE), Err(6));
}

/// As with AMD's nested paging; others keep them from the last write of CR3.
#[test]
fn pae_pointers_are_read_at_each_walk() {
    let memory = Memory::default();
    let linear = 2 << 30 | 3 << 21 | 4 << 12 | 5;
    let pae = PagingContext { cr3: ROOT + 0x20, ..context(PagingMode::Pae) };
    for (table, page) in [(L2, PAGE), (L3, PAGE + 0x1000)] {
        memory.put(ROOT + 0x30, table | P);
        memory.put(table + 24, L1 | OPEN);
        memory.put(L1 + 32, page | OPEN);
        assert_eq!(walk(&pae, &memory, linear, USER_READ).unwrap().physical, page | 5);
    }
    memory.put(ROOT + 0x30, 0);
    assert_eq!(walk(&pae, &memory, linear, USER_READ), Err(4));
}

/// AMD's processors want it to be zero.
#[test]
fn above_the_last_level_the_global_bit_is_ignored() {
    for memory in [four_level(L3 | OPEN | G, 0, 0, 0), four_level(0, L2 | OPEN | G, 0, 0)] {
        let t = walk(&context(PagingMode::FourLevel), &memory, LINEAR, USER_READ).unwrap();
        assert_eq!((t.physical, t.global), (PAGE | 0x678, false));
    }
}

#[test]
fn two_level_small_and_large() {
    let memory = Memory::default();
    let linear = 7 << 22 | 9 << 12 | 0xabc;
    memory.put32(0x1000 + 28, 0x5000 | OPEN as u32);
    memory.put32(0x5000 + 36, 0x8765_4000 | OPEN as u32 | G as u32);
    let plain = context(PagingMode::TwoLevel { pse: false });
    let t = walk(&plain, &memory, linear, USER_WRITE).unwrap();
    assert_eq!((t.physical, t.size, t.global), (0x8765_4abc, PageSize::Size4K, true));
    assert_eq!(memory.read_u32(0x101c), 0x5000 | (OPEN | A) as u32);
    assert_eq!(memory.read_u32(0x5024), 0x8765_4000 | (OPEN | G | A | D) as u32);

    // PS without CR4.PSE is ignored.
    memory.put32(0x101c, 0x5000 | (OPEN | PS) as u32);
    assert_eq!(walk(&plain, &memory, linear, USER_READ).unwrap().size, PageSize::Size4K);

    let pse = context(PagingMode::TwoLevel { pse: true });
    memory.put32(0x101c, 0x4040_0000 | 0x12 << 13 | (OPEN | PS) as u32);
    let t = walk(&pse, &memory, linear, USER_WRITE).unwrap();
    assert_eq!((t.physical, t.size), (0x12_4040_9abc, PageSize::Size4M));
    assert_eq!(memory.read_u32(0x101c), 0x4040_0000 | 0x12 << 13 | (OPEN | PS | A | D) as u32);

    memory.put32(0x101c, 1 << 21 | (OPEN | PS) as u32);
    assert_eq!(walk(&pse, &memory, linear, USER_READ), Err(13), "bit 21 is reserved");
    memory.put32(0x101c, 1 << 17 | (OPEN | PS) as u32);
    let narrow = PagingContext { physical_bits: 36, ..pse };
    assert_eq!(walk(&narrow, &memory, linear, USER_READ), Err(13), "address bit 36 of 36");
    assert!(walk(&pse, &memory, linear, USER_READ).is_ok());
    memory.put32(0x101c, 0);
    assert_eq!(walk(&pse, &memory, linear, USER_READ), Err(4));
    memory.put32(0x101c, 0x5000 | OPEN as u32);
    memory.put32(0x5024, RW as u32);
    assert_eq!(walk(&pse, &memory, linear, KERNEL_WRITE), Err(2));
}

#[test]
fn not_present_at_any_level() {
    let gone = RW | US;
    for memory in [
        four_level(gone, 0, 0, 0),
        four_level(0, gone, 0, 0),
        four_level(0, 0, gone, 0),
        four_level(0, 0, 0, gone),
    ] {
        let context = context(PagingMode::FourLevel);
        assert_eq!(walk(&context, &memory, LINEAR, KERNEL_READ), Err(0));
        assert_eq!(walk(&context, &memory, LINEAR, USER_WRITE), Err(6));
        assert_eq!(walk(&context, &memory, LINEAR, USER_FETCH), Err(0x14));
        let blind = PagingContext { smep: false, nxe: false, ..context };
        assert_eq!(walk(&blind, &memory, LINEAR, USER_FETCH), Err(4), "a fetch looks like a read");
    }
}

#[test]
fn reserved_bits_at_every_level() {
    let context = context(PagingMode::FourLevel);
    let check = |memory: Memory, why: &str| {
        assert_eq!(walk(&context, &memory, LINEAR, USER_READ), Err(13), "{why}");
        let none = PagingContext { physical_bits: 52, ..context };
        let wide = walk(&none, &memory, LINEAR, USER_READ);
        assert_eq!(wide.is_ok(), why == "address bit 40", "{why}");
    };
    check(four_level(L3 | OPEN | PS, 0, 0, 0), "PS in a PML4E");
    check(four_level(0, 1 << 13 | OPEN | PS, 0, 0), "1 GiB frame");
    check(four_level(0, 1 << 29 | OPEN | PS, 0, 0), "1 GiB frame");
    check(four_level(0, 0, 1 << 20 | OPEN | PS, 0), "2 MiB frame");
    check(four_level(0, 0, 0, PAGE | OPEN | 1 << 40), "address bit 40");
    let memory = four_level(0, 0, 0, PAGE | OPEN | 0x7ff << 52);
    assert!(walk(&context, &memory, LINEAR, USER_READ).is_ok(), "bits 62:52 are the guest's");
    let memory = four_level(0, L2 | OPEN | NX, 0, 0);
    let without = PagingContext { nxe: false, ..context };
    assert_eq!(walk(&without, &memory, LINEAR, USER_READ), Err(13), "NX is reserved unless EFER.NXE");
    assert_eq!(walk(&context, &memory, LINEAR, USER_FETCH), Err(0x15), "NX of an upper level counts");
}

#[test]
fn rights_are_the_least_of_all_levels() {
    let context = context(PagingMode::FourLevel);
    for memory in [
        four_level(L3 | P | RW, 0, 0, 0),
        four_level(0, L2 | P | RW, 0, 0),
        four_level(0, 0, L1 | P | RW, 0),
        four_level(0, 0, 0, PAGE | P | RW),
    ] {
        assert_eq!(walk(&context, &memory, LINEAR, USER_READ), Err(5));
        let t = walk(&context, &memory, LINEAR, KERNEL_WRITE).unwrap();
        assert!(t.readable && t.writable && t.executable && !t.user);
    }
    for memory in [four_level(L3 | P | US, 0, 0, 0), four_level(0, 0, L1 | P | US, 0)] {
        assert_eq!(walk(&context, &memory, LINEAR, USER_WRITE), Err(7));
    }
}

#[test]
fn write_protect_binds_the_supervisor_only_with_wp() {
    let memory = four_level(0, 0, 0, PAGE | P);
    let context = context(PagingMode::FourLevel);
    assert_eq!(walk(&context, &memory, LINEAR, KERNEL_WRITE), Err(3));
    let free = PagingContext { wp: false, ..context };
    assert!(walk(&free, &memory, LINEAR, KERNEL_WRITE).unwrap().writable);
    let user = four_level(0, 0, 0, PAGE | P | US);
    assert_eq!(walk(&free, &user, LINEAR, USER_WRITE), Err(7));
}

#[test]
fn smep_and_smap() {
    let memory = four_level(0, 0, 0, 0);
    let on = context(PagingMode::FourLevel);
    assert_eq!(walk(&on, &memory, LINEAR, KERNEL_FETCH), Err(0x11));
    assert_eq!(walk(&on, &memory, LINEAR, KERNEL_READ), Err(1));
    assert_eq!(walk(&on, &memory, LINEAR, KERNEL_WRITE), Err(3));
    let lifted = PagingContext { ac: true, ..on };
    assert!(walk(&lifted, &memory, LINEAR, KERNEL_READ).is_ok());
    assert_eq!(walk(&lifted, &memory, LINEAR, Access::implicit(AccessKind::Read)), Err(1));
    let from_user = Access { kind: AccessKind::Write, user: true, implicit: true };
    assert_eq!(walk(&lifted, &memory, LINEAR, from_user), Err(3), "implicit is supervisor at any CPL");
    let no_smap = PagingContext { smap: false, ..on };
    let t = walk(&no_smap, &memory, LINEAR, KERNEL_WRITE).unwrap();
    assert!(t.readable && t.writable && !t.executable && t.user);
    let no_smep = PagingContext { smep: false, ..on };
    let t = walk(&no_smep, &memory, LINEAR, KERNEL_FETCH).unwrap();
    assert!(t.executable && !t.readable && !t.writable, "a fetch says nothing of reads");
}

#[test]
fn global_needs_pge() {
    let memory = four_level(0, 0, 0, PAGE | OPEN | G);
    let on = context(PagingMode::FourLevel);
    assert!(walk(&on, &memory, LINEAR, USER_READ).unwrap().global);
    assert!(!walk(&PagingContext { pge: false, ..on }, &memory, LINEAR, USER_READ).unwrap().global);
}

#[test]
fn a_lost_race_walks_again_and_a_hostile_one_ends() {
    let memory = four_level(0, 0, 0, 0);
    let context = context(PagingMode::FourLevel);
    memory.interfere.set(5);
    assert!(walk(&context, &memory, LINEAR, USER_WRITE).unwrap().writable);
    assert_eq!(memory.read_u64(L1 + 32), PAGE | OPEN | A | D);

    let memory = four_level(0, 0, 0, 0);
    memory.interfere.set(u32::MAX);
    let t = walk(&context, &memory, LINEAR, USER_WRITE).unwrap();
    assert_eq!((t.physical, t.writable, t.dirty), (PAGE | 0x678, false, false));
    memory.put32(ROOT + 4, 0x8000 | OPEN as u32);
    memory.put32(0x8000, 0x9000 | OPEN as u32);
    let two = PagingContext { ..self::context(PagingMode::TwoLevel { pse: true }) };
    assert!(!walk(&two, &memory, 1 << 22, USER_WRITE).unwrap().writable);
    memory.interfere.set(3);
    assert!(walk(&two, &memory, 1 << 22, USER_WRITE).unwrap().writable);
    assert_eq!(memory.read_u32(0x8000), 0x9000 | (OPEN | A | D) as u32);
}

#[test]
fn as_a_trait_object() {
    let memory = four_level(0, 0, 0, 0);
    let tables: &dyn PageTables = &memory;
    assert!(walk(&context(PagingMode::FourLevel), tables, LINEAR, USER_READ).is_ok());
}

#[test]
fn context_of_registers() {
    let of = |cr0, cr4, efer| PagingContext::new(cr0, 0, cr4, efer, Rflags::AC, 40);
    let lma = Efer::LMA | Efer::LME;
    assert_eq!(of(Cr0::PE, Cr4::PAE, lma).mode, PagingMode::Off);
    assert_eq!(of(Cr0::PG, Cr4::PSE, Efer::empty()).mode, PagingMode::TwoLevel { pse: true });
    assert_eq!(of(Cr0::PG, Cr4::PAE | Cr4::LA57, Efer::empty()).mode, PagingMode::Pae);
    assert_eq!(of(Cr0::PG, Cr4::PAE, lma).mode, PagingMode::FourLevel);
    let all = of(Cr0::PG | Cr0::WP, Cr4::PAE | Cr4::LA57 | Cr4::SMAP | Cr4::SMEP | Cr4::PGE, lma | Efer::NXE);
    assert_eq!(all, PagingContext { cr3: 0, ac: true, ..context(PagingMode::FiveLevel) });
}

#[test]
fn canonical() {
    assert!(is_canonical(0x7fff_ffff_ffff, false) && is_canonical(0xffff_8000_0000_0000, false));
    assert!(!is_canonical(0x8000_0000_0000, false) && !is_canonical(0xfffe_8000_0000_0000, false));
    assert!(is_canonical(0x8000_0000_0000, true) && !is_canonical(1 << 56, true));
}
