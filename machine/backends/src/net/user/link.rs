//! The way to the guest: packets into frames, to the right neighbour, with what its card leaves to us.
//!
//! Frames that the card has no room for wait here, a bounded number of them. TCP asks [`Link::has_room`] first and
//! keeps its bytes; for the rest a lost datagram is a lost datagram.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet};

use super::lan;
use super::neighbours::Neighbours;
use super::sum::Sum;
use crate::net::{Checksum, Handlers, Mac, Offload, Offloads, SegmentKind, Segments};

/// How many bytes of frames wait for the card.
const WAITING: usize = 1 << 20;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// IPv6's fragment header.
const FRAGMENT: usize = 8;
const HOP_LIMIT: u8 = 64;

/// See the module.
pub(super) struct Link {
    handlers: Arc<Handlers>,
    offloads: Offloads,
    pub(super) mtu: u16,
    pub(super) neighbours: Neighbours,
    waiting: VecDeque<(Vec<u8>, Offload)>,
    waiting_bytes: usize,
    /// Where frames are made.
    frame: Vec<u8>,
    ident: u16,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transport<'a> {
    pub protocol: IpProtocol,
    /// The protocol's header, its checksum zero.
    pub header: &'a [u8],
    /// Where in it the checksum goes.
    pub checksum: usize,
    pub payload: (&'a [u8], &'a [u8]),
    /// The payload of one segment, if it is TCP and wants to be cut.
    pub cut: Option<u16>,
}

impl Transport<'_> {
    fn len(&self) -> usize {
        self.header.len() + self.payload.0.len() + self.payload.1.len()
    }
}

impl Link {
    pub(super) fn new(handlers: Arc<Handlers>, mtu: u16) -> Self {
        Self {
            handlers,
            offloads: Offloads::NONE,
            mtu,
            neighbours: Neighbours::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            frame: Vec::new(),
            ident: 0,
        }
    }

    /// The guest takes over other work than before, so it has been reset, or has come up: what waits was meant for the
    /// one before, and may be more than this one can do.
    pub(super) fn guest_takes(&mut self, offloads: Offloads) {
        self.offloads = offloads;
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    pub(super) fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Whether the card takes frames.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The card has room again.
    pub(super) fn room(&mut self) {
        while let Some((frame, offload)) = self.waiting.front() {
            if !(self.handlers.receive)(frame, *offload) {
                return;
            }
            self.waiting_bytes -= frame.len();
            self.waiting.pop_front();
        }
    }

    /// How much TCP payload one frame to `guest` carries.
    pub(super) fn segment_limit(&self, guest: IpAddr) -> usize {
        let cut = self.offloads.checksum
            && match guest {
                IpAddr::V4(_) => self.offloads.tcp4,
                IpAddr::V6(_) => self.offloads.tcp6,
            };
        if cut { 65_535 - IPV6 - 20 } else { usize::from(self.mss(guest)) }
    }

    /// The TCP payload that fits into a packet.
    pub(super) fn mss(&self, guest: IpAddr) -> u16 {
        self.mtu - if guest.is_ipv4() { 40 } else { 60 }
    }

    /// Sends a packet of ours to `guest`; if nobody has said yet where that is, it is asked for, and the packet is
    /// lost.
    pub(super) fn send(&mut self, source: IpAddr, guest: IpAddr, transport: Transport<'_>, now: Instant) {
        match self.neighbours.find(guest) {
            Some(mac) => self.send_to(mac, source, guest, transport),
            None => {
                if self.neighbours.may_ask(guest, now) {
                    self.ask(guest);
                }
            }
        }
    }

    /// Sends a packet to a neighbour.
    pub(super) fn send_to(&mut self, mac: Mac, source: IpAddr, guest: IpAddr, transport: Transport<'_>) {
        let ip = if guest.is_ipv4() { IPV4 } else { IPV6 };
        if transport.cut.is_none() && ip + transport.len() > usize::from(self.mtu) {
            return self.send_fragments(mac, source, guest, transport);
        }
        let mut frame = std::mem::take(&mut self.frame);
        begin(&mut frame, mac, source, guest, transport.protocol, transport.len(), None);
        let start = frame.len();
        append(&mut frame, transport);
        let offload = self.checksum(&mut frame[start..], start, source, guest, transport);
        self.deliver(&frame, offload);
        self.frame = frame;
    }

    /// Fills in the transport's checksum, or leaves it to the guest.
    fn checksum(
        &self,
        packet: &mut [u8],
        start: usize,
        source: IpAddr,
        guest: IpAddr,
        transport: Transport<'_>,
    ) -> Offload {
        let place = transport.checksum..transport.checksum + 2;
        let pseudo = Sum::pseudo(source, guest, transport.protocol, packet.len());
        if self.offloads.checksum && matches!(transport.protocol, IpProtocol::Tcp | IpProtocol::Udp) {
            packet[place].copy_from_slice(&pseudo.partial());
            let segments = transport.cut.map(|size| Segments {
                kind: if guest.is_ipv4() { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 },
                size,
                header_len: (start + transport.header.len()) as u16,
                ecn: false,
            });
            let missing = Checksum::Missing { start: start as u16, offset: transport.checksum as u16 };
            return Offload { checksum: missing, segments };
        }
        let mut sum = pseudo.add(packet).finish();
        if sum == [0, 0] && transport.protocol == IpProtocol::Udp {
            // Zero would say that there is none.
            sum = [0xff, 0xff];
        }
        packet[place].copy_from_slice(&sum);
        Offload::default()
    }

    fn send_fragments(&mut self, mac: Mac, source: IpAddr, guest: IpAddr, transport: Transport<'_>) {
        let mut packet = Vec::with_capacity(transport.len());
        append(&mut packet, transport);
        // A checksum over several fragments is nobody's to fill in later.
        let offloads = std::mem::take(&mut self.offloads);
        self.checksum(&mut packet, 0, source, guest, transport);
        self.offloads = offloads;
        self.ident = self.ident.wrapping_add(1);
        let ip = if guest.is_ipv4() { IPV4 } else { IPV6 + FRAGMENT };
        let step = (usize::from(self.mtu) - ip) & !7;
        let last = packet.len().saturating_sub(1) / step;
        let mut frame = std::mem::take(&mut self.frame);
        for (index, piece) in packet.chunks(step).enumerate() {
            let place = Fragment { ident: self.ident, offset: index * step, more: index < last };
            begin(&mut frame, mac, source, guest, transport.protocol, piece.len(), Some(place));
            frame.extend_from_slice(piece);
            self.deliver(&frame, Offload::default());
        }
        self.frame = frame;
    }

    /// Sends something that is no IP packet.
    pub(super) fn send_frame(&mut self, mac: Mac, protocol: EthernetProtocol, payload: &[u8]) {
        let mut frame = std::mem::take(&mut self.frame);
        ethernet(&mut frame, mac, protocol);
        frame.extend_from_slice(payload);
        self.deliver(&frame, Offload::default());
        self.frame = frame;
    }

    fn deliver(&mut self, frame: &[u8], offload: Offload) {
        if self.waiting.is_empty() && (self.handlers.receive)(frame, offload) {
            return;
        }
        if self.waiting_bytes + frame.len() <= WAITING {
            self.waiting_bytes += frame.len();
            self.waiting.push_back((frame.to_vec(), offload));
        }
    }
}

/// Which part of a packet.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    ident: u16,
    offset: usize,
    more: bool,
}

fn ethernet(frame: &mut Vec<u8>, mac: Mac, protocol: EthernetProtocol) {
    frame.clear();
    frame.resize(ETHERNET, 0);
    let mut header = EthernetFrame::new_unchecked(&mut frame[..]);
    header.set_dst_addr(EthernetAddress(mac.0));
    header.set_src_addr(EthernetAddress(lan::MAC.0));
    header.set_ethertype(protocol);
}

/// Everything up to the transport's header.
fn begin(
    frame: &mut Vec<u8>,
    mac: Mac,
    source: IpAddr,
    guest: IpAddr,
    protocol: IpProtocol,
    len: usize,
    fragment: Option<Fragment>,
) {
    match (source, guest) {
        (IpAddr::V4(source), IpAddr::V4(guest)) => {
            ethernet(frame, mac, EthernetProtocol::Ipv4);
            ipv4(frame, source, guest, protocol, len, fragment);
        }
        (source, guest) => {
            ethernet(frame, mac, EthernetProtocol::Ipv6);
            ipv6(frame, as_v6(source), as_v6(guest), protocol, len, fragment);
        }
    }
}

/// A flow has addresses of one family.
fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn ipv4(
    frame: &mut Vec<u8>,
    source: Ipv4Addr,
    guest: Ipv4Addr,
    protocol: IpProtocol,
    len: usize,
    fragment: Option<Fragment>,
) {
    let start = frame.len();
    frame.resize(start + IPV4, 0);
    let mut header = Ipv4Packet::new_unchecked(&mut frame[start..]);
    header.set_version(4);
    header.set_header_len(IPV4 as u8);
    // `len` is at most that of a datagram or of `segment_limit`.
    header.set_total_len((IPV4 + len) as u16);
    match fragment {
        None => header.set_dont_frag(true),
        Some(Fragment { ident, offset, more }) => {
            header.set_ident(ident);
            header.set_more_frags(more);
            header.set_frag_offset(offset as u16);
        }
    }
    header.set_hop_limit(HOP_LIMIT);
    header.set_next_header(protocol);
    header.set_src_addr(source);
    header.set_dst_addr(guest);
    header.fill_checksum();
}

fn ipv6(
    frame: &mut Vec<u8>,
    source: Ipv6Addr,
    guest: Ipv6Addr,
    protocol: IpProtocol,
    len: usize,
    fragment: Option<Fragment>,
) {
    let start = frame.len();
    frame.resize(start + IPV6, 0);
    let mut header = Ipv6Packet::new_unchecked(&mut frame[start..]);
    header.set_version(6);
    header.set_payload_len((len + if fragment.is_some() { FRAGMENT } else { 0 }) as u16);
    header.set_next_header(if fragment.is_some() { IpProtocol::Ipv6Frag } else { protocol });
    // Neighbour discovery believes only what no router has passed on.
    header.set_hop_limit(if protocol == IpProtocol::Icmpv6 { 255 } else { HOP_LIMIT });
    header.set_src_addr(source);
    header.set_dst_addr(guest);
    if let Some(Fragment { ident, offset, more }) = fragment {
        let place = (offset as u16) | u16::from(more);
        frame.extend_from_slice(&[u8::from(protocol), 0]);
        frame.extend_from_slice(&place.to_be_bytes());
        frame.extend_from_slice(&u32::from(ident).to_be_bytes());
    }
}

fn append(packet: &mut Vec<u8>, transport: Transport<'_>) {
    packet.extend_from_slice(transport.header);
    packet.extend_from_slice(transport.payload.0);
    packet.extend_from_slice(transport.payload.1);
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
