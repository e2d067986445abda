//! Memory mappings (mmap(2), mprotect(2), madvise(2)) that end with their owner.
//!
//! [`Protection`] has no value that is writable and executable at once, so W^X holds by type for everything
//! mapped here.
#![allow(unsafe_code)] // mmap and its relatives are the purpose of this module.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use crate::error::check_pages;
use crate::{HostError, Memfd, PAGE_SIZE};

/// One past the last address at which sign-extended 32-bit displacements and absolute addresses agree.
pub const LOW_LIMIT: usize = 1 << 31;
/// Where the search for low ranges begins: above a position-dependent program and its heap's beginning.
const LOW_START: usize = 0x1000_0000;
/// The search's stride: fine enough to find room, coarse enough to take few calls; parts of the range may be in huge pages.
const LOW_STRIDE: usize = HUGE_PAGE;

/// Bytes that one huge page takes, at a multiple of as many.
pub const HUGE_PAGE: usize = 2 << 20;

/// `PROT_READ | PROT_WRITE`, for libraries that make their own mappings.
pub const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// `MAP_SHARED | MAP_NORESERVE`, likewise.
pub const SHARED: i32 = libc::MAP_SHARED | libc::MAP_NORESERVE;

/// What a mapping admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing: a reserved range or a guard.
    None,
    /// Reads.
    Read,
    /// Reads and writes.
    ReadWrite,
    /// Reads and instruction fetches.
    ReadExecute,
}

impl Protection {
    pub(crate) fn bits(self) -> libc::c_int {
        match self {
            Self::None => libc::PROT_NONE,
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            Self::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
        }
    }
}

/// Advice about a range, see madvise(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Transparent huge pages are welcome.
    HugePage,
    /// Put what is there into huge pages now, shared memory too, whatever the host's settings are (Linux 6.1). Contents stay.
    Collapse,
    /// No transparent huge pages.
    NoHugePage,
    /// Contents are no longer needed; private anonymous pages read as zero afterwards.
    DontNeed,
    /// Leave the range out of core dumps.
    DontDump,
    /// Free the pages and the memory behind a shared mapping; they read as zero afterwards.
    Remove,
}

impl Advice {
    fn bits(self) -> libc::c_int {
        match self {
            Self::HugePage => libc::MADV_HUGEPAGE,
            Self::Collapse => libc::MADV_COLLAPSE,
            Self::NoHugePage => libc::MADV_NOHUGEPAGE,
            Self::DontNeed => libc::MADV_DONTNEED,
            Self::DontDump => libc::MADV_DONTDUMP,
            Self::Remove => libc::MADV_REMOVE,
        }
    }
}

/// A mapping, unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; the type hands out raw pointers only.
unsafe impl Send for Mapping {}
// SAFETY: as above; methods that change the mapping take `&mut self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private zeroed memory anywhere, populated when touched. `len` is rounded up to whole pages.
    pub fn anonymous(len: usize, protection: Protection) -> Result<Self, HostError> {
        let len = whole_pages(len)?;
        map(None, len, protection, Backing::Anonymous)
    }

    /// Private zeroed memory that lies wholly below 2 GiB. `len` is rounded up to whole pages.
    pub fn low(len: usize, protection: Protection) -> Result<Self, HostError> {
        let len = whole_pages(len)?;
        find_low(len, protection, Backing::Anonymous)
    }

    /// A shared view of `len` bytes of `memfd` from `offset` on, anywhere.
    pub fn shared(
        memfd: &Memfd,
        offset: usize,
        len: usize,
        protection: Protection,
    ) -> Result<Self, HostError> {
        check_pages(offset, len, memfd.len())?;
        map(None, len, protection, Backing::Memfd(memfd, offset))
    }

    /// A shared view of `len` bytes of `memfd` from `offset` on, wholly below 2 GiB.
    pub fn shared_low(
        memfd: &Memfd,
        offset: usize,
        len: usize,
        protection: Protection,
    ) -> Result<Self, HostError> {
        check_pages(offset, len, memfd.len())?;
        find_low(len, protection, Backing::Memfd(memfd, offset))
    }

    /// What a device shows at the beginning of its descriptor, writable, shared with the kernel.
    pub(crate) fn of_device(device: &File, len: usize) -> Result<Self, HostError> {
        map(None, whole_pages(len)?, Protection::ReadWrite, Backing::Device(device))
    }

    /// The first byte. Access through it is the caller's `unsafe`.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// The address of the first byte.
    pub fn address(&self) -> usize {
        self.ptr.as_ptr() as usize
    }

    /// Length in bytes; never 0.
    #[allow(clippy::len_without_is_empty)] // No mapping is empty.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Changes the protection of a range of whole pages.
    pub fn protect(&mut self, offset: usize, len: usize, protection: Protection) -> Result<(), HostError> {
        check_pages(offset, len, self.len)?;
        // SAFETY: the range was checked to lie in this mapping, which we own.
        let result = unsafe { libc::mprotect(self.as_ptr().add(offset).cast(), len, protection.bits()) };
        if result == 0 { Ok(()) } else { Err(HostError::last("mprotect")) }
    }

    /// Gives the kernel advice about a range of whole pages.
    ///
    /// `DontNeed` and `Remove` change contents, which raw pointers see as any other write.
    pub fn advise(&self, offset: usize, len: usize, advice: Advice) -> Result<(), HostError> {
        check_pages(offset, len, self.len)?;
        advise_range(self.address() + offset, len, advice)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: we own exactly this range; whoever kept a raw pointer into it broke its contract.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
    }
}

/// Advises on the mapping of another owner, such as the regions of guest memory.
///
/// `DontNeed` and `Remove` discard contents: the range has to belong to memory that is only touched through
/// raw pointers, which is why only crates that may use `unsafe` themselves can say so.
///
/// # Safety
/// The range is part of a mapping that outlives the call, and no Rust reference to it exists.
pub unsafe fn advise(ptr: *mut u8, len: usize, advice: Advice) -> Result<(), HostError> {
    advise_range(ptr as usize, len, advice)
}

fn advise_range(address: usize, len: usize, advice: Advice) -> Result<(), HostError> {
    // SAFETY: callers vouch for the range; see `advise`.
    let result = unsafe { libc::madvise(address as *mut libc::c_void, len, advice.bits()) };
    if result == 0 { Ok(()) } else { Err(HostError::last("madvise")) }
}

/// What stands behind a mapping.
#[derive(Clone, Copy)]
pub(crate) enum Backing<'a> {
    Anonymous,
    Memfd(&'a Memfd, usize),
    Device(&'a File),
}

impl Backing<'_> {
    /// Flags, descriptor and file offset for mmap.
    pub(crate) fn arguments(self) -> (libc::c_int, libc::c_int, libc::off_t) {
        match self {
            Self::Anonymous => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0),
            Self::Device(device) => (libc::MAP_SHARED, device.as_raw_fd(), 0),
            // The offset was checked against the memfd's size, which off_t can hold.
            Self::Memfd(memfd, offset) => {
                (libc::MAP_SHARED | libc::MAP_NORESERVE, memfd.raw(), offset as libc::off_t)
            }
        }
    }
}

pub(crate) fn whole_pages(len: usize) -> Result<usize, HostError> {
    match len.checked_next_multiple_of(PAGE_SIZE) {
        Some(rounded) if rounded > 0 => Ok(rounded),
        _ => Err(HostError::BadRange { offset: 0, len, size: usize::MAX }),
    }
}

/// Maps `len` bytes, at `address` exactly if one is given and nothing is there yet.
fn map(
    address: Option<usize>,
    len: usize,
    protection: Protection,
    backing: Backing,
) -> Result<Mapping, HostError> {
    let (mut flags, fd, offset) = backing.arguments();
    if address.is_some() {
        flags |= libc::MAP_FIXED_NOREPLACE;
    }
    let hint = address.unwrap_or(0) as *mut libc::c_void;
    // SAFETY: without MAP_FIXED no existing mapping is touched.
    let result = unsafe { libc::mmap(hint, len, protection.bits(), flags, fd, offset) };
    if result == libc::MAP_FAILED {
        return Err(HostError::last("mmap"));
    }
    let mapping = Mapping {
        ptr: NonNull::new(result.cast()).ok_or(HostError::BadRange { offset: 0, len, size: 0 })?,
        len,
    };
    // Kernels before 4.17 take the address for a hint; the mapping is dropped then.
    match address {
        Some(wanted) if wanted != mapping.address() => {
            Err(HostError::BadRange { offset: wanted, len, size: LOW_LIMIT })
        }
        _ => Ok(mapping),
    }
}

/// Tries one address after the other below 2 GiB. (MAP_32BIT searches only the second of the two gigabytes.)
pub(crate) fn find_low(len: usize, protection: Protection, backing: Backing) -> Result<Mapping, HostError> {
    let mut address = LOW_START;
    while address.checked_add(len).is_some_and(|end| end <= LOW_LIMIT) {
        match map(Some(address), len, protection, backing) {
            Ok(mapping) => return Ok(mapping),
            Err(HostError::BadRange { .. }) => {}
            Err(error) if error.os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(error),
        }
        address += LOW_STRIDE;
    }
    Err(HostError::NoLowRange { len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_is_zero_and_writable() {
        let mapping = Mapping::anonymous(5000, Protection::ReadWrite).unwrap();
        assert_eq!(mapping.len(), 8192);
        // SAFETY: both bytes lie inside the mapping just made.
        unsafe {
            assert_eq!(mapping.as_ptr().add(8191).read(), 0);
            mapping.as_ptr().add(8191).write(7);
            assert_eq!(mapping.as_ptr().add(8191).read(), 7);
        }
    }

    #[test]
    fn low_mappings_lie_below_2_gib_and_apart() {
        let first = Mapping::low(64 << 20, Protection::ReadWrite).unwrap();
        let second = Mapping::low(64 << 20, Protection::ReadWrite).unwrap();
        for mapping in [&first, &second] {
            assert!(mapping.address() + mapping.len() <= LOW_LIMIT);
        }
        assert!(
            first.address() + first.len() <= second.address()
                || second.address() + second.len() <= first.address()
        );
    }

    #[test]
    fn a_range_too_large_for_the_low_half_is_refused() {
        assert!(matches!(Mapping::low(LOW_LIMIT, Protection::None), Err(HostError::NoLowRange { .. })));
    }

    #[test]
    fn dont_need_zeroes_private_memory() {
        let mapping = Mapping::anonymous(PAGE_SIZE, Protection::ReadWrite).unwrap();
        // SAFETY: the byte lies in the mapping.
        unsafe { mapping.as_ptr().write(9) };
        mapping.advise(0, PAGE_SIZE, Advice::DontNeed).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { mapping.as_ptr().read() }, 0);
    }

    #[test]
    fn ranges_are_checked() {
        let mut mapping = Mapping::anonymous(2 * PAGE_SIZE, Protection::ReadWrite).unwrap();
        for (offset, len) in
            [(0, 0), (1, PAGE_SIZE), (PAGE_SIZE, 2 * PAGE_SIZE), (usize::MAX - 4095, PAGE_SIZE)]
        {
            assert!(matches!(
                mapping.protect(offset, len, Protection::Read),
                Err(HostError::BadRange { .. })
            ));
        }
        assert!(Mapping::anonymous(0, Protection::Read).is_err());
        assert!(Mapping::anonymous(usize::MAX, Protection::Read).is_err());
    }
}
