//! TCP: each connection of the guest's ends here, and goes on from here as one of the host's.
//!
//! Bytes wait in one of two places besides the kernel: what the host's socket has no room for, and what the guest has
//! not acknowledged. Both are bounded ([`ring`]); a full one shuts the window to the guest, or leaves what the peer sends
//! in the host's socket, whose window then shuts. The guest's SYN is answered when the host's connection stands, so that a
//! refusal is a refusal.

mod endpoint;
mod flow;
mod ring;
mod segment;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use host::epoll::{Interest, Ready};
use smoltcp::wire::{IpProtocol, TcpPacket};

use self::endpoint::{Endpoint, Phase, Verdict};
use self::flow::{Flow, Turn};
use self::ring::Budget;
use self::segment::{Segment, default_mss};
use super::context::{Context, Key};
use super::dns;
use super::icmp::{Culprit, Unreachable};
use super::lan::{Lan, Way};
use super::slab::{Id, Slab};
use super::timers::Alarm;

/// What all rings may have beyond the least.
const BUDGET: usize = 64 << 20;
/// How many calls are accepted in a row.
const CALLS: usize = 64;
/// How long a published port is left alone when the host has no descriptor for a call.
const EXHAUSTED: Duration = Duration::from_millis(200);
/// The smallest of the ports given to peers whose own is taken.
const EPHEMERAL: u16 = 49_152;

/// Between whom: the guest's address, and the other's as the guest sees it.
type Name = (SocketAddr, SocketAddr);

/// All connections.
pub(super) struct Tcp {
    flows: Slab<Flow>,
    names: HashMap<Name, Id>,
    /// Those with something to do.
    work: VecDeque<Id>,
    /// Those with something for a guest that has no room.
    stalled: Vec<Id>,
    ports: Vec<(TcpListener, u16)>,
    /// For [`EXHAUSTED`].
    paused: Alarm,
    most: usize,
    budget: Budget,
    secret: RandomState,
    calls: u64,
}

impl Tcp {
    /// With published ports and what each leads to, and at most `most` connections.
    pub(super) fn new(ports: Vec<(TcpListener, u16)>, most: usize) -> Self {
        Self {
            flows: Slab::default(),
            names: HashMap::new(),
            work: VecDeque::new(),
            stalled: Vec::new(),
            ports,
            paused: Alarm::default(),
            most,
            budget: Budget::new(BUDGET),
            secret: RandomState::new(),
            calls: 0,
        }
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = &TcpListener> {
        self.ports.iter().map(|(listener, _)| listener)
    }

    /// A segment from the guest.
    pub(super) fn guest(&mut self, context: &mut Context<'_>, name: Name, packet: &TcpPacket<&[u8]>) {
        let segment = Segment::parse(packet);
        if let Some(id) = self.names.get(&name).copied() {
            self.arrived(context, id, &segment);
        } else if segment.syn && segment.ack.is_none() && !segment.rst {
            self.called(context, name, &segment);
        } else if let Some(refusal) = segment.refusal() {
            context.link.send_tcp(name, &refusal, context.now);
        }
    }

    /// The guest calls somebody.
    fn called(&mut self, context: &mut Context<'_>, name: Name, syn: &Segment<'_>) {
        let (_, remote) = name;
        let target = match context.lan.way(remote.ip()) {
            Way::To(address) => Ok(SocketAddr::new(address, remote.port())),
            Way::Dns if remote.port() == dns::PORT => Ok(context.resolver),
            Way::Dns => Err(Unreachable::Port),
            Way::Forbidden => Err(Unreachable::Prohibited),
            Way::Nowhere => Err(Unreachable::Network),
        };
        let socket = target.and_then(|target| {
            self.make_room(context);
            host::socket::connect(target)
                .map_err(|error| Unreachable::of(&error).unwrap_or(Unreachable::Port))
        });
        match socket {
            Ok(socket) => {
                let largest = context.link.mss(name.0.ip());
                let default = default_mss(name.0.ip());
                let endpoint = Endpoint::called(syn, self.first_number(name), default, largest, context.now);
                self.insert(context, name, socket, endpoint);
            }
            Err(why) => refuse(context, name, syn, why),
        }
    }

    /// Somebody calls a published port.
    pub(super) fn port_ready(&mut self, context: &mut Context<'_>, port: u32, guest: IpAddr) {
        for _ in 0..CALLS {
            let Some((listener, guest_port)) = self.ports.get(port as usize) else { return };
            match listener.accept() {
                Ok((socket, peer)) => {
                    let guest = SocketAddr::new(guest, *guest_port);
                    if let Err(error) = self.accepted(context, socket, peer, guest) {
                        tracing::debug!(%error, %peer, "a call to a published port is lost");
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The caller has given up, or we have run out of descriptors: then asking again at once would go on
                // for ever.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "published ports take no calls just now");
                    self.listen(context, Interest::Nothing);
                    let later = Some(context.now + EXHAUSTED);
                    context.timers.set(&mut self.paused, Key::TcpPort(0), later);
                    return;
                }
            }
        }
    }

    /// Published ports have been left alone for long enough.
    pub(super) fn ports_timer(&mut self, context: &mut Context<'_>, when: Instant) {
        if context.timers.due(&mut self.paused, Key::TcpPort(0), when, context.now) {
            self.listen(context, Interest::Readable);
        }
    }

    fn listen(&self, context: &mut Context<'_>, interest: Interest) {
        for (index, (listener, _)) in self.ports.iter().enumerate() {
            // It is in the set, and the call can fail in no other way.
            let _ = context.epoll.change(listener, Key::TcpPort(index as u32).token(), interest);
        }
    }

    fn accepted(
        &mut self,
        context: &mut Context<'_>,
        socket: TcpStream,
        peer: SocketAddr,
        guest: SocketAddr,
    ) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let seen = Lan::seen(peer, guest);
        let name_of = |port| (guest, SocketAddr::new(seen.ip(), port));
        let free = |port: &u16| !self.names.contains_key(&name_of(*port));
        let ports = std::iter::once(seen.port()).chain(EPHEMERAL..=u16::MAX);
        let port = ports.into_iter().find(free).ok_or(ErrorKind::AddrInUse)?;
        let name = name_of(port);
        self.make_room(context);
        let endpoint = Endpoint::calling(self.first_number(name), default_mss(guest.ip()), context.now);
        self.insert(context, name, socket, endpoint);
        Ok(())
    }

    /// A first sequence number that the guest has not seen lately.
    fn first_number(&mut self, name: Name) -> u32 {
        self.calls += 1;
        self.secret.hash_one((name, self.calls)) as u32
    }

    fn insert(&mut self, context: &mut Context<'_>, name: Name, socket: TcpStream, endpoint: Endpoint) {
        let calling = endpoint.phase() == Phase::Calling;
        let id = self.flows.insert(Flow::new(name, socket, endpoint, context.now));
        self.names.insert(name, id);
        let added = self.flows.get(id).is_some_and(|flow| {
            context.epoll.add(&flow.socket, Key::Tcp(id).token(), Interest::Edges).is_ok()
        });
        if !added {
            self.abort(context, id);
        } else if calling {
            self.schedule(id);
        }
    }

    /// When there are as many as there may be: one whose greeting is not over goes, else the one that has been quiet
    /// for longest.
    fn make_room(&mut self, context: &mut Context<'_>) {
        if self.flows.len() < self.most {
            return;
        }
        let oldest =
            self.flows.iter().min_by_key(|(_, flow)| (flow.endpoint.phase() == Phase::Open, flow.last));
        if let Some((id, _)) = oldest {
            self.abort(context, id);
        }
    }

    fn arrived(&mut self, context: &mut Context<'_>, id: Id, segment: &Segment<'_>) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.last = context.now;
        let largest = context.link.mss(flow.name.0.ip());
        let arrival = flow.endpoint.receive(segment, largest, context.now);
        match arrival.verdict {
            Verdict::Goes => {}
            Verdict::Reset => return self.remove(id, true),
            Verdict::Anew => {
                let name = flow.name;
                self.remove(id, true);
                return self.called(context, name, segment);
            }
        }
        if flow.take(&arrival, &mut self.budget).is_err() {
            return self.abort(context, id);
        }
        if arrival.at_once {
            let acknowledgement = flow.endpoint.acknowledgement();
            context.link.send_tcp(flow.name, &acknowledgement, context.now);
        }
        self.schedule(id);
    }

    /// The host's socket is ready for something.
    pub(super) fn ready(&mut self, context: &mut Context<'_>, id: Id, ready: Ready) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.readable |= ready.readable;
        flow.writable |= ready.writable;
        if flow.endpoint.phase() == Phase::Waiting {
            match flow.connected() {
                Ok(true) => flow.endpoint.greet(context.now),
                Ok(false) => return,
                Err(error) => {
                    let name = flow.name;
                    let syn = flow.endpoint.call();
                    self.remove(id, false);
                    let why = Unreachable::of(&error).unwrap_or(Unreachable::Port);
                    return refuse(context, name, &syn, why);
                }
            }
        }
        self.schedule(id);
    }

    fn schedule(&mut self, id: Id) {
        if let Some(flow) = self.flows.get_mut(id)
            && !std::mem::replace(&mut flow.queued, true)
        {
            self.work.push_back(id);
        }
    }

    /// The guest has room again.
    pub(super) fn room(&mut self) {
        self.work.extend(self.stalled.drain(..));
    }

    /// Whether [`Tcp::work`] has something to do.
    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// Gives each connection that has something to do its turn.
    pub(super) fn work(&mut self, context: &mut Context<'_>) {
        for _ in 0..self.work.len() {
            let Some(id) = self.work.pop_front() else { return };
            let Some(flow) = self.flows.get_mut(id) else { continue };
            flow.queued = false;
            match flow.turn(context, &mut self.budget) {
                Turn::Idle => self.rest(context, id),
                Turn::Busy => {
                    self.rest(context, id);
                    self.schedule(id);
                }
                Turn::Stalled => {
                    flow.queued = true;
                    self.stall(id);
                    self.rest(context, id);
                }
                Turn::Over => self.remove(id, false),
                Turn::Broken => self.abort(context, id),
            }
        }
    }

    fn stall(&mut self, id: Id) {
        // Each that lives is in it once; those that are gone must not gather.
        if self.stalled.len() >= 2 * self.most {
            self.stalled.retain(|id| self.flows.get(*id).is_some());
        }
        self.stalled.push(id);
    }

    /// Sets the alarm for what a connection waits for now.
    fn rest(&mut self, context: &mut Context<'_>, id: Id) {
        if let Some(flow) = self.flows.get_mut(id) {
            flow.endpoint.trim(&mut self.budget);
            context.timers.set(&mut flow.alarm, Key::Tcp(id), flow.endpoint.deadline());
        }
    }

    /// Whether there still is such a one.
    pub(super) fn knows(&self, id: Id) -> bool {
        self.flows.get(id).is_some()
    }

    pub(super) fn timer(&mut self, context: &mut Context<'_>, id: Id, when: Instant) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if !context.timers.due(&mut flow.alarm, Key::Tcp(id), when, context.now) {
            return;
        }
        if !context.link.has_room() {
            flow.endpoint.postpone(context.now);
            self.rest(context, id);
        } else if flow.endpoint.timeout(context.now) {
            self.schedule(id);
        } else {
            self.abort(context, id);
        }
    }

    /// Ends a connection on both sides with a reset.
    fn abort(&mut self, context: &mut Context<'_>, id: Id) {
        if let Some(flow) = self.flows.get(id) {
            context.link.send_tcp(flow.name, &flow.endpoint.reset(), context.now);
        }
        self.remove(id, true);
    }

    /// Forgets a connection; the peer sees its end, or a reset.
    fn remove(&mut self, id: Id, reset: bool) {
        let Some(mut flow) = self.flows.remove(id) else { return };
        self.names.remove(&flow.name);
        flow.endpoint.release(&mut self.budget);
        if reset {
            // If not, the peer takes an end for one; there is nothing better.
            let _ = host::socket::reset_on_close(&flow.socket);
        }
    }
}

/// Answers a call that leads nowhere.
fn refuse(context: &mut Context<'_>, name: Name, syn: &Segment<'_>, why: Unreachable) {
    match (why, syn.refusal()) {
        (Unreachable::Port, Some(refusal)) => context.link.send_tcp(name, &refusal, context.now),
        _ => {
            let culprit = Culprit::between(name.0, name.1, IpProtocol::Tcp, syn.seq);
            context.link.unreachable(&culprit, why, context.now);
        }
    }
}
