//! A virtio device behind its PCI transport, with a driver that does anything: registers written in any order and
//! width, rings and descriptors of any content anywhere, resets in the midst of requests, a back-end that answers
//! late, out of order or not at all, and saved states taken half-way.
//!
//! The input is a program for that driver. One of its steps is to do everything right up to DRIVER_OK, and another to
//! offer a chain that is well-formed but for its buffers; without them hardly an input would get further than the
//! transport. A new device is a row in `DEVICES`.
#![no_main]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use devices::pci::{MsiSink, PciDevice};
use devices::virtio::block::{Block, BlockBackend, BlockConfig, Operation, SERIAL, Token};
use devices::virtio::pci::PciWiring;
use devices::virtio::rng::{Entropy, Rng};
use devices::virtio::{Doorbell, VirtioDevice, VirtioPci};
use devices::wiring::{IrqLine, MmioDevice, lock};
use libfuzzer_sys::fuzz_target;
use memory::GuestRam;
use savestate::{Sections, Writer};

/// All of the guest's memory.
const RAM: u64 = 1 << 20;
/// Where rings lie that were set up well, and how far apart; buffers come after them.
const RINGS: u64 = 0x1000;
const STRIDE: u64 = 0x4000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
/// Descriptors of such a queue.
const SIZE: u16 = 16;

/// What a program may take: enough to fill queues several times.
const MOST_STEPS: usize = 512;

/// A device and its host.
struct Arm {
    device: Arc<Mutex<dyn VirtioDevice>>,
    doorbell: Arc<dyn Doorbell>,
    /// What its back-end does when it gets a turn, as the input will have it.
    host: Box<dyn FnMut(&mut Input)>,
}

const DEVICES: &[fn() -> Arm] = &[rng, block];

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let arm = DEVICES[usize::from(input.byte()) % DEVICES.len()];
    let mut driver = Driver::new(arm());
    for _ in 0..MOST_STEPS {
        if input.0.is_empty() {
            break;
        }
        driver.step(&mut input);
    }
    // Whatever was done, a reset makes it a device again (2.4).
    driver.set_up();
    assert_eq!(driver.status() & 0x4f, 0xf, "a device that was reset can be set up");
});

/// Bytes to decide by; zeroes when there are no more.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// An address or length: mostly near something, or near an end of everything.
    fn number(&mut self) -> u64 {
        let low = u64::from(self.byte());
        match self.byte() % 8 {
            0 => low,
            1 => RINGS + low * 0x40,
            2 => RINGS + STRIDE + low * 0x40,
            3 => 0x20_000 + low * 0x100,
            4 => RAM.wrapping_sub(low),
            5 => u64::MAX - low,
            6 => (1 << 32) - low,
            _ => self.word(),
        }
    }
}

struct Driver {
    ram: GuestRam,
    transport: VirtioPci,
    arm: Arm,
    /// The next descriptor and available index of each queue.
    next: Vec<(u16, u16)>,
}

impl Driver {
    fn new(arm: Arm) -> Self {
        let ram = GuestRam::allocate(RAM).expect("a megabyte");
        let wiring = PciWiring {
            ram: ram.clone(),
            line: IrqLine::unconnected(),
            messages: Arc::new(Nowhere),
            doorbell: arm.doorbell.clone(),
        };
        let mut transport = VirtioPci::new(arm.device.clone(), wiring);
        transport.place(0xe000_0000, 11);
        Self { ram, transport, arm, next: vec![(0, 0); 64] }
    }

    fn step(&mut self, input: &mut Input) {
        match input.byte() % 10 {
            0 => {
                let (offset, size) = (input.byte(), 1 << (input.byte() % 3));
                self.transport.write_config(offset, size, input.word() as u32);
                self.transport.read_config(offset, size);
            }
            1 => {
                // The blocks of the base address register are 1000h long.
                let offset = u64::from(input.byte() % 8) << 12 | u64::from(input.byte());
                let mut data = input.word().to_le_bytes();
                let size = 1 << (input.byte() % 4);
                self.transport.write(offset, &data[..size]);
                self.transport.read(offset, &mut data[..size]);
            }
            2 => {
                let _ = self.ram.write_u64(input.number(), input.word());
            }
            3 => self.set_up(),
            4 => self.offer(input),
            5 => self.transport.write(0x3000 + 4 * u64::from(input.byte()), &[0, 0]),
            6 => self.transport.write(0x14, &[input.byte()]),
            7 => (self.arm.host)(input),
            8 => self.save_and_restore(),
            // One queue of the driver's, any way.
            _ => {
                self.common(0x16, u64::from(input.byte() % 4), 2);
                for register in [0x20, 0x28, 0x30] {
                    self.common(register, input.number(), 8);
                }
                self.common(0x18, input.number(), 2);
                self.common(0x1c, 1, 2);
            }
        }
    }

    fn common(&mut self, offset: u64, value: u64, size: usize) {
        self.transport.write(offset, &value.to_le_bytes()[..size]);
    }

    fn status(&mut self) -> u8 {
        let mut status = [0];
        self.transport.read(0x14, &mut status);
        status[0]
    }

    /// As 3.1.1 has it, with all features that are offered.
    fn set_up(&mut self) {
        self.common(0x14, 0, 1);
        self.common(0x14, 3, 1);
        for half in [0, 1] {
            self.common(0x00, half, 4);
            let mut offered = [0; 4];
            self.transport.read(0x04, &mut offered);
            self.common(0x08, half, 4);
            self.common(0x0c, u32::from_le_bytes(offered).into(), 4);
        }
        self.common(0x14, 11, 1);
        let mut queues = [0; 2];
        self.transport.read(0x12, &mut queues);
        for queue in 0..u16::from_le_bytes(queues) {
            let base = RINGS + u64::from(queue) * STRIDE;
            let zeroes = [0; STRIDE as usize];
            self.ram.write(base, &zeroes).expect("rings lie in RAM");
            self.common(0x16, queue.into(), 2);
            self.common(0x18, SIZE.into(), 2);
            self.common(0x1a, queue.into(), 2);
            for (register, address) in [(0x20, base), (0x28, base + AVAILABLE), (0x30, base + USED)] {
                self.common(register, address, 8);
            }
            self.common(0x1c, 1, 2);
        }
        self.next.fill((0, 0));
        self.common(0x14, 15, 1);
    }

    /// Makes a chain available whose links are right, in a queue that was set up well.
    fn offer(&mut self, input: &mut Input) {
        let number = input.byte() % 8;
        let base = RINGS + u64::from(number) * STRIDE;
        let (descriptor, available) = &mut self.next[usize::from(number)];
        let length = u16::from(input.byte() % 5);
        let head = *descriptor % SIZE;
        // Devices read first and write then, and look at the first bytes above all.
        let readable = u16::from(input.byte()) % (length + 1);
        for place in 0..length {
            let (at, next) = (*descriptor % SIZE, (*descriptor + 1) % SIZE);
            *descriptor = next;
            let (gpa, len) = (input.number(), input.number() as u32);
            if place == 0 {
                let _ = self.ram.write_u64(gpa, input.word());
                let _ = self.ram.write_u64(gpa.wrapping_add(8), input.word());
            }
            let more = u16::from(place + 1 < length);
            let flags = more | if place < readable { 0 } else { 2 };
            let entry = base + 16 * u64::from(at);
            let words = [gpa, u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48];
            for (entry, word) in [entry, entry + 8].into_iter().zip(words) {
                self.ram.write_u64(entry, word).expect("rings lie in RAM");
            }
        }
        let slot = base + AVAILABLE + 4 + 2 * u64::from(*available % SIZE);
        *available = available.wrapping_add(1);
        self.ram.write_u16(slot, head).expect("rings lie in RAM");
        self.ram.write_u16(base + AVAILABLE + 2, *available).expect("rings lie in RAM");
        self.transport.write(0x3000 + 4 * u64::from(number), &[0, 0]);
    }

    /// What is saved can be restored, into the same device, and it goes on.
    fn save_and_restore(&mut self) {
        let mut writer = Writer::new();
        writer.add(0, &self.transport).expect("a state that can be written");
        let file = writer.finish();
        let sections = Sections::parse(&file).expect("a file that was just written");
        let status = self.status();
        sections.check([(0, &mut self.transport as _)]).expect("a state that was just saved").commit();
        self.transport.resume();
        assert_eq!(self.status() & !0x40, status & !0x40);
    }
}

/// Where interrupt messages end.
struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _: u64, _: u32) {}
}

fn arm<T: VirtioDevice + 'static>(device: T) -> (Arc<Mutex<T>>, Arm) {
    let device = Arc::new(Mutex::new(device));
    let arm = Arm { device: device.clone(), doorbell: device.clone(), host: Box::new(|_| {}) };
    (device, arm)
}

fn rng() -> Arm {
    struct Counted;
    impl Entropy for Counted {
        fn fill(&mut self, bytes: &mut [u8]) -> bool {
            bytes.fill(0x5a);
            bytes.len() % 3 != 0
        }
    }
    arm(Rng::new(Box::new(Counted))).1
}

/// A disk of 64 sectors whose back-end has done nothing yet of what it was asked.
fn block() -> Arm {
    #[derive(Clone, Default)]
    struct Waiting(Arc<Mutex<VecDeque<(Token, Operation)>>>);
    impl BlockBackend for Waiting {
        fn submit(&mut self, token: Token, operation: Operation) {
            if let Operation::Read { offset, buffer } | Operation::Write { offset, buffer } = &operation {
                assert!(!buffer.is_empty() && offset + buffer.len() as u64 <= 64 * 512, "beyond the disk");
            }
            lock(&self.0).push_back((token, operation));
        }
    }
    let waiting = Waiting::default();
    let config = BlockConfig { capacity: 64, read_only: false, serial: [b'x'; SERIAL], queues: 2 };
    let (device, mut arm) = arm(Block::new(config, Box::new(waiting.clone())));
    arm.host = Box::new(move |input| {
        let choice = input.byte();
        let mut list = lock(&waiting.0);
        let taken = if choice & 1 == 0 { list.pop_front() } else { list.pop_back() };
        drop(list);
        let Some((token, operation)) = taken else { return };
        let answer = match operation {
            Operation::Read { buffer, .. } | Operation::Write { buffer, .. } => buffer,
            _ => Vec::new(),
        };
        lock(&device).complete(token, (choice & 2 == 0).then_some(answer));
    });
    arm
}
