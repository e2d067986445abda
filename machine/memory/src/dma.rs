//! A device's access to memory.
//!
//! Not modelled: DMA to other devices' registers, an IOMMU.

use crate::{GuestMemory, GuestRam};

/// What a device does DMA with: RAM as the bus answers for it. Where there is none, reads give all-ones and
/// writes vanish, page by page, as on a PC; a guest's bad pointer is no error of ours.
#[derive(Clone, Debug)]
pub struct Dma {
    ram: GuestRam,
}

impl Dma {
    /// Access to `ram`.
    pub fn new(ram: GuestRam) -> Self {
        Self { ram }
    }

    /// Fills `buffer` from `gpa` on; says whether all of it came from RAM.
    pub fn read(&self, gpa: u64, buffer: &mut [u8]) -> bool {
        let mut complete = true;
        for_each_page(gpa, buffer.len(), |address, range| {
            let part = &mut buffer[range];
            if address.is_none_or(|address| self.ram.read(address, part).is_err()) {
                part.fill(0xff);
                complete = false;
            }
        });
        complete
    }

    /// Writes `bytes` at `gpa`; says whether all of it went to RAM.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        let mut complete = true;
        for_each_page(gpa, bytes.len(), |address, range| {
            complete &= address.is_some_and(|address| self.ram.write(address, &bytes[range]).is_ok());
        });
        complete
    }

    /// For vm-memory's consumers, such as virtqueues.
    pub fn memory(&self) -> &GuestMemory {
        self.ram.as_guest_memory()
    }
}

/// Splits a range at page boundaries. The address is `None` past the end of the address space.
fn for_each_page(gpa: u64, len: usize, mut part: impl FnMut(Option<u64>, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let address = gpa.checked_add(done as u64);
        let in_page = (gpa.wrapping_add(done as u64) % crate::PAGE_SIZE) as usize;
        let step = (crate::PAGE_SIZE as usize - in_page).min(len - done);
        part(address, done..done + step);
        done += step;
    }
}
