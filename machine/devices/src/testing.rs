//! What the chips' tests wire them to.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::wiring::{IrqLine, IrqSink, Notify, Timer, VmClock, WallClock, lock};

/// A clock that stands still until it is told to go on.
#[derive(Default)]
pub struct FakeClock {
    now: AtomicU64,
    wall: AtomicI64,
}

impl FakeClock {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn advance(&self, ns: u64) {
        self.now.fetch_add(ns, Ordering::SeqCst);
        self.wall.fetch_add(ns as i64, Ordering::SeqCst);
    }

    pub fn set_wall(&self, unix_ns: i64) {
        self.wall.store(unix_ns, Ordering::SeqCst);
    }
}

impl VmClock for FakeClock {
    fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }
}

impl WallClock for FakeClock {
    fn unix_ns(&self) -> i64 {
        self.wall.load(Ordering::SeqCst)
    }
}

/// An alarm whose setting can be looked at.
#[derive(Clone, Default)]
pub struct FakeTimer(Arc<Mutex<Option<u64>>>);

impl FakeTimer {
    pub fn deadline(&self) -> Option<u64> {
        *lock(&self.0)
    }

    pub fn boxed(&self) -> Box<dyn Timer> {
        Box::new(self.clone())
    }

    /// Whether it is due at `now`; going off disarms it.
    pub fn take_due(&self, now: u64) -> bool {
        lock(&self.0).take_if(|deadline| *deadline <= now).is_some()
    }
}

impl Timer for FakeTimer {
    fn arm(&self, deadline: u64) {
        *lock(&self.0) = Some(deadline);
    }

    fn cancel(&self) {
        *lock(&self.0) = None;
    }
}

/// A line whose level can be looked at, and how often it has risen.
#[derive(Clone, Default)]
pub struct Probe(Arc<Mutex<(bool, usize)>>);

impl Probe {
    pub fn line(&self) -> IrqLine {
        IrqLine::new(Arc::new(self.clone()), 0)
    }

    pub fn level(&self) -> bool {
        lock(&self.0).0
    }

    /// How often it has risen since this was last asked.
    pub fn take_edges(&self) -> usize {
        std::mem::take(&mut lock(&self.0).1)
    }
}

impl IrqSink for Probe {
    fn set_irq(&self, _line: u32, asserted: bool) {
        let mut probe = lock(&self.0);
        probe.1 += usize::from(asserted && !probe.0);
        probe.0 = asserted;
    }
}

/// Counts calls.
#[derive(Clone, Default)]
pub struct Calls(Arc<AtomicU64>);

impl Calls {
    pub fn notify(&self) -> Notify {
        let calls = self.clone();
        Arc::new(move || {
            calls.0.fetch_add(1, Ordering::SeqCst);
        })
    }

    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::SeqCst)
    }
}
