//! Reading little-endian fields of a file that may lie about everything.

use super::LoadError;

/// `len` bytes at `offset`, or the error that says what was cut off.
pub(super) fn slice<'a>(
    file: &'a [u8],
    what: &'static str,
    offset: u64,
    len: u64,
) -> Result<&'a [u8], LoadError> {
    let have = file.len() as u64;
    let need = offset.saturating_add(len);
    if need > have {
        return Err(LoadError::Truncated { what, need, have });
    }
    // Both ends are at most `have`, which came from a usize.
    Ok(&file[offset as usize..need as usize])
}

/// A field of a structure whose length has been checked.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

/// A field of a structure whose length has been checked.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from(u16_at(bytes, offset)) | u32::from(u16_at(bytes, offset + 2)) << 16
}

/// A field of a structure whose length has been checked.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from(u32_at(bytes, offset)) | u64::from(u32_at(bytes, offset + 4)) << 32
}

/// Writes a field of a structure popf builds.
pub(super) fn put(bytes: &mut [u8], offset: usize, field: &[u8]) {
    bytes[offset..offset + field.len()].copy_from_slice(field);
}
