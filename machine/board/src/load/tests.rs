//! The loaders against well-formed, crafted and truncated images.

use proptest::prelude::*;
use x86::Mode;
use x86::register::gpr;

use super::bytes::{put, u32_at, u64_at};
use super::*;
use crate::map::{ONE_MIB, RangeType};

const MIB: u64 = 1 << 20;
const RSDP: u64 = 0xe_0000;

fn request<'a>(kernel: &'a [u8], map: &'a MemoryMap) -> Request<'a> {
    Request { kernel, modules: &[], cmdline: "console=ttyS0", map, rsdp: RSDP }
}

fn map(mib: u64) -> MemoryMap {
    MemoryMap::new(mib * MIB).unwrap()
}

/// A relocatable 64-bit bzImage with two setup sectors and 4 KiB of code.
fn bz_image() -> Vec<u8> {
    let mut file = vec![0; 3 * 512 + 4096];
    file[3 * 512..].fill(0x90);
    file[0x1f1] = 2;
    put(&mut file, 0x1f4, &256_u32.to_le_bytes());
    put(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &0x20f_u16.to_le_bytes());
    put(&mut file, 0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(&mut file, 0x230, &0x20_0000_u32.to_le_bytes());
    file[0x234] = 1;
    put(&mut file, 0x236, &1_u16.to_le_bytes());
    put(&mut file, 0x238, &2047_u32.to_le_bytes());
    put(&mut file, 0x258, &(16 * MIB).to_le_bytes());
    put(&mut file, 0x260, &(MIB as u32).to_le_bytes());
    file
}

/// An ELF file of 64 bits: one segment of 4 KiB (8 in memory) at 1 MiB, entry there; with a PVH note if asked.
fn elf64(note: bool) -> Vec<u8> {
    let mut file = vec![0; 0x1000 + 4096];
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &2_u16.to_le_bytes());
    put(&mut file, 18, &62_u16.to_le_bytes());
    put(&mut file, 24, &(0xffff_ffff_8000_0000_u64 + 0x40).to_le_bytes());
    put(&mut file, 32, &64_u64.to_le_bytes());
    put(&mut file, 54, &56_u16.to_le_bytes());
    put(&mut file, 56, &(1 + u16::from(note)).to_le_bytes());
    let mut header = |at: usize, kind: u32, fields: [u64; 6]| {
        put(&mut file, at, &kind.to_le_bytes());
        for (index, field) in fields.iter().enumerate() {
            put(&mut file, at + 8 + index * 8, &field.to_le_bytes());
        }
    };
    header(64, 1, [0x1000, 0xffff_ffff_8000_0000, ONE_MIB, 4096, 8192, 4096]);
    header(120, 4, [0x800, 0, 0, 20, 20, 4]);
    put(&mut file, 0x800, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(&mut file, 0x80c, b"Xen\0");
    put(&mut file, 0x810, &(ONE_MIB as u32 + 0x80).to_le_bytes());
    file
}

fn multiboot_header(flags: u32) -> Vec<u8> {
    [0x1bad_b002, flags, 0_u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags)]
        .iter()
        .flat_map(|word: &u32| word.to_le_bytes())
        .collect()
}

/// The a.out kludge: the header at offset 16, loaded with the file from its start at 1 MiB.
fn kludge() -> Vec<u8> {
    let mut file = vec![0; 4096];
    put(&mut file, 16, &multiboot_header(1 << 16));
    let base = ONE_MIB as u32;
    for (index, field) in [base + 16, base, 0, base + 8192, base + 48].iter().enumerate() {
        put(&mut file, 28 + index * 4, &field.to_le_bytes());
    }
    file
}

/// What ends up at an address; panics if nothing does.
fn at<'l>(loaded: &'l Loaded, gpa: u64) -> &'l [u8] {
    let piece = loaded
        .pieces
        .iter()
        .find(|piece| piece.gpa <= gpa && gpa < piece.gpa + piece.bytes.len() as u64)
        .unwrap();
    &piece.bytes[(gpa - piece.gpa) as usize..]
}

/// What every result must satisfy, whatever the image said.
fn check(loaded: &Loaded, map: &MemoryMap) {
    let mut ranges: Vec<_> = loaded
        .pieces
        .iter()
        .filter(|piece| !piece.bytes.is_empty())
        .map(|piece| piece.gpa..piece.gpa + piece.bytes.len() as u64)
        .collect();
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:x?}");
    for range in ranges {
        assert!(map.usable().iter().any(|ram| ram.start <= range.start && range.end <= ram.end));
    }
}

#[test]
fn linux_zero_page_follows_the_protocol() {
    let (file, map) = (bz_image(), map(64));
    let initrd = [&b"12345"[..], &b"678"[..]];
    let loaded = load(&Request { modules: &initrd, ..request(&file, &map) }).unwrap();
    check(&loaded, &map);
    let cpu = &loaded.cpu;
    assert_eq!(loaded.format, Format::Linux);
    assert_eq!((cpu.mode(), cpu.rip), (Mode::Long64, 16 * MIB + 0x200));
    let params = at(&loaded, cpu.gpr[gpr::RSI]);
    assert_eq!(params.len(), 4096);
    // The setup header came along, and nothing from before or after it.
    assert_eq!(&params[0x202..0x206], b"HdrS");
    assert!(params[0x1ef..0x1f1].iter().all(|&byte| byte == 0));
    assert_eq!(params[0x210], 0xff);
    assert_eq!(u64_at(params, 0x70), RSDP);
    assert_eq!(at(&loaded, u32_at(params, 0x228).into()), b"console=ttyS0\0");
    // The second part of the initrd starts on a four-byte boundary.
    let initrd = u64::from(u32_at(params, 0x218));
    assert_eq!((initrd, u32_at(params, 0x21c)), (64 * MIB - 4096, 12));
    assert_eq!(at(&loaded, initrd), b"12345");
    assert_eq!(at(&loaded, initrd + 8), b"678");
    // The memory map.
    let entries = map.entries();
    assert_eq!(usize::from(params[0x1e8]), entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let row = &params[0x2d0 + 20 * index..];
        assert_eq!(u64_at(row, 0), entry.range.start);
        assert_eq!(u64_at(row, 8), entry.range.end - entry.range.start);
        assert_eq!(u32_at(row, 16), entry.kind as u32);
    }
    assert_eq!(entries.last().unwrap().kind, RangeType::Ram);
}

#[test]
fn linux_of_32_bits_starts_in_protected_mode() {
    // Without the bit that promises a 64-bit entry, and from before there was one.
    for (version, flags) in [(0x20f_u16, 0_u16), (0x20a, 1)] {
        let (mut file, map) = (bz_image(), map(64));
        put(&mut file, 0x206, &version.to_le_bytes());
        put(&mut file, 0x236, &flags.to_le_bytes());
        let loaded = load(&request(&file, &map)).unwrap();
        check(&loaded, &map);
        let cpu = &loaded.cpu;
        assert_eq!((cpu.mode(), cpu.rip), (Mode::Protected32, 16 * MIB));
        // The protocol wants these registers clear, flat segments of these selectors, and interrupts off.
        assert_eq!([gpr::RBP, gpr::RDI, gpr::RBX].map(|register| cpu.gpr[register]), [0; 3]);
        let selectors = cpu.segments.map(|segment| (segment.selector, segment.base, segment.limit));
        assert_eq!(selectors, [0x18, 0x10, 0x18, 0x18, 0x18, 0x18].map(|selector| (selector, 0, u32::MAX)));
        assert!(!cpu.rflags.contains(x86::Rflags::IF));
        let params = at(&loaded, cpu.gpr[gpr::RSI]);
        assert_eq!((&params[0x202..0x206], u32_at(params, 0x214)), (&b"HdrS"[..], 16 << 20));
        assert_eq!(at(&loaded, 16 * MIB)[0], 0x90);
    }
}

#[test]
fn linux_goes_lower_when_the_preferred_address_has_no_room() {
    let (file, small) = (bz_image(), map(16));
    let loaded = load(&request(&file, &small)).unwrap();
    assert_eq!(loaded.cpu.rip, 2 * MIB + 0x200);
    let mut fixed = file;
    fixed[0x234] = 0;
    assert!(matches!(
        load(&request(&fixed, &small)),
        Err(LoadError::OutsideMemory { start: 0x100_0000, .. })
    ));
}

#[test]
fn linux_refuses_what_it_cannot_start() {
    let map = map(64);
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = bz_image();
        change(&mut file);
        load(&request(&file, &map)).map(|_| ()).unwrap_err()
    };
    let old = broken(&|file| file[0x206] = 0x09);
    assert!(matches!(&old, LoadError::Unsupported(why) if why.contains("2.09")), "{old}");
    assert!(matches!(broken(&|file| file[0x230] = 3), LoadError::Malformed(_)));
    assert!(matches!(broken(&|file| put(file, 0x1f4, &[0; 4])), LoadError::Malformed(_)));
    assert_eq!(
        broken(&|file| file.truncate(5000)),
        LoadError::Truncated { what: "the kernel proper", need: 5632, have: 5000 }
    );
    assert!(matches!(
        broken(&|file| put(file, 0x260, &u32::MAX.to_le_bytes())),
        LoadError::OutsideMemory { .. }
    ));
    assert!(matches!(
        broken(&|file| {
            put(file, 0x258, &u64::MAX.to_le_bytes());
            file[0x234] = 0;
        }),
        LoadError::OutsideMemory { start: u64::MAX, .. }
    ));
}

#[test]
fn command_lines_and_initrds_have_their_limits() {
    let (file, map) = (bz_image(), map(64));
    let fits = "x".repeat(2047);
    assert!(load(&Request { cmdline: &fits, ..request(&file, &map) }).is_ok());
    let long = "x".repeat(2048);
    assert_eq!(
        load(&Request { cmdline: &long, ..request(&file, &map) }).unwrap_err(),
        LoadError::CommandLineTooLong { len: 2048, max: 2047 }
    );
    assert_eq!(
        load(&Request { cmdline: "a\0b", ..request(&file, &map) }).unwrap_err(),
        LoadError::CommandLineNul
    );
    let initrd = vec![0; 48 * MIB as usize];
    assert!(matches!(
        load(&Request { modules: &[&initrd], ..request(&file, &map) }),
        Err(LoadError::NoRoom { what: "the initial RAM disk", .. })
    ));
    // Not above what the kernel can reach, though there is memory.
    let mut near = file;
    put(&mut near, 0x22c, &(32 * MIB as u32 - 1).to_le_bytes());
    let loaded = load(&Request { modules: &[b"initrd"], ..request(&near, &map) }).unwrap();
    assert_eq!(at(&loaded, 32 * MIB - 4096), b"initrd");
}

#[test]
fn pvh_start_info_leads_to_everything() {
    let (file, map) = (elf64(true), map(64));
    let loaded = load(&Request { modules: &[b"module"], ..request(&file, &map) }).unwrap();
    check(&loaded, &map);
    assert_eq!((loaded.format, loaded.cpu.mode()), (Format::Pvh, Mode::Protected32));
    assert_eq!(loaded.cpu.rip, ONE_MIB + 0x80);
    let info = at(&loaded, loaded.cpu.gpr[gpr::RBX]);
    assert_eq!((u32_at(info, 0), u32_at(info, 4)), (0x336e_c578, 1));
    let module = at(&loaded, u64_at(info, 16));
    assert_eq!((u32_at(info, 12), u64_at(module, 8)), (1, 6));
    assert_eq!(at(&loaded, u64_at(module, 0)), b"module");
    assert_eq!(at(&loaded, u64_at(info, 24)), b"console=ttyS0\0");
    assert_eq!(u64_at(info, 32), RSDP);
    let rows = at(&loaded, u64_at(info, 40));
    assert_eq!(rows.len(), 24 * u32_at(info, 48) as usize);
    assert_eq!((u64_at(rows, 0), u64_at(rows, 8), u32_at(rows, 16)), (0, 0x9_fc00, 1));
}

#[test]
fn elf_headers_are_not_believed() {
    let map = map(64);
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = elf64(true);
        change(&mut file);
        load(&request(&file, &map)).map(|_| ()).unwrap_err()
    };
    let huge = |file: &mut Vec<u8>| put(file, 64 + 40, &u64::MAX.to_le_bytes());
    assert!(matches!(broken(&huge), LoadError::OutsideMemory { .. }));
    let outside = |file: &mut Vec<u8>| put(file, 64 + 24, &(64 * MIB - 4096).to_le_bytes());
    assert!(matches!(broken(&outside), LoadError::OutsideMemory { .. }));
    let wraps = |file: &mut Vec<u8>| put(file, 64 + 8, &u64::MAX.to_le_bytes());
    assert!(matches!(broken(&wraps), LoadError::Truncated { what: "a segment", .. }));
    let larger = |file: &mut Vec<u8>| put(file, 64 + 40, &1_u64.to_le_bytes());
    assert!(matches!(broken(&larger), LoadError::Malformed(_)));
    let entry = |file: &mut Vec<u8>| put(file, 0x810, &[0; 4]);
    assert_eq!(broken(&entry), LoadError::EntryOutside(0));
    let arm = |file: &mut Vec<u8>| file[18] = 183;
    assert!(matches!(broken(&arm), LoadError::Unsupported(_)));
    let object = |file: &mut Vec<u8>| file[16] = 1;
    assert!(matches!(broken(&object), LoadError::Unsupported(_)));
    assert!(matches!(load(&request(&elf64(false), &map)), Err(LoadError::Unsupported(_))));
}

#[test]
fn overlapping_segments_are_refused() {
    let map = map(64);
    let mut file = elf64(false);
    put(&mut file, 56, &2_u16.to_le_bytes());
    let row = file[64..120].to_vec();
    put(&mut file, 120, &row);
    put(&mut file, 0x200, &multiboot_header(0));
    assert!(matches!(load(&request(&file, &map)), Err(LoadError::Overlap { at: ONE_MIB, .. })));
}

#[test]
fn multiboot_information_leads_to_everything() {
    let map = map(64);
    let mut elf = elf64(false);
    put(&mut elf, 0x200, &multiboot_header(3));
    for (file, entry) in [(elf, ONE_MIB + 0x40), (kludge(), ONE_MIB + 48)] {
        let loaded = load(&Request { modules: &[b"m1", b"m2"], ..request(&file, &map) }).unwrap();
        check(&loaded, &map);
        let cpu = &loaded.cpu;
        assert_eq!((loaded.format, cpu.mode()), (Format::Multiboot, Mode::Protected32));
        assert_eq!((cpu.rip, cpu.gpr[gpr::RAX]), (entry, 0x2bad_b002));
        let info = at(&loaded, cpu.gpr[gpr::RBX]);
        assert_eq!(u32_at(info, 0), 0x24d);
        assert_eq!((u32_at(info, 4), u32_at(info, 8)), (639, 63 * 1024));
        assert_eq!(at(&loaded, u32_at(info, 16).into()), b"console=ttyS0\0");
        assert_eq!(at(&loaded, u32_at(info, 64).into()), b"popf\0");
        let mods = at(&loaded, u32_at(info, 24).into());
        assert_eq!((u32_at(info, 20), mods.len()), (2, 32));
        assert_eq!(at(&loaded, u32_at(mods, 16).into()), b"m2");
        assert_eq!(u32_at(mods, 20) - u32_at(mods, 16), 2);
        assert_eq!(at(&loaded, u32_at(mods, 24).into()), b"\0");
        let rows = at(&loaded, u32_at(info, 48).into());
        assert_eq!(u32_at(info, 44) as usize, rows.len());
        assert_eq!((u32_at(rows, 0), u64_at(rows, 12), u32_at(rows, 20)), (20, 0x9_fc00, 1));
    }
}

#[test]
fn multiboot_addresses_are_not_believed() {
    let map = map(64);
    let broken = |field: usize, value: u32| {
        let mut file = kludge();
        put(&mut file, 28 + field * 4, &value.to_le_bytes());
        load(&request(&file, &map)).map(|_| ()).unwrap_err()
    };
    assert!(matches!(broken(0, 0), LoadError::Malformed(_)));
    assert!(matches!(broken(0, u32::MAX), LoadError::Malformed(_)));
    assert!(matches!(broken(2, 1), LoadError::Malformed(_)));
    assert!(matches!(broken(2, u32::MAX), LoadError::Truncated { .. }));
    assert!(matches!(broken(3, u32::MAX), LoadError::OutsideMemory { .. }));
    assert_eq!(broken(4, 0), LoadError::EntryOutside(0));
    let mut file = kludge();
    put(&mut file, 16, &multiboot_header(1 << 16 | 1 << 9));
    assert!(matches!(load(&request(&file, &map)), Err(LoadError::Unsupported(_))));
}

#[test]
fn other_files_are_not_kernels() {
    let map = map(64);
    for file in [&b""[..], b"MZ", b"#!/bin/sh\n", &[0; 10_000], &[0xff; 10_000]] {
        assert_eq!(load(&request(file, &map)).unwrap_err(), LoadError::NotAKernel);
    }
    assert!(matches!(load(&request(b"\x7fELF", &map)), Err(LoadError::Truncated { .. })));
}

#[test]
fn every_truncation_is_an_error() {
    let map = map(64);
    for file in [bz_image(), elf64(true)] {
        for len in 0..file.len() {
            assert!(load(&request(&file[..len], &map)).is_err(), "cut at {len}");
        }
    }
}

proptest! {
    /// Whatever a file says, the loader says no or gives pieces that lie in memory and do not overlap.
    #[test]
    fn damaged_images_never_escape(
        which in 0..4_usize,
        changes in prop::collection::vec((0..0x900_usize, any::<u8>()), 1..12),
        mib in 2..128_u64,
    ) {
        let mut elf_multiboot = elf64(false);
        put(&mut elf_multiboot, 0x200, &multiboot_header(3));
        let mut file = vec![bz_image(), elf64(true), elf_multiboot, kludge()].swap_remove(which);
        for (offset, value) in changes {
            file[offset] = value;
        }
        let map = map(mib);
        if let Ok(loaded) = load(&Request { modules: &[b"module"], ..request(&file, &map) }) {
            check(&loaded, &map);
        }
    }
}
