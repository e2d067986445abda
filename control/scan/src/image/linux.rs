//! Linux bzImage: the kernel proper, unpacked (Documentation/arch/x86/boot.rst: `payload_offset`,
//! `payload_length`). The boot code in front of it, which unpacks it when it runs, is not scanned.

use std::io::{self, Read};

use object::{Object, ObjectSegment};

use super::{Format, Image, MOST, ScanError};

const BOOT_FLAG: usize = 0x1fe;
const HEADER: usize = 0x202;
const SETUP_SECTS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The build appends the unpacked size where the format does not tell it.
const SIZE_BEHIND: usize = 4;

/// Whether this is Linux, good or bad.
pub(super) fn recognises(file: &[u8]) -> bool {
    file.get(HEADER..HEADER + 4) == Some(b"HdrS") && file.get(BOOT_FLAG..BOOT_FLAG + 2) == Some(&[0x55, 0xaa])
}

/// Reads the kernel out of a bzImage.
pub(super) fn read(file: &[u8]) -> Result<Image, ScanError> {
    let kernel = unpack(payload(file)?)?;
    let mut image = super::object_file::read(&kernel)?;
    image.format = Format::BzImage;
    // The entry is a physical address, and everything else virtual.
    let object = object::File::parse(&kernel[..])?;
    let linked = object.segments().filter_map(|segment| {
        let physical = physical_address(&kernel, segment.address())?;
        let offset = object.entry().checked_sub(physical)?;
        (offset < segment.size()).then(|| segment.address().wrapping_add(offset))
    });
    image.entries = linked.collect();
    Ok(image)
}

/// `p_paddr` of the segment at a virtual address, which `object` does not tell. ELF64, program headers of 56 bytes.
fn physical_address(elf: &[u8], virtual_address: u64) -> Option<u64> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(elf.get(at..at.checked_add(8)?)?.try_into().ok()?));
    let table = usize::try_from(u64_at(32)?).ok()?;
    let count = usize::from(u16::from_le_bytes(elf.get(56..58)?.try_into().ok()?));
    let rows = (0..count).filter_map(|n| table.checked_add(n * 56));
    let mut rows = rows.filter(|&row| u64_at(row.saturating_add(16)) == Some(virtual_address));
    u64_at(rows.next()?.checked_add(24)?)
}

fn payload(file: &[u8]) -> Result<&[u8], ScanError> {
    let u32_at = |at: usize| -> Result<usize, ScanError> {
        let bytes = file.get(at..at + 4).ok_or(ScanError::Short)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    };
    let setup_sects = match *file.get(SETUP_SECTS).ok_or(ScanError::Short)? {
        0 => 4,
        count => usize::from(count),
    };
    let start = (setup_sects + 1) * 512 + u32_at(PAYLOAD_OFFSET)?;
    file.get(start..start + u32_at(PAYLOAD_LENGTH)?).ok_or(ScanError::Short)
}

/// Unpacks what the kernel's build has packed (lib/decompress.c in Linux lists the methods).
fn unpack(payload: &[u8]) -> Result<Vec<u8>, ScanError> {
    let body = &payload[..payload.len().saturating_sub(SIZE_BEHIND)];
    let mut unpacked = Vec::new();
    let limit = MOST as u64;
    let result = match payload {
        [0x1f, 0x8b, ..] => flate2::read::GzDecoder::new(body).take(limit).read_to_end(&mut unpacked),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            lzma_rust2::XzReader::new(body, false).take(limit).read_to_end(&mut unpacked)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ruzstd::decoding::StreamingDecoder::new(body)
            .map_err(io::Error::other)
            .and_then(|decoder| decoder.take(limit).read_to_end(&mut unpacked)),
        [0x02, 0x21, 0x4c, 0x18, ..] => {
            lz4_flex::frame::FrameDecoder::new(body).take(limit).read_to_end(&mut unpacked)
        }
        [b'B', b'Z', b'h', ..] => return Err(ScanError::Packed("bzip2")),
        [0x5d, 0, 0, ..] => return Err(ScanError::Packed("LZMA")),
        [0x89, b'L', b'Z', b'O', ..] => return Err(ScanError::Packed("LZO")),
        [0x7f, b'E', b'L', b'F', ..] => {
            unpacked.extend_from_slice(payload);
            Ok(0)
        }
        _ => return Err(ScanError::Packed("something unknown")),
    };
    result.map_err(ScanError::Unpacking)?;
    if unpacked.len() == MOST { Err(ScanError::TooLarge) } else { Ok(unpacked) }
}
