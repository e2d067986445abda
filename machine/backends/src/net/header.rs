//! [`Offload`] as bytes: `struct virtio_net_hdr` with `num_buffers` (Virtio 1.2, 5.1.6), the form in which it stands
//! before a frame in a driver's buffers, at a tap and on a switch.

use super::{Checksum, Offload, SegmentKind, Segments};

/// Its length.
pub const HEADER_LENGTH: usize = 12;

/// The header's bits and values.
mod bits {
    pub const F_NEEDS_CSUM: u8 = 1;
    pub const F_DATA_VALID: u8 = 2;
    pub const GSO_NONE: u8 = 0;
    pub const GSO_TCPV4: u8 = 1;
    pub const GSO_TCPV6: u8 = 4;
    pub const GSO_ECN: u8 = 0x80;
}

/// A frame that asks for what nobody has offered, or for segments without a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

impl Offload {
    /// As a receiver finds it; `num_buffers` is 0.
    pub fn to_header(self) -> [u8; HEADER_LENGTH] {
        let mut header = [0; HEADER_LENGTH];
        match self.checksum {
            Checksum::Present => {}
            Checksum::Verified => header[0] = bits::F_DATA_VALID,
            Checksum::Missing { start, offset } => {
                header[0] = bits::F_NEEDS_CSUM;
                header[6..8].copy_from_slice(&start.to_le_bytes());
                header[8..10].copy_from_slice(&offset.to_le_bytes());
            }
        }
        if let Some(Segments { kind, size, header_len, ecn }) = self.segments {
            let kind = match kind {
                SegmentKind::Tcp4 => bits::GSO_TCPV4,
                SegmentKind::Tcp6 => bits::GSO_TCPV6,
            };
            header[1] = kind | if ecn { bits::GSO_ECN } else { 0 };
            header[2..4].copy_from_slice(&header_len.to_le_bytes());
            header[4..6].copy_from_slice(&size.to_le_bytes());
        }
        header
    }

    /// As a sender wrote it; `num_buffers` means nothing there.
    pub fn from_header(header: &[u8; HEADER_LENGTH]) -> Result<Self, Unknown> {
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let checksum = match header[0] {
            flags if flags & bits::F_NEEDS_CSUM != 0 => Checksum::Missing { start: word(6), offset: word(8) },
            flags if flags & bits::F_DATA_VALID != 0 => Checksum::Verified,
            _ => Checksum::Present,
        };
        let kind = match header[1] & !bits::GSO_ECN {
            bits::GSO_NONE => return Ok(Self { checksum, segments: None }),
            bits::GSO_TCPV4 => SegmentKind::Tcp4,
            bits::GSO_TCPV6 => SegmentKind::Tcp6,
            _ => return Err(Unknown),
        };
        // Each segment has a checksum of its own, so that there is none to be kept (5.1.6.2).
        if !matches!(checksum, Checksum::Missing { .. }) {
            return Err(Unknown);
        }
        let ecn = header[1] & bits::GSO_ECN != 0;
        Ok(Self { checksum, segments: Some(Segments { kind, size: word(4), header_len: word(2), ecn }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_the_same_both_ways() {
        let missing = Checksum::Missing { start: 0x22, offset: 0x10 };
        let tcp6 = Segments { kind: SegmentKind::Tcp6, size: 1440, header_len: 0x4a, ecn: true };
        let tcp4 = Segments { kind: SegmentKind::Tcp4, size: 1460, header_len: 0x36, ecn: false };
        #[rustfmt::skip]
        let cases = [
            (Offload::default(),                                              [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (Offload { checksum: Checksum::Verified, segments: None },        [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (Offload { checksum: missing, segments: None },                   [1, 0, 0, 0, 0, 0, 0x22, 0, 0x10, 0, 0, 0]),
            (Offload { checksum: missing, segments: Some(tcp6) },             [1, 0x84, 0x4a, 0, 0xa0, 5, 0x22, 0, 0x10, 0, 0, 0]),
            (Offload { checksum: missing, segments: Some(tcp4) },             [1, 1, 0x36, 0, 0xb4, 5, 0x22, 0, 0x10, 0, 0, 0]),
        ];
        for (offload, header) in cases {
            assert_eq!(offload.to_header(), header);
            assert_eq!(Offload::from_header(&header), Ok(offload));
        }
    }

    #[test]
    fn what_was_not_offered_is_refused() {
        // UDP fragments, UDP segments, and segments whose checksum is said to be there.
        for header in [[1, 3], [1, 5], [0, 1], [2, 4]] {
            let mut whole = [0; HEADER_LENGTH];
            whole[..2].copy_from_slice(&header);
            assert_eq!(Offload::from_header(&whole), Err(Unknown), "{header:?}");
        }
    }
}
