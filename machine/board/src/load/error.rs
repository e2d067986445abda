//! What can be wrong with what a user gives to boot.

use thiserror::Error;

/// Why nothing was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    /// None of the formats.
    #[error("not a kernel: neither a Linux bzImage nor an ELF or multiboot image")]
    NotAKernel,
    /// The file ends too early.
    #[error("the kernel file is cut short: {what} ends at byte {need}, the file has {have}")]
    Truncated {
        /// What does not fit.
        what: &'static str,
        /// Where it ends.
        need: u64,
        /// Length of the file.
        have: u64,
    },
    /// A field holds what no linker or build writes.
    #[error("the kernel file is damaged: {0}")]
    Malformed(&'static str),
    /// A kernel, but not one popf can start.
    #[error("this kernel cannot be started: {0}")]
    Unsupported(String),
    /// It does not fit into the guest's memory.
    #[error(
        "{what} ({start:#x} to {end:#x}) is not inside the guest's memory, which ends at {memory_end:#x}: give the guest more"
    )]
    OutsideMemory {
        /// What does not fit.
        what: &'static str,
        /// First byte.
        start: u64,
        /// After the last byte.
        end: u64,
        /// End of low memory.
        memory_end: u64,
    },
    /// Two things want the same place.
    #[error("{what} and {other} overlap at {at:#x}")]
    Overlap {
        /// One of them.
        what: &'static str,
        /// The other.
        other: &'static str,
        /// An address that both cover.
        at: u64,
    },
    /// The entry point is not inside anything loaded.
    #[error("the kernel's entry point {0:#x} is outside of what it loads")]
    EntryOutside(u64),
    /// There is no room for the modules.
    #[error(
        "{what} of {size} bytes does not fit beside the kernel below {limit:#x}: give the guest more memory"
    )]
    NoRoom {
        /// What does not fit.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The end of where it may go.
        limit: u64,
    },
    /// Longer than the kernel reads.
    #[error("the kernel command line has {len} bytes, the kernel takes {max}")]
    CommandLineTooLong {
        /// Its length.
        len: usize,
        /// What the kernel takes.
        max: usize,
    },
    /// A zero byte would end it early.
    #[error("the kernel command line contains a zero byte")]
    CommandLineNul,
}
