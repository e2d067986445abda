//! Multiboot 1 (Multiboot Specification version 0.6.96): ELF images and the "a.out kludge", in which the header
//! itself carries the load addresses. Field names are the specification's. An ELF64 image is loaded by its
//! physical addresses and entered in 32-bit mode like any other, as GRUB does. Video modes, boot devices, drives
//! and APM are not offered; a header that asks for a video mode is loaded all the same, since kernels check the
//! answer's flag.

use super::bytes::{put, slice, u32_at};
use super::elf::Elf;
use super::place::Placer;
use super::{Format, LoadError, Loaded, Piece, Request, entry, terminated};
use crate::map::{EBDA, FOUR_GIB, ONE_MIB};

const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// The header lies inside the first 8 KiB.
const SEARCH: usize = 8192;
/// Pages, memory and video mode; the other requirement bits mean nothing yet, and a loader must refuse them.
const KNOWN_REQUIREMENTS: u32 = 7;
const ADDRESSES: u32 = 1 << 16;
const INFO_LEN: usize = 116;
const LOADER_NAME: &[u8] = b"popf\0";

mod info_flags {
    pub const MEMORY: u32 = 1 << 0;
    pub const CMDLINE: u32 = 1 << 2;
    pub const MODS: u32 = 1 << 3;
    pub const MMAP: u32 = 1 << 6;
    pub const BOOT_LOADER_NAME: u32 = 1 << 9;
}

/// A header found in a file.
#[derive(Debug)]
pub(super) struct Header {
    offset: u64,
    addresses: Option<Addresses>,
}

/// The fields of the a.out kludge.
#[derive(Debug)]
struct Addresses {
    header_addr: u32,
    load_addr: u32,
    load_end_addr: u32,
    bss_end_addr: u32,
    entry_addr: u32,
}

/// Finds the header: magic, flags and checksum add up to zero.
pub(super) fn find(file: &[u8]) -> Result<Option<Header>, LoadError> {
    let head = &file[..file.len().min(SEARCH)];
    let Some(index) = head.chunks_exact(4).position(|word| u32_at(word, 0) == HEADER_MAGIC) else {
        return Ok(None);
    };
    let offset = index as u64 * 4;
    let Ok(header) = slice(head, "", offset, 12) else {
        return Ok(None);
    };
    let flags = u32_at(header, 4);
    if HEADER_MAGIC.wrapping_add(flags).wrapping_add(u32_at(header, 8)) != 0 {
        return Ok(None);
    }
    if flags & 0xffff & !KNOWN_REQUIREMENTS != 0 {
        return Err(LoadError::Unsupported(format!(
            "its multiboot header requires features {flags:#x} that no specification defines"
        )));
    }
    let addresses = if flags & ADDRESSES == 0 {
        None
    } else {
        let fields = slice(file, "the multiboot header", offset, 32)?;
        Some(Addresses {
            header_addr: u32_at(fields, 12),
            load_addr: u32_at(fields, 16),
            load_end_addr: u32_at(fields, 20),
            bss_end_addr: u32_at(fields, 24),
            entry_addr: u32_at(fields, 28),
        })
    };
    Ok(Some(Header { offset, addresses }))
}

pub(super) fn load<'a>(
    request: &Request<'a>,
    header: &Header,
    image: Option<&Elf<'a>>,
) -> Result<Loaded<'a>, LoadError> {
    let mut placer = Placer::new(request.map);
    let mut pieces = Vec::new();
    // The addresses, where there are any, go before the ELF headers (chapter 3.1.3).
    let entry = match (&header.addresses, image) {
        (Some(addresses), _) => {
            load_flat(request.kernel, header.offset, addresses, &mut placer, &mut pieces)?
        }
        (None, Some(image)) => {
            image.place(&mut placer, &mut pieces)?;
            image.entry_at(image.physical_entry())?
        }
        (None, None) => {
            return Err(LoadError::Unsupported(
                "its multiboot header gives no addresses and it is not an ELF file".into(),
            ));
        }
    };
    let gdt = placer.low("the descriptor table", entry::GDT_LEN)?;
    let info = place_info(request, &mut placer, &mut pieces)?;
    let (mut cpu, table) = entry::protected32(gdt, entry);
    cpu.gpr[x86::register::gpr::RAX] = LOADER_MAGIC;
    cpu.gpr[x86::register::gpr::RBX] = info;
    pieces.push(table);
    Ok(Loaded { pieces, cpu, format: Format::Multiboot })
}

/// Loads by the addresses in the header; gives the entry point.
fn load_flat<'a>(
    file: &'a [u8],
    offset: u64,
    addresses: &Addresses,
    placer: &mut Placer,
    pieces: &mut Vec<Piece<'a>>,
) -> Result<u32, LoadError> {
    let load = u64::from(addresses.load_addr);
    let before_header = u64::from(addresses.header_addr)
        .checked_sub(load)
        .ok_or(LoadError::Malformed("its multiboot header lies before its load address"))?;
    let start = offset
        .checked_sub(before_header)
        .ok_or(LoadError::Malformed("its load address lies before the start of the file"))?;
    let file_len = match u64::from(addresses.load_end_addr) {
        0 => file.len() as u64 - start,
        end => end
            .checked_sub(load)
            .ok_or(LoadError::Malformed("its load address lies after its end address"))?,
    };
    let bytes = slice(file, "the kernel proper", start, file_len)?;
    let mem_len = match u64::from(addresses.bss_end_addr) {
        0 => file_len,
        end => end.saturating_sub(load).max(file_len),
    };
    placer.claim("the kernel", load, mem_len)?;
    pieces.push(Piece { gpa: load, bytes: bytes.into() });
    let entry = addresses.entry_addr;
    if u64::from(entry).checked_sub(load).is_none_or(|inside| inside >= mem_len) {
        return Err(LoadError::EntryOutside(entry.into()));
    }
    Ok(entry)
}

/// The information structure and everything it points to; gives its address.
fn place_info<'a>(
    request: &Request<'a>,
    placer: &mut Placer,
    pieces: &mut Vec<Piece<'a>>,
) -> Result<u64, LoadError> {
    let info_gpa = placer.low("the multiboot information", INFO_LEN as u64)?;
    let mut add = |what, bytes: Vec<u8>| -> Result<u32, LoadError> {
        let gpa = placer.low(what, bytes.len() as u64)?;
        pieces.push(Piece { gpa, bytes: bytes.into() });
        // `low` stays below 4 GiB.
        Ok(gpa as u32)
    };
    let cmdline = add("the command line", terminated(request.cmdline))?;
    let name = add("the boot loader's name", LOADER_NAME.to_vec())?;
    let mmap = memory_map(request);
    let mmap_len = mmap.len() as u32;
    let mmap = add("the memory map", mmap)?;

    let mut mods = Vec::with_capacity(request.modules.len() * 16);
    for module in request.modules {
        let gpa = placer.below("a module", module.len() as u64, 4096, FOUR_GIB)?;
        pieces.push(Piece { gpa, bytes: (*module).into() });
        // mod_start, mod_end, string (the empty one that ends the command line), reserved.
        let string = cmdline + request.cmdline.len() as u32;
        for field in [gpa as u32, (gpa + module.len() as u64) as u32, string, 0] {
            mods.extend_from_slice(&field.to_le_bytes());
        }
    }
    let mods_gpa = placer.low("the module list", mods.len() as u64)?;
    pieces.push(Piece { gpa: mods_gpa, bytes: mods.into() });

    let flags = info_flags::MEMORY
        | info_flags::CMDLINE
        | info_flags::MODS
        | info_flags::MMAP
        | info_flags::BOOT_LOADER_NAME;
    let mut info = vec![0; INFO_LEN];
    for (offset, field) in [
        (0, flags),
        (4, (EBDA >> 10) as u32),                              // mem_lower, KiB
        (8, ((request.map.low_end() - ONE_MIB) >> 10) as u32), // mem_upper, KiB
        (16, cmdline),
        (20, request.modules.len() as u32), // mods_count
        (24, mods_gpa as u32),              // mods_addr
        (44, mmap_len),                     // mmap_length
        (48, mmap),                         // mmap_addr
        (64, name),                         // boot_loader_name
    ] {
        put(&mut info, offset, &field.to_le_bytes());
    }
    pieces.push(Piece { gpa: info_gpa, bytes: info.into() });
    Ok(info_gpa)
}

/// Rows of size (which does not count itself), base, length, type.
fn memory_map(request: &Request) -> Vec<u8> {
    let mut map = Vec::new();
    for entry in request.map.entries() {
        map.extend_from_slice(&20_u32.to_le_bytes());
        map.extend_from_slice(&entry.range.start.to_le_bytes());
        map.extend_from_slice(&(entry.range.end - entry.range.start).to_le_bytes());
        map.extend_from_slice(&(entry.kind as u32).to_le_bytes());
    }
    map
}
