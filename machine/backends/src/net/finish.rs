//! Does in software what a sender has left undone and a receiver does not take: sums (RFC 1071) and the cutting of
//! TCP into segments, as a network card with checksum and segmentation offload does them.
//!
//! Frames are others' words: one that is not what its [`Offload`] says gives nothing.
//!
//! Not modelled: IPv6 extension headers (nothing is cut behind one), UDP segments, tunnels.

use super::{Checksum, MAX_FRAME, Offload, Offloads, SegmentKind, Segments};

/// Where an Ethernet frame's packet begins, and where a tag may move it to.
const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
const VLAN: [u8; 2] = [0x81, 0x00];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const IPV6_HEADER: usize = 40;
/// Segments smaller than any TCP makes would be many from one frame.
const LEAST_SEGMENT: u16 = 32;

/// TCP's flags.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

impl Offloads {
    /// Whether who takes these takes a frame as it is.
    pub fn allow(self, offload: &Offload) -> bool {
        let segments = offload.segments.is_none_or(|Segments { kind, ecn, .. }| {
            let cuts = match kind {
                SegmentKind::Tcp4 => self.tcp4,
                SegmentKind::Tcp6 => self.tcp6,
            };
            cuts && (self.ecn || !ecn)
        });
        segments && (self.checksum || !matches!(offload.checksum, Checksum::Missing { .. }))
    }
}

/// Gives `each` the frames that a receiver which takes `takes` is to get for one frame, until it returns `false`.
/// Says whether it never did.
pub fn finish(
    frame: &[u8],
    offload: Offload,
    takes: Offloads,
    mut each: impl FnMut(&[u8], Offload) -> bool,
) -> bool {
    if takes.allow(&offload) {
        return each(frame, offload);
    }
    match offload.segments {
        Some(segments) => cut(frame, segments, |segment| each(segment, Offload::default())),
        None => {
            let mut whole = frame.to_vec();
            let Checksum::Missing { start, offset } = offload.checksum else { return true };
            // A frame whose sum lies outside of it says nothing that a receiver could want.
            !insert_checksum(&mut whole, start.into(), offset.into()) || each(&whole, Offload::default())
        }
    }
}

/// Puts the sum of `frame[start..]` at `start + offset`, over the pseudo-header's, which stands there. `false` if that
/// is not inside the frame.
fn insert_checksum(frame: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(part) = frame.get_mut(start..).filter(|part| offset + 2 <= part.len()) else {
        return false;
    };
    // No sum at all is what 0 means in UDP; the other zero is the same number.
    let sum = match !fold(sum(part)) {
        0 => 0xffff,
        sum => sum,
    };
    part[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// The headers of a frame that can be cut: where they begin and end.
struct Headers {
    ip: usize,
    tcp: usize,
    payload: usize,
}

impl Headers {
    fn find(frame: &[u8], kind: SegmentKind) -> Option<Self> {
        let tagged = frame.get(12..14)? == VLAN;
        let ip = ETHERNET + if tagged { VLAN_TAG } else { 0 };
        let wanted = match kind {
            SegmentKind::Tcp4 => IPV4,
            SegmentKind::Tcp6 => IPV6,
        };
        if frame.get(ip - 2..ip)? != wanted {
            return None;
        }
        let (length, protocol) = match kind {
            SegmentKind::Tcp4 => (usize::from(frame.get(ip)? & 0xf) * 4, *frame.get(ip + 9)?),
            SegmentKind::Tcp6 => (IPV6_HEADER, *frame.get(ip + 6)?),
        };
        if protocol != TCP || length < 20 {
            return None;
        }
        let tcp = ip + length;
        let data_offset = usize::from(frame.get(tcp + 12)? >> 4) * 4;
        let payload = tcp + data_offset;
        (data_offset >= 20 && payload < frame.len()).then_some(Self { ip, tcp, payload })
    }
}

/// Cuts a TCP frame into segments with all their sums, and gives each to `each` until it returns `false`.
fn cut(frame: &[u8], segments: Segments, mut each: impl FnMut(&[u8]) -> bool) -> bool {
    if frame.len() > MAX_FRAME || segments.size < LEAST_SEGMENT {
        return true;
    }
    let Some(Headers { ip, tcp, payload }) = Headers::find(frame, segments.kind) else {
        return true;
    };
    let sequence = u32::from_be_bytes(std::array::from_fn(|at| frame[tcp + 4 + at]));
    let identification = u16::from_be_bytes([frame[ip + 4], frame[ip + 5]]);
    let size = usize::from(segments.size);
    let count = (frame.len() - payload).div_ceil(size);
    let mut segment = Vec::with_capacity(payload + size);
    for (number, data) in frame[payload..].chunks(size).enumerate() {
        segment.clear();
        segment.extend_from_slice(&frame[..payload]);
        segment.extend_from_slice(data);
        let flags = &mut segment[tcp + 13];
        // The ends of what was one: only the first says that the window was reduced, only the last that it ends.
        if number > 0 {
            *flags &= !CWR;
        }
        if number + 1 < count {
            *flags &= !(FIN | PSH);
        }
        let at = sequence.wrapping_add((number * size) as u32);
        segment[tcp + 4..tcp + 8].copy_from_slice(&at.to_be_bytes());
        match segments.kind {
            SegmentKind::Tcp4 => {
                let length = (segment.len() - ip) as u16;
                segment[ip + 2..ip + 4].copy_from_slice(&length.to_be_bytes());
                let identification = identification.wrapping_add(number as u16);
                segment[ip + 4..ip + 6].copy_from_slice(&identification.to_be_bytes());
                segment[ip + 10..ip + 12].fill(0);
                let header_sum = !fold(sum(&segment[ip..tcp]));
                segment[ip + 10..ip + 12].copy_from_slice(&header_sum.to_be_bytes());
            }
            SegmentKind::Tcp6 => {
                let length = (segment.len() - ip - IPV6_HEADER) as u16;
                segment[ip + 4..ip + 6].copy_from_slice(&length.to_be_bytes());
            }
        }
        let addresses = match segments.kind {
            SegmentKind::Tcp4 => ip + 12..ip + 20,
            SegmentKind::Tcp6 => ip + 8..ip + 40,
        };
        let pseudo = sum(&segment[addresses]) + u64::from(TCP) + (segment.len() - tcp) as u64;
        segment[tcp + 16..tcp + 18].copy_from_slice(&fold(pseudo).to_be_bytes());
        insert_checksum(&mut segment, tcp, 16);
        if !each(&segment) {
            return false;
        }
    }
    true
}

/// The sum of big-endian words, an odd byte at the end being the upper half of one.
fn sum(bytes: &[u8]) -> u64 {
    // Four bytes at a time: the carries come back in `fold`, and 64 bits hold what a frame has of them.
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    let whole: u64 =
        words.map(|word| u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    whole + u64::from(u32::from_be_bytes(last))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests;
