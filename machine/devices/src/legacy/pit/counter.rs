//! One counter of the 8254. Times are in ticks of its clock; [`Counter::advance`] comes before all else.

/// What the six modes make of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// 0: interrupt on terminal count.
    TerminalCount,
    /// 1: hardware retriggerable one-shot.
    OneShot,
    /// 2: rate generator.
    Rate,
    /// 3: square wave.
    Square,
    /// 4: software triggered strobe.
    SoftwareStrobe,
    /// 5: hardware triggered strobe.
    HardwareStrobe,
}

/// RW1 and RW0 of the control word.
mod rw {
    pub const LSB: u8 = 1;
    pub const MSB: u8 = 2;
}

/// Whether the counting element counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counting {
    /// No count since the control word, or no trigger in a mode that waits for one.
    No,
    /// It held `count` at this tick.
    Since(i64),
    /// The gate stopped it this many ticks after that.
    Stopped(i64),
}

/// A count on its way into the counting element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub count: u32,
    /// When it is loaded; `None` is at the next trigger.
    pub at: Option<i64>,
    /// From when its cycle counts then. Before `at` if the half-cycle that begins there is a low one.
    pub start: i64,
}

/// The counter's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counter {
    /// Bits 5-0 of the control word: RW, mode, BCD.
    pub control: u8,
    pub gate: bool,
    /// What the counting element was loaded with: 1 to 65,536, or to 10,000 in BCD.
    pub count: u32,
    pub counting: Counting,
    /// Written, but not loaded yet.
    pub next: Option<Next>,
    /// The first byte of two.
    pub lsb_written: Option<u8>,
    /// The second byte of two is to be read next.
    pub msb_next: bool,
    pub latched_count: Option<u16>,
    pub latched_status: Option<u8>,
}

impl Counter {
    /// A counter after power-on.
    pub fn new(gate: bool) -> Self {
        Self {
            // The state is undefined until it is programmed; this one is at rest.
            control: 0x30,
            gate,
            count: 0x1_0000,
            counting: Counting::No,
            next: None,
            lsb_written: None,
            msb_next: false,
            latched_count: None,
            latched_status: None,
        }
    }

    fn mode(&self) -> Mode {
        match self.control >> 1 & 7 {
            0 => Mode::TerminalCount,
            1 => Mode::OneShot,
            2 | 6 => Mode::Rate,
            3 | 7 => Mode::Square,
            4 => Mode::SoftwareStrobe,
            _ => Mode::HardwareStrobe,
        }
    }

    fn rw(&self) -> u8 {
        self.control >> 4 & 3
    }

    fn is_bcd(&self) -> bool {
        self.control & 1 != 0
    }

    /// Whether it goes on by itself after fewer than this many ticks.
    pub fn repeats_within(&self, ticks: u32) -> bool {
        matches!(self.mode(), Mode::Rate | Mode::Square) && self.count < ticks
    }

    /// A control word for this counter, other than a latch command.
    pub fn program(&mut self, control: u8) {
        *self = Self { control: control & 0x3f, count: self.count, ..Self::new(self.gate) };
    }

    /// Ticks since the count was loaded.
    fn elapsed(&self, tick: i64) -> Option<i64> {
        match self.counting {
            Counting::No => None,
            // Loading takes the clock pulse after the write.
            Counting::Since(start) => Some((tick - start).max(0)),
            Counting::Stopped(elapsed) => Some(elapsed),
        }
    }

    /// In square-wave mode, how long the output is high in each cycle.
    fn high_half(count: u32) -> i64 {
        i64::from(count.div_ceil(2))
    }

    /// Loads a count that waits for the end of a cycle, if that has come.
    pub fn advance(&mut self, tick: i64) {
        if let Some(next) = self.next
            && next.at.is_some_and(|at| tick >= at)
        {
            self.load(next.count, next.start);
        }
    }

    fn load(&mut self, count: u32, start: i64) {
        self.count = count;
        self.next = None;
        self.counting = Counting::Since(start);
    }

    /// A byte of a count.
    pub fn write(&mut self, value: u8, tick: i64) {
        let raw = match self.rw() {
            rw::LSB => u16::from(value),
            rw::MSB => u16::from(value) << 8,
            _ => match self.lsb_written.take() {
                Some(lsb) => u16::from_le_bytes([lsb, value]),
                None => {
                    self.lsb_written = Some(value);
                    if self.mode() == Mode::TerminalCount {
                        // The first byte stops the count and lowers the output.
                        self.counting = Counting::No;
                    }
                    return;
                }
            },
        };
        self.write_count(self.decode(raw), tick);
    }

    fn write_count(&mut self, count: u32, tick: i64) {
        match (self.mode(), self.counting) {
            (Mode::TerminalCount | Mode::SoftwareStrobe, _) | (Mode::Rate | Mode::Square, Counting::No) => {
                self.load(count, tick + 1);
                if !self.gate {
                    self.counting = Counting::Stopped(0);
                }
            }
            (mode @ (Mode::Rate | Mode::Square), Counting::Since(start)) => {
                let cycle = i64::from(self.count);
                let begin = start + (tick - start).max(0) / cycle * cycle;
                let half = begin + Self::high_half(self.count);
                self.next = Some(if mode == Mode::Square && tick < half {
                    Next { count, at: Some(half), start: half - Self::high_half(count) }
                } else {
                    Next { count, at: Some(begin + cycle), start: begin + cycle }
                });
            }
            _ => {
                self.next = Some(Next { count, at: None, start: 0 });
            }
        }
    }

    /// The gate input changes.
    pub fn set_gate(&mut self, gate: bool, tick: i64) {
        let rises = gate && !self.gate;
        let falls = !gate && self.gate;
        self.gate = gate;
        match self.mode() {
            Mode::TerminalCount | Mode::SoftwareStrobe => match self.counting {
                Counting::Since(_) if falls => {
                    let elapsed = self.elapsed(tick).unwrap_or(0);
                    self.counting = Counting::Stopped(elapsed);
                }
                Counting::Stopped(elapsed) if rises => {
                    self.counting = Counting::Since(tick - elapsed);
                }
                _ => {}
            },
            Mode::Rate | Mode::Square if self.counting != Counting::No => {
                if falls {
                    self.counting = Counting::Stopped(self.elapsed(tick).unwrap_or(0));
                } else if rises {
                    self.load(self.next.map_or(self.count, |next| next.count), tick + 1);
                }
            }
            // Without any count there is nothing to load.
            Mode::OneShot | Mode::HardwareStrobe
                if rises && (self.next.is_some() || self.counting != Counting::No) =>
            {
                self.load(self.next.map_or(self.count, |next| next.count), tick + 1);
            }
            _ => {}
        }
    }

    /// The output.
    pub fn out(&self, tick: i64) -> bool {
        let count = i64::from(self.count);
        let stopped = matches!(self.counting, Counting::Stopped(_));
        let Some(elapsed) = self.elapsed(tick) else {
            return self.mode() != Mode::TerminalCount;
        };
        match self.mode() {
            Mode::TerminalCount | Mode::OneShot => elapsed >= count,
            Mode::Rate | Mode::Square if stopped => true,
            Mode::Rate => elapsed % count != count - 1,
            Mode::Square => elapsed % count < Self::high_half(self.count),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != count,
        }
    }

    /// When the output rises next after `tick`, if nothing is written meanwhile.
    pub fn next_rise(&self, tick: i64) -> Option<i64> {
        let Counting::Since(start) = self.counting else {
            return None;
        };
        let count = i64::from(self.count);
        let rise = match self.mode() {
            Mode::TerminalCount | Mode::OneShot => Some(start + count),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => Some(start + count + 1),
            // Of one tick, it never falls or never rises.
            Mode::Rate | Mode::Square if self.count < 2 => None,
            Mode::Rate | Mode::Square => Some(start + ((tick - start).max(0) / count + 1) * count),
        };
        let rise = rise.filter(|rise| *rise > tick);
        match self.next {
            Some(Next { at: Some(at), .. }) if rise.is_none_or(|rise| at < rise) => {
                let mut loaded = *self;
                loaded.advance(at);
                loaded.next_rise(tick.max(at))
            }
            _ => rise,
        }
    }

    /// What the counting element holds, in the counter's own code.
    fn value(&self, tick: i64) -> u16 {
        let count = i64::from(self.count);
        let elapsed = self.elapsed(tick).unwrap_or(0);
        let value = match self.mode() {
            Mode::Rate => count - elapsed % count,
            Mode::Square => {
                // It counts by two, and each half from the top.
                let high = Self::high_half(self.count);
                let within = elapsed % count;
                let half = if within < high { within } else { within - high };
                (count & !1) - 2 * half
            }
            // It goes on below zero.
            _ => count - elapsed,
        };
        if self.is_bcd() {
            let value = value.rem_euclid(10_000);
            [1000, 100, 10, 1].iter().fold(0, |bcd, weight| bcd << 4 | (value / weight % 10) as u16)
        } else {
            value as u16
        }
    }

    fn decode(&self, raw: u16) -> u32 {
        if !self.is_bcd() {
            return if raw == 0 { 0x1_0000 } else { raw.into() };
        }
        let value = (0..4).rev().fold(0, |value, digit| value * 10 + u32::from(raw >> (4 * digit) & 0xf));
        // Digits above 9 are the guest's mistake; no count is beyond 10,000.
        if value == 0 { 10_000 } else { value.min(10_000) }
    }

    /// Latches the count, unless one is latched already.
    pub fn latch_count(&mut self, tick: i64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(tick));
        }
    }

    /// Latches the status byte, unless one is latched already.
    pub fn latch_status(&mut self, tick: i64) {
        if self.latched_status.is_none() {
            let out = u8::from(self.out(tick)) << 7;
            let waits = self.next.is_some() || self.counting == Counting::No;
            let null_count = u8::from(waits) << 6;
            self.latched_status = Some(out | null_count | self.control);
        }
    }

    /// Reads a byte: a latched status, a latched count, or the count as it is.
    pub fn read(&mut self, tick: i64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [lsb, msb] = self.latched_count.unwrap_or_else(|| self.value(tick)).to_le_bytes();
        let (value, last) = match self.rw() {
            rw::LSB => (lsb, true),
            rw::MSB => (msb, true),
            _ => {
                self.msb_next = !self.msb_next;
                if self.msb_next { (lsb, false) } else { (msb, true) }
            }
        };
        if last {
            self.latched_count = None;
        }
        value
    }
}
