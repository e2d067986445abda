//! The DHCP server (RFC 2131, 2132, 3397).
//!
//! The guest gets the address it always gets; further cards or guests within the guest get the ones after it. A lease
//! is a promise about a table that nobody else writes, so there is nothing to check, to expire or to save.
//!
//! The user network has one for all it leases, a host-only network one in each VM, for that VM's card.

use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpMessageType, DhcpOpCode, DhcpPacket};

use super::Mac;

pub(super) const SERVER_PORT: u16 = 67;
pub(super) const CLIENT_PORT: u16 = 68;
/// How many addresses are leased; then the one that was given first is given again.
const LEASES: usize = 64;
const LEASE_TIME: u32 = 86_400;
/// Where the options begin.
const OPTIONS: usize = 240;
/// Replies of less are thrown away by some clients, as BOOTP's were never shorter.
const SHORTEST: usize = 300;

const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// The network in which addresses are leased.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subnet {
    /// Who leases them.
    pub server: Ipv4Addr,
    /// The first that is leased.
    pub first: Ipv4Addr,
    /// Bits that all addresses share.
    pub prefix: u8,
    /// The way out, if there is one.
    pub router: Option<Ipv4Addr>,
    /// Who answers questions about names.
    pub dns: Option<Ipv4Addr>,
}

impl Subnet {
    fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0))
    }

    fn broadcast(&self) -> Ipv4Addr {
        self.server | !self.mask()
    }
}

/// The server, with what it tells beyond addresses.
#[derive(Clone, Debug)]
pub(super) struct Dhcp {
    subnet: Subnet,
    pub hostname: Option<String>,
    pub search: Vec<String>,
    pub mtu: u16,
    /// Who has which address, by place.
    leases: Vec<Mac>,
    next: usize,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub mac: Mac,
    pub to: Ipv4Addr,
    pub message: Vec<u8>,
    /// The address that is the client's from now on.
    pub leased: Option<Ipv4Addr>,
}

impl Dhcp {
    pub(super) fn new(subnet: Subnet, hostname: Option<String>, search: Vec<String>, mtu: u16) -> Self {
        Self { subnet, hostname, search, mtu, leases: Vec::new(), next: 0 }
    }

    /// Who leases.
    pub(super) fn server(&self) -> Ipv4Addr {
        self.subnet.server
    }

    fn lease(&mut self, mac: Mac) -> Ipv4Addr {
        let place = self.leases.iter().position(|other| *other == mac).unwrap_or_else(|| {
            let place = self.next;
            self.next = (self.next + 1) % LEASES;
            match self.leases.get_mut(place) {
                Some(old) => *old = mac,
                None => self.leases.push(mac),
            }
            place
        });
        Ipv4Addr::from_bits(self.subnet.first.to_bits() + place as u32)
    }

    /// Answers a client's message, if it wants an answer.
    pub(super) fn answer(&mut self, message: &[u8]) -> Option<Answer> {
        let packet = DhcpPacket::new_checked(message).ok()?;
        if packet.opcode() != DhcpOpCode::Request
            || packet.hardware_len() != 6
            || packet.magic_number() != u32::from_be_bytes(COOKIE)
        {
            return None;
        }
        let option = |kind| packet.options().find(|option| option.kind == kind).map(|option| option.data);
        let address = |kind| option(kind).and_then(|data| <[u8; 4]>::try_from(data).ok()).map(Ipv4Addr::from);
        let kind = DhcpMessageType::from(*option(53)?.first()?);
        if address(54).is_some_and(|server| server != self.subnet.server) {
            return None;
        }
        let mac = Mac(packet.client_hardware_address().0);
        let client = packet.client_ip();
        let ours = self.lease(mac);
        let reply = match kind {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            DhcpMessageType::Request => {
                let wanted = address(50).unwrap_or(client);
                if wanted == ours { DhcpMessageType::Ack } else { DhcpMessageType::Nak }
            }
            DhcpMessageType::Inform => DhcpMessageType::Ack,
            _ => return None,
        };
        let leased = (reply != DhcpMessageType::Nak && kind != DhcpMessageType::Inform).then_some(ours);
        let to = if client.is_unspecified() || reply == DhcpMessageType::Nak {
            Ipv4Addr::BROADCAST
        } else {
            client
        };
        // A client without an address yet hears what is sent to its card, unless it says that it does not.
        let broadcast = message[10] & 0x80 != 0 || reply == DhcpMessageType::Nak;
        let mac = if broadcast && to.is_broadcast() { Mac([0xff; 6]) } else { mac };
        let message = self.message(message, reply, leased);
        Some(Answer { mac, to, message, leased: leased.filter(|_| reply == DhcpMessageType::Ack) })
    }

    /// smoltcp's writer has too few options, so it is written out here.
    fn message(&self, request: &[u8], kind: DhcpMessageType, leased: Option<Ipv4Addr>) -> Vec<u8> {
        let mut message = vec![0; OPTIONS];
        // Everything is the client's own, but for the operation, the seconds and the addresses.
        message[..44].copy_from_slice(&request[..44]);
        message[0] = 2;
        message[8..10].fill(0);
        if kind == DhcpMessageType::Nak {
            message[12..16].fill(0);
        }
        message[16..20].copy_from_slice(&leased.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        message[20..24].copy_from_slice(&self.subnet.server.octets());
        message[236..240].copy_from_slice(&COOKIE);
        let mut option = |kind: u8, data: &[u8]| {
            message.extend_from_slice(&[kind, data.len() as u8]);
            message.extend_from_slice(data);
        };
        option(53, &[u8::from(kind)]);
        option(54, &self.subnet.server.octets());
        if kind != DhcpMessageType::Nak {
            if leased.is_some() {
                option(51, &LEASE_TIME.to_be_bytes());
            }
            option(1, &self.subnet.mask().octets());
            option(28, &self.subnet.broadcast().octets());
            if let Some(router) = self.subnet.router {
                option(3, &router.octets());
            }
            if let Some(dns) = self.subnet.dns {
                option(6, &dns.octets());
            }
            option(26, &self.mtu.to_be_bytes());
            if let Some(name) = self.hostname.as_deref().filter(|name| (1..=63).contains(&name.len())) {
                option(12, name.as_bytes());
            }
            if let Some(domain) = self.search.first().filter(|name| name.len() <= 255) {
                option(15, domain.as_bytes());
            }
            let mut search = Vec::new();
            for name in self.search.iter().map(|name| encode_name(name)) {
                if search.len() + name.len() <= 255 {
                    search.extend_from_slice(&name);
                }
            }
            if !search.is_empty() {
                option(119, &search);
            }
        }
        message.push(255);
        if message.len() < SHORTEST {
            message.resize(SHORTEST, 0);
        }
        message
    }
}

/// A name in the form of DNS; nothing, if it is no name.
pub(super) fn encode_name(name: &str) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        if !(1..=63).contains(&label.len()) {
            return Vec::new();
        }
        encoded.push(label.len() as u8);
        encoded.extend_from_slice(label.as_bytes());
    }
    encoded.push(0);
    if encoded.len() > 255 { Vec::new() } else { encoded }
}

#[cfg(test)]
#[path = "dhcp_tests.rs"]
mod tests;
