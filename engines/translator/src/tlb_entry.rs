//! An entry of the software TLB, as it lies in memory.

/// One page. The layout is known to generated code.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TlbEntry {
    /// Linear address of the page if reads may pass, else a page that cannot stand in this slot.
    pub read: u64,
    /// The same for writes.
    pub write: u64,
    /// Host address of the page.
    pub addend: u64,
    /// Guest-physical address of the page; bit 0 says that it came from a larger page, the bits above the address in which
    /// window it is.
    pub physical: u64,
}

impl TlbEntry {
    /// Offset of the read tag.
    pub const READ: usize = 0;
    /// Offset of the write tag.
    pub const WRITE: usize = 8;
    /// Offset of the host address.
    pub const ADDEND: usize = 16;
    /// Offset of the guest-physical address.
    pub const PHYSICAL: usize = 24;
    /// A mark beside the guest-physical address.
    pub const LARGE: u64 = 1;
    /// Where the number of the window begins beside it.
    pub const WINDOW_SHIFT: u32 = 52;
    /// From the place of an entry in its table to the lowest page that it may stand for: bits to shift by.
    pub const PAGE_OF_PLACE: u32 = 12 - size_of::<Self>().trailing_zeros();

    /// An entry that nothing matches: a tag is compared by subtraction, and no address in a page that hashes to
    /// this slot is within a page of one that hashes to its neighbour's.
    pub fn empty(slot: usize) -> Self {
        let never = ((slot ^ 1) as u64) << 12;
        Self { read: never, write: never, addend: 0, physical: 0 }
    }

    /// Guest-physical address of the page.
    pub fn page(&self) -> u64 {
        self.physical & ((1 << Self::WINDOW_SHIFT) - 1) & !0xfff
    }
}
