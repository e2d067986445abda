//! A device that holds its transport to what [`VirtioDevice`] promises.

use std::sync::{Arc, Mutex};

use devices::virtio::{Activation, DeviceType, QueuePosition, VirtioDevice, feature};
use devices::wiring::lock;

/// Passes everything on.
pub(crate) struct Watched {
    device: Arc<Mutex<dyn VirtioDevice>>,
    active: bool,
}

impl Watched {
    pub(crate) fn new(device: Arc<Mutex<dyn VirtioDevice>>) -> Self {
        Self { device, active: false }
    }
}

impl VirtioDevice for Watched {
    fn device_type(&self) -> DeviceType {
        lock(&self.device).device_type()
    }

    fn features(&self) -> u64 {
        lock(&self.device).features()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        lock(&self.device).queue_sizes()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        lock(&self.device).read_config(offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        lock(&self.device).write_config(offset, data);
    }

    fn activate(&mut self, activation: Activation) {
        assert!(!self.active, "there is a reset between two lives");
        let offered = self.features() | feature::COMMON;
        assert_eq!(activation.features & !offered, 0, "features that were not offered");
        assert_ne!(activation.features & feature::VERSION_1, 0, "a driver of before the standard");
        self.active = true;
        lock(&self.device).activate(activation);
    }

    fn notify(&mut self, queue: u16) {
        lock(&self.device).notify(queue);
    }

    fn reset(&mut self) {
        self.active = false;
        lock(&self.device).reset();
        assert!(self.positions().iter().all(Option::is_none), "a queue has outlived a reset");
    }

    fn positions(&self) -> Vec<Option<QueuePosition>> {
        lock(&self.device).positions()
    }
}
