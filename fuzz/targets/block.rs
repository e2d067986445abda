//! A block device in the hands of a driver that writes anything anywhere, with a back-end that answers late.
//!
//! The device is reached as a guest reaches it: rings in memory, registers of the transport. It must neither panic nor
//! hang; what it asks of the back-end lies within the disk, and no more than it may have under way; and its state is
//! one that it accepts back.
#![no_main]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use devices::pci::MsiSink;
use devices::virtio::VirtioPci;
use devices::virtio::block::{
    Block, BlockBackend, BlockConfig, CHUNK, MOST_IN_FLIGHT, Operation, SECTOR, SERIAL, Token,
};
use devices::virtio::pci::PciWiring;
use devices::wiring::{IrqLine, MmioDevice};
use libfuzzer_sys::fuzz_target;
use memory::GuestRam;
use savestate::Persist;

/// Bytes of RAM, the last of which hold the rings.
const RAM: u64 = 0x4_0000;
const RINGS: u64 = 0x3_0000;
const RING: u64 = 0x1000;
const QUEUES: u16 = 2;
const QUEUE_SIZE: u16 = 16;
/// Registers of the transport.
const NOTIFY: u64 = 0x3000;
const DEVICE: u64 = 0x2000;
/// Sectors.
const CAPACITY: u64 = 1 << 12;

type UnderWay = Arc<Mutex<VecDeque<(Token, Operation)>>>;

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    fn bytes(&mut self, most: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Takes everything, and holds the device to what it promises.
struct Checking(UnderWay);

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
        assert!(offset.checked_add(len).is_some_and(|end| end <= CAPACITY * SECTOR));
        let mut under_way = lock(&self.0);
        under_way.push_back((token, operation));
        assert!(under_way.len() <= MOST_IN_FLIGHT);
    }
}

struct Nobody;

impl MsiSink for Nobody {
    fn send(&self, _: u64, _: u32) {}
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody has panicked")
}

/// Goes through what a driver does until the device works (Virtio 1.2, 3.1.1).
fn start(function: &mut VirtioPci, features: u64) {
    for status in [0, 1, 3] {
        function.write(0x14, &[status]);
    }
    let features = features | 1 << 32;
    for (select, half) in [(0_u32, features as u32), (1, (features >> 32) as u32)] {
        function.write(0x08, &select.to_le_bytes());
        function.write(0x0c, &half.to_le_bytes());
    }
    function.write(0x14, &[0xb]);
    for queue in 0..QUEUES {
        let ring = RINGS + RING * u64::from(queue);
        function.write(0x16, &queue.to_le_bytes());
        function.write(0x18, &QUEUE_SIZE.to_le_bytes());
        for (register, address) in [(0x20, ring), (0x28, ring + 0x400), (0x30, ring + 0x800)] {
            function.write(register, &(address as u32).to_le_bytes());
            function.write(register + 4, &0_u32.to_le_bytes());
        }
        function.write(0x1c, &1_u16.to_le_bytes());
    }
    function.write(0x14, &[0xf]);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let ram = GuestRam::allocate(RAM).expect("a little memory");
    let Some(choice) = input.byte() else { return };
    let config = BlockConfig {
        capacity: CAPACITY,
        read_only: choice & 0x80 != 0,
        serial: [b'x'; SERIAL],
        queues: QUEUES,
    };
    let under_way = UnderWay::default();
    let block = Arc::new(Mutex::new(Block::new(config, Box::new(Checking(under_way.clone())))));
    let wiring = PciWiring {
        ram: ram.clone(),
        line: IrqLine::unconnected(),
        messages: Arc::new(Nobody),
        doorbell: block.clone(),
    };
    let mut function = VirtioPci::new(block.clone(), wiring);
    // FLUSH, CONFIG_WCE, MQ, DISCARD, WRITE_ZEROES, indirect descriptors, EVENT_IDX.
    let optional = [9, 11, 12, 13, 14, 28, 29].map(|bit| 1_u64 << bit);
    let chosen =
        (0..).zip(optional).filter(|(bit, _)| choice & 1 << bit != 0).fold(0, |all, (_, one)| all | one);
    start(&mut function, chosen);
    step(&mut input, &ram, &mut function, &block, &under_way, chosen);
    // The back-end ends what it has begun, and then there is nothing left.
    while answer(&block, &under_way, true) {}
    assert!(lock(&under_way).is_empty());
    let state = lock(&block).save();
    lock(&block).check(&state).expect("a device's own state");
    lock(&block).commit(state);
});

/// Answers the oldest operation; `false` if there is none.
fn answer(block: &Mutex<Block>, under_way: &UnderWay, well: bool) -> bool {
    let Some((token, operation)) = lock(under_way).pop_front() else { return false };
    let buffer = match operation {
        Operation::Read { buffer, .. } | Operation::Write { buffer, .. } => buffer,
        _ => Vec::new(),
    };
    lock(block).complete(token, well.then_some(buffer));
    true
}

fn step(
    input: &mut Input,
    ram: &GuestRam,
    function: &mut VirtioPci,
    block: &Mutex<Block>,
    under_way: &UnderWay,
    features: u64,
) -> Option<()> {
    loop {
        match input.byte()? % 9 {
            0 => {
                let at = RAM - 1 - u64::from(input.word()?) % (RAM - RINGS + 0x1000);
                // Past the end nothing is written.
                let _ = ram.write(at, input.bytes(16));
            }
            1 => {
                // A descriptor that leads to somewhere likely.
                let (queue, index) = (input.byte()? % QUEUES as u8, input.byte()? % QUEUE_SIZE as u8);
                let at = RINGS + RING * u64::from(queue) + 16 * u64::from(index);
                let (address, length) = (u64::from(input.word()?), u64::from(input.word()?));
                let (flags, next) = (u64::from(input.byte()? & 7), u64::from(input.byte()?));
                ram.write_u64(at, address).expect("a ring is in RAM");
                ram.write_u64(at + 8, length | flags << 32 | (next % 20) << 48).expect("a ring is in RAM");
            }
            2 => {
                // A whole request: header, data, status, in three descriptors from an index on.
                let (queue, index) = (u64::from(input.byte()? % QUEUES as u8), u64::from(input.byte()? % 14));
                let (kind, sector) = (u32::from(input.byte()? % 16), u64::from(input.word()?));
                let (sectors, write) = (u64::from(input.word()? % 1024), u64::from(input.byte()? & 2));
                ram.write_u32(0x100, kind).expect("low memory is RAM");
                ram.write_u64(0x108, sector).expect("low memory is RAM");
                let table = RINGS + RING * queue + 16 * index;
                for (number, (address, length, flags)) in
                    [(0x100, 16, 1), (0x1000, sectors * SECTOR, 1 | write), (0x200, 1, 2)]
                        .into_iter()
                        .enumerate()
                {
                    let (at, next) = (table + 16 * number as u64, index + number as u64 + 1);
                    ram.write_u64(at, address).expect("a ring is in RAM");
                    ram.write_u64(at + 8, length | flags << 32 | next << 48).expect("a ring is in RAM");
                }
                let available = RINGS + RING * queue + 0x400;
                let slot = ram.read_u16(available + 2).expect("a ring is in RAM");
                let entry = available + 4 + 2 * u64::from(slot % QUEUE_SIZE);
                ram.write_u16(entry, index as u16).expect("a ring is in RAM");
                ram.write_u16(available + 2, slot.wrapping_add(1)).expect("a ring is in RAM");
                function.write(NOTIFY + 4 * queue, &[0; 2]);
            }
            3 => {
                // Makes what is in the available ring available, and says so.
                let (queue, count) = (u16::from(input.byte()?) % QUEUES, u16::from(input.byte()?) % 20);
                let index = RINGS + RING * u64::from(queue) + 0x402;
                let value = ram.read_u16(index).expect("a ring is in RAM");
                ram.write_u16(index, value.wrapping_add(count)).expect("a ring is in RAM");
                function.write(NOTIFY + 4 * u64::from(queue), &[0; 2]);
            }
            4 => {
                let well = input.byte()? & 7 != 0;
                answer(block, under_way, well);
            }
            5 => function.write(DEVICE + u64::from(input.byte()?), input.bytes(4)),
            6 => {
                // Anything to any register.
                let at = u64::from(input.word()?) % VirtioPci::LENGTH;
                let bytes = input.bytes(4);
                if matches!(bytes.len(), 1 | 2 | 4) {
                    function.write(at, bytes);
                    function.read(at, &mut [0; 4][..bytes.len()]);
                }
            }
            7 => start(function, features),
            _ => function.read(DEVICE + u64::from(input.byte()?), &mut [0; 8]),
        }
    }
}
