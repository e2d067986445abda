//! Networks: what lies at the far end of a network card's cable.
//!
//! A network takes and gives whole Ethernet frames, without frame check sequence. What a card can leave to its
//! network, and the other way round, travels beside the frame as an [`Offload`]: the content of
//! `struct virtio_net_hdr` (Virtio 1.2, section 5.1.6), which is also what Linux's tap takes. So a TCP segment of
//! 64 KiB crosses in one piece, and nobody computes a checksum that never meets a wire.
//!
//! [`Network`] is all that a card knows of its network. Back-pressure runs both ways and the same way: who has no
//! room says so at once, keeps nothing, and tells when there is room again.

mod dhcp;
mod error;
mod finish;
mod header;
mod host_only;
mod switch;
mod tap;
pub mod user;

use std::fmt;

use host::Sandbox;

pub use error::NetError;
pub use header::{HEADER_LENGTH, Unknown};
pub use host_only::HostOnly;
pub use switch::Switch;
pub use tap::Tap;

/// The longest frame: an Ethernet header with a VLAN tag, and the longest IP packet.
pub const MAX_FRAME: usize = 18 + 65_535;
/// The packets that every Ethernet carries.
pub const ETHERNET_MTU: u16 = 1500;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

/// The far end of one network card's cable.
///
/// Whoever implements it waits for the host in threads of its own. Dropping it ends them; no handler runs after
/// that.
pub trait Network: Send + Sync {
    /// What the guest may leave undone in the frames it sends.
    fn takes(&self) -> Offloads;

    /// The largest packet in a frame that is no [`Segments`]; what the guest is told, if its driver asks.
    fn mtu(&self) -> u16 {
        ETHERNET_MTU
    }

    /// Begins to call back. Frames sent before are kept or lost, as on a cable nobody has plugged in. A second
    /// call changes nothing.
    fn start(&self, handlers: Handlers) -> Result<(), NetError>;

    /// What may be left undone in the frames the guest receives: nothing at first, and again after a reset; more
    /// once its driver has said what it can do.
    fn guest_takes(&self, offloads: Offloads);

    /// A frame from the guest. Never waits. Says whether it was taken; if not, [`Handlers::drained`] is called
    /// once there is room. A frame that makes no sense is taken and dropped.
    fn send(&self, frame: &[u8], offload: Offload) -> bool;

    /// What this process has to be let do for it once the guest runs.
    fn needs(&self, _sandbox: &mut Sandbox) {}

    /// The card has room again, after [`Handlers::receive`] took nothing. May be called with the card locked.
    fn room(&self);
}

/// See [`Handlers::receive`].
pub type Receive = Box<dyn Fn(&[u8], Offload) -> bool + Send + Sync>;

/// What a network calls, on threads of its own and without a lock of its own.
pub struct Handlers {
    /// A frame for the guest. Says whether it was taken; if not, it is offered again or dropped after
    /// [`Network::room`].
    pub receive: Receive,
    /// [`Network::send`] has room again, after it took nothing.
    pub drained: Box<dyn Fn() + Send + Sync>,
}

/// Which kinds of work one side takes over from the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums of TCP and UDP ([`Checksum::Missing`]). Without it there are none of the others.
    pub checksum: bool,
    /// Cutting TCP over IPv4 into segments.
    pub tcp4: bool,
    /// Cutting TCP over IPv6 into segments.
    pub tcp6: bool,
    /// The two above also where ECN is in use.
    pub ecn: bool,
}

impl Offloads {
    /// Every kind.
    pub const ALL: Self = Self { checksum: true, tcp4: true, tcp6: true, ecn: true };
    /// None.
    pub const NONE: Self = Self { checksum: false, tcp4: false, tcp6: false, ecn: false };
}

/// What is left to do in one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// How its checksum stands.
    pub checksum: Checksum,
    /// Set if it is larger than the wire allows and wants to be cut.
    pub segments: Option<Segments>,
}

/// How a frame's TCP or UDP checksum stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is there and nobody has looked at it.
    #[default]
    Present,
    /// It was found to be good, or the frame never was where it could be damaged (`VIRTIO_NET_HDR_F_DATA_VALID`).
    Verified,
    /// To be computed from `start` to the end and put at `start + offset`, where the pseudo-header's sum stands
    /// (`VIRTIO_NET_HDR_F_NEEDS_CSUM`). The guest's word, which may point outside the frame.
    Missing {
        /// `csum_start`.
        start: u16,
        /// `csum_offset`.
        offset: u16,
    },
}

/// How a frame is to be cut (`gso_type`, `gso_size`, `hdr_len`). The guest's word, to be held against the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// What it is.
    pub kind: SegmentKind,
    /// TCP payload of one segment.
    pub size: u16,
    /// How long the headers are; a hint.
    pub header_len: u16,
    /// ECN is in use.
    pub ecn: bool,
}

/// What can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// `VIRTIO_NET_HDR_GSO_TCPV4`.
    Tcp4,
    /// `VIRTIO_NET_HDR_GSO_TCPV6`.
    Tcp6,
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let wrong = || NetError::Mac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        // The low bit of the first byte marks a group, which no card can be.
        if parts.next().is_some() || bytes[0] & 1 != 0 || bytes == [0; 6] {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handlers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_print() {
        let text = "52:54:00:12:34:56";
        assert_eq!(text.parse::<Mac>().unwrap().to_string(), text);
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52-54-00-12-34-56",
            "5:54:00:12:34:56",
            "+5:54:00:12:34:56",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
        assert!("01:00:5e:00:00:01".parse::<Mac>().is_err(), "a group");
        assert!("00:00:00:00:00:00".parse::<Mac>().is_err());
    }
}
