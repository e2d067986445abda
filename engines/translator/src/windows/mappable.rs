//! Pages that the host's page tables may find for ring 3, be it in a window or in a process of its own.

use x86::paging::{Access, AccessKind, PageEntry, entry_of_page, probe};

use super::{LARGE, PAGE, Tables};
use crate::guest::Guest;

/// One page as the guest's tables have it now.
#[derive(Clone, Copy, Debug)]
pub struct Mappable {
    /// The entry that maps it.
    pub entry: PageEntry,
    /// Linear address of its first byte.
    pub start: u64,
    /// Guest-physical address of that.
    pub physical: u64,
    /// Bytes: 4 KiB or 2 MiB.
    pub bytes: u64,
    /// Where it is in RAM's file.
    pub offset: usize,
    /// Whether the tables let it be written, and it has been.
    pub writable: bool,
}

impl Mappable {
    /// The page at an address, if ring 3 may read it and has, it is not global, and lies in RAM in one piece.
    pub fn at(tables: Tables, linear: u64) -> Option<Self> {
        let Tables { guest, paging } = tables;
        let found = probe(paging, guest, linear, Access::explicit(AccessKind::Read, true)).ok()?;
        let entry = entry_of_page(paging, guest, linear)?;
        let bytes = found.size.bytes();
        if bytes > LARGE || found.global || !entry.accessed() {
            return None;
        }
        let (start, physical) = (linear & !(bytes - 1), found.physical & !(bytes - 1));
        let offset = guest.ram.file_offset(physical)?;
        let last = guest.ram.file_offset(physical + bytes - 1)?;
        let whole = last.wrapping_sub(offset) == bytes as usize - 1;
        whole.then_some(Self { entry, start, physical, bytes, offset, writable: found.writable })
    }

    /// Whether it may be mapped for writing, and which of its pages of 4 KiB have to be protected then.
    pub fn writes(&self, guest: &Guest) -> (bool, Vec<u64>) {
        if !self.writable || !self.entry.large {
            return (self.writable && guest.admits_writes(self.physical), Vec::new());
        }
        let pages = (self.physical..self.physical + self.bytes).step_by(PAGE as usize);
        (true, pages.filter(|page| !guest.admits_writes(*page)).collect())
    }
}
