//! Virtio over PCI (4.1), the modern interface: a function whose capabilities point to register blocks in one base
//! address register.
//!
//! | offset | block |
//! | --- | --- |
//! | 0000h | common configuration |
//! | 1000h | ISR status |
//! | 2000h | device-specific configuration |
//! | 3000h | notification: a word for each queue, 4 bytes apart |
//! | 4000h | MSI-X table |
//! | 6000h | MSI-X pending bits |

mod common;
mod saved;

use std::sync::{Arc, Mutex};

use memory::GuestRam;

use self::common::{Common, Phase};
use super::interrupts::Interrupts;
use super::queue::{QueuePosition, Virtqueue, interrupt_of};
use super::{Activation, DeviceType, Doorbell, Queues, VirtioDevice, feature};
use crate::pci::config::command;
use crate::pci::{Bar, BarKind, ConfigSpace, MemoryFunction, MsiSink, PciDevice};
use crate::wiring::{IrqLine, MmioDevice, lock};

const VENDOR: u16 = 0x1af4;
/// Plus the device's ID (4.1.2).
const FIRST_DEVICE: u16 = 0x1040;
/// Not a transitional device.
const REVISION: u8 = 1;

const BAR: usize = 0;
const BAR_LENGTH: u64 = 0x8000;

/// Where the blocks are.
mod block {
    pub const COMMON: u64 = 0x0000;
    pub const ISR: u64 = 0x1000;
    pub const DEVICE: u64 = 0x2000;
    pub const NOTIFY: u64 = 0x3000;
    pub const MSIX_TABLE: u64 = 0x4000;
    pub const MSIX_PENDING: u64 = 0x6000;
    /// Where they are not said to be shorter.
    pub const LENGTH: u64 = 0x1000;
}

/// Distance between queues' notification addresses.
const NOTIFY_MULTIPLIER: u64 = 4;
/// As many as have notification addresses.
const MOST_QUEUES: usize = (block::LENGTH / NOTIFY_MULTIPLIER) as usize;

/// Vendor-specific capabilities (4.1.4).
mod capability {
    /// PCI_CAP_ID_VNDR.
    pub const ID: u8 = 0x09;
    pub const COMMON_CFG: u8 = 1;
    pub const NOTIFY_CFG: u8 = 2;
    pub const ISR_CFG: u8 = 3;
    pub const DEVICE_CFG: u8 = 4;
    pub const PCI_CFG: u8 = 5;
}

/// Offsets into the capability by which blocks are accessed through configuration space (4.1.4.9).
mod window {
    pub const BAR: u8 = 4;
    pub const OFFSET: u8 = 8;
    pub const LENGTH: u8 = 12;
    pub const DATA: u8 = 16;
}

/// Device status (2.1).
mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
    pub const WRITABLE: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// What a function is wired to.
pub struct PciWiring {
    /// Guest memory, in which the rings lie.
    pub ram: GuestRam,
    /// INTA.
    pub line: IrqLine,
    /// Where MSI-X messages go.
    pub messages: Arc<dyn MsiSink>,
    /// How the device is told of notifications.
    pub doorbell: Arc<dyn Doorbell>,
}

/// The transport of one device.
pub struct VirtioPci {
    // Wiring.
    device: Arc<Mutex<dyn VirtioDevice>>,
    ram: GuestRam,
    doorbell: Arc<dyn Doorbell>,
    interrupts: Arc<Interrupts>,
    // Configuration.
    /// Where in configuration space MSI-X message control and the access window are.
    message_control: u8,
    window: u8,
    // Volatile state.
    config: ConfigSpace,
    common: Common,
    status: u8,
}

impl VirtioPci {
    /// The function of `device`, with its class (PCI Code and ID Assignment Specification).
    pub fn new(device: Arc<Mutex<dyn VirtioDevice>>, wiring: PciWiring) -> Self {
        let PciWiring { ram, line, messages, doorbell } = wiring;
        let (kind, offered, sizes) = {
            let device = lock(&device);
            (device.device_type(), device.features() | feature::COMMON, device.queue_sizes())
        };
        assert!(sizes.len() <= MOST_QUEUES, "a device has at most {MOST_QUEUES} queues");
        let interrupts = Arc::new(Interrupts::new(sizes.len(), line, messages));
        let mut config = ConfigSpace::new(VENDOR, FIRST_DEVICE + kind as u16, class(kind), REVISION);
        config.set_subsystem(VENDOR, FIRST_DEVICE + kind as u16);
        config.set_interrupt_pin(1);
        config.add_bar(BAR, BarKind::Memory64, BAR_LENGTH);
        // In order of preference, of which there is none.
        add_block(&mut config, capability::COMMON_CFG, block::COMMON, common::LENGTH, &[]);
        add_block(&mut config, capability::ISR_CFG, block::ISR, 1, &[]);
        add_block(&mut config, capability::DEVICE_CFG, block::DEVICE, block::LENGTH, &[]);
        let multiplier = (NOTIFY_MULTIPLIER as u32).to_le_bytes();
        add_block(&mut config, capability::NOTIFY_CFG, block::NOTIFY, block::LENGTH, &multiplier);
        let window = add_block(&mut config, capability::PCI_CFG, 0, 0, &[0; 4]);
        for at in [window::BAR].into_iter().chain(window::OFFSET..window::DATA) {
            config.set_writable(window + at, 0xff);
        }
        let (table, pending) = (block::MSIX_TABLE as u32, block::MSIX_PENDING as u32);
        let message_control = interrupts.msix.add_capability(&mut config, BAR as u8, table, pending);
        let common = Common::new(offered, &sizes);
        Self { device, ram, doorbell, interrupts, message_control, window, config, common, status: 0 }
    }

    /// Puts the registers at `address` and has them answer, as firmware does; `line` is what INTA leads to.
    pub fn place(&mut self, address: u64, line: u8) {
        self.config.place_bar(BAR, address);
        self.config.set_interrupt_line(line);
        self.config.write(4, 2, u32::from(command::MEMORY_SPACE | command::BUS_MASTER));
    }

    /// Length of the registers, to which they are aligned.
    pub const LENGTH: u64 = BAR_LENGTH;

    /// Device status (2.1).
    fn status(&self) -> u8 {
        let broken = self.interrupts.needs_reset.load(std::sync::atomic::Ordering::Relaxed);
        self.status | if broken { status::NEEDS_RESET } else { 0 }
    }

    fn set_status(&mut self, value: u8) {
        let (before, was_active) = (self.status, self.is_active());
        if value == 0 {
            self.reset();
            return;
        }
        // The driver may not take a bit back but by a reset (2.1.1).
        self.status |= value & status::WRITABLE;
        if self.status & !before & status::FEATURES_OK != 0 && !self.common.features_will_do() {
            self.status &= !status::FEATURES_OK;
        }
        if self.is_active() && !was_active {
            self.activate(&[]);
            self.ring_all();
        }
    }

    /// A saved state has been restored, here and in the interrupt controllers: what waited goes on.
    pub fn resume(&mut self) {
        self.config_changed();
        if self.is_active() {
            self.ring_all();
        }
    }

    /// What was put into the queues unseen is seen now.
    fn ring_all(&self) {
        for queue in 0..self.common.queue_count() {
            self.doorbell.ring(queue);
        }
    }

    fn reset(&mut self) {
        // First, so that nothing interrupts any more.
        lock(&self.device).reset();
        self.common.reset();
        self.interrupts.reset();
        self.status = 0;
    }

    /// Hands the queues to the device, each from its position on (or from the start).
    fn activate(&mut self, positions: &[Option<QueuePosition>]) {
        let features = self.common.driver_features();
        let mut sound = true;
        let queues = self.common.enabled_queues().enumerate().map(|(number, setup)| {
            let setup = setup?;
            let position = positions.get(number).copied().flatten().unwrap_or_default();
            // As many as have notification addresses.
            let interrupt = interrupt_of(&self.interrupts, number as u16);
            let queue =
                Virtqueue::new(setup, position, features & feature::EVENT_IDX != 0, &self.ram, interrupt);
            sound &= queue.is_some();
            queue
        });
        let queues: Vec<_> = queues.collect();
        if !sound {
            self.interrupts.needs_reset();
            return;
        }
        let queues = Queues::new(queues);
        let interrupts = self.interrupts.clone();
        lock(&self.device).activate(Activation { features, queues, interrupts });
    }

    /// The device works: notifications reach it. Of a driver that is ready before its features are agreed on the device
    /// hears when they are.
    fn is_active(&self) -> bool {
        let ready = status::FEATURES_OK | status::DRIVER_OK;
        self.status & ready == ready
    }

    /// What the driver may still choose.
    fn phase(&self) -> Phase {
        match self.status & status::FEATURES_OK {
            _ if self.is_active() => Phase::Active,
            0 => Phase::Features,
            _ => Phase::Queues,
        }
    }

    fn message_control(&self) -> u16 {
        self.config.read(self.message_control, 2) as u16
    }

    /// Has interrupts follow what the configuration space says of them.
    fn config_changed(&mut self) {
        self.interrupts.msix.set_control(self.message_control());
        self.interrupts.mask_line(self.config.command() & command::INTERRUPT_DISABLE != 0);
    }

    /// The access that the window in configuration space is set up for.
    fn window_access(&self) -> Option<(u64, usize)> {
        let at = |offset: u8, size| self.config.read(self.window + offset, size);
        let (offset, length) = (at(window::OFFSET, 4), at(window::LENGTH, 4));
        let fits = at(window::BAR, 1) == BAR as u32
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length)
            && u64::from(offset) < BAR_LENGTH;
        fits.then_some((offset.into(), length as usize))
    }
}

/// A block's capability; `rest` is what follows struct virtio_pci_cap. Says where it is.
fn add_block(config: &mut ConfigSpace, kind: u8, offset: u64, length: u64, rest: &[u8]) -> u8 {
    // cap_len, cfg_type, bar, id and padding, offset, length: all within the register's range.
    let mut body = vec![16 + rest.len() as u8, kind, BAR as u8, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend((length as u32).to_le_bytes());
    body.extend(rest);
    let writable = vec![0; body.len()];
    config.add_capability(capability::ID, &body, &writable)
}

/// Base class, subclass and programming interface.
fn class(kind: DeviceType) -> u32 {
    match kind {
        DeviceType::Net => 0x02_0000,
        DeviceType::Block => 0x01_0000,
        DeviceType::Console => 0x07_8000,
        DeviceType::FileSystem => 0x01_8000,
        DeviceType::Entropy | DeviceType::Balloon | DeviceType::Socket => 0xff_0000,
    }
}

impl PciDevice for VirtioPci {
    fn read_config(&mut self, offset: u8, size: u8) -> u32 {
        if offset == self.window + window::DATA
            && let Some((at, length)) = self.window_access()
        {
            let mut data = [0; 4];
            self.read(at, &mut data[..length]);
            return u32::from_le_bytes(data);
        }
        self.config.show_interrupt(self.interrupts.is_pending());
        self.config.read(offset, size)
    }

    fn write_config(&mut self, offset: u8, size: u8, value: u32) {
        if offset == self.window + window::DATA
            && let Some((at, length)) = self.window_access()
        {
            self.write(at, &value.to_le_bytes()[..length]);
            return;
        }
        self.config.write(offset, size, value);
        self.config_changed();
    }
}

impl MemoryFunction for VirtioPci {
    fn memory_bar(&self) -> Option<Bar> {
        self.config.bar(BAR)
    }
}

impl MmioDevice for VirtioPci {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            block::MSIX_PENDING.. => self.interrupts.msix.read_pending(offset - block::MSIX_PENDING, data),
            block::MSIX_TABLE.. => self.interrupts.msix.read_table(offset - block::MSIX_TABLE, data),
            block::NOTIFY.. => data.fill(0),
            block::DEVICE.. => lock(&self.device).read_config(offset - block::DEVICE, data),
            block::ISR.. => {
                data.fill(0);
                if let (block::ISR, Some(first)) = (offset, data.first_mut()) {
                    *first = self.interrupts.take_isr();
                }
            }
            _ => super::read_structure(&self.common.image(&self.interrupts, self.status()), offset, data),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match offset {
            block::MSIX_PENDING.. => {}
            block::MSIX_TABLE.. => self.interrupts.msix.write_table(offset - block::MSIX_TABLE, data),
            block::NOTIFY.. => {
                let queue = (offset - block::NOTIFY) / NOTIFY_MULTIPLIER;
                if self.is_active() && queue < self.common.queue_count().into() {
                    self.doorbell.ring(queue as u16);
                }
            }
            block::DEVICE.. => lock(&self.device).write_config(offset - block::DEVICE, data),
            block::ISR.. => {}
            common::STATUS => {
                if let Some(&value) = data.first() {
                    self.set_status(value);
                }
            }
            _ => self.common.write(offset, data, self.phase(), &self.interrupts),
        }
    }
}

#[cfg(test)]
mod tests;
