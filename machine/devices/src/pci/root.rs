//! The root of the bus: configuration mechanism #1 (PCI Local Bus Specification 3.0, 3.2.2.3.2).

use std::sync::{Arc, Mutex};

use thiserror::Error;

use super::PciDevice;
use crate::wiring::{PortDevice, lock};

/// A function, shared with whoever else drives it.
pub type SharedPciDevice = Arc<Mutex<dyn PciDevice>>;

/// There is a function at this place already, or there is no such place.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("PCI device {device:#x} function {function} is taken or does not exist")]
pub struct SlotError {
    /// Device number.
    pub device: u8,
    /// Function number.
    pub function: u8,
}

/// CONFIG_ADDRESS.
pub(super) mod address {
    pub const ENABLE: u32 = 1 << 31;
    pub const BUS: u32 = 0x00ff_0000;
    /// Bits that can be set.
    pub const WRITABLE: u32 = 0x80ff_fffc;
}

/// The mechanism. Its registers: 0 to 3 CONFIG_ADDRESS, 4 to 7 CONFIG_DATA.
pub struct PciRoot {
    // Wiring.
    /// By device and function.
    pub(super) functions: Vec<Option<SharedPciDevice>>,
    // Volatile state.
    pub(super) config_address: u32,
}

impl Default for PciRoot {
    fn default() -> Self {
        Self::new()
    }
}

impl PciRoot {
    /// An empty bus.
    pub fn new() -> Self {
        Self { functions: vec![None; 256], config_address: 0 }
    }

    /// Puts a function on the bus: `device` is 0 to 31, `function` 0 to 7.
    pub fn add(&mut self, device: u8, function: u8, item: SharedPciDevice) -> Result<(), SlotError> {
        let slot = (device < 32 && function < 8)
            .then(|| &mut self.functions[usize::from(device << 3 | function)])
            .filter(|slot| slot.is_none())
            .ok_or(SlotError { device, function })?;
        *slot = Some(item);
        Ok(())
    }

    /// Back to the state after reset; the functions are reset by their owners.
    pub fn reset(&mut self) {
        self.config_address = 0;
    }

    /// The function that CONFIG_ADDRESS selects, and the offset of its doubleword.
    fn selected(&self) -> Option<(&SharedPciDevice, u8)> {
        let at = self.config_address;
        if at & address::ENABLE == 0 || at & address::BUS != 0 {
            return None;
        }
        let function = self.functions[usize::from((at >> 8) as u8)].as_ref()?;
        Some((function, at as u8 & 0xfc))
    }
}

impl PortDevice for PciRoot {
    fn width(&self) -> u8 {
        4
    }

    fn read(&mut self, offset: u16, size: u8) -> u32 {
        match (offset, size) {
            // Only a doubleword access is CONFIG_ADDRESS's.
            (0, 4) => self.config_address,
            (4..=7, _) => match self.selected() {
                Some((function, at)) => lock(function).read_config(at | offset as u8 & 3, size),
                None => u32::MAX,
            },
            _ => u32::MAX,
        }
    }

    fn write(&mut self, offset: u16, size: u8, value: u32) {
        match (offset, size) {
            (0, 4) => self.config_address = value & address::WRITABLE,
            (4..=7, _) => {
                if let Some((function, at)) = self.selected() {
                    lock(function).write_config(at | offset as u8 & 3, size, value);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::PortBus;
    use crate::pci::HostBridge;

    fn bus() -> PortBus {
        let mut root = PciRoot::new();
        let bridge = || Arc::new(Mutex::new(HostBridge::new()));
        root.add(0, 0, bridge()).unwrap();
        root.add(31, 7, bridge()).unwrap();
        let taken = |device, function| SlotError { device, function };
        assert_eq!(root.add(0, 0, bridge()), Err(taken(0, 0)));
        assert_eq!(root.add(32, 0, bridge()), Err(taken(32, 0)));
        assert_eq!(root.add(0, 8, bridge()), Err(taken(0, 8)));
        let bus = PortBus::new();
        let root = Arc::new(Mutex::new(root));
        bus.claim("pci", 0xcf8..=0xcff, 0, root).unwrap();
        bus
    }

    #[test]
    fn config_address_is_a_doubleword() {
        let bus = bus();
        bus.write(0xcf8, 4, u32::MAX);
        assert_eq!(bus.read(0xcf8, 4), 0x80ff_fffc);
        bus.write(0xcfb, 1, 0x01);
        bus.write(0xcf8, 2, 0);
        assert_eq!((bus.read(0xcf8, 4), bus.read(0xcf8, 2)), (0x80ff_fffc, 0xffff));
    }

    #[test]
    fn config_data_by_any_size() {
        let bus = bus();
        bus.write(0xcf8, 4, 0x8000_0000);
        assert_eq!(bus.read(0xcfc, 4), 0x1237_8086);
        assert_eq!(bus.read(0xcfe, 2), 0x1237);
        assert_eq!(bus.read(0xcff, 1), 0x12);
        bus.write(0xcf8, 4, 0x8000_ff08);
        assert_eq!(bus.read(0xcfc, 4), 0x0600_0002);
        bus.write(0xcf8, 4, 0x8000_003c);
        bus.write(0xcfc, 1, 0x5a);
        assert_eq!(bus.read(0xcfc, 4), 0x0000_005a);
    }

    #[test]
    fn nobody_answers_with_ones() {
        let bus = bus();
        for at in [0x0000_0000, 0x8000_0800, 0x8001_0000, 0x8000_0100] {
            bus.write(0xcf8, 4, at);
            bus.write(0xcfc, 4, 0);
            assert_eq!(bus.read(0xcfc, 4), u32::MAX, "{at:x}");
        }
    }
}
