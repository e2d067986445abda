//! The machine's time. Everything is derived from the host's time-stamp counter: the VM's clock counts its ticks
//! since power-on in nanoseconds. So the counter a guest reads and the timers it calibrates it against (PIT, PM
//! timer, local APIC) agree exactly, which no pair of host clocks would; the price is that the VM's clock is as
//! right as the counter's frequency was measured, as on a real board with its crystal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use devices::apic::TscTime;
use devices::wiring::{VmClock, WallClock};
use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

const NS_PER_S: u128 = 1_000_000_000;
const CENTURY_NS: u64 = 100 * 366 * 86_400 * 1_000_000_000;

/// A clock that runs from its creation on.
#[derive(Debug)]
pub struct Clock {
    /// Reads the host's counter.
    read: fn() -> u64,
    hz: u64,
    /// The counter at power-on. Changes when a saved state is restored, with the machine at rest.
    start: AtomicU64,
    /// What the restored machine's counter at power-on was more than this one's.
    shift: AtomicU64,
}

impl Clock {
    /// Starts now, on a counter of this frequency.
    pub fn start(read: fn() -> u64, hz: u64) -> Self {
        assert!(hz > 0, "a time-stamp counter that stands still");
        Self { read, hz, start: read().into(), shift: 0.into() }
    }

    /// The host's counter.
    pub fn tsc(&self) -> u64 {
        (self.read)()
    }

    /// What a vCPU's saved offset lacks on this clock, after a state was restored.
    pub fn tsc_shift(&self) -> u64 {
        self.shift.load(Ordering::Relaxed)
    }

    fn start_count(&self) -> u64 {
        self.start.load(Ordering::Relaxed)
    }

    /// The counter's frequency.
    pub fn tsc_hz(&self) -> u64 {
        self.hz
    }
}

impl VmClock for Clock {
    fn now(&self) -> u64 {
        // A counter read on another core may be behind by a few ticks where the host's are not in step.
        let ticks = (self.read)().saturating_sub(self.start_count());
        // Good for centuries.
        (u128::from(ticks) * NS_PER_S / u128::from(self.hz)) as u64
    }
}

impl TscTime for Clock {
    fn deadline(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.start_count()));
        u64::try_from((ticks * NS_PER_S).div_ceil(u128::from(self.hz))).unwrap_or(u64::MAX)
    }
}

/// The clock as a unit to save.
pub struct ClockUnit(pub Arc<Clock>);

/// Saved form of the clock.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ClockStateV1 {
    /// The VM's clock, in nanoseconds.
    now: u64,
    /// The counter at power-on, which the vCPUs' offsets relate to.
    tsc_start: u64,
    /// Frequency of the counter the guest has been shown.
    tsc_hz: u64,
}

impl Saved for ClockStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for ClockUnit {
    const KIND: &'static str = "vm-clock";
    type State = ClockStateV1;

    fn save(&self) -> ClockStateV1 {
        let Clock { read: _, hz, start, shift: _ } = &*self.0;
        ClockStateV1 { now: self.0.now(), tsc_start: start.load(Ordering::Relaxed), tsc_hz: *hz }
    }

    fn check(&self, state: &ClockStateV1) -> Result<(), Invalid> {
        require(state.now < CENTURY_NS, "now is further than a century from power-on")?;
        // Measuring twice gives two figures; another host's counter is another matter, and the guest cannot be told.
        let close = state.tsc_hz.abs_diff(self.0.hz) <= self.0.hz / 1000;
        require(close, "tsc_hz is not that of this host's time-stamp counter")
    }

    fn commit(&mut self, state: ClockStateV1) {
        let ClockStateV1 { now, tsc_start, tsc_hz: _ } = state;
        let ticks = u128::from(now) * u128::from(self.0.hz) / NS_PER_S;
        // At most a century's worth.
        let start = self.0.tsc().wrapping_sub(ticks as u64);
        self.0.start.store(start, Ordering::Relaxed);
        self.0.shift.store(tsc_start.wrapping_sub(start), Ordering::Relaxed);
    }
}

/// The host's time of day.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostWallClock;

impl WallClock for HostWallClock {
    fn unix_ns(&self) -> i64 {
        let since = |later: SystemTime, earlier| later.duration_since(earlier);
        let now = SystemTime::now();
        match since(now, UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |before| -before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static COUNTER: AtomicU64 = AtomicU64::new(1 << 40);

    #[test]
    fn a_deadline_has_passed_exactly_when_the_counter_has() {
        let clock = Clock::start(|| COUNTER.load(Ordering::Relaxed), 2_599_999_999);
        assert_eq!((clock.now(), clock.deadline(0)), (0, 0));
        for ticks in [1, 2, 3, 2_599_999_998, 2_599_999_999, 12_345_678_901_234] {
            let deadline = clock.deadline((1 << 40) + ticks);
            COUNTER.store((1 << 40) + ticks - 1, Ordering::Relaxed);
            let before = clock.now();
            COUNTER.store((1 << 40) + ticks, Ordering::Relaxed);
            // At most one nanosecond late, since the VM's clock has no finer grain.
            assert!(before < deadline || clock.deadline((1 << 40) + ticks - 1) == deadline);
            assert!(clock.now() + 1 >= deadline, "{ticks}");
        }
    }
}
