//! ELF executables of 32 and 64 bits, as far as a kernel needs them: loadable segments by physical address and
//! the Xen note that gives the PVH entry (System V ABI, chapter 5; xen/include/public/elfnote.h).

use super::bytes::{slice, u16_at, u32_at, u64_at};
use super::place::Placer;
use super::{LoadError, Piece};

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;

/// An executable whose headers have been checked against the file.
pub(super) struct Elf<'a> {
    pub segments: Vec<ElfSegment<'a>>,
    pub entry: u64,
    pub pvh_entry: Option<u64>,
}

/// A PT_LOAD segment with something in it.
pub(super) struct ElfSegment<'a> {
    pub paddr: u64,
    pub vaddr: u64,
    pub bytes: &'a [u8],
    pub mem_size: u64,
}

/// A program header, either class.
struct ProgramHeader {
    kind: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    file_size: u64,
    mem_size: u64,
    align: u64,
}

pub(super) fn recognises(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

pub(super) fn parse(file: &[u8]) -> Result<Elf<'_>, LoadError> {
    let ident = slice(file, "the ELF header", 0, 16)?;
    let wide = match (ident[4], ident[5]) {
        (1, 1) => false,
        (2, 1) => true,
        _ => {
            return Err(LoadError::Unsupported("it is not a little-endian ELF file".into()));
        }
    };
    let header = slice(file, "the ELF header", 0, if wide { 64 } else { 52 })?;
    let machine = u16_at(header, 18);
    if machine != if wide { EM_X86_64 } else { EM_386 } {
        return Err(LoadError::Unsupported(format!("it is for another processor (ELF machine {machine})")));
    }
    if !matches!(u16_at(header, 16), ET_EXEC | ET_DYN) {
        return Err(LoadError::Unsupported("it is an ELF file, but not an executable".into()));
    }
    let (entry, table, entry_size, count) = if wide {
        (u64_at(header, 24), u64_at(header, 32), u16_at(header, 54), u16_at(header, 56))
    } else {
        let (entry, table) = (u32_at(header, 24), u32_at(header, 28));
        (entry.into(), table.into(), u16_at(header, 42), u16_at(header, 44))
    };
    if entry_size != if wide { 56 } else { 32 } {
        return Err(LoadError::Malformed("its program headers have an impossible size"));
    }
    let table_len = u64::from(entry_size) * u64::from(count);
    let table = slice(file, "the program header table", table, table_len)?;

    let mut elf = Elf { segments: Vec::new(), entry, pvh_entry: None };
    for row in table.chunks_exact(entry_size.into()) {
        let header = ProgramHeader::parse(row, wide);
        match header.kind {
            PT_LOAD => {
                if header.file_size > header.mem_size {
                    return Err(LoadError::Malformed("a segment is larger in the file than in memory"));
                }
                if header.mem_size != 0 {
                    let bytes = slice(file, "a segment", header.offset, header.file_size)?;
                    let ProgramHeader { paddr, vaddr, mem_size, .. } = header;
                    elf.segments.push(ElfSegment { paddr, vaddr, bytes, mem_size });
                }
            }
            PT_NOTE if elf.pvh_entry.is_none() => {
                let notes = slice(file, "the notes", header.offset, header.file_size)?;
                elf.pvh_entry = pvh_note(notes, if header.align == 8 { 8 } else { 4 });
            }
            _ => {}
        }
    }
    if elf.segments.is_empty() {
        return Err(LoadError::Malformed("it has nothing to load"));
    }
    Ok(elf)
}

impl ProgramHeader {
    fn parse(row: &[u8], wide: bool) -> Self {
        let kind = u32_at(row, 0);
        if wide {
            Self {
                kind,
                offset: u64_at(row, 8),
                vaddr: u64_at(row, 16),
                paddr: u64_at(row, 24),
                file_size: u64_at(row, 32),
                mem_size: u64_at(row, 40),
                align: u64_at(row, 48),
            }
        } else {
            let field = |offset| u64::from(u32_at(row, offset));
            Self {
                kind,
                offset: field(4),
                vaddr: field(8),
                paddr: field(12),
                file_size: field(16),
                mem_size: field(20),
                align: field(28),
            }
        }
    }
}

/// Looks for the PVH entry among notes; stops at the first that is cut off.
fn pvh_note(mut notes: &[u8], align: usize) -> Option<u64> {
    while notes.len() >= 12 {
        let name_len = u32_at(notes, 0) as usize;
        let desc_len = u32_at(notes, 4) as usize;
        let kind = u32_at(notes, 8);
        let name_end = 12_usize.checked_add(name_len)?;
        let desc = name_end.checked_next_multiple_of(align)?;
        let desc_end = desc.checked_add(desc_len)?;
        let name = notes.get(12..name_end)?;
        let value = notes.get(desc..desc_end)?;
        if name == b"Xen\0" && kind == PHYS32_ENTRY {
            // Linux writes the width of its own words.
            return match value.len() {
                4 => Some(u32_at(value, 0).into()),
                8 => Some(u64_at(value, 0)),
                _ => None,
            };
        }
        notes = notes.get(desc_end.checked_next_multiple_of(align)?..)?;
    }
    None
}

impl<'a> Elf<'a> {
    /// Claims every segment and appends what the file holds of it.
    pub(super) fn place(&self, placer: &mut Placer, pieces: &mut Vec<Piece<'a>>) -> Result<(), LoadError> {
        for segment in &self.segments {
            placer.claim("a segment of the kernel", segment.paddr, segment.mem_size)?;
            pieces.push(Piece { gpa: segment.paddr, bytes: segment.bytes.into() });
        }
        Ok(())
    }

    /// A physical entry address, if a segment holds it and 32 bits can express it.
    pub(super) fn entry_at(&self, address: u64) -> Result<u32, LoadError> {
        let inside = |segment: &ElfSegment| {
            address.checked_sub(segment.paddr).is_some_and(|offset| offset < segment.mem_size)
        };
        u32::try_from(address)
            .ok()
            .filter(|_| self.segments.iter().any(inside))
            .ok_or(LoadError::EntryOutside(address))
    }

    /// The physical address of `entry`, which linkers give as a virtual one.
    pub(super) fn physical_entry(&self) -> u64 {
        self.segments
            .iter()
            .find_map(|segment| {
                let offset = self.entry.checked_sub(segment.vaddr)?;
                (offset < segment.mem_size).then(|| segment.paddr.wrapping_add(offset))
            })
            .unwrap_or(self.entry)
    }
}
