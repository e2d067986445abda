//! What a file is, and which of its bytes are code.

mod linux;
mod object_file;

use x86::Mode;

use crate::Symbols;

/// The most code that is looked at, and the most that a file may unpack to: a file of a few bytes can claim more.
const MOST: usize = 1 << 30;

/// What kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Executable and Linkable Format.
    Elf,
    /// A Linux kernel with its boot code, whose payload was unpacked.
    BzImage,
    /// Portable Executable.
    Pe,
    /// No format: all of it is code.
    Raw,
    /// What a machine that runs has in memory.
    Memory,
}

/// Bytes that the processor may execute, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The section's name, or what else it is known by.
    pub name: String,
    /// The address of the first byte.
    pub address: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What there is to scan.
#[derive(Clone, Debug)]
pub struct Image {
    /// What kind of file it was.
    pub format: Format,
    /// In which mode its code runs.
    pub mode: Mode,
    /// Code, in the order of addresses, without overlaps.
    pub regions: Vec<Region>,
    /// Where control enters, besides at symbols.
    pub entries: Vec<u64>,
    /// Names in the file.
    pub symbols: Symbols,
}

/// Why a file cannot be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// Its first bytes are no format's.
    #[error("it is neither ELF, bzImage nor PE")]
    Unknown,
    /// It is for another processor.
    #[error("it is for another processor: {0}")]
    Processor(String),
    /// It contradicts itself.
    #[error("it is damaged")]
    Damaged(#[from] object::Error),
    /// Its payload is packed in a way that is not known here.
    #[error("its payload is packed with {0}, which popf cannot unpack")]
    Packed(&'static str),
    /// Its payload does not unpack.
    #[error("its payload does not unpack")]
    Unpacking(#[source] std::io::Error),
    /// It says that something lies outside of it.
    #[error("it is cut short, or its header is wrong")]
    Short,
    /// It has nothing to execute.
    #[error("it has no code")]
    NoCode,
    /// There is more code than anybody has.
    #[error("it has more than {} MiB of code", MOST >> 20)]
    TooLarge,
}

impl Image {
    /// Reads a file of a format that is known by its first bytes.
    pub fn read(file: &[u8]) -> Result<Self, ScanError> {
        if linux::recognises(file) { linux::read(file) } else { object_file::read(file) }
    }

    /// Takes all of a file for code that is loaded and entered at an address.
    pub fn raw(file: &[u8], address: u64, mode: Mode) -> Result<Self, ScanError> {
        let region = Region { name: "raw".into(), address, bytes: file.to_vec() };
        Self::new(Format::Raw, mode, vec![region], vec![address], Symbols::default())
    }

    /// Takes parts of a machine's memory for code, with whatever is known of them.
    pub fn memory(
        parts: Vec<(u64, Vec<u8>)>,
        mode: Mode,
        entries: Vec<u64>,
        symbols: Symbols,
    ) -> Result<Self, ScanError> {
        let region = |(address, bytes)| Region { name: "memory".into(), address, bytes };
        Self::new(Format::Memory, mode, parts.into_iter().map(region).collect(), entries, symbols)
    }

    /// Puts regions in order, cutting off what overlaps, for code has one meaning at an address.
    fn new(
        format: Format,
        mode: Mode,
        mut regions: Vec<Region>,
        entries: Vec<u64>,
        symbols: Symbols,
    ) -> Result<Self, ScanError> {
        regions.sort_by_key(|region| region.address);
        let mut end = 0_u64;
        for region in &mut regions {
            let before = end.saturating_sub(region.address).min(region.bytes.len() as u64);
            region.bytes.drain(..before as usize);
            region.address += before;
            // None wraps around the end of the address space.
            region.bytes.truncate(usize::try_from(u64::MAX - region.address).unwrap_or(usize::MAX));
            end = end.max(region.address + region.bytes.len() as u64);
        }
        regions.retain(|region| !region.bytes.is_empty());
        if regions.is_empty() {
            return Err(ScanError::NoCode);
        }
        Ok(Self { format, mode, regions, entries, symbols })
    }

    /// Adds names. A kernel that runs is not where it was linked to run, but at a random place, and its
    /// /proc/kallsyms says so: names that have a `_text`, where a kernel begins, are moved to where this one does.
    pub fn name(&mut self, names: Symbols) {
        let begin = names.address("_text").filter(|_| self.format == Format::BzImage);
        let distance = begin.map_or(0, |begin| self.regions[0].address.wrapping_sub(begin));
        self.symbols = std::mem::take(&mut self.symbols).merge(names.moved(distance));
    }

    /// Bytes of code.
    pub fn len(&self) -> usize {
        self.regions.iter().map(|region| region.bytes.len()).sum()
    }

    /// There is always some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_parted() {
        let region = |address, bytes: &[u8]| Region { name: "x".into(), address, bytes: bytes.to_vec() };
        let regions = vec![
            region(12, &[5, 6, 7]),
            region(10, &[1, 2, 3]),
            region(11, &[9]),
            region(u64::MAX - 1, &[1, 2, 3]),
        ];
        let image = Image::new(Format::Raw, Mode::Long64, regions, vec![], Symbols::default()).unwrap();
        let parts: Vec<_> = image.regions.iter().map(|region| (region.address, &region.bytes[..])).collect();
        assert_eq!(parts, [(10, &[1, 2, 3][..]), (13, &[6, 7]), (u64::MAX - 1, &[1])]);
        assert!(matches!(Image::raw(&[], 0, Mode::Real), Err(ScanError::NoCode)));
    }

    #[test]
    fn what_is_no_format_is_told() {
        assert!(matches!(Image::read(b"#!/bin/sh\n"), Err(ScanError::Unknown)));
        assert!(matches!(Image::read(b""), Err(ScanError::Unknown)));
        assert!(matches!(Image::read(b"\x7fELF\x02\x01\x01"), Err(ScanError::Damaged(_))));
    }
}
