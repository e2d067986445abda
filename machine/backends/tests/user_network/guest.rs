//! A guest made of smoltcp, or of bare frames, on a user network.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use backends::net::user::{UserConfig, UserNetwork};
use backends::net::{Handlers, Network, Offload};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x70, 0x6f, 0x70, 0x66, 0x02];
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
pub const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x706f, 0x7066, 0, 0, 0, 0, 0x15);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x706f, 0x7066, 0, 0, 0, 0, 2);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// Long enough for a busy machine; nothing waits so long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Of a socket. With more, smoltcp scales its windows, and panics when a peer fills one that its rounding has shrunk.
const BUFFER: usize = 65_535;

/// Frames for the guest.
#[derive(Default)]
struct Wire {
    frames: Mutex<VecDeque<Vec<u8>>>,
    changed: Condvar,
}

/// The card: all that is done by hand is done through it.
pub struct Card {
    pub network: UserNetwork,
    wire: Arc<Wire>,
    /// How many frames it keeps before it refuses more.
    room: usize,
}

impl Card {
    pub fn new(config: &UserConfig) -> Self {
        Self::with_room(config, 256)
    }

    pub fn with_room(config: &UserConfig, room: usize) -> Self {
        let network = UserNetwork::open(config).unwrap();
        let wire = Arc::new(Wire::default());
        let (receiver, drained) = (Arc::clone(&wire), Arc::clone(&wire));
        let handlers = Handlers {
            receive: Box::new(move |frame, offload| {
                assert_eq!(offload, Offload::default(), "this guest takes no work over");
                let mut frames = receiver.frames.lock().unwrap();
                if frames.len() >= room {
                    return false;
                }
                frames.push_back(frame.to_vec());
                receiver.changed.notify_all();
                true
            }),
            drained: Box::new(move || {
                // Whoever is refused a frame looks again under this lock.
                drop(drained.frames.lock().unwrap());
                drained.changed.notify_all();
            }),
        };
        network.start(handlers).unwrap();
        Self { network, wire, room }
    }

    pub fn send(&self, frame: &[u8]) {
        let mut frames = self.wire.frames.lock().unwrap();
        while !self.network.send(frame, Offload::default()) {
            let (guard, late) = self.wire.changed.wait_timeout(frames, PATIENCE).unwrap();
            assert!(!late.timed_out(), "the network takes no more frames");
            frames = guard;
        }
    }

    fn take(&self) -> Option<Vec<u8>> {
        let mut frames = self.wire.frames.lock().unwrap();
        let frame = frames.pop_front();
        if frames.len() + 1 == self.room {
            self.network.room();
        }
        frame
    }

    fn wait(&self, time: Duration) {
        let frames = self.wire.frames.lock().unwrap();
        let waits = |frames: &mut VecDeque<Vec<u8>>| frames.is_empty();
        drop(self.wire.changed.wait_timeout_while(frames, time, waits).unwrap());
    }

    /// The next frame of which `wanted` makes something.
    pub fn expect<T>(&self, what: &str, mut wanted: impl FnMut(&[u8]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(frame) = self.take() {
                if let Some(found) = wanted(&frame) {
                    return found;
                }
            }
            assert!(Instant::now() < deadline, "waited for {what}");
            self.wait(Duration::from_secs(1));
        }
    }
}

pub struct RxToken(Vec<u8>);
pub struct TxToken<'a>(&'a Card);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.send(&frame);
        result
    }
}

impl phy::Device for Card {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(RxToken, TxToken<'_>)> {
        self.take().map(|frame| (RxToken(frame), TxToken(self)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<TxToken<'_>> {
        Some(TxToken(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A guest with a TCP/IP stack.
pub struct Guest {
    pub card: Card,
    interface: Interface,
    pub sockets: SocketSet<'static>,
    next_port: u16,
}

impl Guest {
    /// With the addresses it would get.
    pub fn new(config: &UserConfig) -> Self {
        Self::on(Card::new(config))
    }

    pub fn on(card: Card) -> Self {
        let mut guest = Self::bare(card);
        guest.interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(ADDRESS.into(), 24)).unwrap();
            addresses.push(IpCidr::new(ADDRESS6.into(), 64)).unwrap();
        });
        guest.interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        guest.interface.routes_mut().add_default_ipv6_route(ROUTER6).unwrap();
        guest
    }

    /// With none.
    pub fn bare(mut card: Card) -> Self {
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        let interface = Interface::new(config, &mut card, smoltcp::time::Instant::now());
        Self { card, interface, sockets: SocketSet::new(Vec::new()), next_port: 40_000 }
    }

    /// Lets the stack work until `done` says something.
    pub fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut SocketSet<'static>) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = smoltcp::time::Instant::now();
            self.interface.poll(now, &mut self.card, &mut self.sockets);
            if let Some(result) = done(&mut self.sockets) {
                return result;
            }
            assert!(Instant::now() < deadline, "waited for {what}");
            let delay = self.interface.poll_delay(now, &self.sockets);
            self.card
                .wait(delay.map_or(Duration::from_millis(20), Duration::from).min(Duration::from_millis(20)));
        }
    }

    pub fn tcp(&mut self, buffer: usize) -> SocketHandle {
        let ring = || tcp::SocketBuffer::new(vec![0; buffer]);
        self.sockets.add(tcp::Socket::new(ring(), ring()))
    }

    /// Begins to connect.
    pub fn call(&mut self, to: SocketAddr, buffer: usize) -> SocketHandle {
        let handle = self.tcp(buffer);
        let port = self.next_port;
        self.next_port += 1;
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), to, port).unwrap();
        handle
    }

    /// Connects.
    pub fn connect(&mut self, to: SocketAddr) -> SocketHandle {
        let handle = self.call(to, BUFFER);
        self.until("a connection", |sockets| {
            let socket = sockets.get::<tcp::Socket>(handle);
            assert!(socket.is_open(), "the connection was refused");
            socket.may_send().then_some(())
        });
        handle
    }

    /// Sends all of it.
    pub fn write(&mut self, handle: SocketHandle, mut bytes: &[u8]) {
        self.until("room to send", |sockets| {
            let socket = sockets.get_mut::<tcp::Socket>(handle);
            bytes = &bytes[socket.send_slice(bytes).unwrap()..];
            bytes.is_empty().then_some(())
        });
    }

    /// Receives until the peer ends.
    pub fn read_to_end(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut all = Vec::new();
        self.until("the end of the stream", |sockets| {
            let socket = sockets.get_mut::<tcp::Socket>(handle);
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), all.extend_from_slice(bytes))).unwrap();
            }
            (!socket.may_recv()).then_some(())
        });
        all
    }

    pub fn close(&mut self, handle: SocketHandle) {
        self.sockets.get_mut::<tcp::Socket>(handle).close();
    }

    pub fn state(&self, handle: SocketHandle) -> tcp::State {
        self.sockets.get::<tcp::Socket>(handle).state()
    }
}

/// The gateway's address of the same kind, which leads to the host's loopback.
pub fn gateway(port: SocketAddr) -> SocketAddr {
    let ip: IpAddr = if port.is_ipv4() { GATEWAY.into() } else { GATEWAY6.into() };
    SocketAddr::new(ip, port.port())
}

/// Bytes in which a missing or repeated one is seen.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index ^ ((index >> 8) * 7) ^ ((index >> 16) * 31)) as u8).collect()
}
