//! A network of VMs and their host, closed to the outside: a bridge `popf-NAME` with the host's address on it, and a tap
//! of each VM's.
//!
//! The first VM makes the bridge, and gives the host the first address of a network chosen by the name (one of
//! 10.64.0.0/16 to 10.191.0.0/16). A bridge that is there is used as it is, with the address that it has, so that
//! whoever wants another network makes the bridge. It stays when the last VM ends: `ip link del popf-NAME`.
//!
//! There is no DHCP server to be found on the bridge. Each VM's own process answers its guest, by an address that
//! follows from the card's, so that nobody has to run one or keep its leases. That two cards get one address is as
//! likely as that two of some VMs share one of 65,000 birthdays. Nothing leads out: the guest is told of no router and
//! no name server. For IPv6 both sides have their link-local addresses.
//!
//! # Privileges
//! CAP_NET_ADMIN, for bridge and tap. Who has none and wants VMs to talk to each other takes a [`super::Switch`]; who
//! wants the host to reach a guest, a published port of the user network.

use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use host::Sandbox;
use host::interface::Interface;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, UdpPacket};

use super::dhcp::{Answer, CLIENT_PORT, Dhcp, SERVER_PORT, Subnet};
use super::{Handlers, Mac, NetError, Network, Offload, Offloads, Tap};

/// Networks there are to choose from, and the first of them.
const NETWORKS: u32 = 128;
const FIRST_NETWORK: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
const PREFIX: u8 = 16;
/// Where addresses are leased from on; and how many a VM may lease from its own on, see [`super::dhcp`].
const FIRST_LEASE: u32 = 16;
const LEASES: u32 = 64;
/// Who answers, on the wire: local, and "popf".
const SERVER_MAC: Mac = Mac([0x52, 0x70, 0x6f, 0x70, 0x66, 0x03]);

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;

/// One VM's place on a host-only network.
pub struct HostOnly {
    tap: Tap,
    /// `None` in a network that is too small to choose addresses from.
    dhcp: Option<Mutex<Dhcp>>,
}

impl HostOnly {
    /// Joins the network of that name, which is made if it is missing, with the card `mac`.
    pub fn join(name: &str, mac: Mac) -> Result<Self, NetError> {
        let bridge = format!("popf-{name}");
        let refuse = |source| match &source {
            host::HostError::Call { source: error, .. }
                if error.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                NetError::HostOnlyPrivilege
            }
            _ => NetError::Host(source),
        };
        let interface = match Interface::find(&bridge) {
            Some(interface) => interface,
            None => match Interface::create_bridge(&bridge) {
                Ok(interface) => interface,
                // Another VM has been faster, or it cannot be made.
                Err(error) => Interface::find(&bridge).ok_or_else(|| refuse(error))?,
            },
        };
        if interface.address().is_none() {
            interface.set_address(host_address(name), PREFIX).map_err(refuse)?;
        }
        interface.set_up(true).map_err(refuse)?;
        let tap = Tap::on_bridge(&bridge)?;
        let subnet =
            interface.address().zip(interface.prefix()).and_then(|(host, prefix)| subnet(host, prefix, mac));
        let dhcp = subnet.map(|subnet| Mutex::new(Dhcp::new(subnet, None, Vec::new(), tap.mtu())));
        Ok(Self { tap, dhcp })
    }

    /// What is to be answered to a frame that asks for an address.
    fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let dhcp = self.dhcp.as_ref()?;
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        if ethernet.ethertype() != EthernetProtocol::Ipv4 {
            return None;
        }
        let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
        if packet.next_header() != IpProtocol::Udp || packet.more_frags() || packet.frag_offset() != 0 {
            return None;
        }
        let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
        if (datagram.src_port(), datagram.dst_port()) != (CLIENT_PORT, SERVER_PORT) {
            return None;
        }
        let mut dhcp = dhcp.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = dhcp.answer(datagram.payload())?;
        Some(wrap(&answer, dhcp.server()))
    }
}

/// The host's address in the network of that name.
fn host_address(name: &str) -> Ipv4Addr {
    let network = FIRST_NETWORK.to_bits() + ((hash(name.as_bytes()) % NETWORKS) << 16);
    Ipv4Addr::from_bits(network + 1)
}

/// What a card leases in the host's network; `None` if there is no room for a choice.
fn subnet(host: Ipv4Addr, prefix: u8, mac: Mac) -> Option<Subnet> {
    let size = 1_u32.checked_shl(32 - u32::from(prefix))?;
    let choice = size.checked_sub(FIRST_LEASE + LEASES + 1).filter(|choice| *choice > LEASES)?;
    let network = host.to_bits() & !(size - 1);
    let first = Ipv4Addr::from_bits(network + FIRST_LEASE + hash(&mac.0) % choice);
    // The host's own address may lie anywhere in a network that somebody else has made.
    let taken = (first.to_bits()..first.to_bits() + LEASES).contains(&host.to_bits());
    let first = if taken { Ipv4Addr::from_bits(host.to_bits() + 1) } else { first };
    Some(Subnet { server: host, first, prefix, router: None, dns: None })
}

/// FNV-1a, which is fixed for all time.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// An answer as a frame.
fn wrap(answer: &Answer, server: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET + IPV4 + UDP];
    frame.extend_from_slice(&answer.message);
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    ethernet.set_dst_addr(EthernetAddress(answer.mac.0));
    ethernet.set_src_addr(EthernetAddress(SERVER_MAC.0));
    ethernet.set_ethertype(EthernetProtocol::Ipv4);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
    packet.set_version(4);
    packet.set_header_len(IPV4 as u8);
    // A message has some hundred bytes.
    packet.set_total_len((IPV4 + UDP + answer.message.len()) as u16);
    packet.set_hop_limit(64);
    packet.set_next_header(IpProtocol::Udp);
    packet.set_src_addr(server);
    packet.set_dst_addr(answer.to);
    packet.fill_checksum();
    let mut datagram = UdpPacket::new_unchecked(&mut frame[ETHERNET + IPV4..]);
    datagram.set_src_port(SERVER_PORT);
    datagram.set_dst_port(CLIENT_PORT);
    datagram.set_len((UDP + answer.message.len()) as u16);
    datagram.fill_checksum(&server.into(), &answer.to.into());
    frame
}

impl Network for HostOnly {
    fn needs(&self, sandbox: &mut Sandbox) {
        self.tap.needs(sandbox);
    }

    fn takes(&self) -> Offloads {
        self.tap.takes()
    }

    fn mtu(&self) -> u16 {
        self.tap.mtu()
    }

    fn start(&self, handlers: Handlers) -> Result<(), NetError> {
        self.tap.start(handlers)
    }

    fn guest_takes(&self, offloads: Offloads) {
        self.tap.guest_takes(offloads);
    }

    fn send(&self, frame: &[u8], offload: Offload) -> bool {
        match self.answer(frame) {
            Some(answer) => {
                self.tap.deliver(answer);
                true
            }
            None => self.tap.send(frame, offload),
        }
    }

    fn room(&self) {
        self.tap.room();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_from_names_and_cards() {
        let host = host_address("lab");
        assert_eq!((host.octets()[0], host.octets()[3], host), (10, 1, host_address("lab")));
        assert!((64..192).contains(&host.octets()[1]));
        assert_ne!(host, host_address("other"));
        for last in 0..=255 {
            for (host, prefix) in [(host, 16), (Ipv4Addr::new(192, 168, 7, 100), 24), (host, 8)] {
                let leased = subnet(host, prefix, Mac([0x52, 0, 0, 0, 0, last])).unwrap();
                let mask = u32::MAX << (32 - prefix);
                let range = leased.first.to_bits()..leased.first.to_bits() + LEASES;
                assert!(!range.contains(&host.to_bits()), "{leased:?}");
                assert_eq!(
                    (range.start & mask, range.end & mask),
                    (host.to_bits() & mask, host.to_bits() & mask)
                );
            }
        }
        assert!(subnet(host, 26, SERVER_MAC).is_none() && subnet(host, 32, SERVER_MAC).is_none());
    }
}
