//! The network card, on a cable that is full at times and brings anything.
//!
//! What the card sends is a frame, and none on a pair that was refused one before there is room again; what the cable is
//! told of the driver are offloads that were offered.

use std::sync::{Arc, Mutex};

use devices::virtio::net::{Cable, Config, HEADER_LENGTH, Header, MAX_FRAME, Net, feature};
use devices::wiring::lock;
use memory::GuestRam;

use super::{Arm, Host};
use crate::driver::{BUFFERS, Driver};
use crate::input::Input;

const PAIRS: u16 = 2;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Where frames of the driver's are, and where buffers for others.
const OUT: u64 = BUFFERS;
const IN: u64 = BUFFERS + 0x2_0000;
/// And its commands.
const COMMAND: u64 = 0x1_0000;
const ACK: u64 = 0x1_1000;

/// Classes and commands: RX, MAC, MQ, GUEST_OFFLOADS, and one that there is not.
const COMMANDS: &[(u8, u8)] =
    &[(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 0), (1, 1), (4, 0), (4, 0), (5, 0), (6, 7)];

/// How a frame begins: mostly as IPv4 or IPv6.
fn begin(input: &mut Input) -> [u8; 40] {
    let kind = input.byte();
    let mut frame = input.array();
    if kind & 3 != 0 {
        frame[12..15].copy_from_slice(if kind & 1 != 0 { &[8, 0, 0x45] } else { &[0x86, 0xdd, 0x60] });
    }
    frame
}

#[derive(Default)]
struct Far {
    /// It takes nothing.
    full: bool,
    /// Frames that it did not take since it last had room.
    refused: u16,
    /// The card has room for what it did not take.
    room: bool,
}

struct Checking(Arc<Mutex<Far>>);

impl Cable for Checking {
    fn send(&self, _: &Header, frame: &[u8]) -> bool {
        assert!((14..=MAX_FRAME).contains(&frame.len()), "no frame");
        let mut far = lock(&self.0);
        far.refused += u16::from(far.full);
        assert!(far.refused <= PAIRS, "a pair that waits for room sends");
        !far.full
    }

    fn guest_takes(&self, features: u64) {
        assert_eq!(features & !feature::GUEST, 0);
        // A reset is among the occasions, and forgets what was refused.
        if features == 0 {
            lock(&self.0).refused = 0;
        }
    }

    fn room(&self) {
        lock(&self.0).room = true;
    }
}

struct Network {
    card: Arc<Mutex<Net>>,
    far: Arc<Mutex<Far>>,
}

impl Network {
    fn make_room(&self) {
        lock(&self.far).refused = 0;
        lock(&self.card).drained();
    }
}

impl Host for Network {
    fn act(&mut self, input: &mut Input) {
        match input.byte() % 8 {
            0..=3 => {
                let length = if input.flag() { usize::from(input.half()) * 2 } else { input.byte().into() };
                let header = input.array::<HEADER_LENGTH>();
                let mut frame = vec![0xff; length];
                let begin = begin(input);
                let given = length.min(begin.len());
                frame[..given].copy_from_slice(&begin[..given]);
                // What is refused is brought again when there is room, and only then.
                lock(&self.far).room = false;
                if !lock(&self.card).receive(&header, &frame) {
                    assert!(frame.len() <= MAX_FRAME, "room is asked for what would not be taken");
                }
            }
            4 => self.make_room(),
            5 | 6 => lock(&self.far).full ^= true,
            _ => lock(&self.card).set_link(input.flag()),
        }
    }

    fn request(&mut self, driver: &mut Driver, input: &mut Input) -> u16 {
        let kind = input.byte();
        let pair = u16::from(kind >> 7);
        match kind % 8 {
            0..=2 => {
                let length = 14 + if input.flag() { u32::from(input.half()) } else { input.byte().into() };
                driver.ram.write(OUT, &input.array::<HEADER_LENGTH>()).expect("it is RAM");
                driver.ram.write(OUT + 0x100, &begin(input)).expect("it is RAM");
                let (header, frame) = ((OUT, HEADER_LENGTH as u32), (OUT + 0x100, length));
                driver.offer(2 * pair + 1, &[header, frame], &[]);
                2 * pair + 1
            }
            3..=5 => {
                let length = input.choose(&[1526, 64, 12, 256, 0x1_2000]);
                driver.offer(2 * pair, &[], &[(IN, length)]);
                2 * pair
            }
            _ => {
                // struct virtio_net_ctrl (5.1.6.5): class, command, and what belongs to it.
                let (class, command) = input.choose(COMMANDS);
                driver.ram.write(COMMAND, &[class, command]).expect("it is RAM");
                // Flags, counts and the like, which are small, and whatever follows.
                let value = input.choose(&[0, 1, 2, 3, 4, 6, 65, u64::MAX]);
                driver.ram.write_u64(COMMAND + 2, value).expect("it is RAM");
                driver.ram.write(COMMAND + 6, input.bytes(16)).expect("it is RAM");
                let length = 2 + u32::from(input.byte()) * 4;
                // Where the queue is depends on whether the driver knows of several pairs.
                let queue = if pair == 0 { 2 * PAIRS } else { 2 };
                driver.offer(queue, &[(COMMAND, length)], &[(ACK, 1)]);
                queue
            }
        }
    }

    fn settle(&mut self) {
        lock(&self.far).full = false;
        self.make_room();
    }
}

/// A card with two pairs of queues, or, with bit 7 of the choice, one.
pub fn net(_: &GuestRam, choice: u8) -> Arm {
    let far = Arc::new(Mutex::new(Far::default()));
    let queue_pairs = if choice & 0x80 == 0 { PAIRS } else { 1 };
    let config = Config { mac: MAC, mtu: 1500, queue_pairs, takes: feature::HOST };
    let card = Arc::new(Mutex::new(Net::new(config, Box::new(Checking(far.clone())))));
    Arm::with_state(&card, Network { card: card.clone(), far })
}
