//! The host's clocks.
//!
//! Waiting with a deadline needs nothing from here: `Condvar::wait_timeout` and [`crate::event::poll`] do it.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

/// Nanoseconds of `CLOCK_MONOTONIC` since this process first asked. Never goes back; stands still while the host
/// is suspended.
pub fn monotonic_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    // 2^64 ns are 584 years.
    start.elapsed().as_nanos() as u64
}

/// Nanoseconds since 1970-01-01 00:00 UTC, negative before.
pub fn unix_ns() -> i64 {
    let since = |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => since(after),
        Err(before) => -since(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_goes_forward_at_the_right_pace() {
        let start = monotonic_ns();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let passed = monotonic_ns() - start;
        assert!((5_000_000..5_000_000_000).contains(&passed), "{passed}");
    }

    #[test]
    fn the_wall_clock_is_past_2020() {
        assert!(unix_ns() > 1_577_836_800_000_000_000);
    }
}
