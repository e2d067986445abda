//! The 8254 by its datasheet's timing diagrams. A bench's time is set in ticks of its input clock.

use super::*;
use crate::testing::{FakeClock, FakeTimer, Probe};

pub(super) struct Bench {
    pub clock: Arc<FakeClock>,
    pub timer: FakeTimer,
    pub irq0: Probe,
    pub pit: Pit,
    pub tick: i64,
}

impl Bench {
    pub fn new() -> Self {
        let clock = FakeClock::new();
        let (timer, irq0) = (FakeTimer::default(), Probe::default());
        let pit = Pit::new(clock.clone(), timer.boxed(), irq0.line());
        Self { clock, timer, irq0, pit, tick: 0 }
    }

    /// Lets this many ticks pass, and the alarm go off.
    pub fn advance(&mut self, ticks: i64) {
        self.tick += ticks;
        let now = nanoseconds(self.tick);
        loop {
            let due = self.timer.deadline().filter(|deadline| *deadline <= now);
            let until = due.unwrap_or(now);
            self.clock.advance(until.saturating_sub(self.clock.now()));
            if due.is_none() {
                return;
            }
            self.timer.cancel();
            self.pit.fire();
        }
    }

    pub fn read(&mut self, register: u16) -> u8 {
        self.pit.read(register, 1) as u8
    }

    pub fn write(&mut self, register: u16, value: u8) {
        self.pit.write(register, 1, value.into());
    }

    /// Programs a counter with both bytes of a count, and lets it be loaded.
    pub fn load(&mut self, counter: u16, mode: u8, count: u16) {
        self.write(3, (counter as u8) << 6 | 0x30 | mode << 1);
        self.count(counter, count);
        self.advance(1);
    }

    pub fn count(&mut self, counter: u16, count: u16) {
        for byte in count.to_le_bytes() {
            self.write(counter, byte);
        }
    }

    /// Latches and reads a count.
    pub fn latched(&mut self, counter: u16) -> u16 {
        self.write(3, (counter as u8) << 6);
        u16::from_le_bytes([self.read(counter), self.read(counter)])
    }

    /// Status byte by read-back.
    pub fn status(&mut self, counter: u16) -> u8 {
        self.write(3, 0xe0 | 2 << counter);
        self.read(counter)
    }

    /// Counts and outputs of counter 2 over the coming ticks.
    pub fn course(&mut self, ticks: usize) -> Vec<(u16, bool)> {
        (0..ticks)
            .map(|_| {
                let at = (self.latched(2), self.read(4) & 0x20 != 0);
                self.advance(1);
                at
            })
            .collect()
    }

    pub fn gate(&mut self, open: bool) {
        self.write(4, open.into());
    }
}

/// Writes a course as in the datasheet: counts, and outputs as a line.
fn drawn(course: &[(u16, bool)]) -> (Vec<u16>, String) {
    (
        course.iter().map(|(count, _)| *count).collect(),
        course.iter().map(|(_, out)| if *out { '-' } else { '_' }).collect(),
    )
}

#[test]
fn clock_is_that_of_the_pc() {
    assert_eq!(ticks(1_000_000_000), 1_193_181);
    assert_eq!(ticks(88_000), 105);
    for tick in [0, 1, 2, 3, 104, 105, 1_193_182, 1 << 40] {
        assert_eq!(ticks(nanoseconds(tick)), tick);
    }
}

#[test]
fn mode_0_interrupts_on_terminal_count() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.load(2, 0, 4);
    let (counts, out) = drawn(&bench.course(7));
    assert_eq!(counts, [4, 3, 2, 1, 0, 0xffff, 0xfffe]);
    assert_eq!(out, "____---");
    // The gate stops it, and the first byte of a count too.
    bench.load(2, 0, 4);
    bench.advance(1);
    bench.gate(false);
    assert_eq!(drawn(&bench.course(3)), (vec![3, 3, 3], "___".into()));
    bench.gate(true);
    assert_eq!(drawn(&bench.course(4)), (vec![3, 2, 1, 0], "___-".into()));
    bench.write(2, 3);
    bench.advance(100);
    assert_eq!(bench.read(4) & 0x20, 0);
    bench.write(2, 0);
    bench.advance(1);
    assert_eq!(drawn(&bench.course(4)), (vec![3, 2, 1, 0], "___-".into()));
}

#[test]
fn mode_1_is_a_one_shot_by_the_gate() {
    let mut bench = Bench::new();
    bench.gate(false);
    bench.load(2, 1, 3);
    assert_eq!(bench.status(2), 0xf2, "high, null count");
    bench.gate(true);
    bench.advance(1);
    assert_eq!(bench.status(2), 0x32);
    let (counts, out) = drawn(&bench.course(5));
    assert_eq!((counts, out.as_str()), (vec![3, 2, 1, 0, 0xffff], "___--"));
    // Retriggered on the way, with a new count.
    bench.gate(false);
    bench.gate(true);
    bench.advance(2);
    bench.count(2, 2);
    assert_eq!(drawn(&bench.course(1)), (vec![2], "_".into()));
    bench.gate(false);
    bench.gate(true);
    bench.advance(1);
    assert_eq!(drawn(&bench.course(3)), (vec![2, 1, 0], "__-".into()));
}

#[test]
fn mode_2_divides() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.load(2, 2, 3);
    let (counts, out) = drawn(&bench.course(7));
    assert_eq!(counts, [3, 2, 1, 3, 2, 1, 3]);
    assert_eq!(out, "--_--_-");
    // A new count waits for the end of the cycle.
    bench.count(2, 4);
    assert_eq!(bench.status(2), 0xf4);
    let (counts, out) = drawn(&bench.course(7));
    assert_eq!((counts, out.as_str()), (vec![2, 1, 4, 3, 2, 1, 4], "-_---_-"));
    assert_eq!(bench.status(2), 0xb4);
    // A closed gate raises the output, an opening one starts over.
    bench.advance(2);
    assert_eq!(bench.read(4) & 0x20, 0);
    bench.gate(false);
    assert_eq!(drawn(&bench.course(2)).1, "--");
    bench.gate(true);
    bench.advance(1);
    assert_eq!(drawn(&bench.course(4)), (vec![4, 3, 2, 1], "---_".into()));
}

#[test]
fn mode_3_is_a_square_wave() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.load(2, 3, 4);
    let (counts, out) = drawn(&bench.course(9));
    assert_eq!(counts, [4, 2, 4, 2, 4, 2, 4, 2, 4]);
    assert_eq!(out, "--__--__-");
    bench.load(2, 7, 5);
    let (counts, out) = drawn(&bench.course(10));
    assert_eq!(counts, [4, 2, 0, 4, 2, 4, 2, 0, 4, 2]);
    assert_eq!(out, "---__---__");
    // A new count waits for the end of the half-cycle: of the high one,
    bench.count(2, 8);
    assert_eq!(drawn(&bench.course(11)).1, "---____----");
    // and of the low one.
    bench.advance(1);
    bench.count(2, 2);
    assert_eq!(drawn(&bench.course(8)).1, "___-_-_-");
}

#[test]
fn modes_4_and_5_strobe() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.load(2, 4, 3);
    let (counts, out) = drawn(&bench.course(6));
    assert_eq!((counts, out.as_str()), (vec![3, 2, 1, 0, 0xffff, 0xfffe], "---_--"));
    bench.count(2, 2);
    bench.advance(1);
    assert_eq!(drawn(&bench.course(4)).1, "--_-");

    bench.load(2, 5, 3);
    assert_eq!(drawn(&bench.course(5)).1, "-----");
    bench.gate(false);
    bench.gate(true);
    bench.advance(1);
    let (counts, out) = drawn(&bench.course(5));
    assert_eq!((counts, out.as_str()), (vec![3, 2, 1, 0, 0xffff], "---_-"));
}

#[test]
fn bytes_by_their_read_write_mode() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.write(3, 0x94);
    bench.write(2, 0x34);
    bench.advance(2);
    assert_eq!((bench.read(2), bench.read(2)), (0x33, 0x33));
    bench.write(3, 0xa4);
    bench.write(2, 0x12);
    bench.advance(2);
    assert_eq!((bench.read(2), bench.read(2)), (0x11, 0x11));
    bench.load(2, 2, 0x1234);
    // Unlatched, the count goes on between the bytes.
    assert_eq!(bench.read(2), 0x34);
    bench.advance(0x35);
    assert_eq!((bench.read(2), bench.read(2)), (0x11, 0xff));
    bench.read(2);
    // Latched, it does not, and a second latch is ignored.
    bench.write(3, 0x80);
    bench.advance(5);
    bench.write(3, 0x80);
    assert_eq!((bench.read(2), bench.read(2)), (0xff, 0x11));
    assert_eq!(bench.latched(2), 0x11fa);
    // Status comes before the count when both are latched.
    bench.write(3, 0xc8);
    assert_eq!((bench.read(2), bench.read(2), bench.read(2)), (0xb4, 0xfa, 0x11));
    assert_eq!(bench.read(3), 0xff);
}

#[test]
fn binary_coded_decimal() {
    let mut bench = Bench::new();
    bench.gate(true);
    bench.write(3, 0xb1);
    bench.count(2, 0x1000);
    bench.advance(2);
    assert_eq!(bench.latched(2), 0x0999);
    bench.advance(1000);
    assert_eq!(bench.latched(2), 0x9999);
    bench.write(3, 0xb5);
    bench.count(2, 0);
    bench.advance(1);
    assert_eq!(bench.latched(2), 0);
    bench.advance(1);
    assert_eq!(bench.latched(2), 0x9999);
    bench.write(3, 0xb5);
    bench.count(2, 0xffff);
    bench.advance(2);
    assert_eq!(bench.latched(2), 0x9999);
}

#[test]
fn status_after_power_on_and_programming() {
    let mut bench = Bench::new();
    bench.write(3, 0x36);
    bench.write(3, 0xee);
    let all: Vec<u8> = (0..3).map(|counter| bench.read(counter)).collect();
    assert_eq!(all, [0xf6, 0x70, 0x70]);
}

#[test]
fn counter_0_interrupts_at_its_rate() {
    let mut bench = Bench::new();
    bench.load(0, 2, 11932);
    assert_eq!(bench.timer.deadline(), Some(nanoseconds(11933)));
    bench.irq0.take_edges();
    bench.advance(11931);
    assert_eq!(bench.irq0.take_edges(), 0);
    bench.advance(1);
    assert_eq!((bench.irq0.take_edges(), bench.irq0.level()), (1, true));
    bench.advance(119_320);
    assert_eq!((bench.irq0.take_edges(), bench.latched(0)), (10, 11932));
    // Nobody came for a while: one edge, and the rhythm stays.
    bench.tick += 100_000;
    bench.clock.advance(nanoseconds(bench.tick) - bench.clock.now());
    bench.pit.fire();
    assert_eq!(bench.irq0.take_edges(), 1);
    assert_eq!(bench.timer.deadline(), Some(nanoseconds(1 + 20 * 11932)));
}

#[test]
fn counter_0_takes_a_new_rate_at_the_right_time() {
    let mut bench = Bench::new();
    bench.load(0, 3, 1000);
    bench.irq0.take_edges();
    bench.advance(100);
    bench.count(0, 2000);
    // The high half of 500, then a low one of 1000, then cycles of 2000.
    bench.advance(1399);
    assert_eq!(bench.irq0.take_edges(), 0);
    bench.advance(1);
    assert_eq!(bench.irq0.take_edges(), 1);
    bench.advance(1999);
    assert_eq!(bench.irq0.take_edges(), 0);
    bench.advance(1);
    assert_eq!(bench.irq0.take_edges(), 1);
}

#[test]
fn counter_0_once() {
    let mut bench = Bench::new();
    bench.load(0, 4, 1000);
    bench.irq0.take_edges();
    bench.advance(1000);
    assert_eq!(bench.irq0.take_edges(), 0);
    bench.advance(1);
    assert_eq!((bench.irq0.take_edges(), bench.timer.deadline()), (1, None));
    bench.load(0, 0, 1000);
    assert!(!bench.irq0.level());
    bench.advance(1000);
    assert_eq!((bench.irq0.take_edges(), bench.timer.deadline()), (1, None));
    bench.pit.reset();
    assert_eq!((bench.irq0.level(), bench.timer.deadline()), (false, None));
}

#[test]
fn a_fast_rate_does_not_busy_the_host() {
    let mut bench = Bench::new();
    bench.load(0, 2, 2);
    bench.advance(2);
    bench.pit.fire();
    let now = bench.clock.now();
    assert_eq!(bench.timer.deadline(), Some(now + MIN_ALARM));
    bench.load(0, 2, 1);
    assert_eq!(bench.timer.deadline(), None);
}

#[test]
fn port_b() {
    let mut bench = Bench::new();
    bench.write(4, 0xff);
    bench.load(2, 3, 100);
    assert_eq!(bench.read(4) & !0x10, 0x2f);
    bench.advance(50);
    assert_eq!(bench.read(4) & !0x10, 0x0f);
    let toggles: Vec<bool> = (0..8)
        .map(|_| {
            bench.advance(9);
            bench.read(4) & 0x10 != 0
        })
        .collect();
    assert_eq!(toggles.iter().filter(|high| **high).count(), 4);
    assert!(toggles.windows(3).all(|three| three[0] != three[2]));
}
