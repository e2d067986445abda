//! The bytes of a saved state. All numbers are little-endian.
//!
//! ```text
//! file     "popfsave"  format u16  sections u32  section*
//! section  kind_len u8  kind  instance u32  version u16  body_len u64  checksum u32  body
//! ```
//! The checksum is the CRC-32 (as in gzip) of the section without the checksum itself, so that a flipped bit in
//! a header is as visible as one in a body. It finds damage, not malice; malice is what `check` is for.

use crate::ReadError;

pub(crate) const MAGIC: &[u8; 8] = b"popfsave";
pub(crate) const FORMAT: u16 = 1;
/// Longest kind: long enough for a descriptive name.
pub(crate) const MAX_KIND: usize = 63;
/// Most sections: a machine has some tens of units.
pub(crate) const MAX_SECTIONS: usize = 4096;
/// Longest body. Video memory is the largest thing a unit saves.
pub(crate) const MAX_BODY: u64 = 1 << 28;

/// A section, its body still encoded.
#[derive(Clone, Debug)]
pub(crate) struct RawSection<'a> {
    pub kind: &'a str,
    pub instance: u32,
    pub version: u16,
    pub body: &'a [u8],
}

impl RawSection<'_> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        // The writer has checked the limits.
        out.push(self.kind.len() as u8);
        out.extend_from_slice(self.kind.as_bytes());
        out.extend_from_slice(&self.instance.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&(self.body.len() as u64).to_le_bytes());
        let checksum = checksum(&out[start..], self.body);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(self.body);
    }
}

/// Whether a kind is one that files may carry: printable, so that it can stand in messages.
pub(crate) fn kind_is_valid(kind: &[u8]) -> bool {
    let plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    (1..=MAX_KIND).contains(&kind.len()) && kind.iter().all(plain)
}

/// Takes a file apart. Limits, checksums and completeness are checked, uniqueness is not.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<RawSection<'_>>, ReadError> {
    let mut input = Input { bytes, offset: 0 };
    match input.take(MAGIC.len()) {
        Ok(magic) if magic == MAGIC => {}
        _ => return Err(ReadError::NotOurs),
    }
    let found = u16::from_le_bytes(input.array()?);
    if found != FORMAT {
        return Err(ReadError::Format { found, known: FORMAT });
    }
    let header = input.offset;
    let count = u32::from_le_bytes(input.array()?) as usize;
    if count > MAX_SECTIONS {
        return Err(ReadError::Header { offset: header });
    }
    let mut sections = Vec::with_capacity(count);
    for _ in 0..count {
        sections.push(input.section()?);
    }
    match bytes.len() - input.offset {
        0 => Ok(sections),
        extra => Err(ReadError::Trailing { extra }),
    }
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}

struct Input<'a> {
    bytes: &'a [u8],
    /// Never past the end.
    offset: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ReadError> {
        let rest = &self.bytes[self.offset..];
        let taken = rest.get(..len).ok_or(ReadError::Truncated { offset: self.bytes.len() })?;
        self.offset += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn section(&mut self) -> Result<RawSection<'a>, ReadError> {
        let start = self.offset;
        let bad = ReadError::Header { offset: start };
        let kind_len = usize::from(self.array::<1>()?[0]);
        let kind = self.take(kind_len)?;
        let instance = u32::from_le_bytes(self.array()?);
        let version = u16::from_le_bytes(self.array()?);
        let body_len = u64::from_le_bytes(self.array()?);
        let header = &self.bytes[start..self.offset];
        let stored = u32::from_le_bytes(self.array()?);
        if !kind_is_valid(kind) || body_len > MAX_BODY {
            return Err(bad);
        }
        // The kind is ASCII by `kind_is_valid`, the length fits by `MAX_BODY`.
        let kind = std::str::from_utf8(kind).map_err(|_| bad)?;
        let body = self.take(body_len as usize)?;
        if checksum(header, body) != stored {
            return Err(ReadError::Checksum { kind: kind.to_owned(), instance });
        }
        Ok(RawSection { kind, instance, version, body })
    }
}
