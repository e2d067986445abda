//! The PVH boot ABI: 32-bit protected mode, EBX pointing at `hvm_start_info` (docs/misc/pvh.pandoc and
//! xen/include/public/arch-x86/hvm/start_info.h in the Xen source). Version 1 of the structure is written, which
//! has the memory map.

use super::bytes::put;
use super::elf::Elf;
use super::place::Placer;
use super::{Format, LoadError, Loaded, Piece, Request, entry, terminated};
use crate::map::FOUR_GIB;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const START_INFO_LEN: usize = 56;
const MODULE_LEN: usize = 32;
const MAP_ROW_LEN: usize = 24;

pub(super) fn load<'a>(request: &Request<'a>, image: &Elf<'a>, entry: u64) -> Result<Loaded<'a>, LoadError> {
    let mut placer = Placer::new(request.map);
    let mut pieces = Vec::new();
    image.place(&mut placer, &mut pieces)?;
    let entry = image.entry_at(entry)?;

    // One row per module: address, size, command line address, reserved.
    let mut modules = Vec::with_capacity(request.modules.len() * MODULE_LEN);
    for module in request.modules {
        let gpa = placer.below("a module", module.len() as u64, 4096, FOUR_GIB)?;
        pieces.push(Piece { gpa, bytes: (*module).into() });
        for field in [gpa, module.len() as u64, 0, 0] {
            modules.extend_from_slice(&field.to_le_bytes());
        }
    }
    // One row per range: address, size, type, reserved.
    let entries = request.map.entries();
    let mut map = Vec::with_capacity(entries.len() * MAP_ROW_LEN);
    for row in &entries {
        map.extend_from_slice(&row.range.start.to_le_bytes());
        map.extend_from_slice(&(row.range.end - row.range.start).to_le_bytes());
        map.extend_from_slice(&u64::from(row.kind as u32).to_le_bytes());
    }
    let cmdline = terminated(request.cmdline);

    let gdt = placer.low("the descriptor table", entry::GDT_LEN)?;
    let start_info = placer.low("the start information", START_INFO_LEN as u64)?;
    let mut info = vec![0; START_INFO_LEN];
    put(&mut info, 0, &MAGIC.to_le_bytes());
    put(&mut info, 4, &VERSION.to_le_bytes());
    put(&mut info, 12, &(request.modules.len() as u32).to_le_bytes());
    put(&mut info, 32, &request.rsdp.to_le_bytes());
    put(&mut info, 48, &(entries.len() as u32).to_le_bytes());
    for (offset, what, bytes) in
        [(16, "the module list", modules), (24, "the command line", cmdline), (40, "the memory map", map)]
    {
        let gpa = placer.low(what, bytes.len() as u64)?;
        put(&mut info, offset, &gpa.to_le_bytes());
        pieces.push(Piece { gpa, bytes: bytes.into() });
    }
    pieces.push(Piece { gpa: start_info, bytes: info.into() });

    // `low` stays below 4 GiB.
    let (mut cpu, table) = entry::protected32(gdt, entry);
    cpu.gpr[x86::register::gpr::RBX] = start_info;
    pieces.push(table);
    Ok(Loaded { pieces, cpu, format: Format::Pvh })
}
