//! TCP segments, as the endpoint sees them.

use std::net::IpAddr;

use smoltcp::wire::{TcpOption, TcpPacket, TcpSeqNumber};

/// What a segment may say, but for its ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub seq: u32,
    /// With the flag ACK.
    pub ack: Option<u32>,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub psh: bool,
    /// As it stands in the header.
    pub window: u16,
    /// With SYN: the largest segment the sender takes.
    pub mss: Option<u16>,
    /// With SYN: how many bits its windows are short of.
    pub scale: Option<u8>,
    pub payload: &'a [u8],
}

/// RFC 7323, section 2.3.
const LARGEST_SCALE: u8 = 14;
/// Of a header with the options we send.
const ROOM: usize = 28;

impl<'a> Segment<'a> {
    /// Reads one. The checksum is the caller's business.
    pub(super) fn parse(packet: &TcpPacket<&'a [u8]>) -> Self {
        let mut segment = Self {
            seq: packet.seq_number().0.cast_unsigned(),
            ack: packet.ack().then(|| packet.ack_number().0.cast_unsigned()),
            syn: packet.syn(),
            fin: packet.fin(),
            rst: packet.rst(),
            psh: packet.psh(),
            window: packet.window_len(),
            mss: None,
            scale: None,
            payload: packet.payload(),
        };
        let mut options = packet.options();
        while segment.syn && !options.is_empty() {
            match TcpOption::parse(options) {
                Ok((_, TcpOption::EndOfList)) | Err(_) => break,
                Ok((rest, option)) => {
                    options = rest;
                    match option {
                        TcpOption::MaxSegmentSize(mss) => segment.mss = Some(mss),
                        TcpOption::WindowScale(scale) => segment.scale = Some(scale.min(LARGEST_SCALE)),
                        _ => {}
                    }
                }
            }
        }
        segment
    }

    /// How much sequence space it takes.
    pub(super) fn len(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.syn) + u32::from(self.fin)
    }

    /// The header, without payload and checksum.
    pub(super) fn header(&self, source: u16, destination: u16) -> Header {
        let mut header = Header { bytes: [0; ROOM], len: 20 };
        if let Some(mss) = self.mss {
            TcpOption::MaxSegmentSize(mss).emit(&mut header.bytes[header.len..]);
            header.len += 4;
        }
        if let Some(scale) = self.scale {
            let rest = TcpOption::NoOperation.emit(&mut header.bytes[header.len..]);
            TcpOption::WindowScale(scale).emit(rest);
            header.len += 4;
        }
        let mut packet = TcpPacket::new_unchecked(&mut header.bytes[..]);
        packet.set_src_port(source);
        packet.set_dst_port(destination);
        packet.set_seq_number(TcpSeqNumber(self.seq.cast_signed()));
        packet.set_ack_number(TcpSeqNumber(self.ack.unwrap_or(0).cast_signed()));
        packet.clear_flags();
        packet.set_header_len(header.len as u8);
        packet.set_ack(self.ack.is_some());
        packet.set_syn(self.syn);
        packet.set_fin(self.fin);
        packet.set_rst(self.rst);
        packet.set_psh(self.psh);
        packet.set_window_len(self.window);
        header
    }

    /// What answers a segment that belongs to no connection (RFC 9293, section 3.10.7.1); nothing answers a reset.
    pub(super) fn refusal(&self) -> Option<Segment<'static>> {
        if self.rst {
            return None;
        }
        let reset = Segment { rst: true, ..Segment::default() };
        Some(match self.ack {
            Some(ack) => Segment { seq: ack, ..reset },
            None => Segment { ack: Some(self.seq.wrapping_add(self.len())), ..reset },
        })
    }
}

/// A header as it goes out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    bytes: [u8; ROOM],
    len: usize,
}

impl Header {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The segment size of who names none (RFC 9293, section 3.7.1; RFC 8200, section 8.3).
pub(super) fn default_mss(peer: IpAddr) -> u16 {
    match peer {
        IpAddr::V4(_) => 536,
        IpAddr::V6(_) => 1220,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_as_it_was_written() {
        let syn = Segment {
            seq: 0xffff_fff0,
            ack: Some(7),
            syn: true,
            window: 9,
            mss: Some(1460),
            scale: Some(4),
            ..Segment::default()
        };
        let data = Segment { seq: 1, fin: true, psh: true, ..Segment::default() };
        for segment in [syn, data] {
            let header = segment.header(80, 1024);
            let packet = TcpPacket::new_checked(header.bytes()).unwrap();
            assert_eq!((packet.src_port(), packet.dst_port()), (80, 1024));
            assert_eq!(Segment::parse(&packet), segment);
        }
    }

    #[test]
    fn bad_options_are_passed_over() {
        let mut bytes = [0; 40];
        bytes[12] = 0xa0;
        bytes[13] = 2;
        // A window scale beyond the limit, then an option that is longer than the header.
        bytes[20..26].copy_from_slice(&[3, 3, 200, 2, 99, 5]);
        let segment = Segment::parse(&TcpPacket::new_checked(&bytes[..]).unwrap());
        assert_eq!((segment.scale, segment.mss), (Some(14), None));
    }

    #[test]
    fn a_stranger_is_refused_with_numbers_it_will_accept() {
        let syn = Segment { seq: 5, syn: true, ..Segment::default() };
        assert_eq!(syn.refusal(), Some(Segment { ack: Some(6), rst: true, ..Segment::default() }));
        let data = Segment { seq: 5, ack: Some(9), ..Segment::default() };
        assert_eq!(data.refusal(), Some(Segment { seq: 9, rst: true, ..Segment::default() }));
        assert_eq!(Segment { rst: true, ..syn }.refusal(), None);
    }
}
