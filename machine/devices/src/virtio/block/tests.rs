use std::sync::{Arc, Mutex};

use super::*;
use crate::testing::{refuses, transplant};
use crate::virtio::testing::{Driver, RAM};
use crate::wiring::lock;

/// Where headers, statuses and data are.
const HEADER: u64 = 0x1000;
const STATUS: u64 = 0x2000;
const DATA: u64 = 0x8000;
/// Sectors of the disk.
const CAPACITY: u64 = 4096;

type Submitted = Arc<Mutex<Vec<(Token, Operation)>>>;

struct Backend(Submitted);

impl BlockBackend for Backend {
    fn submit(&mut self, token: Token, operation: Operation) {
        lock(&self.0).push((token, operation));
    }
}

/// A little-endian field of the configuration.
fn field(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes[at..at + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A device, its driver, and what has reached the back-end.
struct Bench {
    driver: Driver,
    device: Block,
    submitted: Submitted,
    /// A slot of header and status for each request.
    requests: u64,
}

fn config() -> BlockConfig {
    BlockConfig {
        capacity: CAPACITY,
        read_only: false,
        serial: *b"SERIAL\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        queues: 1,
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(config(), feature::FLUSH)
    }

    fn with(config: BlockConfig, features: u64) -> Self {
        let submitted = Submitted::default();
        let driver = Driver::with_queues(256, config.queues.into());
        let mut device = Block::new(config, Box::new(Backend(submitted.clone())));
        device.activate(driver.activation_with(features));
        Self { driver, device, submitted, requests: 0 }
    }

    /// Offers a request with data to read and to write; says where its status goes.
    fn offer(&mut self, kind: u32, sector: u64, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> u64 {
        let (header, status) = (HEADER + 16 * self.requests, STATUS + self.requests);
        self.requests += 1;
        let ram = self.driver.ram();
        ram.write_u32(header, kind).unwrap();
        ram.write_u64(header + 8, sector).unwrap();
        ram.write(status, &[0xee]).unwrap();
        let readable: Vec<_> = [&[(header, 16)], readable].concat();
        let writable: Vec<_> = [writable, &[(status, 1)]].concat();
        self.driver.offer(&readable, &writable);
        status
    }

    /// The same, and the device is told.
    fn send(&mut self, kind: u32, sector: u64, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> u64 {
        let status = self.offer(kind, sector, readable, writable);
        self.device.notify(0);
        status
    }

    /// What is at the back-end, in the order in which it came.
    fn operations(&self) -> Vec<Operation> {
        lock(&self.submitted).iter().map(|(_, operation)| operation.clone()).collect()
    }

    /// Answers the first operation.
    fn answer(&mut self, answer: Answer) {
        let (token, _) = lock(&self.submitted).remove(0);
        self.device.complete(token, answer);
    }

    fn status(&self, at: u64) -> u8 {
        let mut status = [0];
        self.driver.ram().read(at, &mut status).unwrap();
        status[0]
    }

    /// The lengths of the chains that have come back.
    fn written(&mut self) -> Vec<u32> {
        self.driver.used().into_iter().map(|(_, written)| written).collect()
    }

    /// Describes ranges to discard or zero.
    fn ranges(&mut self, ranges: &[(u64, u32, u32)]) -> [(u64, u32); 1] {
        for (at, (sector, sectors, flags)) in (DATA..).step_by(16).zip(ranges) {
            self.driver.ram().write_u64(at, *sector).unwrap();
            self.driver.ram().write_u32(at + 8, *sectors).unwrap();
            self.driver.ram().write_u32(at + 12, *flags).unwrap();
        }
        [(DATA, 16 * ranges.len() as u32)]
    }
}

#[test]
fn a_read_is_answered_with_the_disks_bytes() {
    let mut bench = Bench::new();
    let status = bench.send(0, 7, &[], &[(DATA, 512), (DATA + 0x1000, 512)]);
    assert_eq!(bench.operations(), [Operation::Read { offset: 7 * 512, buffer: vec![0; 1024] }]);
    assert!(bench.written().is_empty());
    bench.answer(Some([[1; 512], [2; 512]].concat()));
    assert_eq!((bench.status(status), bench.written()), (0, vec![1025]));
    let mut bytes = [0; 2];
    bench.driver.ram().read(DATA + 511, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 0]);
    bench.driver.ram().read(DATA + 0x1000 + 511, &mut bytes).unwrap();
    assert_eq!(bytes, [2, 0]);
    assert_eq!(bench.driver.messages().len(), 1);
}

#[test]
fn a_write_hands_the_drivers_bytes_over() {
    let mut bench = Bench::new();
    bench.driver.ram().write(DATA, &[3; 300]).unwrap();
    bench.driver.ram().write(DATA + 0x1000, &[4; 212]).unwrap();
    let status = bench.send(1, CAPACITY - 1, &[(DATA, 300), (DATA + 0x1000, 212)], &[]);
    let buffer = [vec![3; 300], vec![4; 212]].concat();
    assert_eq!(bench.operations(), [Operation::Write { offset: (CAPACITY - 1) * 512, buffer }]);
    bench.answer(Some(Vec::new()));
    assert_eq!((bench.status(status), bench.written()), (0, vec![1]));
}

#[test]
fn long_requests_go_in_pieces() {
    let mut bench = Bench::new();
    let pieces = [(DATA, 0x2_0000); 5];
    for (kind, readable, writable) in [(0, &[][..], &pieces[..]), (1, &pieces, &[])] {
        let status = bench.send(kind, 8, readable, writable);
        for (offset, len) in [(0, CHUNK), (CHUNK, CHUNK), (2 * CHUNK, CHUNK / 2)] {
            let offset = 4096 + u64::from(offset);
            let buffer = vec![0; len as usize];
            let expected = match kind {
                0 => Operation::Read { offset, buffer: buffer.clone() },
                _ => Operation::Write { offset, buffer: buffer.clone() },
            };
            assert!(bench.operations() == [expected]);
            bench.answer(Some(buffer));
        }
        assert_eq!(bench.status(status), 0);
    }
    // The first failure ends it.
    let status = bench.send(1, 8, &pieces, &[]);
    bench.answer(Some(Vec::new()));
    bench.answer(None);
    assert_eq!((bench.status(status), bench.operations()), (1, vec![]));
}

#[test]
fn flush_and_identity() {
    let mut bench = Bench::new();
    let status = bench.send(4, 0, &[], &[]);
    assert_eq!(bench.operations(), [Operation::Flush]);
    assert_eq!(bench.status(status), 0xee);
    bench.answer(Some(Vec::new()));
    assert_eq!(bench.status(status), 0);
    let status = bench.send(8, 0, &[], &[(DATA, 20)]);
    assert_eq!((bench.status(status), bench.written()), (0, vec![1, 21]));
    let mut serial = [0; SERIAL];
    bench.driver.ram().read(DATA, &mut serial).unwrap();
    assert_eq!(serial, config().serial);
    // Shorter and longer buffers than the standard has.
    for len in [5, 30] {
        let status = bench.send(8, 0, &[], &[(DATA, len)]);
        assert_eq!((bench.status(status), bench.written()), (0, vec![len + 1]));
    }
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let mut bench = Bench::new();
    let ranges = bench.ranges(&[(8, 16, 0), (100, 0, 0), (64, 8, 0)]);
    let status = bench.send(11, 0, &ranges, &[]);
    for (offset, len) in [(8, 16), (64, 8)] {
        let (offset, len) = (offset * 512, len * 512);
        assert_eq!(bench.operations(), [Operation::Discard { offset, len }]);
        bench.answer(Some(Vec::new()));
    }
    assert_eq!(bench.status(status), 0);
    let ranges = bench.ranges(&[(8, 16, 1), (64, 8, 0)]);
    let status = bench.send(13, 0, &ranges, &[]);
    for (offset, len, unmap) in [(8, 16, true), (64, 8, false)] {
        let (offset, len) = (offset * 512, len * 512);
        assert_eq!(bench.operations(), [Operation::WriteZeroes { offset, len, unmap }]);
        bench.answer(Some(Vec::new()));
    }
    assert_eq!(bench.status(status), 0);
}

#[test]
fn wild_requests_get_a_status() {
    let mut bench = Bench::new();
    for (kind, sector, readable, writable, expected) in [
        // Beyond the end, and so far beyond that it wraps.
        (0, CAPACITY, &[][..], &[(DATA, 512)][..], 1),
        (0, CAPACITY - 1, &[], &[(DATA, 1024)], 1),
        (0, u64::MAX, &[], &[(DATA, 512)], 1),
        (1, u64::MAX - 1, &[(DATA, 1024)], &[], 1),
        // Not whole sectors.
        (0, 0, &[], &[(DATA, 511)], 1),
        (1, 0, &[(DATA, 513)], &[], 1),
        // More than there is, as far as descriptors go.
        (0, 0, &[], &[(DATA, u32::MAX - 511)], 1),
        // Data that is not in RAM.
        (1, 0, &[(RAM - 256, 512)], &[], 1),
        (1, 0, &[(u64::MAX - 100, 512)], &[], 1),
        // No such type: secure erase, SCSI, nothing at all.
        (14, 0, &[(DATA, 16)], &[], 2),
        (2, 0, &[], &[], 2),
        (u32::MAX, 0, &[], &[], 2),
        // Ranges that are none, not whole, or too many.
        (11, 0, &[], &[], 1),
        (11, 0, &[(DATA, 15)], &[], 1),
        (13, 0, &[(DATA, 17)], &[], 1),
        (11, 0, &[(DATA, 16 * (MOST_RANGES + 1))], &[], 1),
        (11, 0, &[(u64::MAX - 8, 16)], &[], 1),
    ] {
        let status = bench.send(kind, sector, readable, writable);
        assert_eq!((bench.status(status), bench.operations()), (expected, vec![]), "{kind}, {sector:#x}");
    }
    for (kind, range, expected) in [
        (11, (0, 1, 1), 2),
        (11, (0, 1, 2), 2),
        (13, (0, 1, 2), 2),
        (11, (CAPACITY, 1, 0), 1),
        (11, (u64::MAX, 2, 0), 1),
        (13, (0, MOST_ZEROES + 1, 0), 1),
    ] {
        let ranges = bench.ranges(&[range]);
        let status = bench.send(kind, 0, &ranges, &[]);
        assert_eq!((bench.status(status), bench.operations()), (expected, vec![]), "{kind}, {range:?}");
    }
    // Empty transfers are done at once.
    for kind in [0, 1] {
        let status = bench.send(kind, CAPACITY, &[], &[]);
        assert_eq!(bench.status(status), 0);
    }
}

#[test]
fn a_read_into_nowhere_fails_when_the_data_comes() {
    let mut bench = Bench::new();
    let status = bench.send(0, 0, &[], &[(RAM - 256, 512)]);
    bench.answer(Some(vec![1; 512]));
    assert_eq!(bench.status(status), 1);
}

#[test]
fn chains_without_header_or_status_come_back_empty() {
    let mut bench = Bench::new();
    bench.driver.ram().write_u32(HEADER, 1).unwrap();
    bench.driver.offer(&[(HEADER, 16), (DATA, 512)], &[]);
    bench.driver.offer(&[(HEADER, 15)], &[(STATUS, 1)]);
    bench.driver.offer(&[(u64::MAX - 3, 16)], &[(STATUS + 1, 1)]);
    bench.driver.offer(&[], &[(u64::MAX, 1)]);
    bench.driver.offer(&[(HEADER, 16)], &[(DATA, 0)]);
    bench.device.notify(0);
    assert_eq!((bench.written(), bench.operations()), (vec![0, 1, 1, 0, 0], vec![]));
    assert_eq!((bench.status(STATUS), bench.status(STATUS + 1)), (1, 1));
    assert!(!bench.driver.needs_reset());
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut bench = Bench::with(BlockConfig { read_only: true, ..config() }, feature::FLUSH);
    assert_eq!(
        bench.device.features() & (feature::RO | feature::DISCARD | feature::WRITE_ZEROES),
        feature::RO
    );
    for kind in [1, 11, 13] {
        let status = bench.send(kind, 0, &[(DATA, 512)], &[]);
        assert_eq!((bench.status(status), bench.operations()), (1, vec![]));
    }
    bench.send(0, 0, &[], &[(DATA, 512)]);
    assert_eq!(bench.operations().len(), 1);
}

#[test]
fn without_flushes_every_write_is_followed_by_one() {
    // A driver that knows no flushes; one that has chosen to do without.
    for features in [0, feature::CONFIG_WCE | feature::FLUSH] {
        let mut bench = Bench::with(config(), features);
        bench.device.write_config(32, &[0]);
        let status = bench.send(1, 0, &[(DATA, 512)], &[]);
        bench.answer(Some(Vec::new()));
        assert_eq!((bench.status(status), bench.operations()), (0xee, vec![Operation::Flush]));
        bench.answer(Some(Vec::new()));
        assert_eq!((bench.status(status), bench.operations()), (0, vec![]));
        bench.send(0, 0, &[], &[(DATA, 512)]);
        bench.answer(Some(vec![0; 512]));
        assert_eq!(bench.operations(), []);
    }
}

#[test]
fn requests_wait_when_too_many_are_under_way() {
    let mut bench = Bench::with(BlockConfig { queues: 2, ..config() }, feature::FLUSH);
    for _ in 0..MOST_IN_FLIGHT + 1 {
        bench.offer(4, 0, &[], &[]);
    }
    bench.device.notify(0);
    bench.driver.offer_in(1, &[(HEADER, 16)], &[(STATUS, 1)]);
    bench.device.notify(1);
    assert_eq!(bench.operations().len(), MOST_IN_FLIGHT);
    for _ in 0..2 {
        bench.answer(Some(Vec::new()));
        assert_eq!(bench.operations().len(), MOST_IN_FLIGHT);
    }
    for left in (0..MOST_IN_FLIGHT).rev() {
        bench.answer(Some(Vec::new()));
        assert_eq!(bench.operations().len(), left);
    }
    assert_eq!((bench.written().len(), bench.driver.used_in(1).len()), (MOST_IN_FLIGHT + 1, 1));
}

#[test]
fn what_a_reset_leaves_behind_is_ended_before_anything_begins() {
    let mut bench = Bench::new();
    bench.send(0, 0, &[], &[(DATA, 512)]);
    bench.send(1, 0, &[(DATA, 512)], &[]);
    bench.device.reset();
    bench.device.activate(bench.driver.activation_with(feature::FLUSH));
    // The rings are as they were, so all three requests are new.
    bench.send(4, 0, &[], &[]);
    assert_eq!(bench.operations().len(), 2);
    bench.answer(Some(vec![0xaa; 512]));
    assert_eq!(bench.operations().len(), 1);
    let mut bytes = [0];
    bench.driver.ram().read(DATA, &mut bytes).unwrap();
    assert_eq!((bytes, bench.written()), ([0], vec![]), "the old answer is dropped");
    bench.answer(Some(Vec::new()));
    assert_eq!(bench.operations().len(), 3);
    for _ in 0..3 {
        bench.answer(Some(vec![0; 512]));
    }
    assert_eq!(bench.written(), [513, 1, 1]);
}

#[test]
fn the_configuration_tells_what_there_is() {
    let mut bench = Bench::with(BlockConfig { queues: 3, ..config() }, 0);
    let mut bytes = [0; 64];
    bench.device.read_config(0, &mut bytes);
    assert_eq!(field(&bytes, 0, 8), CAPACITY);
    for (at, size, value) in
        [(12, 4, 254), (20, 4, 512), (24, 1, 3), (32, 1, 1), (34, 2, 3), (40, 4, 32), (56, 1, 1)]
    {
        assert_eq!(field(&bytes, at, size), value, "at {at}");
    }
    assert_ne!(bench.device.features() & feature::MQ, 0);
    assert_eq!(bench.device.queue_sizes(), [256; 3]);
    bench.device.write_config(0, &[0xff; 8]);
    bench.device.write_config(32, &[0]);
    bench.device.read_config(0, &mut bytes);
    assert_eq!((field(&bytes, 0, 8), bytes[32]), (CAPACITY, 0));
}

#[test]
fn saved_and_restored() {
    let mut bench = Bench::with(config(), feature::CONFIG_WCE);
    bench.device.write_config(32, &[0]);
    let mut other = Bench::with(config(), feature::CONFIG_WCE);
    transplant(&bench.device, &mut other.device);
    assert!(!other.device.writeback);
    assert!(refuses(&bench.device, &[|state| state.capacity += 1, |state| state.read_only = true]));
}
