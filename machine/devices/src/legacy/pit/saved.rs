//! The interval timer's saved state. Times are ticks of its clock since the VM's power-on.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::counter::{Counter, Counting, Next};
use super::{Pit, port_b};

/// See [`Counting`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CountingV1 {
    /// Not at all.
    No,
    /// Since this tick.
    Since(i64),
    /// Stopped after this many.
    Stopped(i64),
}

/// See [`Next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextV1 {
    count: u32,
    at: Option<i64>,
    start: i64,
}

/// See [`Counter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterStateV1 {
    control: u8,
    gate: bool,
    count: u32,
    counting: CountingV1,
    next: Option<NextV1>,
    lsb_written: Option<u8>,
    msb_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

/// See [`Pit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitStateV1 {
    counters: [CounterStateV1; 3],
    port_b: u8,
    carried: i64,
}

impl Saved for PitStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

/// No VM gets so old; and sums of a few such times do not overflow.
const LATEST: i64 = 1 << 60;

fn is_time(tick: i64) -> bool {
    // A half-cycle may have begun, on paper, before the VM did.
    (-0x1_0000..LATEST).contains(&tick)
}

impl Counter {
    fn save(&self) -> CounterStateV1 {
        let &Self {
            control,
            gate,
            count,
            counting,
            next,
            lsb_written,
            msb_next,
            latched_count,
            latched_status,
        } = self;
        let counting = match counting {
            Counting::No => CountingV1::No,
            Counting::Since(start) => CountingV1::Since(start),
            Counting::Stopped(elapsed) => CountingV1::Stopped(elapsed),
        };
        let next = next.map(|Next { count, at, start }| NextV1 { count, at, start });
        CounterStateV1 {
            control,
            gate,
            count,
            counting,
            next,
            lsb_written,
            msb_next,
            latched_count,
            latched_status,
        }
    }

    fn restored(state: CounterStateV1) -> Self {
        let CounterStateV1 {
            control,
            gate,
            count,
            counting,
            next,
            lsb_written,
            msb_next,
            latched_count,
            latched_status,
        } = state;
        let counting = match counting {
            CountingV1::No => Counting::No,
            CountingV1::Since(start) => Counting::Since(start),
            CountingV1::Stopped(elapsed) => Counting::Stopped(elapsed),
        };
        let next = next.map(|NextV1 { count, at, start }| Next { count, at, start });
        Self { control, gate, count, counting, next, lsb_written, msb_next, latched_count, latched_status }
    }
}

fn check_counter(state: &CounterStateV1) -> Result<(), Invalid> {
    let rw = state.control >> 4;
    require((1..=3).contains(&rw), "a counter's control word is none")?;
    let is_count = |count| (1..=0x1_0000).contains(&count);
    require(is_count(state.count), "a count is out of range")?;
    require(
        match state.counting {
            CountingV1::No => true,
            CountingV1::Since(start) => is_time(start),
            CountingV1::Stopped(elapsed) => (0..LATEST).contains(&elapsed),
        },
        "a counter counts from an impossible time",
    )?;
    let next = |next: NextV1| is_count(next.count) && is_time(next.start) && next.at.is_none_or(is_time);
    require(state.next.is_none_or(next), "a counter's next count is impossible")?;
    let halfway = state.lsb_written.is_some() || state.msb_next;
    require(rw == 3 || !halfway, "a counter of one byte waits for the second")
}

impl Persist for Pit {
    const KIND: &'static str = "i8254";
    type State = PitStateV1;

    fn save(&self) -> PitStateV1 {
        let Self { clock: _, timer: _, irq0: _, counters, port_b, carried, alarm: _ } = self;
        PitStateV1 { counters: counters.each_ref().map(Counter::save), port_b: *port_b, carried: *carried }
    }

    fn check(&self, state: &PitStateV1) -> Result<(), Invalid> {
        state.counters.iter().try_for_each(check_counter)?;
        require(state.port_b & !port_b::WRITABLE == 0, "port_b has reserved bits")?;
        let gates = [true, true, state.port_b & port_b::GATE_2 != 0];
        require(state.counters.map(|counter| counter.gate) == gates, "a gate contradicts port_b")?;
        require((0..LATEST).contains(&state.carried), "carried is an impossible time")
    }

    fn commit(&mut self, state: PitStateV1) {
        let PitStateV1 { counters, port_b, carried } = state;
        self.counters = counters.map(Counter::restored);
        self.port_b = port_b;
        self.carried = carried;
        // Whatever alarm is set belongs to another life.
        self.alarm = None;
        self.timer.cancel();
        self.carry();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::pit::tests::Bench;
    use crate::testing::{refuses, transplant};

    #[test]
    fn saved_in_mid_count() {
        let mut bench = Bench::new();
        bench.load(0, 3, 1000);
        bench.advance(700);
        bench.count(0, 500);
        bench.load(1, 2, 18);
        bench.write(3, 0x40);
        bench.read(1);
        bench.gate(true);
        bench.load(2, 0, 9);
        bench.gate(false);
        bench.write(3, 0xe8);
        bench.write(2, 7);

        let mut other = Bench::new();
        other.advance(bench.tick);
        transplant(&bench.pit, &mut other.pit);
        assert_eq!(other.pit.save(), bench.pit.save());
        assert_eq!(other.timer.deadline(), bench.timer.deadline());
        assert_eq!(other.irq0.level(), bench.irq0.level());
        for machine in [&mut bench, &mut other] {
            machine.irq0.take_edges();
            machine.write(2, 0);
            machine.gate(true);
            machine.advance(800);
        }
        assert_eq!(other.irq0.take_edges(), bench.irq0.take_edges());
        for register in [0, 0, 1, 2, 2, 4] {
            assert_eq!(other.read(register), bench.read(register));
        }
    }

    #[test]
    fn hostile_states_are_refused() {
        let mut bench = Bench::new();
        bench.write(3, 0x94);
        assert!(refuses(
            &bench.pit,
            &[
                |state| state.counters[0].control = 0x40,
                |state| state.counters[0].control = 0x0f,
                |state| state.counters[0].count = 0,
                |state| state.counters[0].count = 0x1_0001,
                |state| state.counters[0].counting = CountingV1::Since(i64::MAX),
                |state| state.counters[0].counting = CountingV1::Since(i64::MIN),
                |state| state.counters[0].counting = CountingV1::Stopped(-1),
                |state| state.counters[0].next = Some(NextV1 { count: 0, at: None, start: 0 }),
                |state| state.counters[0].next = Some(NextV1 { count: 1, at: Some(i64::MAX), start: 0 }),
                |state| state.counters[0].next = Some(NextV1 { count: 1, at: None, start: i64::MIN }),
                |state| state.counters[2].lsb_written = Some(0),
                |state| state.counters[2].msb_next = true,
                |state| state.counters[0].gate = false,
                |state| state.port_b = 1,
                |state| state.port_b = 0x10,
                |state| state.carried = -1,
            ]
        ));
    }
}
