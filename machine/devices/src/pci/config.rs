//! A function's configuration space, header type 0 (PCI Local Bus Specification 3.0, ch. 6).
//!
//! Every byte has a mask of the bits that the guest can change; that alone makes base address registers size
//! themselves. What a function does about a change is its own business: it looks at [`ConfigSpace::bar`] after
//! a write.

/// Offsets in the header.
mod offset {
    pub const VENDOR_ID: usize = 0x00;
    pub const DEVICE_ID: usize = 0x02;
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const REVISION_ID: usize = 0x08;
    pub const BAR0: usize = 0x10;
    pub const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
    pub const SUBSYSTEM_ID: usize = 0x2e;
    pub const CAPABILITIES: usize = 0x34;
    pub const INTERRUPT_LINE: usize = 0x3c;
    pub const INTERRUPT_PIN: usize = 0x3d;
}

/// Command register.
pub mod command {
    /// Port accesses are answered.
    pub const IO_SPACE: u16 = 1 << 0;
    /// Memory accesses are answered.
    pub const MEMORY_SPACE: u16 = 1 << 1;
    /// The function may access memory.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// INTx is held back.
    pub const INTERRUPT_DISABLE: u16 = 1 << 10;
    pub(super) const WRITABLE: u16 = IO_SPACE | MEMORY_SPACE | BUS_MASTER | 0x0140 | INTERRUPT_DISABLE;
}

/// Status register.
mod status {
    pub const INTERRUPT: u16 = 1 << 3;
    pub const CAPABILITIES_LIST: u16 = 1 << 4;
}

/// Capabilities begin behind the header.
const FIRST_CAPABILITY: usize = 0x40;

/// What a base address register maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes the next register too.
    Memory64,
}

/// A base address register as it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Ports or memory.
    pub kind: BarKind,
    /// Where it begins.
    pub address: u64,
    /// Its length.
    pub length: u64,
}

/// The 256 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    // Configuration.
    pub(super) writable: [u8; 256],
    pub(super) bars: [Option<(BarKind, u64)>; 6],
    /// Where the next capability goes.
    pub(super) free: usize,
    /// The last capability's offset, or 0.
    pub(super) last: usize,
    // Volatile state.
    pub(super) bytes: [u8; 256],
}

impl ConfigSpace {
    /// Where the status register is.
    pub(super) const STATUS: std::ops::Range<usize> = offset::STATUS..offset::STATUS + 2;

    /// A function without base address registers and capabilities. `class` is base class, subclass and
    /// programming interface in 24 bits.
    pub fn new(vendor: u16, device: u16, class: u32, revision: u8) -> Self {
        let mut config =
            Self { writable: [0; 256], bars: [None; 6], free: FIRST_CAPABILITY, last: 0, bytes: [0; 256] };
        config.put(offset::VENDOR_ID, &vendor.to_le_bytes());
        config.put(offset::DEVICE_ID, &device.to_le_bytes());
        let class = class << 8 | u32::from(revision);
        config.put(offset::REVISION_ID, &class.to_le_bytes());
        config.writable[offset::COMMAND..][..2].copy_from_slice(&command::WRITABLE.to_le_bytes());
        config.writable[offset::INTERRUPT_LINE] = 0xff;
        config
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..][..bytes.len()].copy_from_slice(bytes);
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn doubleword(&self, at: usize) -> u32 {
        u32::from(self.word(at)) | u32::from(self.word(at + 2)) << 16
    }

    /// Names the subsystem.
    pub fn set_subsystem(&mut self, vendor: u16, id: u16) {
        self.put(offset::SUBSYSTEM_VENDOR_ID, &vendor.to_le_bytes());
        self.put(offset::SUBSYSTEM_ID, &id.to_le_bytes());
    }

    /// Which of INTA to INTD (1 to 4) the function drives.
    pub fn set_interrupt_pin(&mut self, pin: u8) {
        self.bytes[offset::INTERRUPT_PIN] = pin;
    }

    /// The line that firmware has found for it, for the guest to read.
    pub fn set_interrupt_line(&mut self, line: u8) {
        self.bytes[offset::INTERRUPT_LINE] = line;
    }

    /// Shows in the status register whether the function asserts INTx.
    pub fn show_interrupt(&mut self, asserted: bool) {
        let status = self.word(offset::STATUS) & !status::INTERRUPT;
        let bit = if asserted { status::INTERRUPT } else { 0 };
        self.put(offset::STATUS, &(status | bit).to_le_bytes());
    }

    /// Lets the guest change bits of a byte.
    pub fn set_writable(&mut self, offset: u8, mask: u8) {
        self.writable[usize::from(offset)] = mask;
    }

    /// Gives the function base address register `index`. `length` is a power of two, at least 16 for memory
    /// and 4 for ports.
    pub fn add_bar(&mut self, index: usize, kind: BarKind, length: u64) {
        assert!(length.is_power_of_two(), "a BAR's length is a power of two");
        let (low, least): (u8, u64) = match kind {
            BarKind::Io => (1, 4),
            BarKind::Memory32 => (0, 16),
            BarKind::Memory64 => (4, 16),
        };
        assert!(length >= least, "a BAR has at least {least} bytes");
        let at = offset::BAR0 + 4 * index;
        let mask = !(length - 1);
        self.bars[index] = Some((kind, length));
        self.put(at, &u32::from(low).to_le_bytes());
        self.writable[at..][..4].copy_from_slice(&(mask as u32).to_le_bytes());
        if kind == BarKind::Memory64 {
            assert!(index < 5, "the last BAR has no upper half");
            let high = (mask >> 32) as u32;
            self.writable[at + 4..][..4].copy_from_slice(&high.to_le_bytes());
        }
    }

    /// Puts an address into a base address register, as firmware does.
    pub fn place_bar(&mut self, index: usize, address: u64) {
        let at = (offset::BAR0 + 4 * index) as u8;
        self.write(at, 4, address as u32);
        if matches!(self.bars[index], Some((BarKind::Memory64, _))) {
            self.write(at + 4, 4, (address >> 32) as u32);
        }
    }

    /// Where a base address register maps its range now; `None` while it does not.
    pub fn bar(&self, index: usize) -> Option<Bar> {
        let (kind, length) = self.bars[index]?;
        let enabled = match kind {
            BarKind::Io => command::IO_SPACE,
            BarKind::Memory32 | BarKind::Memory64 => command::MEMORY_SPACE,
        };
        if self.command() & enabled == 0 {
            return None;
        }
        let at = offset::BAR0 + 4 * index;
        let low = u64::from(self.doubleword(at));
        let address = match kind {
            BarKind::Io => low & !3,
            BarKind::Memory32 => low & !0xf,
            BarKind::Memory64 => low & !0xf | u64::from(self.doubleword(at + 4)) << 32,
        };
        Some(Bar { kind, address, length })
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.word(offset::COMMAND)
    }

    /// Appends a capability: `body` follows its ID and link, with `writable` the bits that the guest can change.
    /// Says at which offset its ID is.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u8 {
        let at = self.free;
        let end = at + 2 + body.len();
        assert!(end <= 256, "no room for capability {id:#x}");
        assert_eq!(body.len(), writable.len(), "every byte has its mask");
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.writable[at + 2..end].copy_from_slice(writable);
        let link = if self.last == 0 { offset::CAPABILITIES } else { self.last + 1 };
        self.bytes[link] = at as u8;
        let status = self.word(offset::STATUS) | status::CAPABILITIES_LIST;
        self.put(offset::STATUS, &status.to_le_bytes());
        self.last = at;
        self.free = end.next_multiple_of(4);
        at as u8
    }

    /// Reads 1, 2 or 4 bytes; beyond the end there are ones.
    pub fn read(&self, offset: u8, size: u8) -> u32 {
        let byte = |i: usize| self.bytes.get(usize::from(offset) + i).copied();
        (0..usize::from(size.min(4)))
            .fold(0, |value, i| value | u32::from(byte(i).unwrap_or(0xff)) << (8 * i))
    }

    /// Writes 1, 2 or 4 bytes, as far as they can be written.
    pub fn write(&mut self, offset: u8, size: u8, value: u32) {
        let bytes = value.to_le_bytes();
        for (i, new) in bytes.iter().enumerate().take(size.into()) {
            let at = usize::from(offset) + i;
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | new & mask;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ConfigSpace {
        let mut config = ConfigSpace::new(0x1af4, 0x1042, 0x01_0000, 1);
        config.set_subsystem(0x1af4, 0x0042);
        config.set_interrupt_pin(1);
        config.add_bar(0, BarKind::Io, 0x40);
        config.add_bar(1, BarKind::Memory32, 0x1000);
        config.add_bar(4, BarKind::Memory64, 0x4000);
        config
    }

    fn dump(config: &ConfigSpace) -> Vec<(u8, u32)> {
        (0..=255).step_by(4).map(|at| (at, config.read(at, 4))).filter(|(_, value)| *value != 0).collect()
    }

    #[test]
    fn header() {
        let expected = [
            (0x00, 0x1042_1af4),
            (0x08, 0x0100_0001),
            (0x10, 1),
            (0x20, 4),
            (0x2c, 0x0042_1af4),
            (0x3c, 0x0000_0100),
        ];
        assert_eq!(dump(&config()), expected);
    }

    #[test]
    fn sizing() {
        let mut config = config();
        for at in (0..=255).step_by(4) {
            config.write(at, 4, u32::MAX);
        }
        let expected = [
            (0x00, 0x1042_1af4),
            (0x04, 0x0000_0547),
            (0x08, 0x0100_0001),
            (0x10, 0xffff_ffc1),
            (0x14, 0xffff_f000),
            (0x20, 0xffff_c004),
            (0x24, 0xffff_ffff),
            (0x2c, 0x0042_1af4),
            (0x3c, 0x0000_01ff),
        ];
        assert_eq!(dump(&config), expected);
    }

    #[test]
    fn bars_map_when_enabled() {
        let mut config = config();
        config.place_bar(0, 0xc040);
        config.place_bar(1, 0xfebf_1000);
        config.place_bar(4, 0x80_0000_4000);
        assert_eq!([0, 1, 4].map(|index| config.bar(index)), [None; 3]);
        config.write(4, 1, 2);
        let memory = |kind, address, length| Some(Bar { kind, address, length });
        assert_eq!(config.bar(0), None);
        assert_eq!(config.bar(1), memory(BarKind::Memory32, 0xfebf_1000, 0x1000));
        assert_eq!(config.bar(4), memory(BarKind::Memory64, 0x80_0000_4000, 0x4000));
        config.write(4, 2, 1);
        assert_eq!(config.bar(0), memory(BarKind::Io, 0xc040, 0x40));
        assert_eq!((config.bar(1), config.bar(2)), (None, None));
    }

    #[test]
    fn capabilities_are_a_list() {
        let mut config = config();
        assert_eq!(config.add_capability(0x11, &[1, 2, 3], &[0, 0xc0, 0]), 0x40);
        assert_eq!(config.add_capability(0x09, &[4], &[0xff]), 0x48);
        config.write(0x40, 4, 0xffff_ffff);
        config.write(0x44, 4, 0xffff_ffff);
        config.write(0x48, 4, 0xffff_ffff);
        config.show_interrupt(true);
        assert_eq!(config.read(0x04, 4), 0x0018_0000);
        assert_eq!(config.read(0x34, 1), 0x40);
        assert_eq!(config.read(0x40, 4), 0xc201_4811);
        assert_eq!((config.read(0x44, 4), config.read(0x48, 4)), (3, 0x00ff_0009));
        config.show_interrupt(false);
        assert_eq!(config.read(0x04, 4), 0x0010_0000);
        // Beyond the end.
        assert_eq!(config.read(0xff, 4), 0xffff_ff00);
        config.write(0xff, 4, 0);
    }
}
