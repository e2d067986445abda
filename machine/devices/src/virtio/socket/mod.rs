//! The socket device (5.10): stream sockets between the guest and the host.
//!
//! The device speaks the protocol: connections, credit, shutdowns, resets. Of the host's side it knows only that
//! there is somebody who works when woken: asks with [`Socket::next`] what the guest has done, until there is
//! nothing more, and calls the other methods. Connections have numbers there which are never used twice, so what
//! comes late for one that has ended does nothing.
//!
//! # Bounds
//! Nothing is kept here but counters and headers. Bytes from the guest go out with [`Socket::next`], at most [`BUFFER`]
//! per connection before the host has said with [`Socket::consumed`] that it has got rid of them; a guest that sends
//! more is reset. Bytes for the guest are taken as far as it has credit and buffers for. Answers wait for buffers,
//! too: while [`MOST_WAITING`] do, nothing more is taken from the guest (5.10.6.2.1).
//!
//! # What is wrong
//! A packet that makes no sense on its connection resets it; one for no connection is answered with a reset, unless it
//! is one. A packet in another context's name is dropped: there is nobody to answer. Requests have no time limit: who
//! asks gives up when he likes.
//!
//! Not modelled: SEQPACKET and datagrams, contexts other than host and guest.

mod connection;
mod packet;
mod saved;

pub use connection::BUFFER;
pub use saved::SocketStateV1;

use std::collections::{HashMap, VecDeque};

use super::chain::{Chain, ChainError};
use super::{Activation, DeviceType, QueuePosition, Queues, VirtioDevice, read_structure};
use crate::wiring::Notify;
use connection::{Connection, Ports, Stage};
use packet::{HEADER, HOST_CID, Header, MOST_PAYLOAD, STREAM, op, shutdown};

/// How many connections there can be at once.
pub const MOST_CONNECTIONS: usize = 512;
/// How many packets without payload may wait before nothing more is taken from the guest.
pub const MOST_WAITING: usize = 64;
/// The first of the ports from which the host's connections come.
const FIRST_PORT: u32 = 1 << 30;
/// The lowest context ID a guest can have (5.10.4); those below are the hypervisor's, the guest's own, the host's.
pub const FIRST_CID: u32 = 3;

/// VIRTIO_VSOCK_F_STREAM.
const F_STREAM: u64 = 1 << 0;
/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET.
const EVENT_TRANSPORT_RESET: u32 = 0;

/// Numbers of the queues (5.10.2).
mod queue {
    pub(super) const RX: u16 = 0;
    pub(super) const TX: u16 = 1;
    pub(super) const EVENT: u16 = 2;
}

/// What the guest has done; see [`Socket::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A life has begun or ended: of earlier connections there is none any more.
    Reset,
    /// It wants to be connected to a port of the host: [`Socket::accept`] or [`Socket::close`].
    Connect {
        /// The new connection.
        connection: u64,
        /// The host's port.
        port: u32,
    },
    /// It has accepted what [`Socket::open`] began.
    Opened {
        /// Which.
        connection: u64,
        /// The host's port.
        port: u32,
    },
    /// It has sent bytes.
    Data {
        /// On which.
        connection: u64,
    },
    /// It will send no more, or receive no more, or neither: what it has said so far.
    Shutdown {
        /// On which.
        connection: u64,
        /// It still sends.
        sends: bool,
        /// It still receives.
        receives: bool,
    },
    /// A connection has ended, or a request was refused.
    Closed {
        /// Which.
        connection: u64,
    },
    /// Something that the device has dealt with.
    Nothing,
}

/// The device.
pub struct Socket {
    // Configuration.
    guest_cid: u64,
    // Wiring.
    wake: Notify,
    // Volatile state.
    queues: Queues,
    connections: Connections,
    /// Packets without payload that wait for the guest's buffers; others wait for these.
    outbox: VecDeque<Header>,
    /// The last number and the last port of the host's that were given out.
    last: u64,
    last_port: u32,
    /// The driver has not been told yet of buffers that were used, received into and sent from.
    rx_used: bool,
    tx_used: bool,
    /// [`Event::Reset`] is to be told.
    forgotten: bool,
    /// The driver is to be told that connections are lost.
    reset_owed: bool,
}

/// All connections, by number and by ports.
#[derive(Default)]
struct Connections {
    all: HashMap<u64, Connection>,
    numbers: HashMap<Ports, u64>,
}

impl Connections {
    fn add(&mut self, number: u64, connection: Connection) {
        self.numbers.insert(connection.ports, number);
        self.all.insert(number, connection);
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.all.remove(&number)?;
        self.numbers.remove(&connection.ports);
        Some(connection)
    }

    fn find(&mut self, ports: Ports) -> Option<(u64, &mut Connection)> {
        let number = *self.numbers.get(&ports)?;
        Some((number, self.all.get_mut(&number)?))
    }

    fn is_full(&self) -> bool {
        self.all.len() >= MOST_CONNECTIONS
    }
}

impl Socket {
    /// A device for the guest of this context ID. `wake` is called when somebody should ask [`Self::next`]; with the
    /// device locked, so it must only wake.
    pub fn new(guest_cid: u32, wake: Notify) -> Self {
        Self {
            guest_cid: guest_cid.into(),
            wake,
            queues: Queues::default(),
            connections: Connections::default(),
            outbox: VecDeque::new(),
            last: 0,
            last_port: FIRST_PORT,
            rx_used: false,
            tx_used: false,
            forgotten: true,
            reset_owed: false,
        }
    }

    /// Takes the next thing that the guest has done; bytes of [`Event::Data`] replace what is in `data`. After `None`
    /// the guest's next notification, or room for what waits, leads to another wake-up.
    pub fn next(&mut self, data: &mut Vec<u8>) -> Option<Event> {
        if std::mem::take(&mut self.forgotten) {
            return Some(Event::Reset);
        }
        self.tell_of_reset();
        self.deliver();
        let event = if self.outbox.len() < MOST_WAITING { self.take(data) } else { None };
        if event.is_none()
            && std::mem::take(&mut self.tx_used)
            && let Some(tx) = self.queues.get(queue::TX)
        {
            tx.interrupt();
        }
        event
    }

    /// Takes one packet.
    fn take(&mut self, data: &mut Vec<u8>) -> Option<Event> {
        let mut chain = self.queues.get(queue::TX)?.pop()?;
        let event = match chain.read_array() {
            Ok(bytes) => self.receive(&Header::from_bytes(&bytes), &mut chain, data),
            Err(error) => {
                tracing::debug!("a packet without a header: {error}");
                Event::Nothing
            }
        };
        self.queues.get(queue::TX)?.push(chain, 0);
        self.tx_used = true;
        self.deliver();
        Some(event)
    }

    fn receive(&mut self, header: &Header, chain: &mut Chain, data: &mut Vec<u8>) -> Event {
        if header.src_cid != self.guest_cid {
            return Event::Nothing;
        }
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        if header.dst_cid != HOST_CID || header.kind != STREAM {
            if header.op != op::RST {
                let answer = answer(self.guest_cid, ports, op::RST);
                self.outbox.push_back(Header { src_cid: header.dst_cid, kind: header.kind, ..answer });
            }
            return Event::Nothing;
        }
        if header.op == op::REQUEST && !self.connections.numbers.contains_key(&ports) {
            return self.request(header, ports);
        }
        let Some((number, connection)) = self.connections.find(ports) else {
            if header.op != op::RST {
                self.answer_reset(ports);
            }
            return Event::Nothing;
        };
        connection.hear(header);
        match header.op {
            op::RESPONSE if connection.stage == Stage::Asking => {
                connection.stage = Stage::Open;
                Event::Opened { connection: number, port: ports.host }
            }
            op::RST => {
                self.connections.remove(number);
                Event::Closed { connection: number }
            }
            op::SHUTDOWN if connection.stage == Stage::Open => {
                connection.guest_shut |= header.flags & (shutdown::RECEIVE | shutdown::SEND);
                let (sends, receives) = (connection.guest_sends(), connection.guest_receives());
                Event::Shutdown { connection: number, sends, receives }
            }
            op::RW if connection.guest_sends() && take_payload(header, connection, chain, data) => {
                Event::Data { connection: number }
            }
            op::CREDIT_UPDATE => Event::Nothing,
            op::CREDIT_REQUEST => {
                self.queue(number, op::CREDIT_UPDATE, 0);
                Event::Nothing
            }
            op => {
                tracing::debug!("a packet ({op}) that does not fit connection {ports:?}");
                self.connections.remove(number);
                self.answer_reset(ports);
                Event::Closed { connection: number }
            }
        }
    }

    fn request(&mut self, header: &Header, ports: Ports) -> Event {
        if self.connections.is_full() {
            self.answer_reset(ports);
            return Event::Nothing;
        }
        let mut connection = Connection::new(ports, Stage::Asked);
        connection.hear(header);
        self.last += 1;
        self.connections.add(self.last, connection);
        Event::Connect { connection: self.last, port: ports.host }
    }

    /// Begins to connect the host to a port of the guest's; `None` if there is no guest that listens to the device, or
    /// there are too many connections. [`Event::Opened`] or [`Event::Closed`] is the answer.
    pub fn open(&mut self, port: u32) -> Option<u64> {
        let active = self.queues.get(queue::RX).is_some() && self.queues.get(queue::TX).is_some();
        // Before the host has heard of a reset, it would take a new connection for one of those that are lost.
        if !active || self.forgotten || self.connections.is_full() || self.outbox.len() >= MOST_WAITING {
            return None;
        }
        let ports = loop {
            // Few are in use, so this ends.
            self.last_port = self.last_port.wrapping_add(1).max(FIRST_PORT);
            let ports = Ports { host: self.last_port, guest: port };
            // The last one means any port.
            if ports.host != u32::MAX && !self.connections.numbers.contains_key(&ports) {
                break ports;
            }
        };
        self.last += 1;
        let number = self.last;
        self.connections.add(number, Connection::new(ports, Stage::Asking));
        self.queue(number, op::REQUEST, 0);
        self.deliver();
        Some(number)
    }

    /// The host takes up what [`Event::Connect`] asked for.
    pub fn accept(&mut self, connection: u64) {
        if let Some(asked) = self.connections.all.get_mut(&connection)
            && asked.stage == Stage::Asked
        {
            asked.stage = Stage::Open;
            self.queue(connection, op::RESPONSE, 0);
            self.deliver();
        }
    }

    /// Sends bytes to the guest; says how many there was room for. The rest has to be offered again after a wake-up.
    pub fn send(&mut self, connection: u64, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && self.flush() {
            let Some(open) = self.connections.all.get_mut(&connection) else { break };
            if !open.guest_receives() {
                break;
            }
            let room = open.room() as usize;
            if room == 0 {
                if !std::mem::replace(&mut open.credit_asked, true) {
                    self.queue(connection, op::CREDIT_REQUEST, 0);
                }
                break;
            }
            let Some(mut chain) = receive_buffer(&mut self.queues) else { break };
            let space = chain.writable() as usize - HEADER;
            let len = (bytes.len() - taken).min(room).min(space).min(MOST_PAYLOAD);
            // No more than MOST_PAYLOAD.
            open.send(len as u32);
            let header = Header { len: len as u32, ..open.header(self.guest_cid, op::RW) };
            let written =
                chain.write(&header.to_bytes()).and_then(|()| chain.write(&bytes[taken..taken + len]));
            self.give_back(chain, written.map(|()| HEADER + len));
            taken += len;
        }
        self.deliver();
        taken
    }

    /// The host has got rid of so many bytes that came with [`Event::Data`].
    pub fn consumed(&mut self, connection: u64, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.connections.all.get_mut(&connection).is_some_and(|open| open.forward(bytes)) {
            self.queue(connection, op::CREDIT_UPDATE, 0);
            self.deliver();
        }
    }

    /// The host will send no more.
    pub fn finish(&mut self, connection: u64) {
        if self.connections.all.get(&connection).is_some_and(|open| open.stage == Stage::Open) {
            self.queue(connection, op::SHUTDOWN, shutdown::SEND);
            self.deliver();
        }
    }

    /// The host has no more to do with it: refuses it, ends it, breaks it off.
    pub fn close(&mut self, connection: u64) {
        let Some(open) = self.connections.all.get(&connection) else { return };
        // A reader that still has something to read does not lose it by a reset that follows a shutdown; and who was
        // asked to end the connection has a right to no more than the reset.
        if open.guest_sends() || open.guest_receives() {
            self.queue(connection, op::SHUTDOWN, shutdown::RECEIVE | shutdown::SEND);
        }
        self.queue(connection, op::RST, 0);
        self.connections.remove(connection);
        self.deliver();
    }

    fn answer_reset(&mut self, ports: Ports) {
        self.outbox.push_back(answer(self.guest_cid, ports, op::RST));
    }

    fn queue(&mut self, connection: u64, op: u16, flags: u32) {
        if let Some(open) = self.connections.all.get_mut(&connection) {
            self.outbox.push_back(Header { flags, ..open.header(self.guest_cid, op) });
        }
    }

    fn give_back(&mut self, chain: Chain, written: Result<usize, ChainError>) {
        let Some(rx) = self.queues.get(queue::RX) else { return };
        self.rx_used = true;
        match written {
            // A header and MOST_PAYLOAD at the most.
            Ok(written) => rx.push(chain, written as u32),
            Err(error) => rx.break_down(&error),
        }
    }

    /// Writes what waits into the guest's buffers, as far as there are some; says whether nothing waits any more.
    fn flush(&mut self) -> bool {
        while let Some(header) = self.outbox.front().copied() {
            let Some(mut chain) = receive_buffer(&mut self.queues) else { return false };
            let written = chain.write(&header.to_bytes()).map(|()| HEADER);
            self.outbox.pop_front();
            self.give_back(chain, written);
        }
        true
    }

    /// The same, and tells the driver of all that it has been given.
    fn deliver(&mut self) {
        self.flush();
        if std::mem::take(&mut self.rx_used)
            && let Some(rx) = self.queues.get(queue::RX)
        {
            rx.interrupt();
        }
    }

    fn tell_of_reset(&mut self) {
        if !self.reset_owed {
            return;
        }
        let Some(events) = self.queues.get(queue::EVENT) else {
            // Nobody was there to have had connections.
            self.reset_owed = false;
            return;
        };
        if let Some(mut chain) = events.pop() {
            let written = chain.write(&EVENT_TRANSPORT_RESET.to_le_bytes()).map_or(0, |()| 4);
            events.finish(chain, written);
            self.reset_owed = false;
        }
    }

    fn forget(&mut self) {
        self.connections = Connections::default();
        self.outbox.clear();
        (self.rx_used, self.tx_used) = (false, false);
        self.forgotten = true;
        self.reset_owed = false;
    }
}

/// A packet from the host without payload.
fn answer(guest_cid: u64, ports: Ports, op: u16) -> Header {
    let Ports { host, guest } = ports;
    Header {
        src_cid: HOST_CID,
        dst_cid: guest_cid,
        src_port: host,
        dst_port: guest,
        kind: STREAM,
        op,
        ..Header::default()
    }
}

/// The next of the guest's buffers, with room for a header and more.
fn receive_buffer(queues: &mut Queues) -> Option<Chain> {
    let rx = queues.get(queue::RX)?;
    let chain = rx.pop()?;
    if chain.writable() as usize <= HEADER {
        rx.break_down(&"a receive buffer has no room for a packet");
        return None;
    }
    Some(chain)
}

/// Takes a packet's payload; `false` if it is not as long as it says, or longer than the guest has credit for.
fn take_payload(header: &Header, connection: &mut Connection, chain: &mut Chain, data: &mut Vec<u8>) -> bool {
    let len = header.len as usize;
    if len > MOST_PAYLOAD || header.len > chain.readable() || !connection.receive(header.len) {
        return false;
    }
    data.resize(len, 0);
    chain.read(data).is_ok()
}

impl VirtioDevice for Socket {
    fn device_type(&self) -> DeviceType {
        DeviceType::Socket
    }

    fn features(&self) -> u64 {
        F_STREAM
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![256, 256, 16]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_structure(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, activation: Activation) {
        self.queues = activation.queues;
        (self.wake)();
    }

    fn notify(&mut self, _: u16) {
        (self.wake)();
    }

    fn reset(&mut self) {
        self.queues = Queues::default();
        self.forget();
        (self.wake)();
    }

    fn positions(&self) -> Vec<Option<QueuePosition>> {
        self.queues.positions()
    }
}

#[cfg(test)]
mod tests;
