//! The interval timer of the PC/AT: Intel 8254 (datasheet of September 1993), and system control port B
//! (0x61), which has the gate and the output of its third counter.
//!
//! Counter 0 drives IRQ 0; counter 1, which once drove the refresh of memory, shows only in the toggling bit
//! of port B. Nothing ticks: counts and outputs are computed from the clock when somebody looks, and an alarm
//! is set for the next rising edge of counter 0's output.
//!
//! Not modelled: the speaker's sound; the fall of counter 0's output between two of its rising edges, which an
//! edge-triggered input does not see; memory and I/O channel check (NMI).

mod counter;

use std::sync::Arc;

use crate::wiring::{IrqLine, PortDevice, Timer, VmClock};
use counter::Counter;

/// The input clock is 14.31818 MHz / 12 = 105/88 MHz.
const TICKS: u128 = 105;
/// Nanoseconds in which there are that many.
const NANOSECONDS: u128 = 88_000;

/// How soon after an alarm the next may be, in nanoseconds: a guest that asks for more interrupts gets fewer,
/// and cannot busy the host's timers.
const MIN_ALARM: u64 = 100_000;
/// The same in ticks.
const FASTEST: u32 = 119;

/// Register numbers beyond the counters.
mod register {
    pub const CONTROL: u16 = 3;
    pub const PORT_B: u16 = 4;
}

/// Control word.
mod control {
    pub const READ_BACK: u8 = 3;
    pub const READ_BACK_NOT_COUNT: u8 = 0x20;
    pub const READ_BACK_NOT_STATUS: u8 = 0x10;
}

/// System control port B.
mod port_b {
    pub const GATE_2: u8 = 0x01;
    pub const WRITABLE: u8 = 0x0f;
    pub const REFRESH: u8 = 0x10;
    pub const OUT_2: u8 = 0x20;
}

/// Between two refreshes of memory, in ticks: 15.1 µs.
const REFRESH_TICKS: i64 = 18;

/// The chip with port B. Its registers: 0 to 2 the counters, 3 the control word, 4 port B.
pub struct Pit {
    // Wiring.
    clock: Arc<dyn VmClock>,
    timer: Box<dyn Timer>,
    irq0: IrqLine,
    // Volatile state.
    counters: [Counter; 3],
    port_b: u8,
    /// Up to when counter 0's output has been carried to IRQ 0, in ticks.
    carried: i64,
    /// The alarm as it is set; follows from the rest.
    alarm: Option<u64>,
}

fn ticks(ns: u64) -> i64 {
    (u128::from(ns) * TICKS / NANOSECONDS) as i64
}

/// When a tick has come, rounded up.
fn nanoseconds(tick: i64) -> u64 {
    let tick = u128::from(tick.max(0).unsigned_abs());
    u64::try_from((tick * NANOSECONDS).div_ceil(TICKS)).unwrap_or(u64::MAX)
}

impl Pit {
    /// The chip after power-on: no counter counts.
    pub fn new(clock: Arc<dyn VmClock>, timer: Box<dyn Timer>, irq0: IrqLine) -> Self {
        let carried = ticks(clock.now());
        Self {
            clock,
            timer,
            irq0,
            counters: [Counter::new(true), Counter::new(true), Counter::new(false)],
            port_b: 0,
            carried,
            alarm: None,
        }
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.counters = [Counter::new(true), Counter::new(true), Counter::new(false)];
        self.port_b = 0;
        self.carry();
    }

    /// The alarm has gone off.
    pub fn fire(&mut self) {
        self.alarm = None;
        self.carry();
    }

    /// Carries counter 0's output to its interrupt line, and sets the alarm for its next rise.
    fn carry(&mut self) {
        let now = self.clock.now();
        let tick = ticks(now);
        let counter = &mut self.counters[0];
        counter.advance(self.carried);
        let rise = counter.next_rise(self.carried);
        counter.advance(tick);
        if rise.is_some_and(|rise| rise <= tick) {
            // However often it rose: edges that nobody took are one.
            self.irq0.set(false);
            self.irq0.set(true);
        }
        self.irq0.set(counter.out(tick));
        self.carried = tick;
        let soonest = now + if counter.repeats_within(FASTEST) { MIN_ALARM } else { 0 };
        let alarm = counter.next_rise(tick).map(|rise| nanoseconds(rise).max(soonest));
        if alarm != self.alarm {
            self.alarm = alarm;
            match alarm {
                Some(deadline) => self.timer.arm(deadline),
                None => self.timer.cancel(),
            }
        }
    }

    fn write_control(&mut self, value: u8, tick: i64) {
        let select = value >> 6;
        if select == control::READ_BACK {
            for (index, counter) in self.counters.iter_mut().enumerate() {
                if value & 2 << index == 0 {
                    continue;
                }
                if value & control::READ_BACK_NOT_COUNT == 0 {
                    counter.latch_count(tick);
                }
                if value & control::READ_BACK_NOT_STATUS == 0 {
                    counter.latch_status(tick);
                }
            }
        } else {
            let counter = &mut self.counters[usize::from(select)];
            if value & 0x30 == 0 {
                counter.latch_count(tick);
            } else {
                counter.program(value);
            }
        }
    }

    fn read_port_b(&self, tick: i64) -> u8 {
        let mut value = self.port_b;
        if tick / REFRESH_TICKS % 2 != 0 {
            value |= port_b::REFRESH;
        }
        if self.counters[2].out(tick) {
            value |= port_b::OUT_2;
        }
        value
    }
}

impl PortDevice for Pit {
    fn width(&self) -> u8 {
        1
    }

    fn read(&mut self, offset: u16, _size: u8) -> u32 {
        let tick = ticks(self.clock.now());
        let value = match offset {
            0..=2 => {
                if offset == 0 {
                    // It advances there only, or an edge might be missed.
                    self.carry();
                }
                let counter = &mut self.counters[usize::from(offset)];
                counter.advance(tick);
                counter.read(tick)
            }
            register::PORT_B => {
                self.counters[2].advance(tick);
                self.read_port_b(tick)
            }
            _ => 0xff,
        };
        value.into()
    }

    fn write(&mut self, offset: u16, _size: u8, value: u32) {
        let value = value as u8;
        // Whatever went before has its effect before.
        self.carry();
        let tick = ticks(self.clock.now());
        for counter in &mut self.counters {
            counter.advance(tick);
        }
        match offset {
            0..=2 => self.counters[usize::from(offset)].write(value, tick),
            register::CONTROL => self.write_control(value, tick),
            register::PORT_B => {
                self.port_b = value & port_b::WRITABLE;
                self.counters[2].set_gate(value & port_b::GATE_2 != 0, tick);
            }
            _ => {}
        }
        self.carry();
    }
}

mod saved;
#[cfg(test)]
mod tests;
