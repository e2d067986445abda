//! The host bridge: what Intel's 82441FX (440FX PMC, datasheet of May 1996) shows of itself in configuration
//! space.
//!
//! Not modelled: what its registers do. Memory attributes (PAM), SMRAM and DRAM timing are kept and have no
//! effect.

use super::{ConfigSpace, PciDevice};

const VENDOR: u16 = 0x8086;
const DEVICE: u16 = 0x1237;
const REVISION: u8 = 0x02;
/// Bridge, host.
const CLASS: u32 = 0x06_0000;

/// PMC configuration to SMRAM control and error registers.
const OWN_REGISTERS: std::ops::RangeInclusive<u8> = 0x50..=0x93;

/// The bridge.
pub struct HostBridge {
    // Volatile state.
    pub(super) config: ConfigSpace,
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl HostBridge {
    /// The bridge after reset.
    pub fn new() -> Self {
        let mut config = ConfigSpace::new(VENDOR, DEVICE, CLASS, REVISION);
        for offset in OWN_REGISTERS {
            config.set_writable(offset, 0xff);
        }
        Self { config }
    }

    /// Back to the state after reset.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

impl PciDevice for HostBridge {
    fn read_config(&mut self, offset: u8, size: u8) -> u32 {
        self.config.read(offset, size)
    }

    fn write_config(&mut self, offset: u8, size: u8, value: u32) {
        self.config.write(offset, size, value);
    }
}
