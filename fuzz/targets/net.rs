//! A network card in the hands of a driver that writes anything anywhere, and of a network that brings anything.
//!
//! The card is reached as a guest reaches it: rings in memory, registers of the transport. It must neither panic nor
//! hang; what it sends is a frame; and its state is one that it accepts back.
#![no_main]

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};

use devices::pci::MsiSink;
use devices::virtio::VirtioPci;
use devices::virtio::net::{Cable, Config, HEADER_LENGTH, Header, MAX_FRAME, Net, feature};
use devices::virtio::pci::PciWiring;
use devices::wiring::{IrqLine, MmioDevice};
use libfuzzer_sys::fuzz_target;
use memory::GuestRam;
use savestate::Persist;

/// Bytes of RAM, the last of which hold the rings.
const RAM: u64 = 0x4_0000;
const RINGS: u64 = 0x3_0000;
const RING: u64 = 0x1000;
const PAIRS: u16 = 2;
const QUEUES: u16 = 2 * PAIRS + 1;
const QUEUE_SIZE: u16 = 16;
/// Of the transport.
const NOTIFY: u64 = 0x3000;

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

/// The cable takes nothing.
static FULL: AtomicBool = AtomicBool::new(false);

struct Checking;

impl Cable for Checking {
    fn send(&self, _: &Header, frame: &[u8]) -> bool {
        assert!((14..=MAX_FRAME).contains(&frame.len()));
        !FULL.load(Relaxed)
    }

    fn guest_takes(&self, features: u64) {
        assert_eq!(features & !feature::GUEST, 0);
    }

    fn room(&self) {}
}

struct Nobody;

impl MsiSink for Nobody {
    fn send(&self, _: u64, _: u32) {}
}

fn lock(net: &Mutex<Net>) -> MutexGuard<'_, Net> {
    net.lock().expect("nobody has panicked")
}

/// Goes through what a driver does until the card works (Virtio 1.2, 3.1.1).
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
    FULL.store(false, Relaxed);
    let ram = GuestRam::allocate(RAM).expect("a little memory");
    let config = Config { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, queue_pairs: PAIRS, takes: feature::HOST };
    let net = Arc::new(Mutex::new(Net::new(config, Box::new(Checking))));
    let wiring = PciWiring {
        ram: ram.clone(),
        line: IrqLine::unconnected(),
        messages: Arc::new(Nobody),
        doorbell: net.clone(),
    };
    let mut function = VirtioPci::new(net.clone(), wiring);
    // With and without merged buffers, several pairs, EVENT_IDX.
    let Some(choice) = input.byte() else { return };
    let optional = [feature::MRG_RXBUF, feature::MQ, feature::CTRL_RX, feature::GUEST_CSUM, 1 << 29, 1 << 28];
    let chosen =
        (0..).zip(optional).filter(|(bit, _)| choice & 1 << bit != 0).fold(0, |all, (_, one)| all | one);
    start(&mut function, chosen | feature::CTRL_VQ);
    step(&mut input, &ram, &mut function, &net);
    let state = lock(&net).save();
    lock(&net).check(&state).expect("a card's own state");
    lock(&net).commit(state);
});

fn step(input: &mut Input, ram: &GuestRam, function: &mut VirtioPci, net: &Mutex<Net>) -> Option<()> {
    loop {
        match input.byte()? % 8 {
            0 => {
                let at = RAM - 1 - u64::from(input.word()?) % (RAM - RINGS + 0x1000);
                let bytes = input.bytes(16);
                // Past the end nothing is written.
                let _ = ram.write(at, bytes);
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
                // Makes what is in the available ring available, and says so.
                let (queue, count) = (u16::from(input.byte()?) % QUEUES, u16::from(input.byte()?) % 20);
                let index = RINGS + RING * u64::from(queue) + 0x402;
                let value = ram.read_u16(index).expect("a ring is in RAM");
                ram.write_u16(index, value.wrapping_add(count)).expect("a ring is in RAM");
                function.write(NOTIFY + 4 * u64::from(queue), &[0; 2]);
            }
            3 => {
                let length = usize::from(input.word()?) * 2;
                let mut header = [0; HEADER_LENGTH];
                let given = input.bytes(HEADER_LENGTH);
                header[..given.len()].copy_from_slice(given);
                lock(net).receive(&header, &vec![0xff; length]);
            }
            4 => lock(net).drained(),
            5 => {
                FULL.fetch_xor(true, Relaxed);
            }
            6 => {
                let offset = u64::from(input.word()?) & 0x7fff;
                function.write(offset, input.bytes(4));
            }
            _ => {
                let up = input.byte()? & 1 != 0;
                lock(net).set_link(up);
            }
        }
    }
}
