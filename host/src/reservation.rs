//! Address ranges composed of several parts, and memory that is written here and executed there.
//!
//! The translator wants its data and its code within reach of 32-bit displacements and absolute addresses, and
//! its code writable at one address and executable at another. So: reserve one range below 2 GiB with no access
//! at all, then place parts in it. What is not placed stays a guard.
#![allow(unsafe_code)] // Fixed mappings inside a range that is ours.

use crate::error::check_pages;
use crate::mapping::{Backing, find_low, whole_pages};
use crate::{Advice, HostError, Mapping, Memfd, Protection};

/// A range of addresses that nobody else will get; its parts are placed one by one.
#[derive(Debug)]
pub struct Reservation {
    range: Mapping,
}

impl Reservation {
    /// Reserves `len` bytes (rounded up to whole pages) wholly below 2 GiB.
    pub fn low(len: usize) -> Result<Self, HostError> {
        let len = whole_pages(len)?;
        let range = find_low(len, Protection::None, Backing::Anonymous)?;
        Ok(Self { range })
    }

    /// Reserves `len` bytes (rounded up to whole pages) anywhere.
    pub fn anywhere(len: usize) -> Result<Self, HostError> {
        let range = Mapping::anonymous(len, Protection::None)?;
        Ok(Self { range })
    }

    /// The first byte of the range.
    pub fn as_ptr(&self) -> *mut u8 {
        self.range.as_ptr()
    }

    /// The address of the first byte.
    pub fn address(&self) -> usize {
        self.range.address()
    }

    /// Length of the range.
    #[allow(clippy::len_without_is_empty)] // No reservation is empty.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Places private zeroed memory at `offset`; whatever was placed there before is gone.
    pub fn place_anonymous(
        &mut self,
        offset: usize,
        len: usize,
        protection: Protection,
    ) -> Result<*mut u8, HostError> {
        self.place(offset, len, protection, Backing::Anonymous)
    }

    /// Places a shared view of `memfd` (from `memfd_offset` on) at `offset`.
    pub fn place_memfd(
        &mut self,
        offset: usize,
        len: usize,
        memfd: &Memfd,
        memfd_offset: usize,
        protection: Protection,
    ) -> Result<*mut u8, HostError> {
        check_pages(memfd_offset, len, memfd.len())?;
        self.place(offset, len, protection, Backing::Memfd(memfd, memfd_offset))
    }

    /// Changes the protection of a part.
    pub fn protect(&mut self, offset: usize, len: usize, protection: Protection) -> Result<(), HostError> {
        self.range.protect(offset, len, protection)
    }

    /// Gives the kernel advice about a part.
    pub fn advise(&self, offset: usize, len: usize, advice: Advice) -> Result<(), HostError> {
        self.range.advise(offset, len, advice)
    }

    fn place(
        &mut self,
        offset: usize,
        len: usize,
        protection: Protection,
        backing: Backing,
    ) -> Result<*mut u8, HostError> {
        check_pages(offset, len, self.range.len())?;
        let (flags, fd, file_offset) = backing.arguments();
        // SAFETY: the range was checked to lie in the reservation, which is ours to replace.
        let address = unsafe { self.range.as_ptr().add(offset) };
        // SAFETY: as above, so MAP_FIXED replaces nothing of anybody else's.
        let result = unsafe {
            libc::mmap(address.cast(), len, protection.bits(), flags | libc::MAP_FIXED, fd, file_offset)
        };
        if result == libc::MAP_FAILED { Err(HostError::last("mmap")) } else { Ok(address) }
    }
}

/// One piece of memory at two addresses: writable here, executable there, never both at one address.
///
/// x86 keeps instruction fetch coherent with stores through another linear address only after a serialising
/// instruction or a control transfer that the processor notices; the one who writes code and then jumps to it on
/// the same thread is safe in practice once the write is complete, other threads need a serialising event.
#[derive(Debug)]
pub struct DualMapping {
    writable: Mapping,
    /// Owned only if it stands by itself; within a reservation the reservation owns it.
    _executable_owner: Option<Mapping>,
    executable: *const u8,
    len: usize,
}

// SAFETY: mappings belong to the process; only raw pointers are handed out.
unsafe impl Send for DualMapping {}

impl DualMapping {
    /// `len` bytes (rounded up to whole pages); the executable view lies below 2 GiB.
    pub fn low(len: usize) -> Result<Self, HostError> {
        let len = whole_pages(len)?;
        let memfd = Memfd::new("translation-cache", len)?;
        let executable = Mapping::shared_low(&memfd, 0, len, Protection::ReadExecute)?;
        Ok(Self {
            writable: Mapping::shared(&memfd, 0, len, Protection::ReadWrite)?,
            executable: executable.as_ptr(),
            _executable_owner: Some(executable),
            len,
        })
    }

    /// `len` bytes (whole pages); the executable view is placed in `reservation` at `offset`.
    ///
    /// The executable pointer is good for as long as the reservation lives and nothing else is placed there.
    pub fn within(reservation: &mut Reservation, offset: usize, len: usize) -> Result<Self, HostError> {
        check_pages(offset, len, reservation.len())?;
        let memfd = Memfd::new("translation-cache", len)?;
        let executable = reservation.place_memfd(offset, len, &memfd, 0, Protection::ReadExecute)?;
        Ok(Self {
            writable: Mapping::shared(&memfd, 0, len, Protection::ReadWrite)?,
            _executable_owner: None,
            executable,
            len,
        })
    }

    /// Where to write.
    pub fn writable(&self) -> *mut u8 {
        self.writable.as_ptr()
    }

    /// Where to execute.
    pub fn executable(&self) -> *const u8 {
        self.executable
    }

    /// Length of both views.
    #[allow(clippy::len_without_is_empty)] // No mapping is empty.
    pub fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;
    use crate::mapping::LOW_LIMIT;

    /// mov eax, 0x12345678; ret
    const RETURN_CONSTANT: [u8; 6] = [0xb8, 0x78, 0x56, 0x34, 0x12, 0xc3];

    fn write_and_run(code: &DualMapping) -> u32 {
        // SAFETY: both views are longer than the code; the code follows the C calling convention.
        unsafe {
            code.writable().copy_from_nonoverlapping(RETURN_CONSTANT.as_ptr(), RETURN_CONSTANT.len());
            let function: extern "C" fn() -> u32 = std::mem::transmute(code.executable());
            function()
        }
    }

    #[test]
    fn code_written_in_one_view_runs_in_the_other() {
        let code = DualMapping::low(PAGE_SIZE).unwrap();
        assert!(code.executable() as usize + code.len() <= LOW_LIMIT);
        assert_eq!(write_and_run(&code), 0x1234_5678);
    }

    #[test]
    fn a_reservation_holds_data_beside_code() {
        let mut reservation = Reservation::low(64 * PAGE_SIZE).unwrap();
        assert!(reservation.address() + reservation.len() <= LOW_LIMIT);
        let data = reservation.place_anonymous(0, 4 * PAGE_SIZE, Protection::ReadWrite).unwrap();
        let code = DualMapping::within(&mut reservation, 8 * PAGE_SIZE, 2 * PAGE_SIZE).unwrap();
        assert_eq!(data as usize, reservation.address());
        assert_eq!(code.executable() as usize, reservation.address() + 8 * PAGE_SIZE);
        // SAFETY: the part has four pages.
        unsafe { data.add(4 * PAGE_SIZE - 1).write(1) };
        assert_eq!(write_and_run(&code), 0x1234_5678);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let executable = format!(
            "{:08x}-{:08x} r-xs",
            code.executable() as usize,
            code.executable() as usize + 2 * PAGE_SIZE
        );
        assert!(maps.contains(&executable), "{executable} not in\n{maps}");
    }

    #[test]
    fn parts_outside_the_reservation_are_refused() {
        let mut reservation = Reservation::anywhere(4 * PAGE_SIZE).unwrap();
        assert!(reservation.place_anonymous(3 * PAGE_SIZE, 2 * PAGE_SIZE, Protection::Read).is_err());
        assert!(DualMapping::within(&mut reservation, PAGE_SIZE, 4 * PAGE_SIZE).is_err());
        let memfd = Memfd::new("test", PAGE_SIZE).unwrap();
        assert!(reservation.place_memfd(0, 2 * PAGE_SIZE, &memfd, 0, Protection::Read).is_err());
    }
}
