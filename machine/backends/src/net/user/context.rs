//! What every part of the network works with.

use std::net::SocketAddr;
use std::time::Instant;

use host::Epoll;

use super::lan::Lan;
use super::link::Link;
use super::slab::Id;
use super::timers::Timers;

/// Lent to whichever part has something to do.
pub(super) struct Context<'a> {
    pub now: Instant,
    pub link: &'a mut Link,
    pub epoll: &'a Epoll,
    pub timers: &'a mut Timers<Key>,
    pub lan: Lan,
    /// The name server to ask just now.
    pub resolver: SocketAddr,
}

/// Who is called, by a descriptor or by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// The card's side has something.
    Inbox,
    /// The router's advertisement is due.
    Advertise,
    Tcp(Id),
    Udp(Id),
    Echo(Id),
    Dns(Id),
    /// A published TCP port, by its place in the list; by time, all of them.
    TcpPort(u32),
    /// A published UDP port.
    UdpPort(u32),
}

impl Key {
    /// As epoll keeps it: the kind above, the name below.
    pub(super) fn token(self) -> u64 {
        let (kind, name) = match self {
            Self::Inbox => (0, 0),
            Self::Advertise => (1, 0),
            Self::Tcp(id) => (2, id.to_bits()),
            Self::Udp(id) => (3, id.to_bits()),
            Self::Echo(id) => (4, id.to_bits()),
            Self::Dns(id) => (5, id.to_bits()),
            Self::TcpPort(index) => (6, u64::from(index)),
            Self::UdpPort(index) => (7, u64::from(index)),
        };
        kind << 56 | name
    }

    /// Back from a token of ours.
    pub(super) fn from_token(token: u64) -> Self {
        let id = Id::from_bits(token);
        match token >> 56 {
            0 => Self::Inbox,
            2 => Self::Tcp(id),
            3 => Self::Udp(id),
            4 => Self::Echo(id),
            5 => Self::Dns(id),
            6 => Self::TcpPort(token as u32),
            7 => Self::UdpPort(token as u32),
            _ => Self::Advertise,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_back() {
        let id = Id::from_bits(0x00ab_cdef_1234_5678);
        for key in [
            Key::Inbox,
            Key::Advertise,
            Key::Tcp(id),
            Key::Udp(id),
            Key::Echo(id),
            Key::Dns(id),
            Key::TcpPort(7),
            Key::UdpPort(8),
        ] {
            assert_eq!(Key::from_token(key.token()), key);
        }
    }
}
