//! The clock against known dates, and its interrupts.

use super::*;
use crate::testing::{FakeClock, FakeTimer, Probe};

/// 2026-11-20 14:05:30 UTC, a Friday.
const MOMENT: i64 = 1_795_183_530 * SECOND;

pub(super) struct Bench {
    pub clock: Arc<FakeClock>,
    pub timer: FakeTimer,
    pub irq: Probe,
    pub rtc: Rtc,
}

impl Bench {
    pub fn new() -> Self {
        let clock = FakeClock::new();
        clock.set_wall(MOMENT);
        let (timer, irq) = (FakeTimer::default(), Probe::default());
        let rtc = Rtc::new(clock.clone(), clock.clone(), timer.boxed(), irq.line());
        Self { clock, timer, irq, rtc }
    }

    pub fn read(&mut self, address: u8) -> u8 {
        self.rtc.write(0, 1, address.into());
        self.rtc.read(1, 1) as u8
    }

    pub fn write(&mut self, address: u8, value: u8) {
        self.rtc.write(0, 1, address.into());
        self.rtc.write(1, 1, value.into());
    }

    /// Seconds, minutes, hours, day of week, date, month, year, century.
    pub fn time(&mut self) -> [u8; 8] {
        [0, 2, 4, 6, 7, 8, 9, 0x32].map(|address| self.read(address))
    }

    pub fn set_time(&mut self, time: [u8; 8]) {
        for (address, value) in [0, 2, 4, 6, 7, 8, 9, 0x32].into_iter().zip(time) {
            self.write(address, value);
        }
    }

    pub fn advance(&mut self, ns: i64) {
        self.clock.advance(ns as u64);
        if self.timer.take_due(self.clock.now()) {
            self.rtc.fire();
        }
    }
}

#[test]
fn shows_the_time_in_four_formats() {
    let mut bench = Bench::new();
    assert_eq!(bench.time(), [0x30, 0x05, 0x14, 6, 0x20, 0x11, 0x26, 0x20]);
    bench.write(0x0b, 0x06);
    assert_eq!(bench.time(), [30, 5, 14, 6, 20, 11, 26, 20]);
    bench.write(0x0b, 0x00);
    assert_eq!(bench.read(4), 0x82);
    bench.write(0x0b, 0x04);
    assert_eq!(bench.read(4), 0x82);
    bench.clock.advance(10 * 3600 * SECOND as u64);
    assert_eq!((bench.read(4), bench.read(6), bench.read(7)), (12, 7, 21));
}

#[test]
fn calendar_both_ways() {
    for (seconds, date) in [
        (0, (1970, 1, 1, 5)),
        (951_782_400, (2000, 2, 29, 3)),
        (951_868_800, (2000, 3, 1, 4)),
        (4_107_542_400, (2100, 3, 1, 2)),
        (-2_208_988_800, (1900, 1, 1, 2)),
        (253_402_214_400, (9999, 12, 31, 6)),
    ] {
        let time = DateTime::from_unix(seconds + 86_399);
        assert_eq!((time.hour, time.minute, time.second), (23, 59, 59));
        assert_eq!((time.year, time.month, time.date, time.day_of_week), date);
        assert_eq!(time.to_unix(), seconds + 86_399);
    }
}

#[test]
fn setting_the_time() {
    let mut bench = Bench::new();
    bench.clock.advance(300_000_000);
    bench.write(0x0b, 0x92);
    assert_eq!(bench.read(0x0b), 0x82, "SET clears UIE");
    let time = [0x59, 0x59, 0x23, 0x03, 0x28, 0x02, 0x00, 0x20];
    bench.set_time(time);
    bench.clock.advance(5 * SECOND as u64);
    assert_eq!(bench.time(), time, "it stands still");
    assert_eq!(bench.read(0x0a), 0x26);
    bench.write(0x0b, 0x02);
    // The divider ran on: the second is as far as it was.
    bench.clock.advance(699_999_999);
    assert_eq!(bench.read(0), 0x59);
    bench.clock.advance(1);
    assert_eq!(bench.time(), [0, 0, 0, 3, 0x29, 2, 0, 0x20]);
    // By a single byte, on the go.
    bench.write(9, 0x01);
    assert_eq!(bench.time(), [0, 0, 0, 5, 0x01, 0x03, 0x01, 0x20]);
}

#[test]
fn divider_reset_starts_half_a_second_before_an_update() {
    let mut bench = Bench::new();
    bench.write(0x0a, 0x76);
    bench.set_time([0, 0, 0, 1, 1, 1, 0, 0x20]);
    bench.clock.advance(7 * SECOND as u64);
    bench.write(0x0a, 0x26);
    bench.clock.advance(499_999_999);
    assert_eq!(bench.read(0), 0);
    bench.clock.advance(1);
    assert_eq!(bench.read(0), 1);
}

#[test]
fn nonsense_in_the_time_is_survived() {
    let mut bench = Bench::new();
    for format in [0x00, 0x02, 0x04, 0x06] {
        for value in [0x00, 0x7f, 0x80, 0xff] {
            bench.write(0x0b, format);
            bench.set_time([value; 8]);
            for address in [1, 3, 5] {
                bench.write(address, value);
            }
            bench.write(0x0b, format | 0x70);
            bench.clock.advance(86_400 * SECOND as u64);
            bench.rtc.fire();
            bench.time();
            bench.read(0x0c);
        }
    }
}

#[test]
fn update_in_progress() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0x0a), 0x26);
    bench.clock.advance((SECOND - UPDATE_NS - 1) as u64);
    assert_eq!(bench.read(0x0a), 0x26);
    bench.clock.advance(1);
    assert_eq!((bench.read(0x0a), bench.read(0)), (0xa6, 0x30));
    bench.clock.advance(UPDATE_NS as u64);
    assert_eq!((bench.read(0x0a), bench.read(0)), (0x26, 0x31));
}

#[test]
fn update_interrupt() {
    let mut bench = Bench::new();
    bench.clock.advance(400_000_000);
    bench.write(0x0b, 0x12);
    assert_eq!(bench.timer.deadline(), Some(SECOND as u64));
    bench.advance(600_000_000);
    assert_eq!((bench.irq.level(), bench.timer.deadline()), (true, None));
    assert_eq!((bench.read(0x0c) & 0x90, bench.irq.level()), (0x90, false));
    assert_eq!(bench.timer.deadline(), Some(2 * SECOND as u64));
    assert_eq!(bench.read(0x0c), 0);
    bench.write(0x0b, 0x02);
    assert_eq!(bench.timer.deadline(), None);
    bench.advance(SECOND);
    assert_eq!(bench.read(0x0c) & 0x90, 0x10, "the flag rises all the same");
}

#[test]
fn periodic_interrupt() {
    let mut bench = Bench::new();
    bench.read(0x0c);
    bench.write(0x0b, 0x42);
    for millisecond in 1..=3 {
        let deadline = bench.timer.deadline().unwrap();
        assert_eq!(deadline, millisecond * 1_000_000_000 / 1024 + 1);
        bench.advance(deadline as i64 - bench.clock.now() as i64);
        assert!(bench.irq.level());
        assert_eq!((bench.read(0x0c), bench.irq.level()), (0xc0, false));
    }
    for (rate, hertz) in [(1, 256), (2, 128), (3, 8192), (15, 2)] {
        let mut bench = Bench::new();
        bench.write(0x0a, 0x20 | rate);
        bench.write(0x0b, 0x42);
        assert_eq!(bench.timer.deadline(), Some(1_000_000_000 / hertz + 1));
        bench.write(0x0a, 0x20);
        assert_eq!(bench.timer.deadline(), None);
    }
}

#[test]
fn alarm_interrupt() {
    let mut bench = Bench::new();
    for (address, value) in [(5, 0x13), (3, 0x05), (1, 0x31)] {
        bench.write(address, value);
    }
    bench.write(0x0b, 0x22);
    // 13:05:31 tomorrow.
    let wait = 23 * 3600 + 1;
    assert_eq!(bench.timer.deadline(), Some(wait * SECOND as u64));
    bench.advance(wait as i64 * SECOND - 1);
    assert!(!bench.irq.level());
    bench.advance(1);
    assert_eq!((bench.irq.level(), bench.read(0x0c) & 0xa0), (true, 0xa0));
    // Any hour, any minute.
    bench.write(5, 0xff);
    bench.write(3, 0xc0);
    bench.read(0x0c);
    let base = bench.clock.now();
    assert_eq!(bench.timer.deadline(), Some(base + 60 * SECOND as u64));
    // A time that never comes.
    bench.write(3, 0x61);
    assert_eq!(bench.timer.deadline(), None);
    // In 12-hour format.
    bench.write(0x0b, 0x20);
    bench.write(5, 0x83);
    bench.write(3, 0x05);
    assert_eq!(bench.timer.deadline(), Some(base + 2 * 3600 * SECOND as u64));
}

#[test]
fn cmos_memory() {
    let mut bench = Bench::new();
    bench.write(0x0f, 0x5a);
    bench.write(0x7f, 0xa5);
    bench.write(0x8f, 0x5b);
    bench.write(0x0c, 0xff);
    bench.write(0x0d, 0x00);
    bench.rtc.set_cmos(0x0b, 0xff);
    bench.rtc.set_cmos(0x80, 0xff);
    assert_eq!(
        [0x0f, 0x7f, 0x0c, 0x0d, 0x0b].map(|address| bench.read(address)),
        [0x5b, 0xa5, 0, 0x80, 0x02]
    );
    assert_eq!(bench.rtc.read(0, 1), 0xff);
    bench.rtc.set_memory_size(0xc000_0000, 0x1_4000_0000);
    let sizes =
        [0x15, 0x16, 0x17, 0x18, 0x30, 0x31, 0x34, 0x35, 0x5b, 0x5c, 0x5d].map(|address| bench.read(address));
    assert_eq!(sizes, [0x80, 0x02, 0xff, 0xff, 0xff, 0xff, 0x00, 0xbf, 0x00, 0x40, 0x01]);
    bench.rtc.set_memory_size(8 << 20, 0);
    assert_eq!([0x30, 0x31, 0x34, 0x35].map(|a| bench.read(a)), [0, 0x1c, 0, 0]);
}

#[test]
fn reset_keeps_time_and_memory() {
    let mut bench = Bench::new();
    bench.write(0x20, 7);
    bench.write(0x0b, 0x12);
    bench.advance(SECOND);
    assert!(bench.irq.level());
    bench.rtc.reset();
    assert_eq!((bench.irq.level(), bench.timer.deadline()), (false, None));
    assert_eq!((bench.read(0x0b), bench.read(0x20)), (0x02, 7));
    assert_eq!(bench.read(0), 0x31);
}
