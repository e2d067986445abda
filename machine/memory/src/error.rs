//! What can be wrong with an access or an allocation.

use host::HostError;

/// An access touched an address at which there is no RAM; nothing was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no RAM at guest-physical {gpa:#x}, length {len:#x}")]
pub struct OutOfRange {
    /// Where the access began.
    pub gpa: u64,
    /// Its length in bytes.
    pub len: usize,
}

/// RAM could not be allocated.
#[derive(Debug, thiserror::Error)]
pub enum AllocateError {
    /// The size or a region is empty, not a multiple of the page size, unsorted, overlapping or beyond what an
    /// address space holds.
    #[error("bad RAM layout: {len:#x} bytes at {gpa:#x}")]
    Layout {
        /// Where the region was to begin.
        gpa: u64,
        /// Its length.
        len: u64,
    },
    /// The host refused.
    #[error("the host gives no memory for guest RAM")]
    Host(#[from] HostError),
    /// Mapping the memory failed.
    #[error("guest RAM cannot be mapped")]
    Map(#[from] vm_memory::mmap::MmapRegionError),
}

/// Memory could not be given back to the host.
#[derive(Debug, thiserror::Error)]
pub enum DiscardError {
    /// Not all of it is RAM.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// The host refused.
    #[error("the host does not take guest RAM back")]
    Host(#[from] HostError),
}

/// A write watcher could not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// All slots are taken.
    #[error("more than {0} write watchers")]
    TooMany(usize),
}
