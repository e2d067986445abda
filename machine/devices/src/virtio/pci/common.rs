//! The common configuration structure (4.1.4.3).

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::super::feature;
use super::super::interrupts::{Interrupts, NO_VECTOR};
use super::super::queue::QueueSetup;

/// Offsets of its fields.
mod field {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_MSIX_VECTOR: u64 = 0x10;
    pub const NUM_QUEUES: u64 = 0x12;
    pub const DEVICE_STATUS: u64 = 0x14;
    pub const CONFIG_GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x34;
}

/// Its length, up to the fields of features that are not offered.
pub(super) const LENGTH: u64 = 0x38;
/// The one field whose writing is the transport's business.
pub(super) const STATUS: u64 = field::DEVICE_STATUS;

/// How far the driver has come (3.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It chooses features.
    Features,
    /// They are agreed on; it sets up queues.
    Queues,
    /// It is ready.
    Active,
}

/// A queue's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueueRegisters {
    pub(super) setup: QueueSetup,
    pub(super) enabled: bool,
}

/// The registers; vectors are in [`Interrupts`].
pub(super) struct Common {
    // Configuration.
    offered: u64,
    pub(super) most: Vec<u16>,
    // Volatile state.
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<QueueRegisters>,
}

impl Common {
    pub(super) fn new(offered: u64, sizes: &[u16]) -> Self {
        let mut common = Self {
            offered,
            most: sizes.to_vec(),
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: Vec::new(),
        };
        common.reset();
        common
    }

    pub(super) fn reset(&mut self) {
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        let fresh = |&size| QueueRegisters {
            setup: QueueSetup { size, desc: 0, driver: 0, device: 0 },
            enabled: false,
        };
        self.queues = self.most.iter().map(fresh).collect();
    }

    /// Number of queues.
    pub(super) fn queue_count(&self) -> u16 {
        // The transport has checked it.
        self.most.len() as u16
    }

    /// The features that the driver has chosen.
    pub(super) fn driver_features(&self) -> u64 {
        self.driver_features
    }

    /// Whether the driver's choice is one (2.2): nothing that is not offered, and a driver of this century.
    pub(super) fn features_will_do(&self) -> bool {
        self.driver_features & !self.offered == 0 && self.driver_features & feature::VERSION_1 != 0
    }

    /// Each queue's setup, or that it has not been enabled.
    pub(super) fn enabled_queues(&self) -> impl Iterator<Item = Option<QueueSetup>> {
        self.queues.iter().map(|queue| queue.enabled.then_some(queue.setup))
    }

    /// All of it, as it reads now.
    pub(super) fn image(&self, interrupts: &Interrupts, status: u8) -> [u8; LENGTH as usize] {
        let mut image = [0; LENGTH as usize];
        let mut put = |at: u64, bytes: &[u8]| image[at as usize..][..bytes.len()].copy_from_slice(bytes);
        let half = |select: u32, features: u64| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        put(field::DEVICE_FEATURE_SELECT, &self.device_feature_select.to_le_bytes());
        put(field::DEVICE_FEATURE, &half(self.device_feature_select, self.offered).to_le_bytes());
        put(field::DRIVER_FEATURE_SELECT, &self.driver_feature_select.to_le_bytes());
        put(field::DRIVER_FEATURE, &half(self.driver_feature_select, self.driver_features).to_le_bytes());
        put(field::CONFIG_MSIX_VECTOR, &interrupts.config_vector.load(Ordering::Relaxed).to_le_bytes());
        put(field::NUM_QUEUES, &self.queue_count().to_le_bytes());
        put(field::DEVICE_STATUS, &[status]);
        put(field::CONFIG_GENERATION, &[interrupts.generation.load(Ordering::Relaxed)]);
        put(field::QUEUE_SELECT, &self.queue_select.to_le_bytes());
        let selected = usize::from(self.queue_select);
        // A queue that does not exist has size 0.
        if let (Some(queue), Some(vector)) =
            (self.queues.get(selected), interrupts.queue_vectors.get(selected))
        {
            put(field::QUEUE_SIZE, &queue.setup.size.to_le_bytes());
            put(field::QUEUE_MSIX_VECTOR, &vector.load(Ordering::Relaxed).to_le_bytes());
            put(field::QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
            put(field::QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            put(field::QUEUE_DESC, &queue.setup.desc.to_le_bytes());
            put(field::QUEUE_DRIVER, &queue.setup.driver.to_le_bytes());
            put(field::QUEUE_DEVICE, &queue.setup.device.to_le_bytes());
        }
        image
    }

    /// Writes a field, or half of one of 64 bits; anything else is ignored. Features can be written until they are
    /// agreed on (3.1.1), what shapes the queues until the device is active, and a queue's only until it is enabled
    /// (4.1.4.3.2).
    pub(super) fn write(&mut self, offset: u64, data: &[u8], phase: Phase, interrupts: &Interrupts) {
        let value = match *data {
            [a, b] => u64::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => return,
        };
        match (offset, data.len()) {
            (field::DEVICE_FEATURE_SELECT, 4) => self.device_feature_select = value as u32,
            (field::DRIVER_FEATURE_SELECT, 4) => self.driver_feature_select = value as u32,
            (field::DRIVER_FEATURE, 4) if phase == Phase::Features => match self.driver_feature_select {
                0 => self.driver_features = self.driver_features & !0xffff_ffff | value,
                1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
                _ => {}
            },
            (field::QUEUE_SELECT, 2) => self.queue_select = value as u16,
            (field::CONFIG_MSIX_VECTOR, 2) => {
                interrupts.config_vector.store(existing(value as u16, interrupts), Ordering::Relaxed);
            }
            (field::QUEUE_MSIX_VECTOR, 2) => {
                if let Some(vector) = interrupts.queue_vectors.get(usize::from(self.queue_select)) {
                    vector.store(existing(value as u16, interrupts), Ordering::Relaxed);
                }
            }
            (field::QUEUE_SIZE..=field::QUEUE_DEVICE_HIGH, _) if phase != Phase::Active => {
                self.write_queue(offset, data.len(), value)
            }
            _ => {}
        }
    }

    fn write_queue(&mut self, offset: u64, size: usize, value: u64) {
        let selected = usize::from(self.queue_select);
        let (Some(queue), Some(&most)) = (self.queues.get_mut(selected), self.most.get(selected)) else {
            return;
        };
        if queue.enabled {
            return;
        }
        match (offset, size) {
            (field::QUEUE_SIZE, 2) => {
                let size = value as u16;
                if size.is_power_of_two() && size <= most {
                    queue.setup.size = size;
                }
            }
            (field::QUEUE_ENABLE, 2) => queue.enabled = value == 1,
            (at, 4 | 8) => {
                let (register, at) = match at {
                    field::QUEUE_DESC.. if at < field::QUEUE_DRIVER => {
                        (&mut queue.setup.desc, at - field::QUEUE_DESC)
                    }
                    field::QUEUE_DRIVER.. if at < field::QUEUE_DEVICE => {
                        (&mut queue.setup.driver, at - field::QUEUE_DRIVER)
                    }
                    field::QUEUE_DEVICE.. => (&mut queue.setup.device, at - field::QUEUE_DEVICE),
                    _ => return,
                };
                match (at, size) {
                    (0, 8) => *register = value,
                    (0, 4) => *register = *register & !0xffff_ffff | value,
                    (4, 4) => *register = *register & 0xffff_ffff | value << 32,
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// A vector as it reads back: one that does not exist is none, by which the driver sees that it cannot have it.
fn existing(vector: u16, interrupts: &Interrupts) -> u16 {
    if vector < interrupts.msix.vectors() { vector } else { NO_VECTOR }
}
