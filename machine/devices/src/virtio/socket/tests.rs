//! A guest's driver and a host's back-end around the device.

use std::collections::HashMap;

use super::*;
use crate::testing::{Calls, transplant};
use crate::virtio::testing::Driver;

const CID: u32 = 7;
/// Where the guest's packets lie, and its buffers.
const PACKET: u64 = 0x1000;
const PAYLOAD: u64 = 0x2000;
const BUFFERS: u64 = 0x1_4000;
const BUFFER_LEN: u32 = 0x1000;

struct Bench {
    driver: Driver,
    device: Socket,
    wakes: Calls,
    /// Where the buffer of a head is.
    buffers: HashMap<u16, u64>,
}

impl Bench {
    fn new() -> Self {
        let wakes = Calls::default();
        let driver = Driver::with_queues(64, 3);
        let mut device = Socket::new(CID, wakes.notify());
        device.activate(driver.activation());
        assert_eq!((wakes.take(), device.open(22)), (1, None));
        assert_eq!(device.next(&mut Vec::new()), Some(Event::Reset));
        assert_eq!(device.next(&mut Vec::new()), None);
        Self { driver, device, wakes, buffers: HashMap::new() }
    }

    /// The guest offers so many buffers.
    fn offer(&mut self, count: u64) {
        for _ in 0..count {
            let gpa = BUFFERS + self.buffers.len() as u64 % 40 * u64::from(BUFFER_LEN);
            let head = self.driver.offer_in(queue::RX, &[], &[(gpa, BUFFER_LEN)]);
            self.buffers.insert(head, gpa);
        }
    }

    /// The guest sends a packet as it is.
    fn raw(&mut self, header: Header, payload: &[u8]) -> Option<(Event, Vec<u8>)> {
        self.driver.ram().write(PACKET, &header.to_bytes()).unwrap();
        self.driver.ram().write(PAYLOAD, payload).unwrap();
        let chain = [(PACKET, HEADER as u32), (PAYLOAD, payload.len() as u32)];
        self.driver.offer_in(queue::TX, &chain, &[]);
        let mut data = Vec::new();
        self.device.next(&mut data).map(|event| (event, data))
    }

    /// The guest sends a packet from its port 5 to the host's port 1024.
    fn guest(&mut self, op: u16, flags: u32) -> Option<Event> {
        self.raw(Header { flags, ..guest(op) }, &[]).map(|(event, _)| event)
    }

    fn data(&mut self, payload: &[u8]) -> Option<(Event, Vec<u8>)> {
        self.raw(Header { len: payload.len() as u32, ..guest(op::RW) }, payload)
    }

    /// What the guest has received.
    fn received(&mut self) -> Vec<(Header, Vec<u8>)> {
        let used = self.driver.used_in(queue::RX);
        let packet = |(head, len): (u16, u32)| {
            let mut bytes = vec![0; len as usize];
            self.driver.ram().read(self.buffers[&head], &mut bytes).unwrap();
            let payload = bytes.split_off(HEADER);
            (Header::from_bytes(bytes[..].try_into().unwrap()), payload)
        };
        used.into_iter().map(packet).collect()
    }

    /// The operations and flags of it.
    fn operations(&mut self) -> Vec<(u16, u32)> {
        self.received().iter().map(|(header, _)| (header.op, header.flags)).collect()
    }

    /// A connection that the guest has asked for and the host has accepted.
    fn connected(&mut self) -> u64 {
        let Some(Event::Connect { connection, port: 1024 }) = self.guest(op::REQUEST, 0) else {
            panic!("no request");
        };
        self.offer(1);
        self.device.accept(connection);
        assert_eq!(self.operations(), [(op::RESPONSE, 0)]);
        connection
    }
}

fn guest(op: u16) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: HOST_CID,
        src_port: 5,
        dst_port: 1024,
        kind: STREAM,
        op,
        buf_alloc: 10_000,
        ..Header::default()
    }
}

fn host(op: u16) -> Header {
    Header { buf_alloc: BUFFER, ..answer(CID.into(), Ports { host: 1024, guest: 5 }, op) }
}

#[test]
fn a_guest_connects_and_bytes_go_both_ways() {
    let mut bench = Bench::new();
    bench.offer(4);
    let (event, _) = bench.raw(guest(op::REQUEST), &[]).unwrap();
    assert_eq!(event, Event::Connect { connection: 1, port: 1024 });
    assert_eq!(bench.received(), []);
    bench.device.accept(1);
    assert_eq!(bench.received(), [(host(op::RESPONSE), vec![])]);
    assert_eq!(bench.data(b"hello"), Some((Event::Data { connection: 1 }, b"hello".to_vec())));
    bench.device.consumed(1, 5);
    assert_eq!(bench.device.send(1, b"world"), 5);
    let header = Header { len: 5, fwd_cnt: 5, ..host(op::RW) };
    assert_eq!(bench.received(), [(header, b"world".to_vec())]);
    // Each packet that was sent is given back, and the driver told once the device is idle.
    assert_eq!(bench.device.next(&mut Vec::new()), None);
    assert_eq!(bench.driver.used_in(queue::TX).len(), 2);
    assert_eq!(bench.driver.messages(), [queue::RX, queue::RX, queue::TX]);
}

#[test]
fn the_host_connects_and_is_accepted_or_refused() {
    let mut bench = Bench::new();
    bench.offer(2);
    let [accepted, refused] = [22, 23].map(|port| bench.device.open(port).unwrap());
    let requests = bench.received();
    assert_eq!(requests.len(), 2);
    for ((header, _), port) in requests.iter().zip([22, 23]) {
        assert_eq!((header.op, header.dst_port, header.src_cid), (op::REQUEST, port, HOST_CID));
        assert!(header.src_port > FIRST_PORT);
    }
    let reply = |number: usize, op| {
        let (request, _) = requests[number];
        Header { src_port: request.dst_port, dst_port: request.src_port, ..guest(op) }
    };
    let port = requests[0].0.src_port;
    let (event, _) = bench.raw(reply(0, op::RESPONSE), &[]).unwrap();
    assert_eq!(event, Event::Opened { connection: accepted, port });
    let (event, _) = bench.raw(reply(1, op::RST), &[]).unwrap();
    assert_eq!(event, Event::Closed { connection: refused });
    bench.offer(1);
    assert_eq!(bench.device.send(refused, b"x"), 0);
    assert_eq!(bench.device.send(accepted, b"x"), 1);
}

#[test]
fn nobody_is_there_to_be_connected_to() {
    let mut device = Socket::new(CID, Calls::default().notify());
    assert_eq!(device.open(22), None);
    device.next(&mut Vec::new());
    assert_eq!(device.open(22), None);
}

#[test]
fn sending_stops_at_credit_and_buffers_and_goes_on() {
    let mut bench = Bench::new();
    let connection = bench.connected();
    let bytes: Vec<u8> = (0..20_000).map(|byte| byte as u8).collect();
    let in_buffer = BUFFER_LEN as usize - HEADER;
    bench.offer(2);
    assert_eq!(bench.device.send(connection, &bytes), 2 * in_buffer);
    let mut got: Vec<u8> = bench.received().into_iter().flat_map(|(_, payload)| payload).collect();
    assert_eq!(bench.device.send(connection, &bytes[got.len()..]), 0);
    bench.offer(8);
    // Credit is at an end, which the guest is told of, once.
    assert_eq!(bench.device.send(connection, &bytes[got.len()..]), 10_000 - got.len());
    assert_eq!(bench.device.send(connection, &bytes[10_000..]), 0);
    assert_eq!(bench.device.send(connection, &bytes[10_000..]), 0);
    let packets = bench.received();
    assert_eq!(packets.iter().filter(|(header, _)| header.op == op::CREDIT_REQUEST).count(), 1);
    got.extend(packets.into_iter().flat_map(|(_, payload)| payload));
    let update = Header { fwd_cnt: 9_000, ..guest(op::CREDIT_UPDATE) };
    assert_eq!(bench.raw(update, &[]), Some((Event::Nothing, vec![])));
    assert_eq!(bench.device.send(connection, &bytes[10_000..]), 9_000);
    got.extend(bench.received().into_iter().flat_map(|(_, payload)| payload));
    assert!(got == bytes[..19_000]);
}

#[test]
fn the_guest_is_told_of_room_and_reset_beyond_it() {
    let mut bench = Bench::new();
    let connection = bench.connected();
    let payload = vec![1; MOST_PAYLOAD];
    for _ in 0..4 {
        let event = bench.data(&payload).map(|(event, data)| (event, data.len()));
        assert_eq!(event, Some((Event::Data { connection }, MOST_PAYLOAD)));
    }
    bench.offer(4);
    bench.device.consumed(connection, MOST_PAYLOAD - 1);
    assert_eq!(bench.received(), []);
    bench.device.consumed(connection, 1);
    let update = Header { fwd_cnt: 65_536, ..host(op::CREDIT_UPDATE) };
    assert_eq!(bench.received(), [(update, vec![])]);
    bench.guest(op::CREDIT_REQUEST, 0);
    assert_eq!(bench.received(), [(update, vec![])]);
    assert!(bench.data(&payload).is_some());
    assert_eq!(bench.data(b"x"), Some((Event::Closed { connection }, vec![])));
    assert_eq!(bench.operations(), [(op::RST, 0)]);
}

#[test]
fn either_side_can_end_its_half() {
    let mut bench = Bench::new();
    let connection = bench.connected();
    bench.offer(4);
    bench.device.finish(connection);
    assert_eq!(bench.operations(), [(op::SHUTDOWN, shutdown::SEND)]);
    assert!(bench.data(b"still").is_some());
    let event = bench.guest(op::SHUTDOWN, shutdown::SEND);
    assert_eq!(event, Some(Event::Shutdown { connection, sends: false, receives: true }));
    assert_eq!(bench.device.send(connection, b"still"), 5);
    let event = bench.guest(op::SHUTDOWN, shutdown::RECEIVE);
    assert_eq!(event, Some(Event::Shutdown { connection, sends: false, receives: false }));
    assert_eq!(bench.device.send(connection, b"no more"), 0);
    assert_eq!(bench.operations(), [(op::RW, 0)]);
    // The guest has ended all: the reset is the answer.
    bench.device.close(connection);
    assert_eq!(bench.operations(), [(op::RST, 0)]);
    assert_eq!(bench.guest(op::RST, 0), Some(Event::Nothing));
    assert_eq!(bench.operations(), []);
}

#[test]
fn a_host_that_vanishes_says_so_and_one_that_refuses_resets() {
    let mut bench = Bench::new();
    let connection = bench.connected();
    bench.offer(3);
    bench.device.close(connection);
    let both = shutdown::SEND | shutdown::RECEIVE;
    assert_eq!(bench.operations(), [(op::SHUTDOWN, both), (op::RST, 0)]);
    let Some(Event::Connect { connection, .. }) = bench.guest(op::REQUEST, 0) else { panic!("no request") };
    bench.device.close(connection);
    assert_eq!(bench.operations(), [(op::RST, 0)]);
    // What comes too late for it does nothing.
    bench.device.accept(connection);
    bench.device.finish(connection);
    bench.device.consumed(connection, 1 << 20);
    bench.device.close(connection);
    assert_eq!(bench.device.send(connection, b"x"), 0);
    assert_eq!(bench.operations(), []);
}

#[test]
fn packets_for_no_connection_are_reset() {
    let mut bench = Bench::new();
    for op in [op::RESPONSE, op::SHUTDOWN, op::RW, op::CREDIT_UPDATE, op::CREDIT_REQUEST, 0, 8, u16::MAX] {
        bench.offer(1);
        assert_eq!(bench.guest(op, 3), Some(Event::Nothing), "{op}");
        assert_eq!(bench.received(), [(Header { buf_alloc: 0, ..host(op::RST) }, vec![])], "{op}");
    }
    bench.offer(1);
    // Another context is no one's; a kind of socket that there is not is no one's either.
    bench.raw(Header { dst_cid: 9, ..guest(op::REQUEST) }, &[]);
    bench.offer(1);
    bench.raw(Header { kind: 2, ..guest(op::REQUEST) }, &[]);
    let reset = Header { buf_alloc: 0, ..host(op::RST) };
    let expected = [(Header { src_cid: 9, ..reset }, vec![]), (Header { kind: 2, ..reset }, vec![])];
    assert_eq!(bench.received(), expected);
    // Resets are never answered, nor is who says he is another.
    bench.offer(1);
    bench.raw(Header { dst_cid: 9, ..guest(op::RST) }, &[]);
    bench.raw(Header { kind: 2, ..guest(op::RST) }, &[]);
    bench.raw(Header { src_cid: 8, ..guest(op::REQUEST) }, &[]);
    assert_eq!(bench.received(), []);
}

#[test]
fn nonsense_on_a_connection_resets_it() {
    let nonsense = [
        Header { op: op::REQUEST, ..guest(0) },
        Header { op: op::RESPONSE, ..guest(0) },
        Header { op: 0, ..guest(0) },
        Header { op: 99, ..guest(0) },
        Header { op: op::RW, len: 1, ..guest(0) },
        Header { op: op::RW, len: u32::MAX, ..guest(0) },
    ];
    for header in nonsense {
        let mut bench = Bench::new();
        let connection = bench.connected();
        bench.offer(1);
        assert_eq!(bench.raw(header, &[]), Some((Event::Closed { connection }, vec![])), "{header:?}");
        assert_eq!(bench.operations(), [(op::RST, 0)], "{header:?}");
    }
    // Before it is open, nothing may be sent; after it has said that it sends no more, neither.
    let mut bench = Bench::new();
    bench.offer(2);
    bench.guest(op::REQUEST, 0);
    assert_eq!(bench.data(b"x"), Some((Event::Closed { connection: 1 }, vec![])));
    bench.received();
    let connection = bench.connected();
    bench.guest(op::SHUTDOWN, shutdown::SEND);
    assert_eq!(bench.data(b"x"), Some((Event::Closed { connection }, vec![])));
}

#[test]
fn chains_that_are_no_packets_are_given_back() {
    let mut bench = Bench::new();
    let connection = bench.connected();
    bench.driver.used_in(queue::TX);
    bench.driver.offer_in(queue::TX, &[(PACKET, 43)], &[]);
    bench.driver.offer_in(queue::TX, &[(u64::MAX - 50, 44)], &[]);
    let mut data = Vec::new();
    let events: Vec<_> = std::iter::from_fn(|| bench.device.next(&mut data)).collect();
    assert_eq!(events, [Event::Nothing; 2]);
    // Payload that is not in memory.
    bench.driver.ram().write(PACKET, &Header { len: 9, ..guest(op::RW) }.to_bytes()).unwrap();
    bench.driver.offer_in(queue::TX, &[(PACKET, 44), (u64::MAX - 50, 9)], &[]);
    assert_eq!(bench.device.next(&mut data), Some(Event::Closed { connection }));
    assert_eq!(bench.driver.used_in(queue::TX).len(), 3);
    assert!(!bench.driver.needs_reset());
}

#[test]
fn buffers_that_hold_no_packet_break_the_queue() {
    for buffer in [(BUFFERS, 44), (u64::MAX - 100, 100)] {
        let mut bench = Bench::new();
        bench.driver.offer_in(queue::RX, &[], &[buffer]);
        bench.guest(op::RW, 0);
        assert!(bench.driver.needs_reset());
        bench.guest(op::RW, 0);
        assert_eq!(bench.driver.used_in(queue::RX), []);
    }
}

#[test]
fn a_guest_that_takes_no_answers_is_not_listened_to() {
    let mut bench = Bench::new();
    for _ in 0..MOST_WAITING {
        assert_eq!(bench.guest(op::RW, 0), Some(Event::Nothing));
    }
    assert_eq!(bench.guest(op::RW, 0), None);
    assert_eq!(bench.device.open(22), None);
    bench.offer(1);
    bench.device.notify(queue::RX);
    assert!(bench.wakes.take() > 0);
    assert_eq!(bench.device.next(&mut Vec::new()), Some(Event::Nothing));
    assert_eq!(bench.device.next(&mut Vec::new()), None);
    assert_eq!(bench.device.outbox.len(), MOST_WAITING);
}

#[test]
fn connections_are_limited() {
    let mut bench = Bench::new();
    let request = |port| Header { src_port: port, ..guest(op::REQUEST) };
    for port in 0..MOST_CONNECTIONS as u32 {
        let (event, _) = bench.raw(request(port), &[]).unwrap();
        assert!(matches!(event, Event::Connect { .. }));
    }
    bench.offer(2);
    assert_eq!(bench.device.open(22), None);
    let (event, _) = bench.raw(request(1 << 20), &[]).unwrap();
    assert_eq!((event, bench.operations()), (Event::Nothing, vec![(op::RST, 0)]));
    bench.device.close(1);
    let (event, _) = bench.raw(request(1 << 20), &[]).unwrap();
    assert!(matches!(event, Event::Connect { .. }));
}

#[test]
fn a_reset_forgets_all_and_says_so() {
    let mut bench = Bench::new();
    let connection = bench.connected();
    bench.device.reset();
    assert!(bench.wakes.take() > 0);
    assert_eq!(bench.device.next(&mut Vec::new()), Some(Event::Reset));
    assert_eq!(bench.device.next(&mut Vec::new()), None);
    assert_eq!(bench.device.send(connection, b"x"), 0);
    assert_eq!(bench.device.positions(), []);
}

#[test]
fn a_restored_device_says_that_connections_are_lost() {
    let mut from = Bench::new();
    from.connected();
    let mut to = Bench::new();
    to.wakes.take();
    transplant(&from.device, &mut to.device);
    assert_eq!(to.wakes.take(), 1);
    // The driver has no buffer for it yet.
    assert_eq!(to.device.next(&mut Vec::new()), None);
    to.driver.ram().write(BUFFERS, &[0xff; 4]).unwrap();
    let head = to.driver.offer_in(queue::EVENT, &[], &[(BUFFERS, 4)]);
    assert_eq!(to.device.next(&mut Vec::new()), None);
    assert_eq!(to.driver.used_in(queue::EVENT), [(head, 4)]);
    assert_eq!(to.driver.ram().read_u32(BUFFERS), Ok(EVENT_TRANSPORT_RESET));
    to.driver.offer_in(queue::EVENT, &[], &[(BUFFERS, 4)]);
    assert_eq!(to.device.next(&mut Vec::new()), None);
    assert_eq!(to.driver.used_in(queue::EVENT), []);
}

#[test]
fn the_configuration_is_the_context_id() {
    let bench = Bench::new();
    let mut config = [0xff; 9];
    bench.device.read_config(0, &mut config);
    assert_eq!(config, [7, 0, 0, 0, 0, 0, 0, 0, 0]);
}
