//! Virtio devices (Virtual I/O Device version 1.2, OASIS committee specification 01; section numbers in this folder
//! are its).
//!
//! A device and the way it is reached are two things. [`pci`] is the transport: configuration space, registers,
//! interrupts. A device implements [`VirtioDevice`] and knows nothing of it: it is handed its queues when the driver
//! is ready, is told when the driver has put something there, and gives its answers from any thread.
//!
//! # A device
//! Is a pure machine in a `Mutex`, as every chip here. The guest's side comes through [`VirtioDevice`]; the host's
//! side through methods of the device's own, which a back-end's thread calls with the device locked. [`rng`] is the
//! least there can be. On whose thread [`VirtioDevice::notify`] runs is for the board to say: it gives the transport a
//! [`Doorbell`].
//!
//! # What is not believed
//! Rings lie in guest memory and hold what the guest likes. [`Virtqueue`] yields chains of bounded length, whose
//! buffers need not exist: an access to one that does not is an error of [`Chain`]'s. A ring that makes no sense
//! breaks its queue: the device is told nothing more, and the driver finds DEVICE_NEEDS_RESET.
//!
//! # Order of locks
//! Transport, then device, then [`Interrupts`]. A device's thread never locks the transport.
//!
//! Not modelled: the legacy interface (0.9.5), packed rings, resetting a single queue, notification data, transports
//! other than PCI.

pub mod balloon;
pub mod block;
pub mod chain;
pub mod console;
pub mod fs;
pub mod interrupts;
pub mod net;
pub mod pci;
pub mod queue;
pub mod rng;
pub mod socket;

pub use chain::{Chain, ChainError};
pub use interrupts::Interrupts;
pub use pci::VirtioPci;
pub use queue::{QueuePosition, Queues, Virtqueue};

use std::sync::{Arc, Mutex};

use crate::wiring::lock;

/// Device IDs (5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum DeviceType {
    /// Network card.
    Net = 1,
    /// Block device.
    Block = 2,
    /// Console.
    Console = 3,
    /// Entropy source.
    Entropy = 4,
    /// Traditional memory balloon.
    Balloon = 5,
    /// Socket device.
    Socket = 19,
    /// File system device.
    FileSystem = 26,
}

/// Feature bits that concern rings and transport (6).
pub mod feature {
    /// VIRTIO_F_INDIRECT_DESC.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// VIRTIO_F_EVENT_IDX.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// VIRTIO_F_VERSION_1.
    pub const VERSION_1: u64 = 1 << 32;
    /// What every device here offers.
    pub const COMMON: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

/// What a driver that is ready hands to its device.
pub struct Activation {
    /// The features it chose, a subset of those offered.
    pub features: u64,
    /// The queues; one that it did not enable is not there.
    pub queues: Queues,
    /// For telling it of a changed configuration.
    pub interrupts: Arc<Interrupts>,
}

/// A device behind its transport. What the driver does wrong is never an error here: a request is answered with a
/// status, a queue broken, a value ignored.
pub trait VirtioDevice: Send {
    /// What it is.
    fn device_type(&self) -> DeviceType;

    /// The features it offers, without [`feature::COMMON`].
    fn features(&self) -> u64;

    /// How long each of its queues may be: powers of two up to 32768.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Reads its configuration; what lies beyond it is 0.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes its configuration, as far as that can be written.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// The driver is ready (DRIVER_OK). Queues may have something in them already: [`Self::notify`] is called for
    /// each after this.
    fn activate(&mut self, activation: Activation);

    /// The driver has put something into queue number `queue`, or may have. Queues may be ones that are not there,
    /// the device may not be active.
    fn notify(&mut self, queue: u16);

    /// Back to how it was before [`Self::activate`]. No guest memory may be touched from here on, and what back-ends
    /// still bring for the life before is dropped.
    fn reset(&mut self);

    /// How far each of its queues has got, for saving; empty when it is not active. Nothing is in flight then.
    fn positions(&self) -> Vec<Option<QueuePosition>>;
}

/// How a device is told of a notification.
pub trait Doorbell: Send + Sync {
    /// Queue `queue` has been notified. Called with the transport locked.
    fn ring(&self, queue: u16);
}

/// The simplest doorbell: the device works on the vCPU's thread.
impl<T: VirtioDevice + ?Sized> Doorbell for Mutex<T> {
    fn ring(&self, queue: u16) {
        lock(self).notify(queue);
    }
}

/// Copies the part of a configuration structure that a driver reads.
pub fn read_structure(structure: &[u8], offset: u64, data: &mut [u8]) {
    let from = usize::try_from(offset).ok().and_then(|offset| structure.get(offset..)).unwrap_or_default();
    let (known, beyond) = data.split_at_mut(from.len().min(data.len()));
    known.copy_from_slice(&from[..known.len()]);
    beyond.fill(0);
}

#[cfg(test)]
pub(crate) mod testing;
