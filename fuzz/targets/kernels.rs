//! Kernel loaders (`board::load`): a kernel file may lie about everything.
//!
//! The first byte says how much memory the guest has and which format's magic numbers are put into the file, since
//! the fuzzer would spend its time looking for those; the rest is the file, its tail also the modules.
#![no_main]

use board::load::{Request, load};
use board::map::{MINIMUM, MemoryMap};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, file)) = data.split_first() else { return };
    let mut kernel = file.to_vec();
    match choice & 3 {
        1 => linux(&mut kernel),
        2 => elf(&mut kernel),
        3 => multiboot(&mut kernel),
        _ => {}
    }
    let size = MINIMUM << [0, 1, 4, 11][usize::from(choice >> 2 & 3)];
    let map = MemoryMap::new(size).expect("a size of whole pages within the limits");
    let tail = &file[file.len() / 2..];
    let modules = [tail, &tail[..tail.len() / 3]];
    let request = Request {
        kernel: &kernel,
        modules: &modules[..usize::from(choice >> 4 & 3).min(2)],
        cmdline: if choice & 0x40 == 0 { "console=ttyS0" } else { "" },
        map: &map,
        rsdp: 0xe_0000,
    };
    let Ok(loaded) = load(&request) else { return };
    let mut ends: Vec<(u64, u64)> = Vec::new();
    for piece in &loaded.pieces {
        let end = piece.gpa.checked_add(piece.bytes.len() as u64).expect("wraps around");
        let low = end <= map.low_end();
        let high = piece.gpa >= board::map::FOUR_GIB && end <= map.high_end();
        assert!(low || high, "{:#x}..{end:#x} is not in RAM", piece.gpa);
        for (other_start, other_end) in &ends {
            assert!(end <= *other_start || piece.gpa >= *other_end, "{:#x}..{end:#x} overlaps", piece.gpa);
        }
        if end > piece.gpa {
            ends.push((piece.gpa, end));
        }
    }
});

fn put(file: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = file.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Boot protocol 2.15 with the 64-bit entry. The fuzzer's bytes are the setup header; what is around it matters
/// only by its length.
fn linux(file: &mut Vec<u8>) {
    file.splice(0..0, [0; 0x1f1]);
    file.resize(8192, 0);
    put(file, 0x1fe, &[0x55, 0xaa]);
    put(file, 0x202, b"HdrS");
    put(file, 0x206, &[0x0f, 0x02]);
    if let Some(load_flags) = file.get_mut(0x211) {
        *load_flags |= 1;
    }
    if let Some(extended_flags) = file.get_mut(0x236) {
        *extended_flags |= 1;
    }
}

/// An executable for x86; the class stays the fuzzer's choice.
fn elf(file: &mut [u8]) {
    put(file, 0, b"\x7fELF");
    if let Some(class) = file.get_mut(4) {
        *class = 1 + (*class & 1);
        let machine = if *class == 1 { 3 } else { 62 };
        put(file, 5, &[1, 1]);
        put(file, 16, &[2, 0, machine, 0]);
    }
}

/// A header whose checksum fits its flags.
fn multiboot(file: &mut [u8]) {
    const MAGIC: u32 = 0x1bad_b002;
    let flags = file.get(4..8).map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]));
    put(file, 0, &MAGIC.to_le_bytes());
    put(file, 4, &flags.to_le_bytes());
    put(file, 8, &0u32.wrapping_sub(MAGIC).wrapping_sub(flags).to_le_bytes());
}
