//! The guest's network: its addresses, and where an address leads.
//!
//! | IPv4 | IPv6 | |
//! | --- | --- | --- |
//! | 10.0.2.0/24 | fd00:706f:7066::/64 | the network |
//! | 10.0.2.2 | fd00:706f:7066::2, fe80::2 | the gateway; its ports are the host's own, those of its loopback |
//! | 10.0.2.3 | fd00:706f:7066::3 | the name server |
//! | 10.0.2.15 | by SLAAC | the guest |
//!
//! The IPv4 addresses are those of QEMU's user network, so that what has been written down somewhere stays true.
//! Everything else leads outside, as long as it names one host there. What names this host by another way than the
//! gateway (loopback in all its spellings, the unspecified address) leads nowhere: it would be a way around
//! [`Lan::host`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::Mac;

pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(super) const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The first that is leased.
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub(super) const PREFIX_LENGTH: u8 = 24;
pub(super) const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 255);
/// A local prefix (RFC 4193), "popf" written where chance should be.
pub(super) const PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x706f, 0x7066, 0, 0, 0, 0, 0);
pub(super) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x706f, 0x7066, 0, 0, 0, 0, 2);
pub(super) const DNS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x706f, 0x7066, 0, 0, 0, 0, 3);
/// The gateway as a router speaks of itself.
pub(super) const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// Gateway and name server on the wire: local, and "popf" again.
pub(super) const MAC: Mac = Mac([0x52, 0x70, 0x6f, 0x70, 0x66, 0x02]);

/// What the guest may reach.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lan {
    /// The host's own loopback, by the gateway's address.
    pub host: bool,
    /// Everything else.
    pub outside: bool,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To this address, from a socket of the host's.
    To(IpAddr),
    /// To the name server.
    Dns,
    /// It may not be gone.
    Forbidden,
    /// There is nothing to be sent to.
    Nowhere,
}

impl Lan {
    /// Where a packet to `address` goes.
    pub(super) fn way(&self, address: IpAddr) -> Way {
        match address {
            _ if is_dns(address) => Way::Dns,
            _ if is_gateway(address) && !self.host => Way::Forbidden,
            IpAddr::V4(_) if is_gateway(address) => Way::To(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(_) if is_gateway(address) => Way::To(Ipv6Addr::LOCALHOST.into()),
            _ if !is_outside(address) => Way::Nowhere,
            _ if !self.outside => Way::Forbidden,
            _ => Way::To(address),
        }
    }

    /// As whom `guest` sees a peer that came by a published port: as itself, if that is an address outside and of
    /// the guest's kind, else as the gateway.
    pub(super) fn seen(peer: SocketAddr, guest: SocketAddr) -> SocketAddr {
        let ip = peer.ip().to_canonical();
        let ip = match guest {
            _ if is_outside(ip) && ip.is_ipv4() == guest.is_ipv4() => ip,
            SocketAddr::V4(_) => GATEWAY.into(),
            SocketAddr::V6(_) => GATEWAY6.into(),
        };
        SocketAddr::new(ip, peer.port())
    }
}

pub(super) fn is_gateway(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address == GATEWAY,
        IpAddr::V6(address) => address == GATEWAY6 || address == ROUTER6,
    }
}

pub(super) fn is_dns(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address == DNS,
        IpAddr::V6(address) => address == DNS6,
    }
}

/// Whether it is one of ours.
pub(super) fn is_ours(address: IpAddr) -> bool {
    is_gateway(address) || is_dns(address)
}

/// Whether a guest can have it.
pub(super) fn is_guest(address: IpAddr) -> bool {
    let inside = match address {
        IpAddr::V4(address) => is_inside(address) && address != BROADCAST && address.octets()[3] != 0,
        IpAddr::V6(address) => is_inside6(address) || address.is_unicast_link_local(),
    };
    inside && !is_ours(address)
}

fn is_inside(address: Ipv4Addr) -> bool {
    address.octets()[..3] == GATEWAY.octets()[..3]
}

fn is_inside6(address: Ipv6Addr) -> bool {
    address.segments()[..4] == PREFIX.segments()[..4]
}

/// Whether it names one host outside.
fn is_outside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            // 0/8 is this host, 127/8 too; from 224 on there are groups, reserved addresses and the broadcast.
            !matches!(first, 0 | 127 | 224..) && !is_inside(address)
        }
        // What is not global or local unicast is loopback, link-local, a group, or IPv4 in disguise.
        IpAddr::V6(address) => {
            matches!(address.segments()[0] >> 12, 2 | 3)
                || (address.segments()[0] & 0xfe00 == 0xfc00 && !is_inside6(address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(lan: Lan, address: &str) -> Way {
        lan.way(address.parse().unwrap())
    }

    #[test]
    fn only_the_gateway_leads_to_the_host() {
        let open = Lan { host: true, outside: true };
        assert_eq!(way(open, "10.0.2.2"), Way::To(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(way(open, "fd00:706f:7066::2"), Way::To(Ipv6Addr::LOCALHOST.into()));
        for address in ["10.0.2.3", "fd00:706f:7066::3"] {
            assert_eq!(way(open, address), Way::Dns);
        }
        for address in ["192.0.2.1", "10.0.3.2", "8.8.8.8", "2001:db8::1", "fd00::2", "fc00::1"] {
            assert_eq!(way(open, address), Way::To(address.parse().unwrap()));
            assert_eq!(way(Lan { outside: false, ..open }, address), Way::Forbidden);
        }
        for address in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.2.77",
            "10.0.2.255",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "fe80::1",
            "ff02::1",
            "fd00:706f:7066::9",
        ] {
            assert_eq!(way(open, address), Way::Nowhere, "{address}");
        }
        let shut = Lan { host: false, ..open };
        assert_eq!(way(shut, "10.0.2.2"), Way::Forbidden);
        assert_eq!(way(shut, "fe80::2"), Way::Forbidden);
    }

    #[test]
    fn local_peers_look_like_the_gateway() {
        let (four, six) = ("10.0.2.15:80", "[fd00:706f:7066::15]:80");
        for (peer, guest, seen) in [
            ("127.0.0.1:5", four, "10.0.2.2:5"),
            ("10.0.2.15:5", four, "10.0.2.2:5"),
            ("[::1]:5", six, "[fd00:706f:7066::2]:5"),
            ("[::1]:5", four, "10.0.2.2:5"),
            ("[::ffff:127.0.0.1]:5", four, "10.0.2.2:5"),
            ("[fe80::5]:5", six, "[fd00:706f:7066::2]:5"),
            ("192.0.2.7:5", four, "192.0.2.7:5"),
            ("192.0.2.7:5", six, "[fd00:706f:7066::2]:5"),
            ("[::ffff:192.0.2.7]:5", four, "192.0.2.7:5"),
            ("[2001:db8::7]:5", six, "[2001:db8::7]:5"),
            ("[2001:db8::7]:5", four, "10.0.2.2:5"),
        ] {
            let found = Lan::seen(peer.parse().unwrap(), guest.parse().unwrap());
            assert_eq!(found, seen.parse().unwrap(), "{peer}");
        }
    }

    #[test]
    fn guests_have_addresses_of_the_network() {
        for (address, guest) in [
            ("10.0.2.15", true),
            ("10.0.2.2", false),
            ("10.0.2.255", false),
            ("10.0.2.0", false),
            ("10.0.3.1", false),
            ("fd00:706f:7066::15", true),
            ("fd00:706f:7066::3", false),
            ("fe80::15", true),
            ("fe80::2", false),
            ("::1", false),
        ] {
            assert_eq!(is_guest(address.parse().unwrap()), guest, "{address}");
        }
    }
}
