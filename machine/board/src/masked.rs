//! Whether all vCPUs of a machine wait for what none of them can send any more: halted with interrupts off, or not started.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use devices::apic::ApicPort;

/// How many wait is in the low half, how often that has changed in the high one.
const CHANGE: u64 = 1 << 32;

/// One per machine.
pub struct Masked {
    ports: Vec<Arc<ApicPort>>,
    word: AtomicU64,
}

impl Masked {
    /// For vCPUs with these receiving sides.
    pub fn new(ports: Vec<Arc<ApicPort>>) -> Self {
        Self { ports, word: AtomicU64::new(0) }
    }

    /// A vCPU waits for a signal. Whether there will be none: all wait, and none has been sent. No device of this board
    /// raises one.
    pub fn enter(&self) -> bool {
        let word = self.word.fetch_add(CHANGE + 1, Ordering::SeqCst).wrapping_add(CHANGE + 1);
        // Who sends a signal does so before it waits itself. Who takes one has left before, which is a change.
        word as u32 as usize == self.ports.len()
            && !self.ports.iter().any(|port| port.signal_waits())
            && self.word.load(Ordering::SeqCst) == word
    }

    /// It waits no more.
    pub fn leave(&self) {
        self.word.fetch_add(CHANGE - 1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waker::Waker;
    use devices::apic::{ApicBus, LINT1, Wake};
    use devices::wiring::IrqSink;

    #[test]
    fn dead_is_who_waits_for_nothing() {
        let wakers = (0..2).map(|_| Arc::new(Waker::default()) as Arc<dyn Wake>).collect();
        let bus = ApicBus::new(wakers);
        let masked = Masked::new((0..2).map(|cpu| bus.port(cpu)).collect());
        assert!(!masked.enter(), "the other runs");
        assert!(masked.enter(), "nobody runs");
        masked.leave();
        assert!(masked.enter(), "nor now");
        masked.leave();
        bus.port(1).set_irq(LINT1, true);
        assert!(!masked.enter(), "an NMI may be on its way");
    }
}
