//! The processor as boot protocols want it at a kernel's first instruction: flat segments in 32-bit protected
//! mode, or 64-bit mode over identity-mapped page tables.

use vcpu::CpuState;
use x86::{Cr0, Cr4, Efer, Rflags, Segment, SegmentRegister, TableRegister};

use super::Piece;

/// `__BOOT_CS` of Linux.
const CODE: u16 = 0x10;
/// `__BOOT_DS`.
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;
const GDT_ENTRIES: usize = 6;

/// Bytes that [`protected32`] and [`long64`] need for their descriptor table.
pub(super) const GDT_LEN: u64 = GDT_ENTRIES as u64 * 8;
/// Bytes that [`long64`] needs for page tables: the top, one table of pointers, four directories.
pub(super) const PAGE_TABLES_LEN: u64 = 6 * 4096;

const FLAT: Segment = Segment {
    base: 0,
    limit: u32::MAX,
    selector: DATA,
    attributes: Segment::PRESENT
        | Segment::CODE_OR_DATA
        | Segment::READABLE_OR_WRITABLE
        | Segment::ACCESSED
        | Segment::BIG
        | Segment::GRANULARITY,
};

fn flat_code() -> Segment {
    Segment { selector: CODE, attributes: FLAT.attributes | Segment::EXECUTABLE, ..FLAT }
}

/// The two double words of a descriptor (SDM vol. 3 figure 3-8).
fn descriptor(segment: &Segment) -> u64 {
    let limit =
        u64::from(if segment.has(Segment::GRANULARITY) { segment.limit >> 12 } else { segment.limit });
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | u64::from(segment.attributes & 0xff) << 40
        | (limit >> 16 & 15) << 48
        | u64::from(segment.attributes >> 12) << 52
        | (segment.base >> 24 & 0xff) << 56
}

/// What both modes share.
fn flat(code: Segment, gdt: u64, rip: u64) -> (CpuState, Piece<'static>) {
    let task = Segment { base: 0, limit: 0x67, selector: TASK, attributes: Segment::PRESENT | 11 };
    let mut table = Vec::with_capacity(GDT_LEN as usize);
    for entry in [0, 0, descriptor(&code), descriptor(&FLAT), descriptor(&task), 0] {
        table.extend_from_slice(&entry.to_le_bytes());
    }
    let mut cpu = CpuState::reset();
    cpu.gpr = [0; 16];
    cpu.rip = rip;
    cpu.rflags = Rflags::FIXED;
    cpu.segments = [FLAT; 6];
    *cpu.segment_mut(SegmentRegister::Cs) = code;
    cpu.ldtr = Segment::default();
    cpu.tr = task;
    cpu.gdtr = TableRegister { base: gdt, limit: GDT_LEN as u16 - 1 };
    cpu.idtr = TableRegister::default();
    cpu.cr0 = Cr0::PE | Cr0::ET | Cr0::NE;
    (cpu, Piece { gpa: gdt, bytes: table.into() })
}

/// 32-bit protected mode without paging, at `rip`, with the descriptor table at `gdt`.
pub(super) fn protected32(gdt: u64, rip: u32) -> (CpuState, Piece<'static>) {
    flat(flat_code(), gdt, u64::from(rip))
}

/// 64-bit mode at `rip`, the first 4 GiB mapped to themselves by tables at `page_tables`.
pub(super) fn long64(gdt: u64, page_tables: u64, rip: u64) -> (CpuState, [Piece<'static>; 2]) {
    let code = flat_code();
    let code = Segment { attributes: code.attributes & !Segment::BIG | Segment::LONG, ..code };
    let (mut cpu, gdt) = flat(code, gdt, rip);
    cpu.cr0 |= Cr0::PG;
    cpu.cr3 = page_tables;
    cpu.cr4 = Cr4::PAE;
    cpu.efer = Efer::LME | Efer::LMA;
    (cpu, [gdt, Piece { gpa: page_tables, bytes: identity_map(page_tables).into() }])
}

/// Four-level tables that map 4 GiB in pages of 2 MiB (SDM vol. 3 ch. 4.5).
fn identity_map(base: u64) -> Vec<u8> {
    /// Present and writable.
    const TABLE: u64 = 3;
    /// The same, and a 2 MiB page.
    const LARGE: u64 = 0x83;
    let mut tables = vec![0_u64; PAGE_TABLES_LEN as usize / 8];
    tables[0] = (base + 0x1000) | TABLE;
    for gib in 0..4 {
        tables[512 + gib] = (base + 0x2000 + gib as u64 * 0x1000) | TABLE;
    }
    for (page, entry) in tables[1024..].iter_mut().enumerate() {
        *entry = (page as u64) << 21 | LARGE;
    }
    tables.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86::Mode;

    #[test]
    fn descriptors_match_the_manual() {
        // The flat descriptors every 32- and 64-bit kernel has.
        assert_eq!(descriptor(&flat_code()), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&FLAT), 0x00cf_9300_0000_ffff);
        let (cpu, [gdt, _]) = long64(0x1000, 0x2000, 0x100_0200);
        let code = u64::from_le_bytes(gdt.bytes[16..24].try_into().unwrap());
        assert_eq!(code, 0x00af_9b00_0000_ffff);
        assert_eq!((cpu.mode(), cpu.cpl()), (Mode::Long64, 0));
        assert_eq!(cpu.gdtr, TableRegister { base: 0x1000, limit: 47 });
    }

    #[test]
    fn protected_mode_is_32_bit_ring_0() {
        let (cpu, _) = protected32(0x1000, 0x10_0000);
        assert_eq!((cpu.mode(), cpu.cpl()), (Mode::Protected32, 0));
        assert!(!cpu.rflags.contains(Rflags::IF));
    }

    #[test]
    fn tables_map_4_gib_to_itself() {
        let bytes = identity_map(0x9000);
        let entry = |index: usize| u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().unwrap());
        for address in [0, 0x1000_0000, 0xc000_0000, 0xffff_ffff_u64] {
            let pointers = (entry(0) & !0xfff) - 0x9000;
            let directory = (entry((pointers / 8 + (address >> 30)) as usize) & !0xfff) - 0x9000;
            let page = entry((directory / 8 + (address >> 21 & 511)) as usize);
            assert_eq!(page & !0x1f_ffff, address & !0x1f_ffff);
            assert_eq!(page & 0x83, 0x83);
        }
    }
}
