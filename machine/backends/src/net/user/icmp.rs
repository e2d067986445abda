//! ICMP and ICMPv6: the gateway's own echo, echo to the outside through ping sockets, and errors told to the guest.
//!
//! A ping socket needs no privilege where `net.ipv4.ping_group_range` has the user's group. Where it does not, the guest
//! is told that echo is filtered, which is the truth.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use host::epoll::Interest;
use smoltcp::wire::IpProtocol;

use super::context::{Context, Key};
use super::lan::{self, Way};
use super::link::{Link, Transport};
use super::slab::{Id, Slab};
use super::timers::Alarm;

/// How long an echo may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many pings run at once; then the one that has been quiet for longest goes.
const MOST: usize = 64;
/// How many answers are read in a row.
const BURST: usize = 16;
/// Of ICMP's header.
const HEADER: usize = 8;

/// Why a packet of the guest's went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    Network,
    Host,
    Port,
    Prohibited,
}

impl Unreachable {
    /// What the host's error says of the way to a peer, if it is about that.
    pub(super) fn of(error: &std::io::Error) -> Option<Self> {
        use std::io::ErrorKind as E;
        match error.kind() {
            E::NetworkUnreachable => Some(Self::Network),
            E::HostUnreachable => Some(Self::Host),
            E::ConnectionRefused => Some(Self::Port),
            E::PermissionDenied => Some(Self::Prohibited),
            _ => None,
        }
    }

    /// Type and code.
    fn code(self, family: IpAddr) -> [u8; 2] {
        match (self, family) {
            (Self::Network, IpAddr::V4(_)) => [3, 0],
            (Self::Host, IpAddr::V4(_)) => [3, 1],
            (Self::Port, IpAddr::V4(_)) => [3, 3],
            (Self::Prohibited, IpAddr::V4(_)) => [3, 13],
            (Self::Network, IpAddr::V6(_)) => [1, 0],
            (Self::Host, IpAddr::V6(_)) => [1, 3],
            (Self::Port, IpAddr::V6(_)) => [1, 4],
            (Self::Prohibited, IpAddr::V6(_)) => [1, 1],
        }
    }
}

/// The packet an error is about: enough of it that the guest finds the socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Culprit {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: IpProtocol,
    /// The first bytes of the transport's header: ports, and a number or a length.
    pub start: [u8; 8],
}

impl Culprit {
    /// A packet from its transport on.
    pub(super) fn new(source: IpAddr, destination: IpAddr, protocol: IpProtocol, packet: &[u8]) -> Self {
        let mut start = [0; 8];
        let len = packet.len().min(8);
        start[..len].copy_from_slice(&packet[..len]);
        Self { source, destination, protocol, start }
    }

    /// A packet between two ports, `rest` being what follows them.
    pub(super) fn between(
        source: SocketAddr,
        destination: SocketAddr,
        protocol: IpProtocol,
        rest: u32,
    ) -> Self {
        let mut start = [0; 8];
        start[..2].copy_from_slice(&source.port().to_be_bytes());
        start[2..4].copy_from_slice(&destination.port().to_be_bytes());
        start[4..].copy_from_slice(&rest.to_be_bytes());
        Self { source: source.ip(), destination: destination.ip(), protocol, start }
    }

    /// As it stood in the packet, as far as anybody looks at it.
    fn quote(&self) -> Vec<u8> {
        let mut quote = Vec::with_capacity(48);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                quote.extend_from_slice(&[0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, u8::from(self.protocol), 0, 0]);
                quote.extend_from_slice(&source.octets());
                quote.extend_from_slice(&destination.octets());
                let sum = super::sum::Sum::default().add(&quote).finish();
                quote[10..12].copy_from_slice(&sum);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                quote.extend_from_slice(&[0x60, 0, 0, 0, 0, 8, u8::from(self.protocol), 64]);
                quote.extend_from_slice(&source.octets());
                quote.extend_from_slice(&destination.octets());
            }
            _ => {}
        }
        quote.extend_from_slice(&self.start);
        quote
    }
}

impl Link {
    /// Tells the guest that a packet of its own did not get through.
    pub(super) fn unreachable(&mut self, culprit: &Culprit, why: Unreachable, now: Instant) {
        // Nobody is told about a packet that was not meant for one host (RFC 1122, section 3.2.2).
        let Culprit { source, destination, .. } = *culprit;
        let broadcast = match destination {
            IpAddr::V4(address) => address.is_broadcast() || address == lan::BROADCAST,
            IpAddr::V6(_) => false,
        };
        if destination.is_multicast() || broadcast || destination.is_unspecified() {
            return;
        }
        let gateway = if source.is_ipv4() { lan::GATEWAY.into() } else { lan::GATEWAY6.into() };
        let [kind, code] = why.code(source);
        let header = [kind, code, 0, 0, 0, 0, 0, 0];
        self.send_icmp(gateway, source, &header, &culprit.quote(), now);
    }

    fn send_icmp(&mut self, from: IpAddr, guest: IpAddr, header: &[u8; HEADER], data: &[u8], now: Instant) {
        let transport = Transport {
            protocol: if guest.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 },
            header,
            checksum: 2,
            payload: (data, &[]),
            cut: None,
        };
        self.send(from, guest, transport, now);
    }
}

/// Types of an echo's question and answer.
fn echo_types(family: IpAddr) -> (u8, u8) {
    match family {
        IpAddr::V4(_) => (8, 0),
        IpAddr::V6(_) => (128, 129),
    }
}

/// One ping of the guest's: who, whom, and with which identifier.
type Name = (IpAddr, IpAddr, u16);

/// Pings on their way.
#[derive(Default)]
pub(super) struct Echoes {
    flows: Slab<Echo>,
    names: HashMap<Name, Id>,
}

struct Echo {
    name: Name,
    socket: UdpSocket,
    last: Instant,
    alarm: Alarm,
}

impl Echoes {
    /// An ICMP message from the guest, which has been found whole.
    pub(super) fn guest(
        &mut self,
        context: &mut Context<'_>,
        source: IpAddr,
        target: IpAddr,
        message: &[u8],
    ) {
        let Some((header, data)) = message.split_first_chunk::<HEADER>() else { return };
        let (question, answer) = echo_types(source);
        if header[0] != question || header[1] != 0 {
            return;
        }
        if lan::is_ours(target) {
            let header = [answer, 0, 0, 0, header[4], header[5], header[6], header[7]];
            return context.link.send_icmp(target, source, &header, data, context.now);
        }
        let why = match context.lan.way(target) {
            Way::To(_) => match self.forward(context, (source, target, word(header, 4)), message) {
                Ok(()) => return,
                Err(error) => Unreachable::of(&error),
            },
            Way::Forbidden => Some(Unreachable::Prohibited),
            Way::Dns | Way::Nowhere => Some(Unreachable::Network),
        };
        if let Some(why) = why {
            let protocol = if source.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
            let culprit = Culprit::new(source, target, protocol, message);
            context.link.unreachable(&culprit, why, context.now);
        }
    }

    fn forward(&mut self, context: &mut Context<'_>, name: Name, message: &[u8]) -> std::io::Result<()> {
        let id = match self.names.get(&name) {
            Some(id) => *id,
            None => self.open(context, name)?,
        };
        let Some(echo) = self.flows.get_mut(id) else { return Ok(()) };
        echo.last = context.now;
        context.timers.set(&mut echo.alarm, Key::Echo(id), Some(context.now + PATIENCE));
        echo.socket.send(message).map(|_| ())
    }

    fn open(&mut self, context: &mut Context<'_>, name: Name) -> std::io::Result<Id> {
        let socket = host::socket::ping(name.1)?;
        socket.connect(SocketAddr::new(name.1, 0))?;
        if self.flows.len() >= MOST
            && let Some(oldest) = self.flows.iter().min_by_key(|(_, echo)| echo.last).map(|(id, _)| id)
        {
            self.remove(oldest);
        }
        let echo = Echo { name, socket, last: context.now, alarm: Alarm::default() };
        let id = self.flows.insert(echo);
        self.names.insert(name, id);
        if let Some(echo) = self.flows.get(id) {
            context
                .epoll
                .add(&echo.socket, Key::Echo(id).token(), Interest::Readable)
                .map_err(std::io::Error::other)?;
        }
        Ok(id)
    }

    /// Answers have come, or an error.
    pub(super) fn ready(&mut self, context: &mut Context<'_>, id: Id, buffer: &mut [u8]) {
        let Some(echo) = self.flows.get(id) else { return };
        let (guest, target, ident) = echo.name;
        for _ in 0..BURST {
            match echo.socket.recv(buffer) {
                Ok(len) => {
                    let Some((header, data)) = buffer[..len].split_first_chunk::<HEADER>() else { continue };
                    if header[0] != echo_types(target).1 {
                        continue;
                    }
                    // The identifier was the socket's on the way.
                    let [high, low] = ident.to_be_bytes();
                    let header = [header[0], 0, 0, 0, high, low, header[6], header[7]];
                    context.link.send_icmp(target, guest, &header, data, context.now);
                }
                Err(error) => {
                    if let Some(why) = Unreachable::of(&error) {
                        let protocol = if guest.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
                        let [high, low] = ident.to_be_bytes();
                        let start = [echo_types(guest).0, 0, 0, 0, high, low, 0, 0];
                        let culprit = Culprit::new(guest, target, protocol, &start);
                        context.link.unreachable(&culprit, why, context.now);
                    }
                    break;
                }
            }
        }
    }

    /// Whether there still is such a one.
    pub(super) fn knows(&self, id: Id) -> bool {
        self.flows.get(id).is_some()
    }

    pub(super) fn timer(&mut self, context: &mut Context<'_>, id: Id, when: Instant) {
        let Some(echo) = self.flows.get_mut(id) else { return };
        if context.timers.due(&mut echo.alarm, Key::Echo(id), when, context.now) {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: Id) {
        if let Some(echo) = self.flows.remove(id) {
            self.names.remove(&echo.name);
        }
    }
}

fn word(header: &[u8; HEADER], place: usize) -> u16 {
    u16::from_be_bytes([header[place], header[place + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::user::sum::Sum;

    #[test]
    fn a_quote_is_a_packet_the_guest_knows() {
        let (source, destination) = ("10.0.2.15:1024".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
        let quote = Culprit::between(source, destination, IpProtocol::Tcp, 7).quote();
        assert!(Sum::default().add(&quote[..20]).is_good());
        assert_eq!(&quote[12..], [10, 0, 2, 15, 192, 0, 2, 1, 4, 0, 0, 80, 0, 0, 0, 7]);
        let (source, destination) = ("[fd00::5]:1024".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap());
        let quote = Culprit::between(source, destination, IpProtocol::Udp, 7).quote();
        assert_eq!((quote.len(), quote[0], quote[6]), (48, 0x60, 17));
    }
}
