//! The firmware configuration interface (QEMU's docs/specs/fw_cfg): a selector and a stream of bytes, by which a
//! guest's firmware learns what machine it is on. The items are the board's.
//!
//! Not modelled: writing to items, DMA, and files (the directory is empty).

use savestate::{Invalid, NoOlder, Persist, Saved};
use serde::{Deserialize, Serialize};

use crate::wiring::PortDevice;

/// Numbers of items.
pub mod key {
    #![allow(missing_docs)]
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NB_CPUS: u16 = 0x05;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const FILE_DIR: u16 = 0x19;
}

/// The traditional interface is there, and nothing beyond.
const VERSION: u32 = 1;

/// The two registers.
pub struct FwCfg {
    // Configuration.
    items: Vec<(u16, Vec<u8>)>,
    // Volatile state.
    selector: u16,
    offset: u32,
}

impl FwCfg {
    /// The selector, two bytes wide and written only.
    pub const SELECTOR: u16 = 0;
    /// The stream, read only.
    pub const DATA: u16 = 1;

    /// An interface that tells of a machine with so many bytes of RAM and so many processors.
    pub fn new(ram: u64, cpus: u16) -> Self {
        let items = vec![
            (key::SIGNATURE, b"QEMU".to_vec()),
            (key::ID, VERSION.to_le_bytes().to_vec()),
            (key::RAM_SIZE, ram.to_le_bytes().to_vec()),
            (key::NB_CPUS, cpus.to_le_bytes().to_vec()),
            (key::MAX_CPUS, cpus.to_le_bytes().to_vec()),
            // A count of files, big-endian.
            (key::FILE_DIR, vec![0; 4]),
        ];
        Self { items, selector: 0, offset: 0 }
    }

    /// The next byte of the selected item; zero behind its end, and of what is no item.
    fn next(&mut self) -> u8 {
        let item = self.items.iter().find(|(key, _)| *key == self.selector);
        let byte = item.and_then(|(_, bytes)| bytes.get(self.offset as usize));
        self.offset = self.offset.saturating_add(1);
        byte.copied().unwrap_or(0)
    }
}

impl PortDevice for FwCfg {
    fn width(&self) -> u8 {
        2
    }

    fn read(&mut self, offset: u16, size: u8) -> u32 {
        match (offset, size) {
            (Self::DATA, 1) => self.next().into(),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u16, size: u8, value: u32) {
        if (offset, size) == (Self::SELECTOR, 2) {
            self.selector = value as u16;
            self.offset = 0;
        }
    }
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwCfgStateV1 {
    selector: u16,
    offset: u32,
}

impl Saved for FwCfgStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for FwCfg {
    const KIND: &'static str = "fw-cfg";
    type State = FwCfgStateV1;

    fn save(&self) -> FwCfgStateV1 {
        let &Self { items: _, selector, offset } = self;
        FwCfgStateV1 { selector, offset }
    }

    fn check(&self, _state: &FwCfgStateV1) -> Result<(), Invalid> {
        Ok(())
    }

    fn commit(&mut self, state: FwCfgStateV1) {
        let FwCfgStateV1 { selector, offset } = state;
        self.selector = selector;
        self.offset = offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::transplant;

    fn bytes(device: &mut FwCfg, count: usize) -> Vec<u8> {
        (0..count).map(|_| device.read(FwCfg::DATA, 1) as u8).collect()
    }

    #[test]
    fn items_are_streams_that_end_in_zeros() {
        let mut device = FwCfg::new(0x1_2345_6000, 3);
        assert_eq!(bytes(&mut device, 6), *b"QEMU\0\0");
        device.write(FwCfg::SELECTOR, 2, key::RAM_SIZE.into());
        assert_eq!(bytes(&mut device, 9), [0, 0x60, 0x45, 0x23, 1, 0, 0, 0, 0]);
        device.write(FwCfg::SELECTOR, 2, key::NB_CPUS.into());
        assert_eq!(bytes(&mut device, 2), [3, 0]);
        device.write(FwCfg::SELECTOR, 2, 0xffff);
        assert_eq!(bytes(&mut device, 1), [0]);
    }

    #[test]
    fn the_selector_takes_words_only() {
        let mut device = FwCfg::new(0, 1);
        device.write(FwCfg::SELECTOR, 1, key::NB_CPUS.into());
        device.write(FwCfg::DATA, 1, 0x41);
        assert_eq!(bytes(&mut device, 4), *b"QEMU");
        assert_eq!(device.read(FwCfg::SELECTOR, 2), 0);
    }

    #[test]
    fn saved() {
        let (mut from, mut to) = (FwCfg::new(0, 1), FwCfg::new(0, 1));
        assert_eq!(bytes(&mut from, 2), *b"QE");
        transplant(&from, &mut to);
        assert_eq!(bytes(&mut to, 2), *b"MU");
    }
}
