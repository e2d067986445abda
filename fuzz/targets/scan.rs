//! Programs and kernels nobody vouches for: bytes patched into a sound file, or bytes alone.
//!
//! Reading one fails or yields an image; a scan of it ends, and every byte of its code is accounted for once.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use scan::{Image, scan};

/// A program with sections, symbols and code: the fuzzer's beginning, which is small, and as a payload of a kernel.
fn sound() -> &'static [Vec<u8>; 2] {
    static SOUND: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    SOUND.get_or_init(|| {
        let mut elf = vec![0; 200];
        let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01\x01");
        put(16, &[2, 0, 62, 0, 1]);
        put(24, &0x1000_u64.to_le_bytes());
        put(32, &64_u64.to_le_bytes());
        put(52, &[64, 0, 56, 0, 1]);
        put(64, &[1, 0, 0, 0, 5]);
        put(72, &120_u64.to_le_bytes());
        put(80, &0x1000_u64.to_le_bytes());
        put(88, &0x1000_u64.to_le_bytes());
        put(96, &80_u64.to_le_bytes());
        put(104, &80_u64.to_le_bytes());
        put(120, &[0xfa, 0xe8, 1, 0, 0, 0, 0xf4, 0xc3, 0x0f, 0x01, 0x17]);
        let mut kernel = vec![0; 1024];
        kernel[0x1f1] = 1;
        kernel[0x1fe..0x206].copy_from_slice(&[0x55, 0xaa, 0xeb, 0x66, b'H', b'd', b'r', b'S']);
        kernel[0x24c..0x250].copy_from_slice(&(elf.len() as u32).to_le_bytes());
        kernel.extend_from_slice(&elf);
        [elf, kernel]
    })
}

/// The first byte chooses the file; then come patches of two bytes of place and one of value.
fn forge(input: &[u8]) -> Vec<u8> {
    let Some((&choice, rest)) = input.split_first() else { return Vec::new() };
    let Some(mut file) = sound().get(usize::from(choice)).cloned() else { return rest.to_vec() };
    for patch in rest.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([patch[0], patch[1]])) % file.len();
        file[at] = patch[2];
    }
    file
}

fuzz_target!(|input: &[u8]| {
    let Ok(image) = Image::read(&forge(input)) else { return };
    let report = scan(&image);
    let parts = report.coverage;
    assert_eq!(parts.descent + parts.sweep + parts.padding + parts.rest, image.len());
    for finding in &report.findings {
        let _ = image.symbols.find(finding.instruction.ip());
    }
});
