//! How a device interrupts its driver: by MSI-X messages, or by its pin and the ISR status register (4.1.5.3).

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use crate::pci::{MsiSink, Msix};
use crate::wiring::{IrqLine, lock};

/// VIRTIO_MSI_NO_VECTOR.
pub const NO_VECTOR: u16 = 0xffff;

/// ISR status register (4.1.4.5).
pub mod isr {
    /// A queue has been used.
    pub const QUEUE: u8 = 1 << 0;
    /// The configuration has changed.
    pub const CONFIG: u8 = 1 << 1;
}

/// What the device's threads and the transport share.
pub struct Interrupts {
    // Wiring.
    line: IrqLine,
    pub(super) msix: Msix,
    // Volatile state.
    /// By queue.
    pub(super) queue_vectors: Vec<AtomicU16>,
    pub(super) config_vector: AtomicU16,
    /// ISR status; the lock is held while the line is driven, or two threads could drive it in the wrong order.
    pub(super) isr: Mutex<u8>,
    /// INTx is held back by the command register.
    masked: AtomicBool,
    pub(super) generation: AtomicU8,
    pub(super) needs_reset: AtomicBool,
}

impl Interrupts {
    /// For a device with so many queues: a vector for each and one for its configuration.
    pub(super) fn new(queues: usize, line: IrqLine, sink: Arc<dyn MsiSink>) -> Self {
        let vectors = u16::try_from(queues + 1).expect("a device has few queues");
        Self {
            line,
            msix: Msix::new(vectors, sink),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            config_vector: AtomicU16::new(NO_VECTOR),
            isr: Mutex::new(0),
            masked: AtomicBool::new(false),
            generation: AtomicU8::new(0),
            needs_reset: AtomicBool::new(false),
        }
    }

    /// Buffers of this queue have been used.
    pub(super) fn queue(&self, queue: u16) {
        self.signal(self.queue_vectors.get(usize::from(queue)), isr::QUEUE);
    }

    /// The device's configuration has changed without the driver's doing.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.signal(Some(&self.config_vector), isr::CONFIG);
    }

    /// The driver has done what the device cannot go on from: DEVICE_NEEDS_RESET (2.1.2).
    pub fn needs_reset(&self) {
        if !self.needs_reset.swap(true, Ordering::Relaxed) {
            self.config_changed();
        }
    }

    fn signal(&self, vector: Option<&AtomicU16>, bit: u8) {
        if self.msix.is_enabled() {
            // A vector that was not chosen is beyond all that exist.
            self.msix.fire(vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::Relaxed)));
        } else {
            let mut status = lock(&self.isr);
            *status |= bit;
            self.drive(*status);
        }
    }

    /// Reads the ISR status register, which clears it.
    pub(super) fn take_isr(&self) -> u8 {
        let mut status = lock(&self.isr);
        self.drive(0);
        std::mem::take(&mut status)
    }

    /// Whether the pin is asserted but for the command register, for the configuration space's status register.
    pub(super) fn is_pending(&self) -> bool {
        *lock(&self.isr) != 0
    }

    /// The command register holds the pin back, or does not any more.
    pub(super) fn mask_line(&self, masked: bool) {
        let status = lock(&self.isr);
        self.masked.store(masked, Ordering::Relaxed);
        self.drive(*status);
    }

    fn drive(&self, status: u8) {
        self.line.set(status != 0 && !self.masked.load(Ordering::Relaxed));
    }

    /// The device is reset: no vector is chosen, nothing waits. MSI-X itself stays as it is (4.1.4.5.1, 4.1.5.1.2).
    pub(super) fn reset(&self) {
        for vector in self.queue_vectors.iter().chain([&self.config_vector]) {
            vector.store(NO_VECTOR, Ordering::Relaxed);
        }
        self.needs_reset.store(false, Ordering::Relaxed);
        self.take_isr();
    }
}

/// How a queue interrupts.
#[derive(Clone)]
pub(super) struct QueueInterrupt {
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) queue: u16,
}
