//! What the host can refuse.

use std::io;

/// An error of the host: a system call that failed, or a request the host cannot meet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A system call failed.
    #[error("{call} failed")]
    Call {
        /// The name of the system call, as its manual page has it.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No free range of that size lies below 2 GiB.
    #[error("no free range of {len} bytes below 2 GiB of address space")]
    NoLowRange {
        /// The length that was asked for.
        len: usize,
    },
    /// A table of fixed size is full.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// The descriptor is no terminal.
    #[error("not a terminal")]
    NotATerminal,
    /// The terminal belongs to a process group in the foreground, which we are not in.
    #[error("this process runs in the background of its terminal")]
    Background,
    /// A length or offset is zero, unaligned or out of the object's bounds.
    #[error("bad range: offset {offset:#x}, length {len:#x} in an object of {size:#x} bytes")]
    BadRange {
        /// Offset into the object.
        offset: usize,
        /// Length that was asked for.
        len: usize,
        /// Size of the object.
        size: usize,
    },
}

impl HostError {
    /// The error of the system call `call` that has just failed on this thread.
    pub(crate) fn last(call: &'static str) -> Self {
        Self::Call { call, source: io::Error::last_os_error() }
    }

    /// The `errno` of a failed call, if that is what this is.
    pub fn os_error(&self) -> Option<i32> {
        match self {
            Self::Call { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Checks that `offset..offset + len` is a non-empty range of whole pages within `size` bytes.
pub(crate) fn check_pages(offset: usize, len: usize, size: usize) -> Result<(), HostError> {
    let inside = offset.checked_add(len).is_some_and(|end| end <= size);
    if inside && len > 0 && offset.is_multiple_of(crate::PAGE_SIZE) && len.is_multiple_of(crate::PAGE_SIZE) {
        Ok(())
    } else {
        Err(HostError::BadRange { offset, len, size })
    }
}
