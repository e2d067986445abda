//! Linux bzImage by its boot protocol (Documentation/arch/x86/boot.rst and zero-page.rst in the Linux source): the
//! 64-bit entry where the kernel has one, else the 32-bit entry. Field names and offsets are those documents'. EFI
//! hand-over, setup_data and the 16-bit entry are not supported.

use super::bytes::{put, slice, u16_at, u32_at, u64_at};
use super::place::Placer;
use super::{Format, LoadError, Loaded, Piece, Request, entry, terminated};
use crate::map::{FOUR_GIB, MemoryMap, ONE_MIB};

const BOOT_FLAG: u64 = 0x1fe;
const HEADER: u64 = 0x202;
/// Start of the setup header, in the file and in `boot_params` alike.
const SETUP_HEADER: usize = 0x1f1;
/// Where the room for the setup header ends in `boot_params`.
const SETUP_HEADER_END: usize = 0x290;
/// `init_size`, the last field read here, ends at this offset.
const FIELDS_END: u64 = 0x264;
/// 2.10 brought `pref_address` and `init_size`.
const OLDEST: u16 = 0x20a;
/// 2.12 brought `xloadflags`, which says whether there is a 64-bit entry.
const WITH_XLOADFLAGS: u16 = 0x20c;
const XLF_KERNEL_64: u16 = 1;
const LOADED_HIGH: u8 = 1;
const KEEP_SEGMENTS: u8 = 1 << 6;
const CAN_USE_HEAP: u8 = 1 << 7;
const ENTRY_64: u64 = 0x200;
/// "A boot loader without an assigned number".
const LOADER_UNDEFINED: u8 = 0xff;
const BOOT_PARAMS_LEN: usize = 4096;
const E820_TABLE: usize = 0x2d0;
const E820_ROW: usize = 20;

/// Where popf puts what the kernel reads before it has its own; all below its lowest load address.
const GDT: u64 = 0x1000;
const BOOT_PARAMS: u64 = 0x2000;
const PAGE_TABLES: u64 = 0x3000;
const STACK_TOP: u64 = 0x1_0000;
const CMDLINE: u64 = 0x2_0000;

/// Whether this is Linux, good or bad.
pub(super) fn recognises(file: &[u8]) -> bool {
    slice(file, "", HEADER, 4).is_ok_and(|magic| magic == b"HdrS")
        && slice(file, "", BOOT_FLAG, 2).is_ok_and(|flag| flag == [0x55, 0xaa])
}

/// The fields of the setup header that decide placement, checked.
struct Header {
    /// Length of the boot sector and the real-mode setup code.
    setup_len: u64,
    /// Length of the protected-mode part.
    kernel_len: u64,
    initrd_addr_max: u64,
    kernel_alignment: u64,
    relocatable: bool,
    cmdline_size: usize,
    pref_address: u64,
    init_size: u64,
    version: u16,
    /// Whether it is entered in 64-bit mode, [`ENTRY_64`] behind its start; else in protected mode, at its start.
    entry_64: bool,
}

impl Header {
    fn parse(file: &[u8]) -> Result<Self, LoadError> {
        let sector = slice(file, "the setup header", 0, FIELDS_END)?;
        let version = u16_at(sector, 0x206);
        if version < OLDEST {
            return Err(LoadError::Unsupported(format!(
                "its boot protocol is {}.{:02}, popf needs 2.10 (Linux 2.6.31) or later",
                version >> 8,
                version & 0xff
            )));
        }
        let setup_sects = match sector[SETUP_HEADER] {
            0 => 4,
            count => u64::from(count),
        };
        let header = Self {
            setup_len: (setup_sects + 1) * 512,
            kernel_len: u64::from(u32_at(sector, 0x1f4)) * 16,
            initrd_addr_max: u64::from(u32_at(sector, 0x22c)),
            kernel_alignment: u64::from(u32_at(sector, 0x230)),
            relocatable: sector[0x234] != 0,
            cmdline_size: u32_at(sector, 0x238) as usize,
            pref_address: u64_at(sector, 0x258),
            init_size: u64::from(u32_at(sector, 0x260)),
            version,
            entry_64: version >= WITH_XLOADFLAGS && u16_at(sector, 0x236) & XLF_KERNEL_64 != 0,
        };
        if !header.kernel_alignment.is_power_of_two() {
            return Err(LoadError::Malformed("its alignment is not a power of two"));
        }
        if header.kernel_len <= if header.entry_64 { ENTRY_64 } else { 0 } {
            return Err(LoadError::Malformed("it has no code at its entry point"));
        }
        Ok(header)
    }

    /// What the kernel occupies until it has taken over the memory map.
    fn footprint(&self) -> u64 {
        self.init_size.max(self.kernel_len)
    }

    /// The preferred address, or for a relocatable kernel the lowest that has room.
    fn address(&self, placer: &mut Placer) -> Result<u64, LoadError> {
        let aligned = |address: u64| address.checked_next_multiple_of(self.kernel_alignment);
        let fits = |address: Option<u64>| {
            address
                // The identity map that the kernel starts on ends at 4 GiB.
                .filter(|start| start.saturating_add(self.footprint()) <= FOUR_GIB)
                .filter(|&start| start >= ONE_MIB && placer.is_free(start, self.footprint()))
        };
        let start = match fits(Some(self.pref_address)) {
            Some(start) => start,
            None if self.relocatable => fits(aligned(self.pref_address))
                .or_else(|| fits(aligned(ONE_MIB)))
                .or(aligned(ONE_MIB))
                .unwrap_or(self.pref_address),
            None => self.pref_address,
        };
        // Says what is wrong if nothing fitted.
        placer.claim("the kernel", start, self.footprint())?;
        Ok(start)
    }
}

pub(super) fn load<'a>(request: &Request<'a>) -> Result<Loaded<'a>, LoadError> {
    let file = request.kernel;
    let header = Header::parse(file)?;
    let kernel = slice(file, "the kernel proper", header.setup_len, header.kernel_len)?;
    // `cmdline_size` does not count the terminating zero. Kernels far beyond 64 KiB do not exist; the bound keeps
    // the line clear of the kernel.
    let max = header.cmdline_size.min(0xffff);
    if request.cmdline.len() > max {
        return Err(LoadError::CommandLineTooLong { len: request.cmdline.len(), max });
    }
    let cmdline = terminated(request.cmdline);

    let mut placer = Placer::new(request.map);
    placer.claim("the boot parameters", GDT, STACK_TOP - GDT)?;
    placer.claim("the command line", CMDLINE, cmdline.len() as u64)?;
    let start = header.address(&mut placer)?;
    let mut pieces = vec![Piece { gpa: start, bytes: kernel.into() }];
    let initrd = place_initrd(request.modules, &header, &mut placer, &mut pieces)?;

    let mut cpu = if header.entry_64 {
        let (cpu, tables) = entry::long64(GDT, PAGE_TABLES, start + ENTRY_64);
        pieces.extend(tables);
        cpu
    } else {
        // Below 4 GiB, as `address` has seen to.
        let (cpu, gdt) = entry::protected32(GDT, start as u32);
        pieces.push(gdt);
        cpu
    };
    cpu.gpr[x86::register::gpr::RSI] = BOOT_PARAMS;
    cpu.gpr[x86::register::gpr::RSP] = STACK_TOP;
    pieces.push(Piece { gpa: CMDLINE, bytes: cmdline.into() });
    let params = boot_params(file, &header, start, initrd, request);
    pieces.push(Piece { gpa: BOOT_PARAMS, bytes: params.into() });
    Ok(Loaded { pieces, cpu, format: Format::Linux })
}

/// The modules one after the other, as high as the kernel can reach; address and length of the whole.
fn place_initrd<'a>(
    modules: &[&'a [u8]],
    header: &Header,
    placer: &mut Placer,
    pieces: &mut Vec<Piece<'a>>,
) -> Result<(u64, u64), LoadError> {
    let padded = |module: &&[u8]| (module.len() as u64).next_multiple_of(4);
    let len: u64 = modules.iter().map(padded).sum();
    if len == 0 {
        return Ok((0, 0));
    }
    let limit = header.initrd_addr_max.saturating_add(1);
    let start = placer.below("the initial RAM disk", len, 4096, limit)?;
    let mut gpa = start;
    for module in modules {
        pieces.push(Piece { gpa, bytes: (*module).into() });
        gpa += padded(module);
    }
    Ok((start, len))
}

/// The "zero page": the setup header as it came, and what a boot loader fills in.
fn boot_params(file: &[u8], header: &Header, start: u64, initrd: (u64, u64), request: &Request) -> Vec<u8> {
    let mut params = vec![0; BOOT_PARAMS_LEN];
    // The byte at 0x201 is the operand of the jump over the header, so it tells where the header ends. What lies
    // beyond the fields read here may be cut off; `Header::parse` has seen the rest.
    let end = (HEADER as usize + usize::from(file[HEADER as usize - 1]))
        .clamp(FIELDS_END as usize, SETUP_HEADER_END)
        .min(file.len());
    put(&mut params, SETUP_HEADER, &file[SETUP_HEADER..end]);

    put(&mut params, 0x1fa, &0xffff_u16.to_le_bytes()); // vid_mode: normal
    params[0x210] = LOADER_UNDEFINED;
    params[0x211] = params[0x211] & !(CAN_USE_HEAP | KEEP_SEGMENTS) | LOADED_HIGH;
    put(&mut params, 0x214, &(start as u32).to_le_bytes()); // code32_start
    put(&mut params, 0x218, &(initrd.0 as u32).to_le_bytes()); // ramdisk_image
    put(&mut params, 0x21c, &(initrd.1 as u32).to_le_bytes()); // ramdisk_size
    put(&mut params, 0x0c0, &((initrd.0 >> 32) as u32).to_le_bytes()); // ext_ramdisk_image
    put(&mut params, 0x0c4, &((initrd.1 >> 32) as u32).to_le_bytes()); // ext_ramdisk_size
    put(&mut params, 0x228, &(CMDLINE as u32).to_le_bytes()); // cmd_line_ptr
    if header.version >= 0x20e {
        put(&mut params, 0x070, &request.rsdp.to_le_bytes()); // acpi_rsdp_addr
    }
    e820(&mut params, request.map);
    params
}

fn e820(params: &mut [u8], map: &MemoryMap) {
    let entries = map.entries();
    params[0x1e8] = entries.len() as u8; // e820_entries: five at most
    for (index, entry) in entries.iter().enumerate() {
        let row = E820_TABLE + index * E820_ROW;
        put(params, row, &entry.range.start.to_le_bytes());
        put(params, row + 8, &(entry.range.end - entry.range.start).to_le_bytes());
        put(params, row + 16, &(entry.kind as u32).to_le_bytes());
    }
}
