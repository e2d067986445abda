//! The user network: a guest on the network of an unprivileged process.
//!
//! The guest sees a small network of its own ([`lan`] has its addresses) with a gateway that routes, leases an address,
//! advertises IPv6 and answers questions about names. Nothing of it exists on the host: what the guest sends is taken
//! apart here and done again with the host's sockets, as if this process were the one that speaks. So nothing needs
//! privileges, the host's firewall sees one more program, and nobody can reach the guest but through ports that are
//! published ([`Forward`]).
//!
//! **The host's own loopback is reachable** from the guest, by the gateway's address: `10.0.2.2:8080` is the host's
//! `127.0.0.1:8080`, as with other programs' user networks. [`UserConfig::host`] forbids it.
//!
//! One thread does everything ([`nat`]), and waits in one epoll. It is not the card's: that only copies frames into an
//! [`inbox`]. Everything a guest may have many of is in a table of bounded size, of which the stalest entry goes when it
//! is full: connections, flows, questions, pings, neighbours, datagrams in pieces. Frames are read with smoltcp's wire
//! formats; [`tcp::endpoint`](tcp) says why its TCP was not taken.
//!
//! Not modelled: other protocols than TCP, UDP and echo; multicast and broadcast beyond the gateway's own services; IP
//! options and extension headers; hole punching (see [`udp`]); traceroute; several guests on one of these networks.

mod context;
mod dns;
mod fragments;
mod icmp;
mod inbox;
mod lan;
mod link;
mod nat;
mod neighbours;
mod resolvers;
mod slab;
mod sum;
mod tcp;
mod timers;
mod udp;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use host::system::raise_descriptor_limit;
use host::{Epoll, Sandbox};

use self::dns::Dns;
use self::inbox::{Batch, Inbox};
use self::lan::Lan;
use self::link::Link;
use self::nat::{Nat, Parts};
use self::resolvers::Resolvers;
use self::tcp::Tcp;
use self::udp::Udp;
use super::dhcp::{Dhcp, Subnet};
use super::{ETHERNET_MTU, Handlers, NetError, Network, Offload, Offloads};

/// What is leased in the guest's network.
pub(super) const SUBNET: Subnet = Subnet {
    server: lan::GATEWAY,
    first: lan::GUEST,
    prefix: lan::PREFIX_LENGTH,
    router: Some(lan::GATEWAY),
    dns: Some(lan::DNS),
};

/// The most connections and flows, on a host that allows as many descriptors. A connection may hold
/// [twice 16 KiB](tcp) whatever the others do, so this bounds memory, too.
const CONNECTIONS: usize = 4096;
const FLOWS: usize = 1024;

/// What the guest's network is like.
#[derive(Clone, Debug)]
pub struct UserConfig {
    /// Ports of the host that lead into the guest.
    pub forwards: Vec<Forward>,
    /// The guest may reach the host's loopback by the gateway's address.
    pub host: bool,
    /// The guest may reach other hosts, and this one by its other addresses.
    pub outside: bool,
    /// The name that the guest is given.
    pub hostname: Option<String>,
    /// The name servers to ask, instead of the host's.
    pub resolvers: Option<Vec<SocketAddr>>,
}

impl Default for UserConfig {
    fn default() -> Self {
        Self { forwards: Vec::new(), host: true, outside: true, hostname: None, resolvers: None }
    }
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens; port 0 for any.
    pub listen: SocketAddr,
    /// The guest's port.
    pub guest_port: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

/// See the module. Dropping it resets the guest's connections.
pub struct UserNetwork {
    inbox: Arc<Inbox>,
    /// Until [`Network::start`].
    parts: Mutex<Option<Parts>>,
    thread: OnceLock<JoinHandle<()>>,
    listening: Vec<SocketAddr>,
}

impl UserNetwork {
    /// Takes the published ports and reads what the host's network is like. Calls wait until it is started.
    pub fn open(config: &UserConfig) -> Result<Self, NetError> {
        let descriptors = raise_descriptor_limit();
        let mut listening = Vec::new();
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for forward in &config.forwards {
            let failed = |source| refused(forward.listen, source);
            if forward.udp {
                let socket = UdpSocket::bind(forward.listen).map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                listening.push(socket.local_addr().map_err(failed)?);
                udp.push((socket, forward.guest_port));
            } else {
                let listener = TcpListener::bind(forward.listen).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                listening.push(listener.local_addr().map_err(failed)?);
                tcp.push((listener, forward.guest_port));
            }
        }
        let of_host = Resolvers::of_host();
        let servers =
            config.resolvers.clone().filter(|servers| !servers.is_empty()).unwrap_or(of_host.servers);
        let parts = Parts {
            epoll: Epoll::new()?,
            lan: Lan { host: config.host, outside: config.outside },
            tcp: Tcp::new(tcp, CONNECTIONS.min(descriptors / 2)),
            udp: Udp::new(udp, FLOWS.min(descriptors / 8)),
            dns: Dns::new(servers),
            dhcp: Dhcp::new(SUBNET, config.hostname.clone(), of_host.search, ETHERNET_MTU),
        };
        let inbox = Arc::new(Inbox::new()?);
        parts.register(&inbox)?;
        Ok(Self { inbox, parts: Mutex::new(Some(parts)), thread: OnceLock::new(), listening })
    }

    /// Where the published ports are, in the order of [`UserConfig::forwards`].
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }
}

fn refused(address: SocketAddr, source: io::Error) -> NetError {
    match source.kind() {
        ErrorKind::AddrInUse => NetError::PortInUse(address),
        ErrorKind::PermissionDenied => NetError::PortReserved(address),
        ErrorKind::AddrNotAvailable => NetError::NoSuchAddress(address.ip()),
        _ => NetError::Listen { address, source },
    }
}

impl Network for UserNetwork {
    fn needs(&self, sandbox: &mut Sandbox) {
        sandbox.internet();
    }

    fn takes(&self) -> Offloads {
        Offloads::ALL
    }

    fn start(&self, handlers: Handlers) -> Result<(), NetError> {
        let Some(parts) = self.parts.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let inbox = Arc::clone(&self.inbox);
        let run = move || run(&inbox, parts, handlers);
        let thread =
            thread::Builder::new().name("user-network".into()).spawn(run).map_err(NetError::Thread)?;
        // The parts were there, so nobody has been here before.
        let _ = self.thread.set(thread);
        Ok(())
    }

    fn guest_takes(&self, offloads: Offloads) {
        self.inbox.guest_takes(offloads);
    }

    fn send(&self, frame: &[u8], offload: Offload) -> bool {
        self.inbox.push(frame, offload)
    }

    fn room(&self) {
        self.inbox.room();
    }
}

impl Drop for UserNetwork {
    fn drop(&mut self) {
        self.inbox.stop();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for UserNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserNetwork").field("listening", &self.listening).finish_non_exhaustive()
    }
}

/// The thread.
fn run(inbox: &Inbox, parts: Parts, handlers: Handlers) {
    let handlers = Arc::new(handlers);
    let link = Link::new(Arc::clone(&handlers), ETHERNET_MTU);
    let mut nat = Nat::new(parts, link, Instant::now());
    let mut batch = Batch::default();
    let mut ready = Vec::new();
    while !inbox.stopped() {
        let (starved, offloads) = inbox.swap(&mut batch);
        if starved {
            (handlers.drained)();
        }
        nat.guest_takes(offloads);
        let now = Instant::now();
        let mut came = false;
        for (frame, offload) in batch.frames() {
            nat.frame(frame, offload, now);
            came = true;
        }
        if inbox.take_room() {
            nat.room();
        }
        nat.work(now);
        let timeout = if came || nat.has_work() {
            Some(Duration::ZERO)
        } else {
            nat.next().map(|when| when.saturating_duration_since(Instant::now()))
        };
        if let Err(error) = nat.epoll().wait(&mut ready, timeout) {
            // Of the reasons it can have, none is left once it has worked.
            tracing::error!(%error, "the user network ends");
            return;
        }
        let now = Instant::now();
        for ready in &ready {
            if ready.token == context::Key::Inbox.token() {
                inbox.event.take();
            }
            nat.ready(*ready, now);
        }
    }
}
