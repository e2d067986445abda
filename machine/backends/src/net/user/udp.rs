//! UDP: a host socket for each pair of addresses the guest speaks between, until nothing has been said for a while.
//!
//! Sockets are connected, so that the host's kernel keeps strangers out and says who refuses. A peer that the guest
//! has not spoken to cannot reach it, and each peer sees a port of its own: of the kinds of NAT, a symmetric one.
//! Only a published port is open to everybody who may reach it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use host::epoll::Interest;
use smoltcp::wire::{IpProtocol, UdpPacket};

use super::context::{Context, Key};
use super::icmp::{Culprit, Unreachable};
use super::lan::{Lan, Way};
use super::link::{Link, Transport};
use super::slab::{Id, Slab};
use super::timers::Alarm;

/// How long both may be silent. What expects an answer later than that sends something now and then.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many datagrams are read in a row before others have their turn.
const BURST: usize = 64;
/// The smallest of the ports given to peers whose own is taken.
const EPHEMERAL: u16 = 49_152;

/// Between whom: the guest's address, and the other's as the guest sees it.
type Name = (SocketAddr, SocketAddr);

/// All flows.
pub(super) struct Udp {
    flows: Slab<Flow>,
    names: HashMap<Name, Id>,
    /// Peers of published ports, by port.
    peers: HashMap<(u32, SocketAddr), Id>,
    ports: Vec<(UdpSocket, u16)>,
    most: usize,
}

struct Flow {
    name: Name,
    path: Path,
    last: Instant,
    alarm: Alarm,
}

enum Path {
    /// The guest spoke first.
    Out(UdpSocket),
    /// Somebody spoke to a published port.
    In { port: u32, peer: SocketAddr },
}

impl Udp {
    /// With published ports and what each leads to. At most `most` flows are kept; then the one that has been quiet
    /// for longest goes.
    pub(super) fn new(ports: Vec<(UdpSocket, u16)>, most: usize) -> Self {
        Self { flows: Slab::default(), names: HashMap::new(), peers: HashMap::new(), ports, most }
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = &UdpSocket> {
        self.ports.iter().map(|(socket, _)| socket)
    }

    /// A datagram from the guest.
    pub(super) fn guest(&mut self, context: &mut Context<'_>, name: Name, payload: &[u8]) {
        if let Err(why) = self.forward(context, name, payload) {
            let length = (8 + payload.len() as u32) << 16;
            let culprit = Culprit::between(name.0, name.1, IpProtocol::Udp, length);
            context.link.unreachable(&culprit, why, context.now);
        }
    }

    fn forward(&mut self, context: &mut Context<'_>, name: Name, payload: &[u8]) -> Result<(), Unreachable> {
        let id = match self.names.get(&name) {
            Some(id) => *id,
            None => {
                let target = match context.lan.way(name.1.ip()) {
                    Way::To(address) => SocketAddr::new(address, name.1.port()),
                    // Names are asked for at its one port, which is not ours.
                    Way::Dns => return Err(Unreachable::Port),
                    Way::Forbidden => return Err(Unreachable::Prohibited),
                    Way::Nowhere => return Err(Unreachable::Network),
                };
                match self.open(context, name, target) {
                    Ok(id) => id,
                    Err(error) => return Unreachable::of(&error).map_or(Ok(()), Err),
                }
            }
        };
        let Some(flow) = self.flows.get_mut(id) else { return Ok(()) };
        flow.last = context.now;
        context.timers.set(&mut flow.alarm, Key::Udp(id), Some(context.now + PATIENCE));
        let sent = match &flow.path {
            Path::Out(socket) => socket.send(payload),
            Path::In { port, peer } => self.ports[*port as usize].0.send_to(payload, peer),
        };
        // What the host has no room for is lost, as on any network. A refusal is of an earlier datagram.
        match sent {
            Err(error) => Unreachable::of(&error).map_or(Ok(()), Err),
            Ok(_) => Ok(()),
        }
    }

    fn open(&mut self, context: &mut Context<'_>, name: Name, target: SocketAddr) -> io::Result<Id> {
        self.make_room();
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(target)?;
        let id = self.insert(context, name, Path::Out(socket));
        if let Some(Flow { path: Path::Out(socket), .. }) = self.flows.get(id) {
            context.epoll.add(socket, Key::Udp(id).token(), Interest::Readable).map_err(io::Error::other)?;
        }
        Ok(id)
    }

    fn insert(&mut self, context: &mut Context<'_>, name: Name, path: Path) -> Id {
        let id = self.flows.insert(Flow { name, path, last: context.now, alarm: Alarm::default() });
        self.names.insert(name, id);
        if let Some(flow) = self.flows.get_mut(id) {
            context.timers.set(&mut flow.alarm, Key::Udp(id), Some(context.now + PATIENCE));
        }
        id
    }

    fn make_room(&mut self) {
        if self.flows.len() >= self.most
            && let Some(oldest) = self.flows.iter().min_by_key(|(_, flow)| flow.last).map(|(id, _)| id)
        {
            self.remove(oldest);
        }
    }

    /// The peer of a flow has sent something, or refuses.
    pub(super) fn ready(&mut self, context: &mut Context<'_>, id: Id, buffer: &mut [u8]) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Path::Out(socket) = &flow.path else { return };
        let (guest, remote) = flow.name;
        for _ in 0..BURST {
            match socket.recv(buffer) {
                Ok(len) => {
                    flow.last = context.now;
                    context.timers.set(&mut flow.alarm, Key::Udp(id), Some(context.now + PATIENCE));
                    context.link.send_udp(remote, guest, &buffer[..len], context.now);
                }
                Err(error) => {
                    if let Some(why) = Unreachable::of(&error) {
                        let culprit = Culprit::between(guest, remote, IpProtocol::Udp, 8 << 16);
                        context.link.unreachable(&culprit, why, context.now);
                    }
                    break;
                }
            }
        }
    }

    /// Somebody has sent something to a published port.
    pub(super) fn port_ready(
        &mut self,
        context: &mut Context<'_>,
        port: u32,
        guest: IpAddr,
        buffer: &mut [u8],
    ) {
        for _ in 0..BURST {
            let Some((socket, guest_port)) = self.ports.get(port as usize) else { return };
            let guest_port = *guest_port;
            // What an earlier answer ran into is reported here, too, and concerns nobody.
            let Ok((len, peer)) = socket.recv_from(buffer) else { return };
            let id = match self.peers.get(&(port, peer)) {
                Some(id) => *id,
                None => match self.admit(context, port, SocketAddr::new(guest, guest_port), peer) {
                    Some(id) => id,
                    None => continue,
                },
            };
            let Some(flow) = self.flows.get_mut(id) else { continue };
            flow.last = context.now;
            context.timers.set(&mut flow.alarm, Key::Udp(id), Some(context.now + PATIENCE));
            let (guest, remote) = flow.name;
            context.link.send_udp(remote, guest, &buffer[..len], context.now);
        }
    }

    /// A flow for a new peer of a published port.
    fn admit(
        &mut self,
        context: &mut Context<'_>,
        port: u32,
        guest: SocketAddr,
        peer: SocketAddr,
    ) -> Option<Id> {
        let seen = Lan::seen(peer, guest);
        let free = |port: &u16| !self.names.contains_key(&(guest, SocketAddr::new(seen.ip(), *port)));
        let source = std::iter::once(seen.port()).chain(EPHEMERAL..=u16::MAX).find(free)?;
        self.make_room();
        let name = (guest, SocketAddr::new(seen.ip(), source));
        let id = self.insert(context, name, Path::In { port, peer });
        self.peers.insert((port, peer), id);
        Some(id)
    }

    /// Whether there still is such a one.
    pub(super) fn knows(&self, id: Id) -> bool {
        self.flows.get(id).is_some()
    }

    pub(super) fn timer(&mut self, context: &mut Context<'_>, id: Id, when: Instant) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if context.timers.due(&mut flow.alarm, Key::Udp(id), when, context.now) {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: Id) {
        let Some(flow) = self.flows.remove(id) else { return };
        self.names.remove(&flow.name);
        if let Path::In { port, peer } = flow.path {
            self.peers.remove(&(port, peer));
        }
    }
}

impl Link {
    /// Sends the guest a datagram.
    pub(super) fn send_udp(&mut self, from: SocketAddr, guest: SocketAddr, payload: &[u8], now: Instant) {
        let header = udp_header(from.port(), guest.port(), payload.len());
        self.send(from.ip(), guest.ip(), udp(&header, payload), now);
    }
}

/// The header, without checksum.
pub(super) fn udp_header(source: u16, destination: u16, len: usize) -> [u8; 8] {
    let mut header = [0; 8];
    let mut packet = UdpPacket::new_unchecked(&mut header);
    packet.set_src_port(source);
    packet.set_dst_port(destination);
    packet.set_len((8 + len) as u16);
    header
}

/// A datagram as the link takes it.
pub(super) fn udp<'a>(header: &'a [u8; 8], payload: &'a [u8]) -> Transport<'a> {
    Transport { protocol: IpProtocol::Udp, header, checksum: 6, payload: (payload, &[]), cut: None }
}
