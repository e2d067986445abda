//! The card between a driver and a cable that record what they get.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use savestate::Persist;

use super::*;
use crate::virtio::testing::Driver;
use crate::wiring::lock;

const MAC: Mac = [0x52, 0, 0, 0, 0, 1];
const PLAIN: Header = [0; HEADER_LENGTH];
const RX: u16 = 0;
const TX: u16 = 1;
const CONTROL: u16 = 2;

/// What a cable was told.
#[derive(Default)]
struct Told {
    frames: Vec<(Header, Vec<u8>)>,
    takes: Vec<u64>,
    room: usize,
    full: bool,
}

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Told>>);

impl Cable for Recorder {
    fn send(&self, header: &Header, frame: &[u8]) -> bool {
        let mut told = lock(&self.0);
        if !told.full {
            told.frames.push((*header, frame.to_vec()));
        }
        !told.full
    }

    fn guest_takes(&self, features: u64) {
        lock(&self.0).takes.push(features);
    }

    fn room(&self) {
        lock(&self.0).room += 1;
    }
}

struct Bench {
    driver: Driver,
    cable: Recorder,
    net: Net,
}

impl Bench {
    fn new(pairs: u16, features: u64) -> Self {
        let driver = Driver::with_queues(16, usize::from(2 * pairs + 1));
        let cable = Recorder::default();
        let config = Config { mac: MAC, mtu: 1500, queue_pairs: pairs, takes: feature::HOST };
        let mut net = Net::new(config, Box::new(cable.clone()));
        net.activate(driver.activation_with(features));
        Self { driver, cable, net }
    }

    /// Puts bytes into the driver's memory.
    fn place(&self, at: u64, bytes: &[u8]) {
        self.driver.ram().write(at, bytes).unwrap();
    }

    fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.driver.ram().read(at, &mut bytes).unwrap();
        bytes
    }

    /// The driver sends a frame in one buffer, and has it back.
    fn send(&mut self, header: Header, frame: &[u8]) {
        self.place(0x8000, &[&header, frame].concat());
        self.driver.offer_in(TX, &[(0x8000, (HEADER_LENGTH + frame.len()) as u32)], &[]);
        self.net.notify(TX);
    }

    /// Has a command carried out; what the card acknowledges it with.
    fn command(&mut self, queue: u16, command: &[u8]) -> u8 {
        self.place(0x8000, command);
        self.place(0x9000, &[0xee]);
        self.driver.offer_in(queue, &[(0x8000, command.len() as u32)], &[(0x9000, 1)]);
        self.net.notify(queue);
        assert_eq!(self.driver.used_in(queue).len(), 1);
        self.read(0x9000, 1)[0]
    }

    fn sent(&self) -> Vec<(Header, Vec<u8>)> {
        std::mem::take(&mut lock(&self.cable.0).frames)
    }
}

fn frame(to: Mac, length: usize) -> Vec<u8> {
    let mut frame = [to, [2, 0, 0, 0, 0, 9]].concat();
    frame.extend((12..length).map(|at| at as u8));
    frame
}

#[test]
fn frames_go_out_as_they_are_whatever_their_buffers() {
    let mut bench = Bench::new(1, 0);
    let header = [1, 1, 66, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0];
    let large = frame(MAC, 10_000);
    let whole = [&header[..], &large].concat();
    bench.place(0x8000, &whole);
    let split = |at: u64, length: u32| (0x8000 + at, length);
    let [first, second] = [
        // In the midst of the header; an empty buffer; the rest.
        vec![split(0, 5), split(5, 0), split(5, 100), split(105, whole.len() as u32 - 105)],
        vec![split(0, 12 + 60)],
    ];
    bench.driver.offer_in(TX, &first, &[]);
    bench.driver.offer_in(TX, &second, &[]);
    bench.net.notify(TX);
    assert_eq!(bench.sent(), [(header, large.clone()), (header, large[..60].to_vec())]);
    assert_eq!(bench.driver.used_in(TX).iter().map(|used| used.1).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(bench.driver.messages(), [TX]);
}

#[test]
fn what_is_no_frame_goes_nowhere_and_comes_back() {
    let mut bench = Bench::new(1, 0);
    bench.place(0x8000, &[0; 200]);
    for buffers in [
        vec![(0x8000, 4)],
        vec![(0x8000, 12)],
        vec![(0x8000, 12 + 13)],
        vec![(0x8000, 12), (u64::MAX - 50, 60)],
        vec![(0x8000, u32::MAX)],
        vec![(0, 0x1_0000), (0, 0x1_0000)],
    ] {
        bench.driver.offer_in(TX, &buffers, &[]);
        bench.net.notify(TX);
        assert_eq!(bench.driver.used_in(TX).len(), 1, "{buffers:?}");
    }
    // Only to be written: not a byte to send.
    bench.driver.offer_in(TX, &[], &[(0x8000, 100)]);
    bench.net.notify(TX);
    assert_eq!(bench.driver.used_in(TX).len(), 1);
    assert_eq!(bench.sent(), []);
    assert!(!bench.driver.needs_reset());
}

#[test]
fn a_full_cable_keeps_frames_in_the_ring() {
    let mut bench = Bench::new(1, 0);
    lock(&bench.cable.0).full = true;
    for length in [60, 61, 62] {
        bench.send(PLAIN, &frame(MAC, length));
    }
    assert_eq!(bench.driver.used_in(TX), []);
    lock(&bench.cable.0).full = false;
    // The three share their buffer, which holds the last; what counts is their order.
    bench.net.drained();
    assert_eq!(bench.sent().iter().map(|(_, frame)| frame.len()).collect::<Vec<_>>(), [60, 61, 62]);
    assert_eq!(bench.driver.used_in(TX).len(), 3);
    bench.net.drained();
    assert_eq!(bench.sent(), []);
}

#[test]
fn a_frame_is_received_in_one_buffer() {
    let mut bench = Bench::new(1, feature::GUEST_CSUM);
    bench.driver.offer_in(RX, &[], &[(0x8000, 4), (0x9000, 2000)]);
    let valid = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xaa, 0xaa];
    let frame = frame(MAC, 1514);
    assert!(bench.net.receive(&valid, &frame));
    assert_eq!(bench.driver.used_in(RX)[0].1, 12 + 1514);
    assert_eq!(bench.read(0x8000, 4), [2, 0, 0, 0]);
    assert_eq!(bench.read(0x9000, 8), [0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(bench.read(0x9008, 1514), frame);
    assert_eq!(bench.driver.messages(), [RX]);
}

#[test]
fn a_driver_without_sums_is_told_of_none() {
    let mut bench = Bench::new(1, 0);
    bench.driver.offer_in(RX, &[], &[(0x8000, 2000)]);
    assert!(bench.net.receive(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &frame(MAC, 60)));
    assert_eq!(bench.read(0x8000, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
}

#[test]
fn large_frames_are_merged_and_wait_for_their_buffers() {
    let mut bench = Bench::new(1, feature::MRG_RXBUF);
    let large = frame(MAC, 5000);
    let at = |number: u64| 0x8000 + 0x1000 * number;
    bench.driver.offer_in(RX, &[], &[(at(0), 2000)]);
    bench.driver.offer_in(RX, &[], &[(at(1), 2000)]);
    assert!(!bench.net.receive(&PLAIN, &large), "4000 bytes of 5012");
    assert_eq!((bench.driver.used_in(RX), lock(&bench.cable.0).room), (vec![], 0));
    // A smaller one may still overtake: it is the cable that keeps the order.
    let third = bench.driver.offer_in(RX, &[], &[(at(2), 4000)]);
    bench.net.notify(RX);
    assert_eq!(lock(&bench.cable.0).room, 1);
    assert!(bench.net.receive(&PLAIN, &large));
    let used = bench.driver.used_in(RX);
    assert_eq!(used.iter().map(|used| used.1).collect::<Vec<_>>(), [2000, 2000, 1012]);
    assert_eq!(used[2].0, third);
    assert_eq!(bench.read(at(0), 12)[NUM_BUFFERS..], [3, 0]);
    let mut whole = bench.read(at(0) + 12, 1988);
    whole.extend(bench.read(at(1), 2000));
    whole.extend(bench.read(at(2), 1012));
    assert_eq!(whole, large);
    assert_eq!(bench.driver.messages(), [RX]);
    bench.net.notify(RX);
    assert_eq!(lock(&bench.cable.0).room, 1, "nobody waits any more");
}

#[test]
fn a_frame_that_never_fits_is_dropped() {
    let mut bench = Bench::new(1, 0);
    bench.driver.offer_in(RX, &[], &[(0x8000, 100)]);
    assert!(bench.net.receive(&PLAIN, &frame(MAC, 1000)));
    assert_eq!(bench.driver.used_in(RX), []);
    assert!(bench.net.receive(&PLAIN, &frame(MAC, 60)));
    assert_eq!(bench.driver.used_in(RX).len(), 1);
    // A whole ring of buffers without a byte.
    let mut bench = Bench::new(1, feature::MRG_RXBUF);
    for _ in 0..16 {
        bench.driver.offer_in(RX, &[], &[(0x8000, 0)]);
    }
    assert!(bench.net.receive(&PLAIN, &frame(MAC, 60)));
    assert_eq!(bench.driver.used_in(RX), []);
}

#[test]
fn buffers_that_are_not_there_swallow_their_part() {
    let mut bench = Bench::new(1, feature::MRG_RXBUF);
    bench.driver.offer_in(RX, &[], &[(u64::MAX - 500, 300)]);
    bench.driver.offer_in(RX, &[], &[(0x8000, 3000)]);
    assert!(bench.net.receive(&PLAIN, &frame(MAC, 1000)));
    assert_eq!(bench.driver.used_in(RX).len(), 2);
    assert!(!bench.driver.needs_reset());
}

#[test]
fn nobody_receives_without_driver_or_link() {
    let mut bench = Bench::new(1, 0);
    bench.driver.offer_in(RX, &[], &[(0x8000, 2000)]);
    for odd in [&frame(MAC, 60)[..13], &vec![0; MAX_FRAME + 1]] {
        assert!(bench.net.receive(&PLAIN, odd));
    }
    bench.net.set_link(false);
    assert!(bench.net.receive(&PLAIN, &frame(MAC, 60)));
    bench.send(PLAIN, &frame(MAC, 60));
    assert_eq!((bench.sent(), bench.driver.used_in(TX).len()), (vec![], 1));
    let mut status = [0; 2];
    bench.net.read_config(6, &mut status);
    assert_eq!(status, [0, 0]);
    bench.net.set_link(true);
    bench.net.reset();
    assert!(bench.net.receive(&PLAIN, &frame(MAC, 60)));
    assert_eq!(bench.driver.used_in(RX), []);
}

#[test]
fn a_reset_lets_go_of_what_was_held() {
    let mut bench = Bench::new(1, feature::GUEST | feature::CTRL_VQ | feature::CTRL_MAC_ADDR);
    assert!(!bench.net.receive(&PLAIN, &frame(MAC, 60)));
    assert_eq!(bench.command(CONTROL, &[1, 1, 2, 2, 2, 2, 2, 2]), 0);
    bench.net.reset();
    let told = lock(&bench.cable.0);
    assert_eq!((told.room, told.takes.as_slice()), (1, [feature::GUEST, 0].as_slice()));
    let mut mac = [0; 6];
    bench.net.read_config(0, &mut mac);
    assert_eq!(mac, MAC);
}

#[test]
fn the_configuration_is_as_5_1_4_has_it() {
    let bench = Bench::new(4, 0);
    let mut structure = [0xee; 16];
    bench.net.read_config(0, &mut structure);
    assert_eq!(structure, [0x52, 0, 0, 0, 0, 1, 1, 0, 4, 0, 0xdc, 5, 0, 0, 0, 0]);
    assert_eq!(bench.net.queue_sizes(), [256, 256, 256, 256, 256, 256, 256, 256, 64]);
    assert_ne!(bench.net.features() & feature::MQ, 0);
    assert_eq!(Bench::new(1, 0).net.features() & feature::MQ, 0);
}

#[test]
fn commands_are_carried_out_if_they_were_agreed_on() {
    let all = feature::CTRL_VQ | feature::CTRL_RX | feature::CTRL_RX_EXTRA | feature::CTRL_MAC_ADDR;
    let mut bench = Bench::new(1, all | feature::CTRL_GUEST_OFFLOADS | feature::GUEST_CSUM);
    bench.driver.offer_in(RX, &[], &[(0xa000, 2000)]);
    let other = [2, 0, 0, 0, 0, 7];
    // No longer promiscuous; then others' frames by the table.
    assert_eq!(bench.command(CONTROL, &[0, 0, 0]), 0);
    assert!(bench.net.receive(&PLAIN, &frame(other, 60)));
    assert_eq!(bench.driver.used_in(RX), []);
    let table = [&[1, 0, 1, 0, 0, 0][..], &other, &[0, 0, 0, 0]].concat();
    assert_eq!(bench.command(CONTROL, &table), 0);
    assert!(bench.net.receive(&PLAIN, &frame(other, 60)));
    assert_eq!(bench.driver.used_in(RX).len(), 1);
    // An address of its own.
    assert_eq!(bench.command(CONTROL, &[1, 1, 2, 0, 0, 0, 0, 8]), 0);
    bench.driver.offer_in(RX, &[], &[(0xa000, 2000)]);
    assert!(bench.net.receive(&PLAIN, &frame(MAC, 60)));
    assert_eq!(bench.driver.used_in(RX), []);
    assert!(bench.net.receive(&PLAIN, &frame([2, 0, 0, 0, 0, 8], 60)));
    assert_eq!(bench.driver.used_in(RX).len(), 1);
    // Offloads: none, and one that was not agreed on.
    assert_eq!(bench.command(CONTROL, &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 0);
    assert_eq!(bench.command(CONTROL, &[5, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), 1);
    assert_eq!(lock(&bench.cable.0).takes, [feature::GUEST_CSUM, 0]);
    // Too short, unknown, more addresses than there are bytes, a table too long to keep.
    for wrong in
        [&[][..], &[0], &[0, 0], &[9, 9, 9], &[0, 6, 1], &[4, 0, 1, 0], &[1, 0, 0xff, 0xff, 0xff, 0xff]]
    {
        assert_eq!(bench.command(CONTROL, wrong), 1, "{wrong:?}");
    }
    let mut long = vec![1, 0, 100, 0, 0, 0];
    long.extend([2; 600]);
    long.extend([0; 4]);
    assert_eq!(bench.command(CONTROL, &long), 0);
    assert_eq!(bench.net.filter.unicast, None);

    let mut plain = Bench::new(1, 0);
    for command in
        [&[0, 0, 0][..], &[0, 2, 0], &table, &[1, 1, 2, 0, 0, 0, 0, 8], &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    {
        assert_eq!(plain.command(CONTROL, command), 1, "{command:?}");
    }
}

#[test]
fn several_pairs_are_used_once_the_driver_says_so() {
    let mut bench = Bench::new(2, feature::MQ | feature::CTRL_VQ);
    let control = 4;
    assert_eq!(bench.command(control, &[4, 0, 0, 0]), 1);
    assert_eq!(bench.command(control, &[4, 0, 3, 0]), 1);
    assert_eq!(bench.command(control, &[4, 0, 2, 0]), 0);
    bench.driver.offer_in(0, &[], &[(0xa000, 2000)]);
    bench.driver.offer_in(2, &[], &[(0xb000, 2000)]);
    // What is sent on the second pair is answered there.
    let sent = frame(MAC, 60);
    bench.place(0x8000, &[&PLAIN[..], &sent].concat());
    bench.driver.offer_in(3, &[(0x8000, 72)], &[]);
    bench.net.notify(3);
    assert_eq!(bench.sent().len(), 1);
    assert!(bench.net.receive(&PLAIN, &sent));
    assert_eq!((bench.driver.used_in(0).len(), bench.driver.used_in(2).len()), (0, 1));
    // Without MQ the third queue is the control queue.
    let mut bench = Bench::new(2, feature::CTRL_VQ | feature::CTRL_RX);
    assert_eq!(bench.command(CONTROL, &[0, 0, 0]), 0);
}

#[test]
fn what_the_driver_has_set_is_saved() {
    let agreed = feature::CTRL_VQ | feature::CTRL_RX | feature::CTRL_MAC_ADDR | feature::MQ | feature::GUEST;
    let mut bench = Bench::new(2, agreed);
    for command in [&[0, 0, 0][..], &[0, 1, 1], &[1, 1, 2, 0, 0, 0, 0, 8], &[4, 0, 2, 0]] {
        assert_eq!(bench.command(4, command), 0);
    }
    let state = bench.net.save();
    let mut other = Bench::new(2, agreed);
    other.net.check(&state).unwrap();
    other.net.commit(state.clone());
    assert_eq!(other.net.save(), state);
    assert_eq!(lock(&other.cable.0).takes.last(), Some(&feature::GUEST));
    // A card with fewer queues cannot go on from that; one whose driver agreed to less takes less.
    assert!(Bench::new(1, agreed).net.check(&state).is_err());
    let mut less = Bench::new(2, feature::GUEST_CSUM);
    less.net.commit(state);
    assert_eq!(lock(&less.cable.0).takes.last(), Some(&feature::GUEST_CSUM));
}

/// One thing a hostile driver or network does.
#[derive(Clone, Debug)]
enum Step {
    Describe { queue: u16, index: u16, gpa: u64, len: u32, flags: u16, next: u16 },
    Available { queue: u16, head: u16 },
    Notify(u16),
    Receive(Header, usize),
    Full(bool),
    Drained,
    Link(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let gpa = prop_oneof![0..0x1_0000_u64, any::<u64>()];
    let len = prop_oneof![0..100_u32, 0..0x1_0000_u32, any::<u32>()];
    let describe = (0..5_u16, 0..16_u16, gpa, len, 0..4_u16, 0..18_u16);
    let step = prop_oneof![
        6 => describe.prop_map(|(queue, index, gpa, len, flags, next)| {
            Step::Describe { queue, index, gpa, len, flags, next }
        }),
        4 => (0..5_u16, 0..17_u16).prop_map(|(queue, head)| Step::Available { queue, head }),
        4 => (0..6_u16).prop_map(Step::Notify),
        3 => (any::<Header>(), 0..70_000_usize).prop_map(|(header, length)| Step::Receive(header, length)),
        1 => any::<bool>().prop_map(Step::Full),
        1 => Just(Step::Drained),
        1 => any::<bool>().prop_map(Step::Link),
    ];
    prop::collection::vec(step, 1..100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_a_driver_does_is_fatal(steps in steps(), merged in any::<bool>(), several in any::<bool>()) {
        let optional = [(merged, feature::MRG_RXBUF), (several, feature::MQ)];
        let chosen = optional.iter().filter(|(on, _)| *on).fold(feature::CTRL_VQ, |all, (_, bit)| all | bit);
        let mut bench = Bench::new(2, chosen | feature::CTRL_RX | feature::GUEST_CSUM);
        for step in steps {
            match step {
                Step::Describe { queue, index, gpa, len, flags, next } => {
                    bench.driver.describe_in(queue, index, gpa, len, flags, next);
                }
                Step::Available { queue, head } => bench.driver.make_available_in(queue, head),
                Step::Notify(queue) => bench.net.notify(queue),
                Step::Receive(header, length) => drop(bench.net.receive(&header, &vec![0xff; length])),
                Step::Full(full) => lock(&bench.cable.0).full = full,
                Step::Drained => bench.net.drained(),
                Step::Link(up) => bench.net.set_link(up),
            }
            let frames = bench.sent();
            prop_assert!(frames.iter().all(|(_, frame)| (ETHERNET_HEADER..=MAX_FRAME).contains(&frame.len())));
            let state = bench.net.save();
            prop_assert!(bench.net.check(&state).is_ok());
        }
    }
}
