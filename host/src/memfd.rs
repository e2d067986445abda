//! Memory with a file descriptor (memfd_create(2)): what guest RAM and the translation cache are made of.
#![allow(unsafe_code)] // System calls on descriptors.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::fs::MetadataExt;

use crate::HostError;
use crate::mapping::whole_pages;

/// `MFD_NOEXEC_SEAL` of linux/memfd.h (6.3): the file can never be made executable as a program.
/// It does not hinder executable mappings.
const MFD_NOEXEC_SEAL: libc::c_uint = 8;

/// An anonymous file in memory whose size is fixed for good.
///
/// It is sealed against shrinking, so that no mapping of it can raise SIGBUS, and against growing.
#[derive(Debug)]
pub struct Memfd {
    file: File,
    len: usize,
}

impl Memfd {
    /// Makes one of `len` bytes (rounded up to whole pages), all zero and not populated.
    ///
    /// `name` is what `/proc/PID/maps` shows; NUL bytes in it are left out.
    pub fn new(name: &str, len: usize) -> Result<Self, HostError> {
        let len = whole_pages(len)?;
        let size = libc::off_t::try_from(len).map_err(|_| HostError::BadRange { offset: 0, len, size: 0 })?;
        let name = CString::new(name.replace('\0', "")).unwrap_or_default();
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // Hosts may demand MFD_NOEXEC_SEAL (vm.memfd_noexec=2), older ones do not know it.
        let fd = match create(&name, flags | MFD_NOEXEC_SEAL) {
            Err(error) if error.os_error() == Some(libc::EINVAL) => create(&name, flags)?,
            other => other?,
        };
        // SAFETY: the descriptor is new and ours alone.
        let file = unsafe { File::from_raw_fd(fd) };
        // SAFETY: plain calls on a descriptor we own.
        unsafe {
            if libc::ftruncate(fd, size) != 0 {
                return Err(HostError::last("ftruncate"));
            }
            let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
            if libc::fcntl(fd, libc::F_ADD_SEALS, seals) != 0 {
                return Err(HostError::last("fcntl(F_ADD_SEALS)"));
            }
        }
        Ok(Self { file, len })
    }

    /// Size in bytes; never 0.
    #[allow(clippy::len_without_is_empty)] // No memfd here is empty.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A second descriptor for the same memory.
    pub fn try_clone_file(&self) -> Result<File, HostError> {
        self.file.try_clone().map_err(|source| HostError::Call { call: "dup", source })
    }

    /// Bytes of host memory that stand behind it now (or in swap).
    pub fn resident(&self) -> Result<u64, HostError> {
        let metadata = self.file.metadata().map_err(|source| HostError::Call { call: "fstat", source })?;
        Ok(metadata.blocks().saturating_mul(512))
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn create(name: &CString, flags: libc::c_uint) -> Result<RawFd, HostError> {
    // SAFETY: the name is a NUL-terminated string that outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd >= 0 { Ok(fd) } else { Err(HostError::last("memfd_create")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mapping, PAGE_SIZE, Protection};

    #[test]
    fn size_is_rounded_and_sealed() {
        let memfd = Memfd::new("test", 10_000).unwrap();
        assert_eq!(memfd.len(), 3 * PAGE_SIZE);
        let file = memfd.try_clone_file().unwrap();
        assert!(file.set_len(0).is_err(), "must not shrink");
        assert!(file.set_len(1 << 20).is_err(), "must not grow");
    }

    #[test]
    fn memory_is_counted_when_touched() {
        let memfd = Memfd::new("test", 16 * PAGE_SIZE).unwrap();
        assert_eq!(memfd.resident().unwrap(), 0);
        let view = Mapping::shared(&memfd, 0, memfd.len(), Protection::ReadWrite).unwrap();
        // SAFETY: inside the mapping.
        unsafe { view.as_ptr().add(5 * PAGE_SIZE).write(1) };
        let resident = memfd.resident().unwrap();
        assert!((PAGE_SIZE as u64..=memfd.len() as u64).contains(&resident), "{resident}");
    }

    #[test]
    fn two_views_show_the_same_memory() {
        let memfd = Memfd::new("test", 2 * PAGE_SIZE).unwrap();
        let whole = Mapping::shared(&memfd, 0, 2 * PAGE_SIZE, Protection::ReadWrite).unwrap();
        let second_page = Mapping::shared(&memfd, PAGE_SIZE, PAGE_SIZE, Protection::Read).unwrap();
        // SAFETY: both addresses lie inside their mappings.
        unsafe {
            whole.as_ptr().add(PAGE_SIZE + 3).write(0x5a);
            assert_eq!(second_page.as_ptr().add(3).read(), 0x5a);
        }
        assert!(Mapping::shared(&memfd, PAGE_SIZE, 2 * PAGE_SIZE, Protection::Read).is_err());
    }
}
