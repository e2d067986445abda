//! A local APIC's receiving side: what others change about it, without a lock.
//!
//! # Order
//! A sender first notes what it brings (a bit of IRR), then sets `attention`, then wakes. The owner first
//! clears `attention`, then looks at what was brought. So whatever the owner does not see was noted after it
//! cleared `attention`, and will set it again. Only the sender that sets a bit of `attention` wakes; one that
//! finds it set knows that the owner has still to look.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Wake;
use super::bus::Destination;
use crate::wiring::IrqSink;

/// Line number of the local interrupt pin 0, to which a PC's 8259 leads.
pub const LINT0: u32 = 0;
/// Line number of the local interrupt pin 1, which is a PC's NMI.
pub const LINT1: u32 = 1;

/// Bits of `attention`: what the owner has to do.
pub(super) mod attention {
    /// Look at IRR, the pins and the errors.
    pub const EVALUATE: u32 = 1 << 0;
    /// The timer's alarm has gone off.
    pub const TIMER: u32 = 1 << 1;
    /// LINT0 has risen; LINT1 is the next bit.
    pub const LINT0_EDGE: u32 = 1 << 2;
    /// LINT1 has risen.
    pub const LINT1_EDGE: u32 = 1 << 3;
    /// An error has been noted.
    pub const ERROR: u32 = 1 << 4;
    /// What [`super::super::LocalApic`] takes in one go.
    pub const WORK: u32 = EVALUATE | TIMER | LINT0_EDGE | LINT1_EDGE | ERROR;
    /// A message told to ask the 8259.
    pub const EXT_INT: u32 = 1 << 5;
    /// Signals.
    pub const NMI: u32 = 1 << 6;
    pub const INIT: u32 = 1 << 7;
    pub const START_UP: u32 = 1 << 8;
    /// A second NMI has come before the first was taken. A processor would have been in its handler by then, with this one
    /// waiting for the end of that.
    pub const NMI_AGAIN: u32 = 1 << 9;
    pub const SIGNALS: u32 = NMI | INIT | START_UP | NMI_AGAIN;
}

/// Bits of `modes`.
pub(super) mod modes {
    /// IA32_APIC_BASE.EN.
    pub const ENABLED: u32 = 1 << 0;
    /// IA32_APIC_BASE.EXTD.
    pub const X2APIC: u32 = 1 << 1;
    /// Spurious-interrupt vector register, bit 8.
    pub const SOFTWARE_ENABLED: u32 = 1 << 2;
}

/// Error status register bits that can happen.
pub(super) mod error {
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// See the module. All vCPUs' ports stand on one [`super::ApicBus`].
pub struct ApicPort {
    // Configuration.
    pub(super) id: u32,
    // Wiring.
    pub(super) wake: Arc<dyn Wake>,
    // Volatile state: what the owner shows to others,
    pub(super) modes: AtomicU32,
    pub(super) ldr: AtomicU32,
    pub(super) dfr: AtomicU32,
    pub(super) priority: AtomicU32,
    // and what others bring.
    pub(super) irr: [AtomicU32; 8],
    pub(super) tmr: [AtomicU32; 8],
    pub(super) errors: AtomicU32,
    pub(super) pins: AtomicU32,
    pub(super) start_up: AtomicU32,
    pub(super) attention: AtomicU32,
}

impl ApicPort {
    pub(super) fn new(id: u32, wake: Arc<dyn Wake>) -> Self {
        Self {
            id,
            wake,
            modes: AtomicU32::new(0),
            ldr: AtomicU32::new(0),
            dfr: AtomicU32::new(u32::MAX),
            priority: AtomicU32::new(0),
            irr: Default::default(),
            tmr: Default::default(),
            errors: AtomicU32::new(0),
            pins: AtomicU32::new(0),
            start_up: AtomicU32::new(0),
            attention: AtomicU32::new(0),
        }
    }

    /// The APIC ID.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether the owner has something to look at; for a vCPU that is about to sleep. Interrupts it has seen
    /// already do not count here: [`super::LocalApic::interrupt_waits`] tells of both.
    pub fn attention(&self) -> bool {
        self.attention.load(Ordering::Acquire) & (attention::WORK | attention::SIGNALS) != 0
    }

    /// Whether there may be a signal to take.
    pub fn signal_waits(&self) -> bool {
        let pending = self.attention.load(Ordering::Acquire);
        pending & (attention::SIGNALS | attention::LINT1_EDGE | attention::LINT0_EDGE) != 0
    }

    /// The alarm given to the local APIC as its timer has gone off.
    pub fn timer_expired(&self) {
        self.post(attention::TIMER);
    }

    pub(super) fn has(&self, modes: u32) -> bool {
        self.modes.load(Ordering::Relaxed) & modes == modes
    }

    /// Sets bits of `attention` and wakes the owner if they are news.
    pub(super) fn post(&self, bits: u32) {
        // AcqRel: what was noted before is seen by who clears the bits.
        let before = self.attention.fetch_or(bits, Ordering::AcqRel);
        if before & bits != bits {
            self.wake.wake();
        }
    }

    /// A fixed interrupt arrives. Says whether it was accepted.
    pub(super) fn interrupt(&self, vector: u8, level: bool) -> bool {
        if !self.has(modes::ENABLED | modes::SOFTWARE_ENABLED) {
            return false;
        }
        if vector < 16 {
            self.error(error::RECEIVE_ILLEGAL_VECTOR);
            return true;
        }
        if !self.request(vector, level) {
            self.post(attention::EVALUATE);
        }
        true
    }

    /// Notes a vector in IRR, and in TMR how it was triggered; says whether it was there already.
    pub(super) fn request(&self, vector: u8, level: bool) -> bool {
        let (word, bit) = (usize::from(vector / 32), 1 << (vector % 32));
        if level {
            self.tmr[word].fetch_or(bit, Ordering::Relaxed);
        } else {
            self.tmr[word].fetch_and(!bit, Ordering::Relaxed);
        }
        self.irr[word].fetch_or(bit, Ordering::Release) & bit != 0
    }

    pub(super) fn error(&self, bits: u32) {
        if self.errors.fetch_or(bits, Ordering::AcqRel) & bits != bits {
            self.post(attention::ERROR);
        }
    }

    /// A start-up message; the last page counts.
    pub(super) fn start_up(&self, page: u8) {
        self.start_up.store(page.into(), Ordering::Release);
        self.post(attention::START_UP);
    }

    /// An NMI message.
    pub(super) fn nmi(&self) {
        // What is there may have been taken by the time the second is noted, which is one more all the same.
        match self.attention.fetch_or(attention::NMI, Ordering::AcqRel) & attention::NMI {
            0 => self.wake.wake(),
            _ => self.post(attention::NMI_AGAIN),
        }
    }

    /// An INIT message. A start-up from before it is forgotten.
    pub(super) fn init(&self) {
        self.attention.fetch_and(!attention::START_UP, Ordering::AcqRel);
        self.post(attention::INIT);
    }

    /// Whether a message is meant for this local APIC.
    pub(super) fn is_named_by(&self, destination: Destination) -> bool {
        let x2apic = self.has(modes::X2APIC);
        match destination {
            Destination::Broadcast => true,
            Destination::Physical(id) => id == self.id,
            Destination::Logical(set) if x2apic => {
                let ldr = self.ldr.load(Ordering::Relaxed);
                set >> 16 == ldr >> 16 && set & ldr & 0xffff != 0
            }
            Destination::Logical(set) => {
                let ldr = self.ldr.load(Ordering::Relaxed) >> 24;
                let Ok(set) = u8::try_from(set) else {
                    return false;
                };
                let set = u32::from(set);
                match self.dfr.load(Ordering::Relaxed) >> 28 {
                    // Flat model.
                    0xf => set & ldr != 0,
                    // Cluster model.
                    0 => (set >> 4 == 0xf || set >> 4 == ldr >> 4) && set & ldr & 0xf != 0,
                    _ => false,
                }
            }
        }
    }
}

impl IrqSink for ApicPort {
    fn set_irq(&self, line: u32, asserted: bool) {
        if line > LINT1 {
            return;
        }
        let bit = 1 << line;
        let before = if asserted {
            self.pins.fetch_or(bit, Ordering::AcqRel)
        } else {
            self.pins.fetch_and(!bit, Ordering::AcqRel)
        };
        let was = before & bit != 0;
        if asserted && !was {
            self.post(attention::EVALUATE | attention::LINT0_EDGE << line);
        } else if was && !asserted {
            // Nothing to wake for: a request is withdrawn.
            self.attention.fetch_or(attention::EVALUATE, Ordering::AcqRel);
        }
    }
}
