//! What the chips' tests wire them to.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use savestate::{Persist, Sections, Unit, Writer};

use crate::pci::MsiSink;
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

/// Keeps interrupt messages.
#[derive(Clone, Default)]
pub struct Messages(Arc<Mutex<Vec<(u64, u32)>>>);

impl Messages {
    /// What has come since this was last asked.
    pub fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        lock(&self.0).push((address, data));
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

/// Saves `from` to a file and restores `to` from it.
pub fn transplant<P: Persist>(from: &P, to: &mut P) {
    let mut writer = Writer::new();
    writer.add(0, from).expect("saves");
    let file = writer.finish();
    let sections = Sections::parse(&file).expect("reads");
    sections.check([(0, to as &mut dyn Unit)]).expect("fits").commit();
}

/// Whether `unit` refuses its own state after each of these changes; and accepts it before, or the changes
/// would prove nothing.
pub fn refuses<P: Persist>(unit: &P, changes: &[fn(&mut P::State)]) -> bool {
    unit.check(&unit.save()).expect("its own state");
    changes.iter().enumerate().all(|(number, change)| {
        let mut state = unit.save();
        change(&mut state);
        let refused = unit.check(&state).is_err();
        assert!(refused, "change {number} was accepted");
        refused
    })
}
