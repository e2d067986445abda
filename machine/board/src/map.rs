//! Where things are in the guest's physical address space. The layout is a PC's: RAM below the PCI hole that
//! ends at 4 GiB, the rest of it above; inside the first megabyte the areas every PC has had since the AT. What
//! follows from it about allocation is [`memory::GuestRam::allocate`]'s.
//!
//! | from | to | what |
//! | --- | --- | --- |
//! | 0 | 9FC00 | RAM |
//! | 9FC00 | A0000 | extended BIOS data area (reserved) |
//! | A0000 | E0000 | RAM, not reported (a graphics window and option ROMs would be here) |
//! | E0000 | 100000 | RAM holding the ACPI tables (reserved) |
//! | 100000 | C0000000 at most | RAM |
//! | C0000000 | 100000000 | PCI memory, I/O APIC, local APIC |
//! | 100000000 | | the rest of RAM |

use std::ops::Range;

use memory::{HIGH_RAM_START, LOW_RAM_END};
use thiserror::Error;

/// Start of the extended BIOS data area, the end of what a program may use of the first 640 KiB.
pub const EBDA: u64 = 0x9_fc00;
/// Start of the graphics window.
pub const VGA: u64 = 0xa_0000;
/// Start of the option ROM area.
pub const OPTION_ROM: u64 = 0xc_0000;
/// Start of the area where an operating system looks for the ACPI root pointer.
pub const BIOS: u64 = 0xe_0000;
/// End of that area.
pub const ONE_MIB: u64 = 0x10_0000;
/// Start of the hole in which PCI devices and interrupt controllers answer.
pub const PCI_HOLE: u64 = LOW_RAM_END;
/// Its end.
pub const FOUR_GIB: u64 = HIGH_RAM_START;
/// The I/O APIC's registers.
pub const IO_APIC: u64 = 0xfec0_0000;
/// The test device's memory.
pub const TEST_MEMORY: u64 = 0xff00_0000;
/// The local APIC's registers, wherever the guest has not moved them.
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// What is smaller than this boots nothing.
pub const MINIMUM: u64 = 2 << 20;
/// As much as the four-level tables and the processor's usual 40 address bits leave beside the hole.
pub const MAXIMUM: u64 = 1 << 39;

/// A size of guest memory that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SizeError {
    /// Too small for any kernel.
    #[error("{0} bytes of guest memory are too few: the least is {MINIMUM} (2M)")]
    TooSmall(u64),
    /// Beyond what the machine can address.
    #[error("{0} bytes of guest memory are too many: the most is {MAXIMUM} (512G)")]
    TooLarge(u64),
    /// Not whole pages.
    #[error("{0} bytes of guest memory are not a multiple of the page size, 4096")]
    Unaligned(u64),
}

/// How much RAM there is on either side of the hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    low_end: u64,
    high_end: u64,
}

/// What a range of the physical address space is, in the numbers of ACPI's address range types (ACPI 6.5
/// table 15.5), which BIOS E820, PVH and multiboot use alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RangeType {
    /// Free for use.
    Ram = 1,
    /// Not for use.
    Reserved = 2,
}

/// A row of the map a kernel is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Addresses.
    pub range: Range<u64>,
    /// What they hold.
    pub kind: RangeType,
}

impl MemoryMap {
    /// The map of a machine with this many bytes of RAM.
    pub fn new(bytes: u64) -> Result<Self, SizeError> {
        if bytes < MINIMUM {
            Err(SizeError::TooSmall(bytes))
        } else if bytes > MAXIMUM {
            Err(SizeError::TooLarge(bytes))
        } else if !bytes.is_multiple_of(memory::PAGE_SIZE) {
            Err(SizeError::Unaligned(bytes))
        } else {
            let low_end = bytes.min(LOW_RAM_END);
            Ok(Self { low_end, high_end: FOUR_GIB + (bytes - low_end) })
        }
    }

    /// End of the RAM below the hole.
    pub fn low_end(&self) -> u64 {
        self.low_end
    }

    /// End of the RAM above 4 GiB; 4 GiB when there is none.
    pub fn high_end(&self) -> u64 {
        self.high_end
    }

    /// How much RAM there is.
    pub fn bytes(&self) -> u64 {
        self.low_end + (self.high_end - FOUR_GIB)
    }

    /// The ranges a kernel may be put in and may use.
    pub fn usable(&self) -> Vec<Range<u64>> {
        self.entries()
            .into_iter()
            .filter(|entry| entry.kind == RangeType::Ram)
            .map(|entry| entry.range)
            .collect()
    }

    /// What the kernel is told, ascending.
    pub fn entries(&self) -> Vec<MapEntry> {
        let mut entries = vec![
            MapEntry { range: 0..EBDA, kind: RangeType::Ram },
            MapEntry { range: EBDA..VGA, kind: RangeType::Reserved },
            MapEntry { range: BIOS..ONE_MIB, kind: RangeType::Reserved },
            MapEntry { range: ONE_MIB..self.low_end, kind: RangeType::Ram },
        ];
        if self.high_end > FOUR_GIB {
            entries.push(MapEntry { range: FOUR_GIB..self.high_end, kind: RangeType::Ram });
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        assert_eq!(MemoryMap::new(0), Err(SizeError::TooSmall(0)));
        assert_eq!(MemoryMap::new(MINIMUM - 4096), Err(SizeError::TooSmall(MINIMUM - 4096)));
        assert_eq!(MemoryMap::new(MINIMUM + 1), Err(SizeError::Unaligned(MINIMUM + 1)));
        assert_eq!(MemoryMap::new(u64::MAX), Err(SizeError::TooLarge(u64::MAX)));
    }

    #[test]
    fn ram_beyond_the_hole_goes_above_4_gib() {
        let map = MemoryMap::new(PCI_HOLE + (1 << 30)).unwrap();
        assert_eq!(map.low_end(), PCI_HOLE);
        assert_eq!(map.high_end(), FOUR_GIB + (1 << 30));
        let usable: u64 = map.usable().iter().map(|range| range.end - range.start).sum();
        assert_eq!(usable, PCI_HOLE + (1 << 30) - (ONE_MIB - EBDA));
    }

    #[test]
    fn rows_ascend_and_do_not_overlap() {
        for bytes in [MINIMUM, 512 << 20, 8 << 30] {
            let entries = MemoryMap::new(bytes).unwrap().entries();
            assert!(entries.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
            assert!(entries.iter().all(|entry| entry.range.start < entry.range.end));
        }
    }
}
