//! The block device, on a disk that has done nothing yet of what it was asked.
//!
//! What the device asks for lies within the disk, changes none that is read-only, and is no more than may be under way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use devices::virtio::block::{
    Block, BlockBackend, BlockConfig, CHUNK, MOST_IN_FLIGHT, Operation, SECTOR, SERIAL, Token,
};
use devices::wiring::lock;
use memory::GuestRam;

use super::{Arm, Host};
use crate::driver::{BUFFERS, Driver};
use crate::input::Input;

/// Sectors.
const CAPACITY: u64 = 1 << 12;
const QUEUES: u16 = 2;
/// Where a request's header, its status and its data are.
const HEADER: u64 = 0x1_0000;
const STATUS: u64 = 0x1_1000;
const DATA: u64 = BUFFERS;

type UnderWay = Arc<Mutex<VecDeque<(Token, Operation)>>>;

struct Checking {
    under_way: UnderWay,
    read_only: bool,
}

impl BlockBackend for Checking {
    fn submit(&mut self, token: Token, operation: Operation) {
        let (offset, len) = match &operation {
            Operation::Read { offset, buffer } | Operation::Write { offset, buffer } => {
                assert!((1..=CHUNK as usize).contains(&buffer.len()));
                (*offset, buffer.len() as u64)
            }
            Operation::Discard { offset, len } | Operation::WriteZeroes { offset, len, .. } => {
                (*offset, *len)
            }
            Operation::Flush => (0, SECTOR),
        };
        assert!(len > 0 && len.is_multiple_of(SECTOR) && offset.is_multiple_of(SECTOR));
        assert!(offset.checked_add(len).is_some_and(|end| end <= CAPACITY * SECTOR), "beyond the disk");
        let harmless = matches!(operation, Operation::Read { .. } | Operation::Flush);
        assert!(harmless || !self.read_only, "a change to a disk that is read-only");
        let mut under_way = lock(&self.under_way);
        assert!(under_way.iter().all(|(other, _)| *other != token), "a token that is in use");
        under_way.push_back((token, operation));
        assert!(under_way.len() <= MOST_IN_FLIGHT);
    }
}

struct Disk {
    device: Arc<Mutex<Block>>,
    under_way: UnderWay,
}

impl Disk {
    /// Answers the oldest or the newest operation, and has it read this; `false` if there is none.
    fn answer(&self, oldest: bool, read: Option<u8>) -> bool {
        let mut under_way = lock(&self.under_way);
        let taken = if oldest { under_way.pop_front() } else { under_way.pop_back() };
        drop(under_way);
        let Some((token, operation)) = taken else { return false };
        let answer = read.map(|byte| match operation {
            Operation::Read { mut buffer, .. } => {
                buffer.fill(byte);
                buffer
            }
            Operation::Write { buffer, .. } => buffer,
            _ => Vec::new(),
        });
        lock(&self.device).complete(token, answer);
        true
    }
}

impl Host for Disk {
    fn act(&mut self, input: &mut Input) {
        let choice = input.byte();
        let well = choice & 6 != 0;
        self.answer(choice & 1 == 0, well.then(|| input.byte()));
    }

    fn request(&mut self, driver: &mut Driver, input: &mut Input) -> u16 {
        let queue = u16::from(input.byte()) % QUEUES;
        // struct virtio_blk_req (5.2.6): a type and a sector, data, a status.
        let (kind, sector) = (u32::from(input.byte() % 16), u64::from(input.half()));
        let sectors = u64::from(input.half() % 1024);
        let data = (DATA, (sectors * SECTOR) as u32);
        let low = u64::from(kind);
        driver.ram.write_u64(HEADER, low).expect("low memory is RAM");
        driver.ram.write_u64(HEADER + 8, sector).expect("low memory is RAM");
        match kind {
            // VIRTIO_BLK_T_IN, FLUSH, GET_ID
            0 | 4 | 8 => driver.offer(queue, &[(HEADER, 16)], &[data, (STATUS, 1)]),
            // DISCARD, WRITE_ZEROES: ranges of a sector, a length and flags.
            11 | 13 => {
                let ranges = u32::from(input.byte() % 4);
                for range in 0..u64::from(ranges) {
                    let (sector, rest) = (u64::from(input.half()), u64::from(input.half()));
                    driver.ram.write_u64(DATA + 16 * range, sector).expect("it is RAM");
                    driver.ram.write_u64(DATA + 16 * range + 8, rest | rest >> 15 << 32).expect("it is RAM");
                }
                driver.offer(queue, &[(HEADER, 16), (DATA, 16 * ranges)], &[(STATUS, 1)]);
            }
            _ => driver.offer(queue, &[(HEADER, 16), data], &[(STATUS, 1)]),
        }
        queue
    }

    fn settle(&mut self) {
        while self.answer(true, Some(0)) {}
    }
}

/// A disk; bit 7 of the choice makes it read-only.
pub fn block(_: &GuestRam, choice: u8) -> Arm {
    let read_only = choice & 0x80 != 0;
    let under_way = UnderWay::default();
    let config = BlockConfig { capacity: CAPACITY, read_only, serial: [b'x'; SERIAL], queues: QUEUES };
    let backend = Checking { under_way: under_way.clone(), read_only };
    let device = Arc::new(Mutex::new(Block::new(config, Box::new(backend))));
    Arm::with_state(&device, Disk { device: device.clone(), under_way })
}
