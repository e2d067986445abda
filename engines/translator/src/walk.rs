//! What a kernel's access leads to whose page the software TLB does not know: routines, generated once per translation cache,
//! that walk the guest's page tables and enter the page, as a processor does by itself.
//!
//! They take the usual case: four levels or five, every accessed bit set and the dirty one, too, if the page is to be written, tables and
//! page in RAM, no code translated from a page to be written. What they do not take goes to the engine, which knows all cases
//! ([`x86::paging`]). What the engine keeps beside the TLB it learns from a log, before it needs to know: see [`crate::tlb`].
//!
//! Here is what the routines go by, and the log.

mod levels;
mod routines;

use memory::GuestRam;
use x86::paging::{PageSize, PagingContext, PagingMode};

use crate::mode::{VIEW_KERNEL, VIEW_KERNEL_AC, View};
use crate::tlb_entry::TlbEntry;

pub use routines::{Walker, emit};

/// Pages that the log has room for.
const LOGGED: usize = 64;
/// Regions of RAM in which pages are found.
const REGIONS: usize = 2;

// Bits of page-table entries (SDM vol. 3 tables 4-15 to 4-20).
const WRITABLE: u32 = 1 << 1;
const USER: u32 = 1 << 2;
const GLOBAL: u32 = 1 << 8;
/// In the log: of a page of 1 GiB.
const HUGE: u32 = 1 << 4;
/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What the routines go by, as it lies in the context.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Walk {
    /// Host address of the top table; 0 if none may be walked.
    root: u64,
    ram: [Ram; REGIONS],
    /// Where the register is put by that is to hold the host address.
    rest: u64,
    /// Whether there are five levels, not four.
    five: u64,
    /// [`ADDRESS`].
    mask: u64,
    /// [`WRITABLE`] if guest code may write pages without asking.
    writes: u64,
    /// [`USER`] if a kernel's accesses may not reach such pages.
    forbidden: u64,
    /// [`GLOBAL`] if there are such pages.
    global: u64,
    /// How many pages have been logged.
    count: u64,
    log: [Walked; LOGGED],
}

/// A region of RAM; of no length if there is none.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Ram {
    start: u64,
    len: u64,
    /// Host address less the guest's.
    delta: u64,
    /// Host address of the marks of its pages, a word each: not 0 if somebody watches it.
    watched: u64,
}

/// A page that has been entered, as it lies in the context.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Walked {
    /// Linear address of the page.
    pub linear: u64,
    /// Guest-physical address of the page, and what is to be known of it.
    entry: u64,
}

impl Walked {
    /// Whose view knows it now.
    pub fn view(self) -> View {
        if self.entry as u32 & USER != 0 { VIEW_KERNEL_AC } else { VIEW_KERNEL }
    }

    /// Guest-physical address of the page.
    pub fn physical(self) -> u64 {
        self.entry & ADDRESS
    }

    /// Whether writes may pass.
    pub fn writable(self) -> bool {
        self.entry as u32 & WRITABLE != 0
    }

    /// Whether it survives a write of CR3.
    pub fn global(self) -> bool {
        self.entry as u32 & GLOBAL != 0
    }

    /// Of what size the page is that it is part of.
    pub fn size(self) -> PageSize {
        match (self.entry & TlbEntry::LARGE, self.entry as u32 & HUGE) {
            (0, _) => PageSize::Size4K,
            (_, 0) => PageSize::Size2M,
            _ => PageSize::Size1G,
        }
    }
}

impl Walk {
    /// Tells where RAM is, and whether guest code is alone in writing it.
    pub fn set_ram(&mut self, ram: &GuestRam, alone: bool) {
        for (known, region) in self.ram.iter_mut().zip(ram.regions()) {
            let host = region.host.as_ptr() as u64;
            let watched = ram.watched_marks(region.gpa).map_or(0, |marks| marks as u64);
            let len = if watched == 0 { 0 } else { region.len };
            *known = Ram { start: region.gpa, len, delta: host.wrapping_sub(region.gpa), watched };
        }
        self.mask = ADDRESS;
        self.writes = if alone { WRITABLE.into() } else { 0 };
    }

    /// Tells how addresses are translated.
    pub fn set_paging(&mut self, paging: &PagingContext) {
        let long = matches!(paging.mode, PagingMode::FourLevel | PagingMode::FiveLevel);
        let usual = long && paging.wp && paging.nxe;
        let top = paging.cr3 & ADDRESS;
        let ram = self.ram.iter().find(|ram| top.wrapping_sub(ram.start) < ram.len);
        self.root = ram.filter(|_| usual).map_or(0, |ram| top.wrapping_add(ram.delta));
        self.five = u64::from(paging.mode == PagingMode::FiveLevel);
        self.forbidden = if paging.smap { USER.into() } else { 0 };
        self.global = if paging.pge { GLOBAL.into() } else { 0 };
    }

    /// Whether tables may be walked.
    pub fn is_usual(&self) -> bool {
        self.root != 0
    }

    /// Takes what has been logged.
    pub fn take(&mut self) -> &[Walked] {
        let count = std::mem::take(&mut self.count) as usize;
        &self.log[..count.min(LOGGED)]
    }

    /// How many pages have been logged.
    pub fn logged(&self) -> u64 {
        self.count
    }
}
