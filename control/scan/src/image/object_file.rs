//! ELF and PE, by the `object` crate.

use object::{
    Architecture, BinaryFormat, ExportTarget, Object, ObjectKind, ObjectSection, ObjectSegment, ObjectSymbol,
};
use object::{SectionKind, SegmentFlags, SymbolKind};
use x86::Mode;

use super::{Format, Image, MOST, Region, ScanError};
use crate::Symbols;

/// Sections of an object that is not linked yet all begin at 0; they are laid out one after the other, so far apart.
const ALIGNMENT: u64 = 4096;

/// Reads an ELF or PE file.
pub(super) fn read(file: &[u8]) -> Result<Image, ScanError> {
    if !file.starts_with(b"\x7fELF") && !file.starts_with(b"MZ") {
        return Err(ScanError::Unknown);
    }
    let object = object::File::parse(file)?;
    let format = match object.format() {
        BinaryFormat::Elf => Format::Elf,
        BinaryFormat::Pe => Format::Pe,
        _ => return Err(ScanError::Unknown),
    };
    let mode = match object.architecture() {
        Architecture::X86_64 => Mode::Long64,
        Architecture::I386 => Mode::Protected32,
        other => return Err(ScanError::Processor(format!("{other:?}"))),
    };
    let loose = object.kind() == ObjectKind::Relocatable;
    let mut regions = Vec::new();
    let mut left = MOST;
    let mut take = |name: String, address: u64, bytes: &[u8]| {
        left = left.checked_sub(bytes.len()).ok_or(ScanError::TooLarge)?;
        regions.push(Region { name, address, bytes: bytes.to_vec() });
        Ok::<_, ScanError>(())
    };
    // Where each section of a loose object is put.
    let mut places = std::collections::HashMap::new();
    let mut next = ALIGNMENT;
    for section in object.sections().filter(|section| section.kind() == SectionKind::Text) {
        let bytes = section.data()?;
        let address = if loose { next } else { section.address() };
        if loose {
            places.insert(section.index(), address);
            next = (next + bytes.len() as u64 + 1).next_multiple_of(ALIGNMENT);
        }
        take(section.name().unwrap_or("?").to_owned(), address, bytes)?;
    }
    if places.is_empty() && object.sections().next().is_none() {
        // Sections are for linkers; a program runs without.
        for segment in object.segments() {
            if let SegmentFlags::Elf { p_flags, .. } = segment.flags()
                && p_flags.0 & object::elf::PF_X.0 != 0
            {
                take("segment".into(), segment.address(), segment.data()?)?;
            }
        }
    }
    let symbols = object.symbols().chain(object.dynamic_symbols());
    let names = symbols.filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition());
    let names = names.filter_map(|symbol| {
        let base = if loose { *places.get(&symbol.section_index()?)? } else { 0 };
        Some((base.wrapping_add(symbol.address()), symbol.name().ok()?.to_owned()))
    });
    let mut names: Vec<_> = names.collect();
    if format == Format::Pe {
        // A PE file has its names here, if anywhere.
        for export in object.exports()? {
            let export = export?;
            if let (Some(name), ExportTarget::Address { address }) = (export.name().name(), export.target()) {
                names.push((address, String::from_utf8_lossy(name).into_owned()));
            }
        }
    }
    let entries = if loose { Vec::new() } else { vec![object.entry()] };
    let symbols = Symbols::new(names);
    Image::new(format, mode, regions, entries, symbols)
}
