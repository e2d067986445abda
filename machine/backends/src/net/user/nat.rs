//! Where every frame of the guest's arrives and is sent on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use host::epoll::{Interest, Ready};
use host::{Epoll, HostError};
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet, NdiscRepr, TcpPacket,
    UdpPacket,
};

use super::context::{Context, Key};
use super::dns::{self, Dns};
use super::fragments::{Fragments, Name};
use super::icmp::Echoes;
use super::inbox::Inbox;
use super::lan::{self, Lan};
use super::link::Link;
use super::neighbours::{ADVERTISE, Advice};
use super::sum::Sum;
use super::tcp::Tcp;
use super::timers::{Alarm, Timers};
use super::udp::{Udp, udp, udp_header};
use crate::net::dhcp::{self, Dhcp};
use crate::net::{Checksum, Mac, Offload, Offloads};

/// The longest datagram the host can give us.
const DATAGRAM: usize = 65_535;

/// The parts, before there is a link to the guest.
pub(super) struct Parts {
    pub epoll: Epoll,
    pub lan: Lan,
    pub tcp: Tcp,
    pub udp: Udp,
    pub dns: Dns,
    pub dhcp: Dhcp,
}

/// The whole network but for its thread.
pub(super) struct Nat {
    parts: Parts,
    echoes: Echoes,
    fragments: Fragments,
    link: Link,
    timers: Timers<Key>,
    advertise: Alarm,
    /// What published ports lead to: the last address leased.
    guest: Ipv4Addr,
    datagram: Vec<u8>,
}

impl Parts {
    /// Adds what is there from the beginning to the set of descriptors.
    pub(super) fn register(&self, inbox: &Inbox) -> Result<(), HostError> {
        self.epoll.add(&inbox.event, Key::Inbox.token(), Interest::Readable)?;
        for (index, listener) in self.tcp.ports().enumerate() {
            self.epoll.add(listener, Key::TcpPort(index as u32).token(), Interest::Readable)?;
        }
        for (index, socket) in self.udp.ports().enumerate() {
            self.epoll.add(socket, Key::UdpPort(index as u32).token(), Interest::Readable)?;
        }
        Ok(())
    }
}

/// What of `Nat` a part is lent, besides itself.
macro_rules! context {
    ($nat:ident, $now:expr) => {
        &mut Context {
            now: $now,
            link: &mut $nat.link,
            epoll: &$nat.parts.epoll,
            timers: &mut $nat.timers,
            lan: $nat.parts.lan,
            resolver: $nat.parts.dns.server(),
        }
    };
}

impl Nat {
    pub(super) fn new(parts: Parts, link: Link, now: Instant) -> Self {
        let mut nat = Self {
            parts,
            echoes: Echoes::default(),
            fragments: Fragments::default(),
            link,
            timers: Timers::new(),
            advertise: Alarm::default(),
            guest: lan::GUEST,
            datagram: vec![0; DATAGRAM],
        };
        nat.timers.set(&mut nat.advertise, Key::Advertise, Some(now + ADVERTISE));
        nat
    }

    pub(super) fn epoll(&self) -> &Epoll {
        &self.parts.epoll
    }

    /// Whether connections have something to do that nothing will tell of.
    pub(super) fn has_work(&self) -> bool {
        self.parts.tcp.has_work()
    }

    /// When something is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What the guest takes over now.
    pub(super) fn guest_takes(&mut self, offloads: Offloads) {
        if offloads != self.link.offloads() {
            self.link.guest_takes(offloads);
            self.room();
        }
    }

    /// The card has room again.
    pub(super) fn room(&mut self) {
        self.link.room();
        if self.link.has_room() {
            self.parts.tcp.room();
        }
    }

    /// Does what is to be done: connections that have something, times that have come.
    pub(super) fn work(&mut self, now: Instant) {
        self.parts.tcp.work(context!(self, now));
        if self.timers.is_crowded() {
            let (parts, echoes) = (&self.parts, &self.echoes);
            self.timers.retain(|key| match key {
                Key::Tcp(id) => parts.tcp.knows(id),
                Key::Udp(id) => parts.udp.knows(id),
                Key::Dns(id) => parts.dns.knows(id),
                Key::Echo(id) => echoes.knows(id),
                Key::Inbox | Key::Advertise | Key::TcpPort(_) | Key::UdpPort(_) => true,
            });
        }
        while let Some((when, key)) = self.timers.pop(now) {
            match key {
                Key::Tcp(id) => self.parts.tcp.timer(context!(self, now), id, when),
                Key::Udp(id) => self.parts.udp.timer(context!(self, now), id, when),
                Key::Dns(id) => self.parts.dns.timer(context!(self, now), id, when),
                Key::Echo(id) => self.echoes.timer(context!(self, now), id, when),
                Key::TcpPort(_) => self.parts.tcp.ports_timer(context!(self, now), when),
                Key::Advertise => {
                    if self.timers.due(&mut self.advertise, key, when, now) {
                        self.link.advertise(&Advice { search: &self.parts.dhcp.search });
                        self.timers.set(&mut self.advertise, key, Some(now + ADVERTISE));
                    }
                }
                Key::Inbox | Key::UdpPort(_) => {}
            }
        }
    }

    /// A descriptor is ready.
    pub(super) fn ready(&mut self, ready: Ready, now: Instant) {
        let buffer = &mut self.datagram[..];
        match Key::from_token(ready.token) {
            Key::Tcp(id) => self.parts.tcp.ready(context!(self, now), id, ready),
            Key::Udp(id) => self.parts.udp.ready(context!(self, now), id, buffer),
            Key::Dns(id) => self.parts.dns.ready(context!(self, now), id, buffer),
            Key::Echo(id) => self.echoes.ready(context!(self, now), id, buffer),
            Key::TcpPort(port) => {
                let ours = self.parts.tcp.ports().nth(port as usize).and_then(|port| port.local_addr().ok());
                let guest = self.guest(ours);
                self.parts.tcp.port_ready(context!(self, now), port, guest);
            }
            Key::UdpPort(port) => {
                let ours = self.parts.udp.ports().nth(port as usize).and_then(|port| port.local_addr().ok());
                let guest = self.guest(ours);
                let buffer = &mut self.datagram[..];
                self.parts.udp.port_ready(context!(self, now), port, guest, buffer);
            }
            Key::Inbox | Key::Advertise => {}
        }
    }

    /// Where a published port leads: to the guest's address of the same kind, if it has shown one.
    fn guest(&self, port: Option<SocketAddr>) -> IpAddr {
        let guest6 = self.link.neighbours.guest6().filter(|_| port.is_some_and(|port| port.is_ipv6()));
        guest6.map_or(self.guest.into(), IpAddr::V6)
    }

    /// A frame from the guest.
    pub(super) fn frame(&mut self, frame: &[u8], offload: Offload, now: Instant) {
        let Ok(frame) = EthernetFrame::new_checked(frame) else { return };
        let to = Mac(frame.dst_addr().0);
        if to != lan::MAC && to.0[0] & 1 == 0 {
            return;
        }
        let mac = Mac(frame.src_addr().0);
        let summed = offload.checksum == Checksum::Present;
        match frame.ethertype() {
            EthernetProtocol::Arp => self.link.arp(frame.payload(), now),
            EthernetProtocol::Ipv4 => self.ipv4(frame.payload(), mac, summed, now),
            EthernetProtocol::Ipv6 => self.ipv6(frame.payload(), mac, summed, now),
            EthernetProtocol::Unknown(_) => {}
        }
    }

    fn ipv4(&mut self, packet: &[u8], mac: Mac, summed: bool, now: Instant) {
        let Ok(packet) = Ipv4Packet::new_checked(packet) else { return };
        if packet.version() != 4 || packet.header_len() < 20 || !packet.verify_checksum() {
            return;
        }
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        let payload = packet.payload();
        if source.is_unspecified() || is_dhcp(packet.next_header(), payload) {
            return self.dhcp(packet.next_header(), payload);
        }
        if !lan::is_guest(source.into()) {
            return;
        }
        self.link.neighbours.learn(source.into(), mac, now);
        let (source, destination) = (source.into(), destination.into());
        let (offset, more) = (usize::from(packet.frag_offset()), packet.more_frags());
        if offset == 0 && !more {
            return self.transport(source, destination, packet.next_header(), payload, summed, now);
        }
        let protocol = packet.next_header();
        let name = Name { source, destination, protocol: protocol.into(), ident: packet.ident().into() };
        if let Some(whole) = self.fragments.add(name, offset, more, payload, now) {
            self.transport(source, destination, protocol, &whole, true, now);
        }
    }

    fn ipv6(&mut self, packet: &[u8], mac: Mac, summed: bool, now: Instant) {
        let Ok(packet) = Ipv6Packet::new_checked(packet) else { return };
        if packet.version() != 6 {
            return;
        }
        let (from, to) = (packet.src_addr(), packet.dst_addr());
        let payload = packet.payload();
        if packet.next_header() == IpProtocol::Icmpv6
            && (payload.first().is_some_and(|kind| (133..138).contains(kind)))
        {
            if packet.hop_limit() == 255 {
                self.ndisc(from, to, mac, payload, now);
            }
            return;
        }
        if !lan::is_guest(from.into()) {
            return;
        }
        self.link.neighbours.learn(from.into(), mac, now);
        let (source, destination) = (from.into(), to.into());
        match (packet.next_header(), payload) {
            (IpProtocol::Ipv6Frag, [protocol, _, high, low, a, b, c, d, piece @ ..]) => {
                let place = u16::from_be_bytes([*high, *low]);
                let ident = u32::from_be_bytes([*a, *b, *c, *d]);
                let name = Name { source, destination, protocol: *protocol, ident };
                let (offset, more) = (usize::from(place & !7), place & 1 != 0);
                if let Some(whole) = self.fragments.add(name, offset, more, piece, now) {
                    self.transport(source, destination, IpProtocol::from(*protocol), &whole, true, now);
                }
            }
            // Extension headers are for routers and hosts that are not here.
            (protocol, payload) => self.transport(source, destination, protocol, payload, summed, now),
        }
    }

    fn ndisc(&mut self, from: Ipv6Addr, to: Ipv6Addr, mac: Mac, message: &[u8], now: Instant) {
        if !Sum::pseudo(from.into(), to.into(), IpProtocol::Icmpv6, message.len()).add(message).is_good() {
            return;
        }
        let Ok(packet) = Icmpv6Packet::new_checked(message) else { return };
        let Ok(message) = NdiscRepr::parse(&packet) else { return };
        self.link.neighbours.learn(from.into(), mac, now);
        self.link.ndisc(from, mac, message, &Advice { search: &self.parts.dhcp.search });
    }

    /// A packet that is whole. If `summed`, its checksum has to be right; else nobody has put one in.
    fn transport(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        protocol: IpProtocol,
        packet: &[u8],
        summed: bool,
        now: Instant,
    ) {
        let good =
            |packet: &[u8]| Sum::pseudo(source, destination, protocol, packet.len()).add(packet).is_good();
        match protocol {
            IpProtocol::Tcp => {
                let Ok(segment) = TcpPacket::new_checked(packet) else { return };
                if destination.is_multicast() || (summed && !good(packet)) {
                    return;
                }
                let guest = SocketAddr::new(source, segment.src_port());
                let remote = SocketAddr::new(destination, segment.dst_port());
                if guest.port() != 0 && remote.port() != 0 {
                    self.parts.tcp.guest(context!(self, now), (guest, remote), &segment);
                }
            }
            IpProtocol::Udp => {
                let Ok(datagram) = UdpPacket::new_checked(packet) else { return };
                // What is behind the datagram's own end is padding. IPv4 may do without a checksum.
                let packet = &packet[..usize::from(datagram.len())];
                let absent = source.is_ipv4() && datagram.checksum() == 0;
                if datagram.dst_port() == 0 || (summed && !absent && !good(packet)) {
                    return;
                }
                let guest = SocketAddr::new(source, datagram.src_port());
                let remote = SocketAddr::new(destination, datagram.dst_port());
                if lan::is_dns(destination) && remote.port() == dns::PORT {
                    self.parts.dns.guest(context!(self, now), guest, destination, datagram.payload());
                } else {
                    self.parts.udp.guest(context!(self, now), (guest, remote), datagram.payload());
                }
            }
            IpProtocol::Icmp if source.is_ipv4() && good(packet) => {
                self.echoes.guest(context!(self, now), source, destination, packet);
            }
            IpProtocol::Icmpv6 if source.is_ipv6() && good(packet) => {
                self.echoes.guest(context!(self, now), source, destination, packet);
            }
            _ => {}
        }
    }

    fn dhcp(&mut self, protocol: IpProtocol, packet: &[u8]) {
        if !is_dhcp(protocol, packet) {
            return;
        }
        let Ok(datagram) = UdpPacket::new_checked(packet) else { return };
        let Some(answer) = self.parts.dhcp.answer(datagram.payload()) else { return };
        if let Some(leased) = answer.leased {
            self.guest = leased;
        }
        let header = udp_header(dhcp::SERVER_PORT, dhcp::CLIENT_PORT, answer.message.len());
        self.link.send_to(answer.mac, lan::GATEWAY.into(), answer.to.into(), udp(&header, &answer.message));
    }
}

fn is_dhcp(protocol: IpProtocol, packet: &[u8]) -> bool {
    protocol == IpProtocol::Udp
        && UdpPacket::new_checked(packet).is_ok_and(|datagram| {
            datagram.dst_port() == dhcp::SERVER_PORT && datagram.src_port() == dhcp::CLIENT_PORT
        })
}
