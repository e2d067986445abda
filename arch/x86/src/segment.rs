//! Segment registers and their hidden parts (SDM vol. 3 ch. 3.4; APM vol. 2 ch. 4).

use serde::{Deserialize, Serialize};

/// The six segment registers, numbered as instructions encode them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(usize)]
#[allow(missing_docs)]
pub enum SegmentRegister {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
}

/// A segment register with its descriptor cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Segment {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, inclusive, the granularity bit already applied.
    pub limit: u32,
    /// The visible selector.
    pub selector: u16,
    /// Bits 8 to 23 of the descriptor's second double word, less the limit's nibble: type (0..=3), S (4),
    /// DPL (5..=6), P (7), AVL (12), L (13), D/B (14), G (15). This is also VMX's and KVM's packing.
    pub attributes: u16,
}

impl Segment {
    /// Present bit of [`Segment::attributes`].
    pub const PRESENT: u16 = 1 << 7;
    /// S bit: set for code and data, clear for system descriptors.
    pub const CODE_OR_DATA: u16 = 1 << 4;
    /// L bit: 64-bit code.
    pub const LONG: u16 = 1 << 13;
    /// D/B bit: 32-bit operands by default; 32-bit stack pointer.
    pub const BIG: u16 = 1 << 14;
    /// Granularity bit.
    pub const GRANULARITY: u16 = 1 << 15;
    /// Type bit: executable.
    pub const EXECUTABLE: u16 = 1 << 3;
    /// Type bit: conforming (code) or expand-down (data).
    pub const CONFORMING_OR_EXPAND_DOWN: u16 = 1 << 2;
    /// Type bit: readable (code) or writable (data).
    pub const READABLE_OR_WRITABLE: u16 = 1 << 1;
    /// Type bit: accessed.
    pub const ACCESSED: u16 = 1 << 0;

    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        ((self.attributes >> 5) & 3) as u8
    }

    /// The four type bits.
    pub fn kind(&self) -> u8 {
        (self.attributes & 15) as u8
    }

    /// Whether every attribute bit of `mask` is set.
    pub fn has(&self, mask: u16) -> bool {
        self.attributes & mask == mask
    }

    /// Whether this is usable: a null selector leaves a register not present.
    pub fn is_present(&self) -> bool {
        self.has(Self::PRESENT)
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct TableRegister {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, inclusive.
    pub limit: u16,
}
