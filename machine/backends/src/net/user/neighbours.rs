//! Who has which Ethernet address: ARP (RFC 826) and neighbour discovery (RFC 4861), both ways; and the router's
//! advertisement, which gives the guest its IPv6 network (RFC 4861, 4862, 8106).
//!
//! Not modelled: multicast listener discovery (all of the few groups are flooded), redirects, DHCPv6: what it could
//! tell stands in the advertisement.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, NdiscNeighborFlags, NdiscRepr,
};

use super::lan;
use super::link::{Link, Transport};
use crate::net::Mac;

/// How many addresses are remembered; guests within the guest have some, too.
const MOST: usize = 256;
/// How often somebody is asked where they are.
const ASK_AGAIN: Duration = Duration::from_millis(500);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
const EVERYBODY: Mac = Mac([0xff; 6]);
/// How often the router speaks without being asked; its word is good for [`LIFETIME`].
pub(super) const ADVERTISE: Duration = Duration::from_secs(600);
/// Three times that, as the RFC advises.
const LIFETIME: u16 = 1800;

/// What the guest's stacks have said of themselves.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    known: HashMap<IpAddr, (Mac, Instant)>,
    /// The last one heard of, which nearly every frame is from.
    last: Option<(IpAddr, Mac)>,
    asked: Option<(IpAddr, Instant)>,
    /// The address that the guest has used last of the network's own IPv6 addresses.
    guest6: Option<Ipv6Addr>,
}

impl Neighbours {
    /// Somebody has shown their addresses.
    pub(super) fn learn(&mut self, address: IpAddr, mac: Mac, now: Instant) {
        if self.last == Some((address, mac)) || !lan::is_guest(address) || mac.0[0] & 1 != 0 {
            return;
        }
        if self.known.len() >= MOST
            && !self.known.contains_key(&address)
            && let Some(oldest) =
                self.known.iter().min_by_key(|(_, (_, when))| *when).map(|(address, _)| *address)
        {
            self.known.remove(&oldest);
        }
        self.known.insert(address, (mac, now));
        self.last = Some((address, mac));
        if let IpAddr::V6(address) = address
            && !address.is_unicast_link_local()
        {
            self.guest6 = Some(address);
        }
    }

    pub(super) fn find(&self, address: IpAddr) -> Option<Mac> {
        match self.last {
            Some((last, mac)) if last == address => Some(mac),
            _ => self.known.get(&address).map(|(mac, _)| *mac),
        }
    }

    /// An IPv6 address at which the guest can be called.
    pub(super) fn guest6(&self) -> Option<Ipv6Addr> {
        self.guest6
    }

    /// Whether it is time to ask for this one.
    pub(super) fn may_ask(&mut self, address: IpAddr, now: Instant) -> bool {
        let recently = self.asked.is_some_and(|(asked, when)| asked == address && now < when + ASK_AGAIN);
        if !recently {
            self.asked = Some((address, now));
        }
        !recently
    }
}

impl Link {
    /// Asks who has the address.
    pub(super) fn ask(&mut self, guest: IpAddr) {
        let us = EthernetAddress(lan::MAC.0);
        match guest {
            IpAddr::V4(guest) => {
                let request = ArpRepr::EthernetIpv4 {
                    operation: ArpOperation::Request,
                    source_hardware_addr: us,
                    source_protocol_addr: lan::GATEWAY,
                    target_hardware_addr: EthernetAddress([0; 6]),
                    target_protocol_addr: guest,
                };
                self.send_arp(EVERYBODY, request);
            }
            IpAddr::V6(guest) => {
                let request = NdiscRepr::NeighborSolicit { target_addr: guest, lladdr: Some(us.into()) };
                let [.., a, b, c] = guest.octets();
                // The group of those whose address ends so.
                let group =
                    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
                self.send_ndisc(Mac([0x33, 0x33, 0xff, a, b, c]), lan::ROUTER6, group, request);
            }
        }
    }

    fn send_arp(&mut self, mac: Mac, arp: ArpRepr) {
        let mut bytes = [0; 28];
        arp.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
        self.send_frame(mac, EthernetProtocol::Arp, &bytes);
    }

    fn send_ndisc(&mut self, mac: Mac, from: Ipv6Addr, to: Ipv6Addr, message: NdiscRepr<'_>) {
        let message = Icmpv6Repr::Ndisc(message);
        let mut bytes = vec![0; message.buffer_len()];
        let mut packet = Icmpv6Packet::new_unchecked(&mut bytes[..]);
        message.emit(&from, &to, &mut packet, &ChecksumCapabilities::ignored());
        packet.set_checksum(0);
        self.send_icmp6(mac, from, to, &bytes);
    }

    fn send_icmp6(&mut self, mac: Mac, from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) {
        let transport = Transport {
            protocol: IpProtocol::Icmpv6,
            header: message,
            checksum: 2,
            payload: (&[], &[]),
            cut: None,
        };
        self.send_to(mac, from.into(), to.into(), transport);
    }

    /// An ARP packet from the guest.
    pub(super) fn arp(&mut self, packet: &[u8], now: Instant) {
        let Ok(packet) = ArpPacket::new_checked(packet) else { return };
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        }) = ArpRepr::parse(&packet)
        else {
            return;
        };
        self.neighbours.learn(source_protocol_addr.into(), Mac(source_hardware_addr.0), now);
        // Who looks whether an address is free asks in the name of nobody, and is answered all the same.
        if operation == ArpOperation::Request && lan::is_ours(target_protocol_addr.into()) {
            let answer = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: EthernetAddress(lan::MAC.0),
                source_protocol_addr: target_protocol_addr,
                target_hardware_addr: source_hardware_addr,
                target_protocol_addr: source_protocol_addr,
            };
            self.send_arp(Mac(source_hardware_addr.0), answer);
        }
    }

    /// A message of neighbour discovery from the guest at `source`, whose frame came from `mac`. Such a message may
    /// not have passed a router, so the caller has seen to its hop limit.
    pub(super) fn ndisc(&mut self, source: Ipv6Addr, mac: Mac, message: NdiscRepr<'_>, dns: &Advice<'_>) {
        match message {
            NdiscRepr::NeighborSolicit { target_addr, .. } if lan::is_ours(target_addr.into()) => {
                // Nobody's question is whether the address is free; everybody is to know that it is not.
                let (mac, to, solicited) = match source.is_unspecified() {
                    true => (ALL_NODES_MAC, ALL_NODES, NdiscNeighborFlags::empty()),
                    false => (mac, source, NdiscNeighborFlags::SOLICITED),
                };
                let router = match lan::is_gateway(target_addr.into()) {
                    true => NdiscNeighborFlags::ROUTER,
                    false => NdiscNeighborFlags::empty(),
                };
                let answer = NdiscRepr::NeighborAdvert {
                    flags: NdiscNeighborFlags::OVERRIDE | solicited | router,
                    target_addr,
                    lladdr: Some(EthernetAddress(lan::MAC.0).into()),
                };
                // Some learn from the packet's source instead of what it says.
                self.send_ndisc(mac, target_addr, to, answer);
            }
            NdiscRepr::RouterSolicit { .. } => self.advertise(dns),
            _ => {}
        }
    }

    /// Tells everybody of the router, the network, and the name server.
    pub(super) fn advertise(&mut self, advice: &Advice<'_>) {
        let message = advertisement(self.mtu, advice);
        self.send_icmp6(ALL_NODES_MAC, lan::ROUTER6, ALL_NODES, &message);
    }
}

/// What the router says beyond what is always the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Advice<'a> {
    pub search: &'a [String],
}

/// A router advertisement, its checksum zero. smoltcp's has no name servers, so it is written out here.
fn advertisement(mtu: u16, advice: &Advice<'_>) -> Vec<u8> {
    let lifetime = u32::from(LIFETIME).to_be_bytes();
    let mut message = vec![134, 0, 0, 0, 64, 0];
    message.extend_from_slice(&LIFETIME.to_be_bytes());
    message.extend_from_slice(&[0; 8]);
    // Source link-layer address.
    message.extend_from_slice(&[1, 1]);
    message.extend_from_slice(&lan::MAC.0);
    // MTU.
    message.extend_from_slice(&[5, 1, 0, 0]);
    message.extend_from_slice(&u32::from(mtu).to_be_bytes());
    // Prefix information: on the link, and for addresses of one's own making, for good.
    message.extend_from_slice(&[3, 4, 64, 0xc0]);
    message.extend_from_slice(&[0xff; 8]);
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&lan::PREFIX.octets());
    // Recursive DNS server.
    message.extend_from_slice(&[25, 3, 0, 0]);
    message.extend_from_slice(&lifetime);
    message.extend_from_slice(&lan::DNS6.octets());
    // DNS search list, to a multiple of eight bytes.
    let mut names: Vec<u8> =
        advice.search.iter().flat_map(|name| crate::net::dhcp::encode_name(name)).collect();
    names.resize(names.len().next_multiple_of(8), 0);
    if !names.is_empty() && names.len() < 1024 {
        message.extend_from_slice(&[31, 1 + (names.len() / 8) as u8, 0, 0]);
        message.extend_from_slice(&lifetime);
        message.extend_from_slice(&names);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_remembered_and_the_latest_are() {
        let start = Instant::now();
        let mut neighbours = Neighbours::default();
        let address =
            |index: u32| IpAddr::V6(Ipv6Addr::from_bits(lan::PREFIX.to_bits() | u128::from(0x100 + index)));
        for index in 0..1000 {
            let mac = Mac([2, 0, 0, 0, (index >> 8) as u8, index as u8]);
            neighbours.learn(address(index), mac, start + Duration::from_secs(index.into()));
        }
        assert_eq!(neighbours.known.len(), MOST);
        assert_eq!(neighbours.find(address(999)), Some(Mac([2, 0, 0, 0, 3, 0xe7])));
        assert_eq!(neighbours.find(address(0)), None);
        assert_eq!(neighbours.guest6().map(IpAddr::V6), Some(address(999)));
    }

    #[test]
    fn nobody_is_believed_to_be_us_or_a_group() {
        let now = Instant::now();
        let mut neighbours = Neighbours::default();
        neighbours.learn(lan::GATEWAY.into(), Mac([2; 6]), now);
        neighbours.learn([10, 0, 2, 15].into(), Mac([1, 0, 0x5e, 0, 0, 1]), now);
        neighbours.learn([192, 0, 2, 1].into(), Mac([2; 6]), now);
        assert!(neighbours.known.is_empty());
    }

    #[test]
    fn an_advertisement_is_made_of_whole_units() {
        let search = ["example.org".to_owned(), "a.b".to_owned()];
        for search in [&search[..], &[]] {
            let message = advertisement(1500, &Advice { search });
            let mut options = &message[16..];
            let mut kinds = Vec::new();
            while let [kind, units, ..] = *options {
                kinds.push(kind);
                options = &options[usize::from(units) * 8..];
            }
            let expected: &[u8] = if search.is_empty() { &[1, 5, 3, 25] } else { &[1, 5, 3, 25, 31] };
            assert_eq!(kinds, expected);
        }
    }
}
