//! The UART by its datasheet's sequences.

use std::sync::{Arc, Mutex};

use super::*;
use crate::testing::{Calls, Probe};
use crate::wiring::lock;

/// What was sent, and for how much there is room.
#[derive(Clone)]
pub(super) struct Line(Arc<Mutex<(Vec<u8>, usize)>>);

impl SerialSink for Line {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut line = lock(&self.0);
        let taken = bytes.len().min(line.1);
        line.1 -= taken;
        line.0.extend(&bytes[..taken]);
        taken
    }
}

pub(super) struct Bench {
    pub uart: Uart,
    pub line: Line,
    pub intr: Probe,
    pub room: Calls,
}

impl Bench {
    pub fn new() -> Self {
        let (intr, room) = (Probe::default(), Calls::default());
        let line = Line(Arc::new(Mutex::new((Vec::new(), usize::MAX))));
        let uart = Uart::new(intr.line(), Box::new(line.clone()), room.notify());
        Self { uart, line, intr, room }
    }

    pub fn read(&mut self, register: u16) -> u8 {
        self.uart.read(register, 1) as u8
    }

    pub fn write(&mut self, register: u16, value: u8) {
        self.uart.write(register, 1, value.into());
    }

    /// All eight registers, in order; reading has its side effects.
    pub fn dump(&mut self) -> [u8; 8] {
        std::array::from_fn(|register| self.read(register as u16))
    }

    pub fn sent(&self) -> Vec<u8> {
        lock(&self.line.0).0.clone()
    }

    pub fn set_line_room(&self, room: usize) {
        lock(&self.line.0).1 = room;
    }
}

#[test]
fn after_reset() {
    let mut bench = Bench::new();
    assert_eq!(bench.dump(), [0, 0, 0x01, 0, 0, 0x60, 0xb0, 0]);
    assert!(!bench.intr.level());
}

#[test]
fn registers_keep_what_they_have() {
    let mut bench = Bench::new();
    bench.write(3, 0x83);
    bench.write(0, 0x0c);
    bench.write(1, 0x34);
    bench.write(7, 0x5a);
    bench.write(5, 0xff);
    bench.write(6, 0xff);
    assert_eq!(bench.dump(), [0x0c, 0x34, 0x01, 0x83, 0, 0x60, 0xb0, 0x5a]);
    bench.write(3, 0x03);
    bench.write(1, 0xf8);
    bench.write(4, 0xef);
    assert_eq!(bench.dump(), [0, 0x08, 0x01, 0x03, 0x0f, 0x60, 0xb0, 0x5a]);
    assert!(bench.sent().is_empty());
}

#[test]
fn transmitter_interrupt_is_latched_until_seen() {
    let mut bench = Bench::new();
    bench.write(1, 0x02);
    assert!(bench.intr.level(), "enabling it with THR empty raises it");
    assert_eq!(bench.read(2), 0x02);
    assert_eq!((bench.read(2), bench.intr.level()), (0x01, false));
    bench.write(1, 0x02);
    assert!(!bench.intr.level(), "only the change from 0 to 1 counts");
    bench.write(0, b'x');
    assert_eq!((bench.intr.level(), bench.sent()), (true, b"x".to_vec()));
    bench.write(1, 0x00);
    assert_eq!((bench.read(2), bench.intr.level()), (0x01, false));
    bench.write(1, 0x02);
    assert_eq!((bench.read(2), bench.read(2)), (0x02, 0x01));
}

#[test]
fn a_slow_line_fills_the_transmitter_fifo() {
    let mut bench = Bench::new();
    bench.write(2, 0x01);
    bench.write(1, 0x02);
    bench.read(2);
    bench.set_line_room(1);
    for byte in 0..20 {
        bench.write(0, byte);
    }
    // One went out, sixteen wait, three found no place.
    assert_eq!((bench.read(5), bench.read(2)), (0x00, 0xc1));
    bench.set_line_room(15);
    bench.uart.drain();
    assert_eq!((bench.read(5), bench.intr.level()), (0x00, false));
    bench.set_line_room(5);
    bench.uart.drain();
    assert_eq!(bench.sent(), (0..17).collect::<Vec<u8>>());
    assert_eq!((bench.read(5), bench.intr.level()), (0x60, true));
    bench.intr.take_edges();
    bench.uart.drain();
    assert_eq!(bench.read(2), 0xc2);
    bench.uart.drain();
    assert_eq!((bench.read(2), bench.intr.take_edges()), (0xc1, 0));
}

#[test]
fn receiver_fifo_interrupts_at_its_trigger_and_by_timeout() {
    let mut bench = Bench::new();
    bench.write(2, 0x81);
    bench.write(1, 0x01);
    assert_eq!(bench.uart.receive(b"1234567"), 7);
    assert_eq!((bench.intr.level(), bench.read(2)), (true, 0xcc));
    assert_eq!(bench.uart.receive(b"8"), 1);
    assert_eq!((bench.read(2), bench.read(5)), (0xc4, 0x61));
    assert_eq!((bench.read(0), bench.read(2)), (b'1', 0xcc));
    let rest: Vec<u8> = (0..7).map(|_| bench.read(0)).collect();
    assert_eq!(rest, b"2345678");
    assert_eq!((bench.read(2), bench.intr.level()), (0xc1, false));
    assert_eq!((bench.read(5), bench.room.take()), (0x60, 0));
}

#[test]
fn input_waits_for_room() {
    let mut bench = Bench::new();
    assert_eq!((bench.uart.room(), bench.uart.receive(b"ab")), (1, 1));
    assert_eq!((bench.uart.room(), bench.uart.receive(b"b")), (0, 0));
    assert_eq!(bench.room.take(), 0);
    assert_eq!((bench.read(0), bench.room.take()), (b'a', 1));
    bench.write(2, 0x01);
    assert_eq!(bench.uart.receive(&[7; 20]), 16);
    for _ in 0..15 {
        bench.read(0);
    }
    assert_eq!(bench.room.take(), 0);
    bench.read(0);
    assert_eq!((bench.room.take(), bench.read(5)), (1, 0x60));
    assert_eq!(bench.uart.receive(&[7; 20]), 16);
    bench.write(2, 0x03);
    assert_eq!((bench.room.take(), bench.read(5)), (1, 0x60));
}

#[test]
fn loopback_turns_the_chip_upon_itself() {
    let mut bench = Bench::new();
    bench.write(4, 0x10);
    assert_eq!(bench.read(6), 0x0b, "all three lines have dropped");
    bench.write(4, 0x1f);
    assert_eq!(bench.read(6), 0xfb);
    bench.write(4, 0x1a);
    assert_eq!(bench.read(6), 0x96, "RTS and OUT2 stay; DSR and RI fell");
    bench.write(1, 0x0d);
    bench.write(4, 0x18);
    assert_eq!((bench.intr.level(), bench.read(2)), (true, 0x00));
    assert_eq!((bench.read(6), bench.intr.level()), (0x81, false));

    bench.write(0, b'a');
    assert_eq!((bench.read(2), bench.read(5)), (0x04, 0x61));
    bench.write(0, b'b');
    assert_eq!(bench.read(2), 0x06, "overrun");
    assert_eq!((bench.read(5), bench.read(5)), (0x63, 0x61));
    assert_eq!((bench.read(0), bench.read(2)), (b'b', 0x01));
    assert!(bench.sent().is_empty());

    assert_eq!((bench.uart.receive(b"x"), bench.room.take()), (0, 0));
    bench.write(4, 0x0b);
    assert_eq!((bench.room.take(), bench.uart.receive(b"x")), (1, 1));
}

#[test]
fn break_shows_with_its_character() {
    let mut bench = Bench::new();
    bench.write(2, 0x01);
    bench.write(1, 0x04);
    bench.uart.receive(b"a");
    assert!(bench.uart.receive_break());
    assert_eq!((bench.intr.level(), bench.read(5)), (false, 0xe1));
    assert_eq!((bench.read(0), bench.intr.level()), (b'a', true));
    assert_eq!((bench.read(2), bench.read(5)), (0xc6, 0xf1));
    assert_eq!((bench.read(2), bench.read(0), bench.read(5)), (0xc1, 0, 0x60));
}

#[test]
fn reset_drops_everything() {
    let mut bench = Bench::new();
    bench.write(3, 0x80);
    bench.write(0, 1);
    bench.write(3, 0x03);
    bench.write(1, 0x01);
    bench.uart.receive(b"ab");
    bench.uart.reset();
    assert_eq!((bench.intr.level(), bench.room.take()), (false, 1));
    assert_eq!(bench.uart.regs, Bench::new().uart.regs);
}
