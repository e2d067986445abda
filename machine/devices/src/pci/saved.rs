//! Saved states of the root and of configuration spaces.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::root::address;
use super::{ConfigSpace, HostBridge, PciRoot};

/// See [`PciRoot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciRootStateV1 {
    config_address: u32,
}

impl Saved for PciRootStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for PciRoot {
    const KIND: &'static str = "pci-root";
    type State = PciRootStateV1;

    fn save(&self) -> PciRootStateV1 {
        let &Self { functions: _, config_address } = self;
        PciRootStateV1 { config_address }
    }

    fn check(&self, state: &PciRootStateV1) -> Result<(), Invalid> {
        require(state.config_address & !address::WRITABLE == 0, "config_address has reserved bits")
    }

    fn commit(&mut self, state: PciRootStateV1) {
        let PciRootStateV1 { config_address } = state;
        self.config_address = config_address;
    }
}

/// A configuration space, as a part of its function's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSpaceV1 {
    /// All 256.
    bytes: Vec<u8>,
}

impl ConfigSpace {
    /// For the function's `save`.
    pub fn save(&self) -> ConfigSpaceV1 {
        let Self { writable: _, bars: _, free: _, last: _, bytes } = self;
        ConfigSpaceV1 { bytes: bytes.to_vec() }
    }

    /// For the function's `check`: what the guest cannot change must be as it is here, but for the status
    /// register.
    pub fn check(&self, state: &ConfigSpaceV1) -> Result<(), Invalid> {
        let bytes: &[u8; 256] =
            state.bytes.as_slice().try_into().map_err(|_| Invalid::new("there are not 256 bytes"))?;
        let same = (0..256)
            .filter(|at| !Self::STATUS.contains(at))
            .all(|at| (bytes[at] ^ self.bytes[at]) & !self.writable[at] == 0);
        require(same, "the configuration space is another function's")
    }

    /// For the function's `commit`.
    pub fn commit(&mut self, state: ConfigSpaceV1) {
        let ConfigSpaceV1 { bytes } = state;
        for (at, byte) in bytes.into_iter().enumerate() {
            // Read-only bytes are the same; the status register follows from the function.
            if let (Some(to), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *to = *to & !mask | byte & mask;
            }
        }
    }
}

/// See [`HostBridge`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostBridgeStateV1 {
    config: ConfigSpaceV1,
}

impl Saved for HostBridgeStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for HostBridge {
    const KIND: &'static str = "i82441fx";
    type State = HostBridgeStateV1;

    fn save(&self) -> HostBridgeStateV1 {
        let Self { config } = self;
        HostBridgeStateV1 { config: config.save() }
    }

    fn check(&self, state: &HostBridgeStateV1) -> Result<(), Invalid> {
        self.config.check(&state.config)
    }

    fn commit(&mut self, state: HostBridgeStateV1) {
        let HostBridgeStateV1 { config } = state;
        self.config.commit(config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::PciDevice;
    use crate::testing::{refuses, transplant};
    use crate::wiring::PortDevice;

    #[test]
    fn saved() {
        let (mut from, mut to) = (PciRoot::new(), PciRoot::new());
        from.write(0, 4, 0x8012_3456);
        transplant(&from, &mut to);
        assert_eq!(to.read(0, 4), 0x8012_3454);
        assert!(refuses(&from, &[|state| state.config_address = 1]));

        let (mut from, mut to) = (HostBridge::new(), HostBridge::new());
        from.write_config(0x58, 4, 0x3030_3030);
        from.write_config(4, 2, 6);
        transplant(&from, &mut to);
        assert_eq!(to.save(), from.save());
        assert_eq!((to.read_config(0x58, 4), to.read_config(4, 2)), (0x3030_3030, 6));
        assert!(refuses(
            &from,
            &[
                |state| state.config.bytes[0] = 0,
                |state| state.config.bytes[0x10] = 1,
                |state| state.config.bytes.truncate(255),
                |state| state.config.bytes.push(0),
            ]
        ));
    }
}
