//! Exits counted by cause, with what they cost. One addition each, so that they are always on.

use serde::{Deserialize, Serialize};
use vcpu::Event;
use x86::classify::{Routine, families};

/// How often, and how many cycles of the time-stamp counter in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// How often.
    pub count: u64,
    /// Cycles spent by the monitor.
    pub cycles: u64,
}

impl Counter {
    pub(crate) fn add(&mut self, cycles: u64) {
        self.count += 1;
        self.cycles = self.cycles.wrapping_add(cycles);
    }
}

/// What made the monitor work, beside sensitive instructions. The first seven are exits, the last three
/// deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub enum Cause {
    Exception,
    Mmio,
    PortIo,
    Halt,
    Kicked,
    Debug,
    DeliveredException,
    DeliveredInterrupt,
    DeliveredNmi,
}

impl Cause {
    const ALL: [Self; 9] = [
        Self::Exception,
        Self::Mmio,
        Self::PortIo,
        Self::Halt,
        Self::Kicked,
        Self::Debug,
        Self::DeliveredException,
        Self::DeliveredInterrupt,
        Self::DeliveredNmi,
    ];
}

/// As many as a `u8` tells apart, so that no routine is left out whatever their number grows to.
const ROUTINES: usize = 256;

/// What one vCPU's exits came to.
#[derive(Clone, Debug)]
pub struct Statistics {
    causes: [Counter; Cause::ALL.len()],
    routines: Box<[Counter; ROUTINES]>,
    /// Cycles spent in the engine.
    pub engine_cycles: u64,
    /// Cycles spent outside it, waiting for interrupts included.
    pub monitor_cycles: u64,
    /// Those of them in which the vCPU waited.
    pub idle_cycles: u64,
    /// What the engine has counted of its own work (`vcpu::Engine::counters`).
    pub engine: Vec<(&'static str, u64)>,
}

/// A line of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The routine's name, or that of the [`Cause`].
    pub cause: String,
    /// Whether it is a sensitive instruction.
    pub sensitive: bool,
    /// How often, at what cost.
    #[serde(flatten)]
    pub counter: Counter,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            causes: Default::default(),
            routines: Box::new([Counter::default(); ROUTINES]),
            engine_cycles: 0,
            monitor_cycles: 0,
            idle_cycles: 0,
            engine: Vec::new(),
        }
    }
}

impl Statistics {
    pub(crate) fn count(&mut self, cause: Cause, cycles: u64) {
        self.causes[cause as usize].add(cycles);
    }

    pub(crate) fn count_routine(&mut self, routine: Routine, cycles: u64) {
        self.routines[usize::from(routine as u8)].add(cycles);
    }

    pub(crate) fn count_event(&mut self, event: Event, cycles: u64) {
        let cause = match event {
            Event::Interrupt(_) => Cause::DeliveredInterrupt,
            Event::Nmi => Cause::DeliveredNmi,
            Event::Exception(_) | Event::Software { .. } => Cause::DeliveredException,
        };
        self.count(cause, cycles);
    }

    /// What a cause came to.
    pub fn cause(&self, cause: Cause) -> Counter {
        self.causes[cause as usize]
    }

    /// What an instruction's routine came to.
    pub fn routine(&self, routine: Routine) -> Counter {
        self.routines[usize::from(routine as u8)]
    }

    /// Everything that happened at all, the costliest first.
    pub fn rows(&self) -> Vec<Row> {
        let mut seen = [false; ROUTINES];
        let routines = families().filter_map(|(routine, _, _)| {
            let fresh = !std::mem::replace(&mut seen[usize::from(routine as u8)], true);
            fresh.then(|| Row {
                cause: format!("{routine:?}"),
                sensitive: true,
                counter: self.routine(routine),
            })
        });
        let causes = Cause::ALL.map(|cause| Row {
            cause: format!("{cause:?}"),
            sensitive: false,
            counter: self.cause(cause),
        });
        let mut rows: Vec<Row> = routines.chain(causes).filter(|row| row.counter.count > 0).collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.counter.cycles, row.counter.count)));
        rows
    }
}
