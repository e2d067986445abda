//! The real-time clock and CMOS memory of the PC/AT: Motorola MC146818A (datasheet of 1984), with the 128
//! bytes and the century byte of its successors.
//!
//! The battery goes on while the VM is paused: the time of day is the host's, plus what the guest has set it
//! off by. Nothing ticks; flags are worked out when somebody looks, and an alarm is set only for an enabled
//! interrupt whose flag is not up yet.
//!
//! Not modelled: the square-wave output, daylight saving (DSE), time bases other than 32,768 Hz, a day of the
//! week other than the date's own, and the gate of the NMI behind bit 7 of the index port (kept; nothing
//! raises an NMI there).

mod calendar;

use std::sync::Arc;

use crate::wiring::{IrqLine, PortDevice, Timer, VmClock, WallClock};
use calendar::{DateTime, Format};

const SECOND: i64 = 1_000_000_000;

/// An update shows its coming (UIP) this much before it is done: tBUC of 244 µs and the update cycle of 1,984.
const UPDATE_NS: i64 = 2_228_000;

/// Byte addresses.
mod byte {
    pub const SECONDS: u8 = 0x00;
    pub const SECONDS_ALARM: u8 = 0x01;
    pub const MINUTES: u8 = 0x02;
    pub const MINUTES_ALARM: u8 = 0x03;
    pub const HOURS: u8 = 0x04;
    pub const HOURS_ALARM: u8 = 0x05;
    pub const DAY_OF_WEEK: u8 = 0x06;
    pub const DATE: u8 = 0x07;
    pub const MONTH: u8 = 0x08;
    pub const YEAR: u8 = 0x09;
    pub const A: u8 = 0x0a;
    pub const B: u8 = 0x0b;
    pub const C: u8 = 0x0c;
    pub const D: u8 = 0x0d;
    /// Kilobytes below 640 K.
    pub const BASE_MEMORY: u8 = 0x15;
    /// Kilobytes above 1 M, twice.
    pub const EXTENDED_MEMORY: [u8; 2] = [0x17, 0x30];
    /// Units of 64 K above 16 M.
    pub const MEMORY_ABOVE_16M: u8 = 0x34;
    /// Units of 64 K above 4 G, three bytes.
    pub const MEMORY_ABOVE_4G: u8 = 0x5b;
    pub const CENTURY: u8 = 0x32;
}

/// Register A.
mod a {
    pub const UIP: u8 = 0x80;
    /// Both upper bits of DV: the divider is held in reset.
    pub const DV_RESET: u8 = 0x60;
    pub const RS: u8 = 0x0f;
    /// 32,768 Hz, 1,024 Hz periodic rate: as firmware leaves it.
    pub const USUAL: u8 = 0x26;
}

/// Register B.
mod b {
    pub const SET: u8 = 0x80;
    pub const PIE: u8 = 0x40;
    pub const AIE: u8 = 0x20;
    pub const UIE: u8 = 0x10;
    pub const SQWE: u8 = 0x08;
    pub const DM: u8 = 0x04;
    pub const H24: u8 = 0x02;
}

/// Register C; the flags lie where register B has their enables.
mod c {
    pub const IRQF: u8 = 0x80;
    pub const PF: u8 = 0x40;
    pub const AF: u8 = 0x20;
    pub const UF: u8 = 0x10;
}

/// Register D: valid RAM and time.
const D_VRT: u8 = 0x80;

/// The chip. Its registers: 0 the index, 1 the data.
pub struct Rtc {
    // Wiring.
    clock: Arc<dyn VmClock>,
    wall: Arc<dyn WallClock>,
    timer: Box<dyn Timer>,
    irq: IrqLine,
    // Volatile state.
    index: u8,
    /// All bytes; those of the time hold while it stands still, C without IRQF.
    bytes: [u8; 128],
    /// Guest's time of day less the host's, in nanoseconds.
    offset: i64,
    /// Up to when flags have been worked out, in the guest's time of day.
    synced: i64,
}

impl Rtc {
    /// A clock that has been running on its battery, with all of CMOS zero.
    pub fn new(
        clock: Arc<dyn VmClock>,
        wall: Arc<dyn WallClock>,
        timer: Box<dyn Timer>,
        irq: IrqLine,
    ) -> Self {
        let mut bytes = [0; 128];
        bytes[usize::from(byte::A)] = a::USUAL;
        bytes[usize::from(byte::B)] = b::H24;
        bytes[usize::from(byte::D)] = D_VRT;
        let synced = wall.unix_ns();
        Self { clock, wall, timer, irq, index: 0, bytes, offset: 0, synced }
    }

    /// The RESET pin: interrupts off; time and memory stay.
    pub fn reset(&mut self) {
        self.index = 0;
        self.bytes[usize::from(byte::B)] &= !(b::PIE | b::AIE | b::UIE | b::SQWE);
        self.bytes[usize::from(byte::C)] = 0;
        self.sync();
    }

    /// The alarm has gone off.
    pub fn fire(&mut self) {
        self.sync();
    }

    /// A byte of CMOS memory, as firmware sets it; the clock's own bytes are out of its reach.
    pub fn set_cmos(&mut self, address: u8, value: u8) {
        if (byte::D + 1..128).contains(&address) && address != byte::CENTURY {
            self.bytes[usize::from(address)] = value;
        }
    }

    /// Tells of the machine's memory where firmware looks for it: how much there is in all below 4 GiB, and
    /// how much above, in bytes.
    pub fn set_memory_size(&mut self, below_4g: u64, above_4g: u64) {
        let limited = |value: u64, most: u64| value.min(most).to_le_bytes();
        let kilobytes = limited(below_4g >> 10, 640);
        let extended = limited(below_4g.saturating_sub(1 << 20) >> 10, 0xffff);
        let above_16m = limited(below_4g.saturating_sub(16 << 20) >> 16, 0xffff);
        let above_4g = limited(above_4g >> 16, 0xff_ffff);
        let mut put = |address: u8, value: &[u8]| {
            for (address, value) in (address..).zip(value) {
                self.set_cmos(address, *value);
            }
        };
        put(byte::BASE_MEMORY, &kilobytes[..2]);
        for address in byte::EXTENDED_MEMORY {
            put(address, &extended[..2]);
        }
        put(byte::MEMORY_ABOVE_16M, &above_16m[..2]);
        put(byte::MEMORY_ABOVE_4G, &above_4g[..3]);
    }

    fn byte(&self, address: u8) -> u8 {
        self.bytes[usize::from(address)]
    }

    /// Now, in the guest's time of day.
    fn now(&self) -> i64 {
        self.wall.unix_ns().saturating_add(self.offset)
    }

    /// Time stands still: it is being set, or the divider is held.
    fn is_held(&self) -> bool {
        self.byte(byte::B) & b::SET != 0 || self.divider_is_held()
    }

    fn divider_is_held(&self) -> bool {
        self.byte(byte::A) & a::DV_RESET == a::DV_RESET
    }

    fn format(&self) -> Format {
        Format { binary: self.byte(byte::B) & b::DM != 0, hours_24: self.byte(byte::B) & b::H24 != 0 }
    }

    /// The time bytes as they are at `now`.
    fn store_time(&mut self, now: i64) {
        let time = DateTime::from_unix(now.div_euclid(SECOND));
        let format = self.format();
        for (address, value) in [
            (byte::SECONDS, format.encode(time.second)),
            (byte::MINUTES, format.encode(time.minute)),
            (byte::HOURS, format.encode_hour(time.hour)),
            (byte::DAY_OF_WEEK, format.encode(time.day_of_week)),
            (byte::DATE, format.encode(time.date)),
            (byte::MONTH, format.encode(time.month)),
            (byte::YEAR, format.encode((time.year % 100) as u8)),
            (byte::CENTURY, format.encode((time.year / 100 % 100) as u8)),
        ] {
            self.bytes[usize::from(address)] = value;
        }
    }

    /// Sets the time by its bytes, `fraction` nanoseconds into the second.
    fn load_time(&mut self, fraction: i64) {
        let format = self.format();
        let field = |address| format.decode(self.byte(address));
        let time = DateTime {
            second: field(byte::SECONDS),
            minute: field(byte::MINUTES),
            hour: format.decode_hour(self.byte(byte::HOURS)),
            day_of_week: 0,
            date: field(byte::DATE),
            month: field(byte::MONTH),
            year: u32::from(field(byte::CENTURY)) * 100 + u32::from(field(byte::YEAR)),
        };
        let time = time.to_unix().saturating_mul(SECOND).saturating_add(fraction);
        self.offset = time.saturating_sub(self.wall.unix_ns());
        self.synced = time;
    }

    /// Nanoseconds between periodic interrupts, as a fraction: units of 1/32,768 s.
    fn periodic_units(&self) -> Option<i64> {
        match self.byte(byte::A) & a::RS {
            0 => None,
            // 1 and 2 are those of 8 and 9 at this time base.
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// When the next alarm after `after` is due, in seconds.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        let format = self.format();
        // Two upper bits set mean "any".
        let wanted = |address, decode: fn(&Format, u8) -> u8| {
            let raw = self.byte(address);
            (raw < 0xc0).then(|| i64::from(decode(&format, raw)))
        };
        let hour = wanted(byte::HOURS_ALARM, Format::decode_hour);
        let minute = wanted(byte::MINUTES_ALARM, Format::decode);
        let second = wanted(byte::SECONDS_ALARM, Format::decode);
        let differs = |wanted: Option<i64>, is| wanted.is_some_and(|wanted| wanted != is);
        let mut at = after.saturating_add(1);
        let last = after.saturating_add(86_400);
        // By hours, then minutes, then seconds: at most 24 + 60 + 60 steps.
        while at <= last {
            let (h, m, s) = (at.rem_euclid(86_400) / 3600, at.rem_euclid(3600) / 60, at.rem_euclid(60));
            at = if differs(hour, h) {
                at.saturating_add(3600 - at.rem_euclid(3600))
            } else if differs(minute, m) {
                at.saturating_add(60 - s)
            } else if differs(second, s) {
                at.saturating_add(1)
            } else {
                return Some(at);
            };
        }
        None
    }

    /// The end of the current period of the periodic interrupt.
    fn next_period(units: i64, now: i64) -> i64 {
        // In units of 1/32,768 s within the second, which every period divides.
        let second = now.div_euclid(SECOND);
        let within = i128::from(now.rem_euclid(SECOND)) * 32_768 / i128::from(SECOND);
        let next = (within / i128::from(units) + 1) * i128::from(units);
        let ns = (next * i128::from(SECOND)).div_euclid(32_768);
        // Rounded up, so that the period is over then.
        second.saturating_mul(SECOND).saturating_add(ns as i64 + 1)
    }

    /// Raises the flags of what has happened, sets the line, and the alarm for what is to come.
    fn sync(&mut self) {
        let now = self.now();
        let mut flags = self.byte(byte::C);
        let units = self.periodic_units().filter(|_| !self.divider_is_held());
        if let Some(units) = units
            && Self::next_period(units, self.synced) <= now
        {
            flags |= c::PF;
        }
        if !self.is_held() {
            let (before, after) = (self.synced.div_euclid(SECOND), now.div_euclid(SECOND));
            if after > before {
                flags |= c::UF;
            }
            if self.next_alarm(before).is_some_and(|at| at <= after) {
                flags |= c::AF;
            }
        }
        self.bytes[usize::from(byte::C)] = flags;
        self.synced = now;

        let enabled = self.byte(byte::B);
        self.irq.set(flags & enabled != 0);
        let awaited = enabled & !flags;
        let mut next: Option<i64> = None;
        let mut consider = |at: i64| next = Some(next.map_or(at, |next| next.min(at)));
        if let Some(units) = units.filter(|_| awaited & b::PIE != 0) {
            consider(Self::next_period(units, now));
        }
        if !self.is_held() {
            let second = now.div_euclid(SECOND);
            if awaited & b::UIE != 0 {
                consider((second + 1).saturating_mul(SECOND));
            }
            if awaited & b::AIE != 0
                && let Some(at) = self.next_alarm(second)
            {
                consider(at.saturating_mul(SECOND));
            }
        }
        match next {
            Some(at) => {
                let wait = at.saturating_sub(now).max(1).unsigned_abs();
                self.timer.arm(self.clock.now().saturating_add(wait));
            }
            None => self.timer.cancel(),
        }
    }

    fn read_byte(&mut self, address: u8) -> u8 {
        match address {
            _ if is_time(address) && !self.is_held() => self.store_time(self.now()),
            byte::A => {
                let left = SECOND - self.now().rem_euclid(SECOND);
                if !self.is_held() && left <= UPDATE_NS {
                    return self.byte(byte::A) | a::UIP;
                }
            }
            byte::C => {
                self.sync();
                let flags = self.byte(byte::C);
                self.bytes[usize::from(byte::C)] = 0;
                // Reading ends the interrupt, and the next may be awaited.
                self.sync();
                let pending = flags & self.byte(byte::B) & (c::PF | c::AF | c::UF) != 0;
                return flags | if pending { c::IRQF } else { 0 };
            }
            _ => {}
        }
        self.byte(address)
    }

    fn write_byte(&mut self, address: u8, value: u8) {
        self.sync();
        match address {
            _ if is_time(address) => {
                let held = self.is_held();
                let now = self.now();
                if !held {
                    self.store_time(now);
                }
                self.bytes[usize::from(address)] = value;
                if !held {
                    self.load_time(now.rem_euclid(SECOND));
                }
            }
            byte::A => self.write_control(|rtc| {
                rtc.bytes[usize::from(byte::A)] = value & !a::UIP;
            }),
            byte::B => self.write_control(|rtc| {
                // While time is being set there are no updates to tell of.
                let uie = if value & b::SET != 0 { b::UIE } else { 0 };
                rtc.bytes[usize::from(byte::B)] = value & !uie;
            }),
            byte::C | byte::D => {}
            _ => self.bytes[usize::from(address)] = value,
        }
        self.sync();
    }

    /// Changes A or B, by which time may stop or go on.
    fn write_control(&mut self, change: impl FnOnce(&mut Self)) {
        let now = self.now();
        let (was_held, divider_was_held) = (self.is_held(), self.divider_is_held());
        if !was_held {
            self.store_time(now);
        }
        change(self);
        if was_held && !self.is_held() {
            // After the divider's reset the first update comes half a second later.
            let fraction = if divider_was_held { SECOND / 2 } else { now.rem_euclid(SECOND) };
            self.load_time(fraction);
        }
    }
}

/// Whether a byte is the time's own.
fn is_time(address: u8) -> bool {
    matches!(
        address,
        byte::SECONDS | byte::MINUTES | byte::HOURS | byte::DAY_OF_WEEK..=byte::YEAR | byte::CENTURY
    )
}

impl PortDevice for Rtc {
    fn width(&self) -> u8 {
        1
    }

    fn read(&mut self, offset: u16, _size: u8) -> u32 {
        match offset {
            1 => self.read_byte(self.index & 0x7f).into(),
            // The index is write-only.
            _ => 0xff,
        }
    }

    fn write(&mut self, offset: u16, _size: u8, value: u32) {
        match offset {
            0 => self.index = value as u8,
            1 => self.write_byte(self.index & 0x7f, value as u8),
            _ => {}
        }
    }
}

mod saved;
#[cfg(test)]
mod tests;
