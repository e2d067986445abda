//! The socket device, with a host that opens, accepts, sends, takes and closes when it likes.
//!
//! The host keeps what it may believe of each connection and holds every event against that: connections are told of in
//! order, never under a number of before, not after their end; bytes come on those that are open, and no more of them
//! than there is credit for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use devices::virtio::socket::{BUFFER, Event, FIRST_CID, MOST_CONNECTIONS, Socket};
use devices::wiring::lock;
use memory::GuestRam;

use super::{Arm, Host};
use crate::driver::{BUFFERS, Driver};
use crate::input::Input;

/// Numbers of the queues (5.10.2).
const RX: u16 = 0;
const TX: u16 = 1;
const EVENT: u16 = 2;
/// Where a packet of the driver's is, and where there is room for others.
const PACKET: u64 = BUFFERS;
const IN: u64 = BUFFERS + 0x2_0000;
/// The first of the ports from which the host's connections come is after this.
const HOST_PORTS: u32 = 1 << 30;
/// One turn of the host's takes so many events; a ring that feeds itself has always more.
const MOST_EVENTS: usize = 1 << 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Asked,
    Asking,
    Open,
}

#[derive(Debug)]
struct Connection {
    stage: Stage,
    /// Bytes that the host has not got rid of.
    waiting: usize,
    guest_sends: bool,
    guest_receives: bool,
}

impl Connection {
    fn new(stage: Stage) -> Self {
        Self { stage, waiting: 0, guest_sends: true, guest_receives: true }
    }
}

struct Peer {
    socket: Arc<Mutex<Socket>>,
    connections: BTreeMap<u64, Connection>,
    last: u64,
    data: Vec<u8>,
    /// Between which the driver's last packet went: the guest's and the host's.
    ports: (u32, u32),
    /// Connections that the host has asked for.
    opened: u32,
}

/// What there is to choose of a packet.
#[derive(Default)]
struct Packet {
    op: u16,
    /// Of the payload.
    length: u32,
    /// Something is wrong with it.
    odd: u8,
    /// Flags, and the guest's credit.
    flags: u8,
    space: u32,
    taken: u32,
}

impl Peer {
    fn add(&mut self, number: u64, stage: Stage) {
        assert!(number > self.last, "a number that was used before");
        self.last = number;
        self.connections.insert(number, Connection::new(stage));
        assert!(self.connections.len() <= MOST_CONNECTIONS);
    }

    fn known(&mut self, number: u64) -> &mut Connection {
        self.connections.get_mut(&number).expect("a connection that there is")
    }

    /// Takes an event; `false` if there is none.
    fn next(&mut self) -> bool {
        let Some(event) = lock(&self.socket).next(&mut self.data) else { return false };
        match event {
            Event::Reset => self.connections.clear(),
            Event::Connect { connection, .. } => self.add(connection, Stage::Asked),
            Event::Opened { connection, port } => {
                assert!(port > HOST_PORTS);
                let known = self.known(connection);
                assert_eq!(known.stage, Stage::Asking);
                known.stage = Stage::Open;
            }
            Event::Data { connection } => {
                let length = self.data.len();
                let known = self.known(connection);
                assert!(known.stage == Stage::Open && known.guest_sends, "{known:?}");
                known.waiting += length;
                assert!(known.waiting <= BUFFER as usize, "more than there is credit for");
            }
            Event::Shutdown { connection, sends, receives } => {
                let known = self.known(connection);
                assert_eq!(known.stage, Stage::Open);
                // What was said is not taken back.
                assert!(known.guest_sends >= sends && known.guest_receives >= receives);
                (known.guest_sends, known.guest_receives) = (sends, receives);
            }
            Event::Closed { connection } => {
                self.connections.remove(&connection).expect("a connection that there was");
            }
            Event::Nothing => {}
        }
        true
    }

    fn serve(&mut self) {
        for _ in 0..MOST_EVENTS {
            if !self.next() {
                break;
            }
        }
    }

    /// The driver sends a packet (struct virtio_vsock_hdr, 5.10.6) and its payload.
    fn say(&self, driver: &mut Driver, packet: &Packet) {
        let &Packet { op, length, odd, flags, space, taken } = packet;
        let (kind, claimed) = (1 + u32::from(odd == 0xff), length + u32::from(odd == 0xfe));
        let mut bytes = Vec::from(u64::from(FIRST_CID).to_le_bytes());
        bytes.extend((2 + u64::from(odd == 0xfd)).to_le_bytes());
        let (here, there) = self.ports;
        for field in [here, there, claimed, kind | u32::from(op) << 16, flags.into(), space, taken] {
            bytes.extend(field.to_le_bytes());
        }
        driver.ram.write(PACKET, &bytes).expect("it is RAM");
        driver.offer(TX, &[(PACKET, 44), (PACKET + 0x100, length)], &[]);
    }

    /// Takes up all that the guest has asked for.
    fn accept_all(&mut self) {
        for (&number, known) in &mut self.connections {
            if known.stage == Stage::Asked {
                lock(&self.socket).accept(number);
                known.stage = Stage::Open;
            }
        }
    }

    /// A connection, mostly one that there is.
    fn choose(&self, input: &mut Input) -> u64 {
        let choice = input.byte();
        let number = self.connections.keys().nth(usize::from(choice) % self.connections.len().max(1));
        number.copied().filter(|_| choice < 0xf0).unwrap_or(choice.into())
    }
}

impl Host for Peer {
    fn act(&mut self, input: &mut Input) {
        let kind = input.byte() % 12;
        let number = self.choose(input);
        let mut socket = lock(&self.socket);
        let known = self.connections.get_mut(&number);
        match kind {
            0..=2 => {
                drop(socket);
                self.next();
            }
            3 => {
                drop(socket);
                self.serve();
                self.accept_all();
            }
            4 | 5 => {
                socket.accept(number);
                if let Some(known) = known.filter(|known| known.stage == Stage::Asked) {
                    known.stage = Stage::Open;
                }
            }
            6 => {
                let here = u32::from(input.byte() % 2);
                let opened = socket.open(here);
                drop(socket);
                if let Some(number) = opened {
                    self.add(number, Stage::Asking);
                    // Ports are given out one by one; what the driver says next may be the answer.
                    self.opened += 1;
                    self.ports = (here, HOST_PORTS + self.opened);
                }
            }
            7 | 8 => {
                let bytes = vec![0x5a; usize::from(input.half()) * 4];
                let sent = socket.send(number, &bytes);
                assert!(sent <= bytes.len());
                let may = known.is_some_and(|known| known.stage == Stage::Open && known.guest_receives);
                assert!(may || sent == 0, "sent on what is no connection");
            }
            9 => {
                let some = usize::from(input.half()) * 8;
                let taken = known.map_or(some, |known| {
                    let taken = some.min(known.waiting);
                    known.waiting -= taken;
                    taken
                });
                socket.consumed(number, taken);
            }
            10 => socket.finish(number),
            _ => {
                socket.close(number);
                self.connections.remove(&number);
            }
        }
    }

    fn request(&mut self, driver: &mut Driver, input: &mut Input) -> u16 {
        let kind = input.byte();
        match kind % 8 {
            // Buffers for packets and events.
            5 | 6 => {
                driver.offer(RX, &[], &[(IN, 44), (IN + 0x100, u32::from(input.half()))]);
                RX
            }
            7 => {
                driver.offer(EVENT, &[], &[(IN, 8)]);
                EVENT
            }
            // A call that is taken up.
            4 => {
                let call = Packet { op: 1, space: 1 << 16, ..Packet::default() };
                self.say(driver, &call);
                driver.offer(RX, &[], &[(IN, 4096)]);
                self.serve();
                self.accept_all();
                TX
            }
            _ => {
                // From one of few ports to another, or between the last two.
                if kind & 0x40 == 0 {
                    let there = u32::from(kind >> 4 & 3);
                    let there = if there == 0 { 1 } else { HOST_PORTS + there };
                    self.ports = (u32::from(kind >> 3 & 1), there);
                }
                let op = input.choose(&[1, 5, 5, 2, 4, 5, 6, 7, 3, 0, 8]);
                let packet = Packet {
                    op,
                    length: if op == 5 { u32::from(input.half()) * 2 } else { 0 },
                    odd: input.byte(),
                    flags: input.byte() & 3,
                    space: u32::from(input.half()) * 4,
                    taken: input.half().into(),
                };
                self.say(driver, &packet);
                TX
            }
        }
    }

    fn settle(&mut self) {
        self.serve();
    }
}

pub(super) fn socket(_: &GuestRam, _: u8) -> Arm {
    let socket = Arc::new(Mutex::new(Socket::new(FIRST_CID, Arc::new(|| {}))));
    let peer = Peer {
        socket: socket.clone(),
        connections: BTreeMap::new(),
        last: 0,
        data: Vec::new(),
        ports: (0, 1),
        opened: 0,
    };
    Arm::with_state(&socket, peer)
}
