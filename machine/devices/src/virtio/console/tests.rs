//! A driver of three ports: a console, a named one, and one that is neither.

use std::sync::{Arc, Mutex};

use savestate::Persist;

use super::*;
use crate::testing::{Calls, refuses, transplant};
use crate::virtio::testing::Driver;
use crate::wiring::lock;

const MESSAGE: u64 = 0x1000;
const OUTPUT: u64 = 0x2000;
const BUFFER: u64 = 0x4000;

/// Takes as many bytes as it has room for.
#[derive(Clone, Default)]
struct Far(Arc<Mutex<(usize, Vec<u8>)>>);

impl Far {
    fn give(&self, room: usize) {
        lock(&self.0).0 = room;
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.0).1)
    }
}

impl SerialSink for Far {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let (room, taken) = &mut *lock(&self.0);
        let count = bytes.len().min(*room);
        *room -= count;
        taken.extend(&bytes[..count]);
        count
    }
}

struct Bench {
    driver: Driver,
    console: Console,
    far: [Far; 3],
    room: [Calls; 3],
}

impl Bench {
    fn new(features: u64) -> Self {
        let far: [Far; 3] = Default::default();
        let room: [Calls; 3] = Default::default();
        let names = ["", "org.example.agent", ""];
        let wiring = |number: usize| PortWiring {
            name: names[number].into(),
            console: number == 0,
            output: Box::new(far[number].clone()),
            room: room[number].notify(),
        };
        let driver = Driver::with_queues(16, 8);
        let mut console = Console::new((0..3).map(wiring).collect());
        console.set_size(Size { columns: 80, rows: 25 });
        console.set_open(0, true);
        console.activate(driver.activation_with(features));
        Self { driver, console, far, room }
    }

    /// The driver says something.
    fn say(&mut self, id: u32, event: u16, value: u16) {
        self.driver.ram().write_u32(MESSAGE, id).unwrap();
        self.driver.ram().write_u16(MESSAGE + 4, event).unwrap();
        self.driver.ram().write_u16(MESSAGE + 6, value).unwrap();
        self.driver.offer_in(queue::CONTROL_TX, &[(MESSAGE, 8)], &[]);
        self.console.notify(queue::CONTROL_TX);
        assert_eq!(self.driver.used_in(queue::CONTROL_TX).len(), 1);
    }

    /// Offers buffers until nothing comes any more, and returns what came: port, event, value, and what follows.
    fn hear(&mut self) -> Vec<(u32, u16, u16, Vec<u8>)> {
        let mut messages = Vec::new();
        loop {
            self.driver.offer_in(queue::CONTROL_RX, &[], &[(BUFFER, 128)]);
            self.console.notify(queue::CONTROL_RX);
            let Some((_, len)) = self.driver.used_in(queue::CONTROL_RX).pop() else {
                return messages;
            };
            let ram = self.driver.ram();
            let mut more = vec![0; len as usize - CONTROL];
            ram.read(BUFFER + CONTROL as u64, &mut more).unwrap();
            let [event, value] = [4, 6].map(|offset| ram.read_u16(BUFFER + offset).unwrap());
            messages.push((ram.read_u32(BUFFER).unwrap(), event, value, more));
        }
    }

    fn send(&mut self, port: usize, bytes: &[u8]) -> usize {
        let (_, number) = queue::of(port);
        self.driver.ram().write(OUTPUT, bytes).unwrap();
        self.driver.offer_in(number, &[(OUTPUT, bytes.len() as u32)], &[]);
        self.console.notify(number);
        self.driver.used_in(number).len()
    }
}

#[test]
fn a_driver_of_one_port_needs_no_control() {
    let mut bench = Bench::new(0);
    bench.far[0].give(100);
    assert_eq!(bench.send(0, b"hello"), 1);
    assert_eq!(bench.far[0].take(), b"hello");
    bench.driver.offer_in(0, &[], &[(BUFFER, 3)]);
    bench.driver.offer_in(0, &[], &[(BUFFER + 3, 3)]);
    assert_eq!(bench.console.receive(0, b"world!!"), 6);
    assert_eq!(bench.driver.used_in(0).iter().map(|(_, len)| len).sum::<u32>(), 6);
    let mut bytes = [0; 6];
    bench.driver.ram().read(BUFFER, &mut bytes).unwrap();
    assert_eq!(&bytes, b"world!");
    assert_eq!(bench.console.receive(0, b"!"), 0);
    bench.room[0].take();
    bench.console.notify(0);
    assert_eq!(bench.room[0].take(), 1);
}

#[test]
fn ports_are_announced_named_and_opened() {
    let mut bench = Bench::new(F_MULTIPORT);
    bench.say(0, event::DEVICE_READY, 1);
    let added: Vec<_> = (0..3).map(|id| (id, event::DEVICE_ADD, 1, vec![])).collect();
    assert_eq!(bench.hear(), added);
    bench.say(0, event::PORT_READY, 1);
    bench.say(1, event::PORT_READY, 1);
    bench.say(2, event::PORT_READY, 1);
    // One buffer was left waiting, which the first message has taken.
    let mut messages = vec![(0, event::CONSOLE_PORT, 1, vec![])];
    bench.driver.used_in(queue::CONTROL_RX);
    messages.extend(bench.hear());
    let expected = [
        (0, event::CONSOLE_PORT, 1, vec![]),
        (0, event::RESIZE, 0, vec![25, 0, 80, 0]),
        (0, event::PORT_OPEN, 1, vec![]),
        (1, event::PORT_NAME, 1, b"org.example.agent".to_vec()),
        (1, event::PORT_OPEN, 0, vec![]),
        (2, event::PORT_OPEN, 0, vec![]),
    ];
    assert_eq!(messages, expected);
}

#[test]
fn changes_are_told_as_they_are_when_they_can_be() {
    let mut bench = Bench::new(F_MULTIPORT);
    bench.say(1, event::PORT_READY, 1);
    bench.say(0, event::PORT_READY, 1);
    bench.hear();
    bench.driver.offer_in(queue::CONTROL_RX, &[], &[(BUFFER, 128)]);
    // A buffer waits from before; it takes the first.
    bench.console.set_open(1, true);
    bench.console.set_open(1, true);
    assert_eq!(bench.driver.used_in(queue::CONTROL_RX).len(), 1);
    bench.console.set_open(1, false);
    assert_eq!(bench.driver.used_in(queue::CONTROL_RX).len(), 1);
    bench.console.set_open(1, true);
    bench.console.set_open(1, false);
    bench.console.set_open(1, true);
    bench.console.set_size(Size { columns: 132, rows: 43 });
    let expected = [(0, event::RESIZE, 0, vec![43, 0, 132, 0]), (1, event::PORT_OPEN, 1, vec![])];
    assert_eq!(bench.hear(), expected);
    let mut config = [0; 12];
    bench.console.read_config(0, &mut config);
    assert_eq!(config, [132, 0, 43, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn input_waits_until_the_guest_opens() {
    let mut bench = Bench::new(F_MULTIPORT);
    bench.driver.offer_in(4, &[], &[(BUFFER, 8)]);
    assert_eq!(bench.console.receive(1, b"early"), 0);
    bench.say(1, event::PORT_OPEN, 1);
    assert_eq!(bench.room[1].take(), 1);
    assert_eq!(bench.console.receive(1, b"early"), 5);
    bench.say(1, event::PORT_OPEN, 0);
    bench.driver.offer_in(4, &[], &[(BUFFER, 8)]);
    assert_eq!(bench.console.receive(1, b"late"), 0);
}

#[test]
fn output_waits_for_the_far_end_and_is_lost_without_one() {
    let mut bench = Bench::new(F_MULTIPORT);
    bench.console.set_open(1, true);
    bench.far[1].give(3);
    // The buffer is given back, the next one stays.
    assert_eq!(bench.send(1, b"hello"), 1);
    assert_eq!(bench.send(1, b"world"), 0);
    assert_eq!(bench.far[1].take(), b"hel");
    bench.far[1].give(4);
    bench.console.drain(1);
    bench.far[1].give(100);
    bench.console.drain(1);
    assert_eq!(bench.far[1].take(), b"loworld");
    bench.far[1].give(2);
    bench.send(1, b"lost");
    bench.console.set_open(1, false);
    bench.far[1].give(100);
    assert_eq!(bench.send(1, b"too"), 1);
    bench.console.set_open(1, true);
    bench.send(1, b"!");
    assert_eq!(bench.far[1].take(), b"lo!");
}

#[test]
fn nonsense_is_no_more_than_that() {
    let mut bench = Bench::new(F_MULTIPORT);
    for id in [3, 31, u32::MAX] {
        for event in [0, 1, 2, 3, 4, 5, 6, 7, 8, u16::MAX] {
            bench.say(id, event, 0);
            bench.say(id, event, u16::MAX);
        }
    }
    // Messages and bytes that are not there.
    for (number, buffer) in
        [(queue::CONTROL_TX, (MESSAGE, 7)), (queue::CONTROL_TX, (u64::MAX - 20, 8)), (5, (u64::MAX - 20, 8))]
    {
        bench.driver.offer_in(number, &[buffer], &[]);
        bench.console.notify(number);
        assert_eq!(bench.driver.used_in(number).len(), 1);
    }
    // A message does not fit: it is lost, and nothing else.
    bench.driver.offer_in(queue::CONTROL_RX, &[], &[(BUFFER, 7)]);
    bench.console.notify(queue::CONTROL_RX);
    assert_eq!(bench.driver.used_in(queue::CONTROL_RX).iter().map(|(_, len)| len).sum::<u32>(), 0);
    assert!(!bench.driver.needs_reset());
    for number in [8, 9, 64, u16::MAX - 1, u16::MAX] {
        bench.console.notify(number);
    }
    assert_eq!(bench.console.receive(9, b"x"), 0);
    bench.say(1, event::PORT_OPEN, 1);
    bench.driver.offer_in(4, &[], &[(BUFFER, 0)]);
    assert_eq!(bench.console.receive(1, b"x"), 0);
    assert!(bench.driver.needs_reset());
}

#[test]
fn a_buffer_has_a_limit() {
    let mut bench = Bench::new(0);
    bench.far[0].give(usize::MAX);
    // The same memory many times over.
    let pieces = [(OUTPUT, 0x2_0000); 3];
    bench.driver.offer_in(1, &pieces, &[]);
    bench.console.notify(1);
    assert_eq!((bench.far[0].take().len(), port::MOST_HELD), (0x4_0000, 0x4_0000));
}

#[test]
fn it_survives_and_nonsense_does_not() {
    let mut from = Bench::new(F_MULTIPORT);
    from.say(0, event::PORT_READY, 1);
    from.say(0, event::PORT_OPEN, 1);
    from.send(0, b"held");
    let mut to = Bench::new(F_MULTIPORT);
    transplant(&from.console, &mut to.console);
    assert_eq!(to.console.save(), from.console.save());
    to.far[0].give(100);
    to.console.drain(0);
    assert_eq!(to.far[0].take(), b"held");
    assert!(to.console.ports[0].guest_open);
    let changes: &[fn(&mut ConsoleStateV1)] = &[
        |state| state.ports.clear(),
        |state| state.ports[0].owed = 0xff,
        |state| state.ports[1].held = vec![0; port::MOST_HELD + 1],
    ];
    assert!(refuses(&from.console, changes));
}

/// A port is restored before anybody is at the host's end of it.
#[test]
fn what_was_held_waits_for_the_host_to_open() {
    let mut from = Bench::new(0);
    from.send(0, b"held");
    let mut to = Bench::new(0);
    to.console.set_open(0, false);
    transplant(&from.console, &mut to.console);
    to.far[0].give(100);
    to.console.drain(0);
    assert_eq!(to.send(0, b"lost"), 1);
    assert_eq!(to.far[0].take(), b"");
    to.console.set_open(0, true);
    to.send(0, b"!");
    assert_eq!(to.far[0].take(), b"held!");
}
