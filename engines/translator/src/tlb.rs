//! The software TLB: per view, a direct-mapped table from guest linear pages to host addresses.
//!
//! It behaves as the processor's own: entries stay until the guest flushes them, whatever it does to its page
//! tables meanwhile. Entries that must see every access (devices, pages with translated code for writes, pages
//! whose dirty bit is clear for writes) are never entered. The hints know less than it does: whatever is dropped here
//! is forgotten there.

mod again;

use x86::paging::PageSize;

use crate::context::{TLB_ENTRIES, VIEWS};
use crate::direct::Direct;
use crate::gigabytes::Gigabytes;
use crate::guest::Guest;
use crate::mode::{VIEW_USER, View};
use crate::region::Region;
use crate::spaces::Spaces;
use crate::tlb_entry::TlbEntry;
use crate::windows::{Tables, Wanted, Windows};

use again::Pages;

const WRITTEN_WORDS: usize = (1 << 20) / 64;

/// What a page may be used for.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Linear address of the page.
    pub linear: u64,
    /// Guest-physical address of the page.
    pub physical: u64,
    /// Host address of the page.
    pub host: u64,
    /// Reads may pass.
    pub readable: bool,
    /// Writes may pass.
    pub writable: bool,
    /// Survives a write of CR3.
    pub global: bool,
    /// Of what size the page is that it is part of.
    pub size: PageSize,
}

/// Bookkeeping beside the tables.
pub struct Tlb {
    /// Where the host's own tables are asked.
    pub windows: Windows,
    /// Where ring 3 runs as it is.
    pub direct: Direct,
    /// Slots filled from pages that are not global, since the last flush.
    local: [Vec<u16>; VIEWS],
    /// What is known of pages that are not global.
    spaces: Spaces<Pages>,
    /// What has entries from pages of 2 MiB: a flush there is one of all parts.
    large: Gigabytes,
    /// The same for larger ones.
    huge: Gigabytes,
    /// Bit per guest-physical page number modulo 2^20, that is 4 GiB: entered for writing since all entries were looked at.
    written: Box<[u64; WRITTEN_WORDS]>,
    /// How many pages generated code has entered, but for those in the log.
    walked: u64,
}

impl Tlb {
    /// Empties the region's tables; there are so many engines in this process.
    pub fn new(region: &mut Region, engines: usize) -> Self {
        region.hints().empty();
        let mut tlb = Self {
            windows: Windows::new(engines),
            direct: Direct::default(),
            local: Default::default(),
            spaces: Spaces::default(),
            large: Gigabytes::default(),
            huge: Gigabytes::default(),
            written: Box::new([0; WRITTEN_WORDS]),
            walked: 0,
        };
        tlb.flush_all(region);
        tlb
    }

    /// Takes note of the pages that generated code has entered by itself.
    fn read_log(&mut self, region: &mut Region) {
        for walked in region.context().walk.take() {
            self.walked += 1;
            let page = Page {
                linear: walked.linear,
                physical: walked.physical(),
                host: 0,
                readable: true,
                writable: walked.writable(),
                global: walked.global(),
                size: walked.size(),
            };
            self.note(walked.view(), page, true);
        }
    }

    /// How many pages generated code has entered.
    pub fn walked(&self, region: &Region) -> u64 {
        self.walked + region.context_ref().walk.logged()
    }

    /// Enters a page.
    pub fn fill(&mut self, region: &mut Region, tables: Tables, view: View, page: Page) {
        self.read_log(region);
        let slot = slot_of(page.linear);
        let window = match view {
            VIEW_USER if !page.global => self.windows.number(region, tables, page.linear, page.writable),
            _ => 0,
        };
        let entry = &mut region.tlb(view)[slot];
        let never = TlbEntry::empty(slot).read;
        *entry = TlbEntry {
            read: if page.readable { page.linear } else { never },
            write: if page.writable { page.linear } else { never },
            addend: page.host,
            physical: page.physical
                | if page.size == PageSize::Size4K { 0 } else { TlbEntry::LARGE }
                | (window as u64) << TlbEntry::WINDOW_SHIFT,
        };
        self.note(view, page, region.context_ref().walk.is_usual());
    }

    /// Takes note of a page that is entered, where generated code walks the tables or does not.
    fn note(&mut self, view: View, page: Page, walks: bool) {
        if !page.global {
            let local = &mut self.local[view];
            if local.len() < TLB_ENTRIES {
                local.push(slot_of(page.linear) as u16);
            }
            // A kernel's code finds them itself.
            if (view == VIEW_USER || !walks)
                && let Some(pages) = self.spaces.current()
            {
                pages.note(view, page.linear);
            }
        }
        if page.writable {
            self.note_writable(page.physical);
        }
        match page.size {
            PageSize::Size4K => {}
            PageSize::Size2M => self.large.note(page.linear),
            PageSize::Size4M | PageSize::Size1G => self.huge.note(page.linear),
        }
    }

    /// Drops everything.
    pub fn flush_all(&mut self, region: &mut Region) {
        self.walked += region.context().walk.take().len() as u64;
        for view in 0..VIEWS {
            for (slot, entry) in region.tlb(view).iter_mut().enumerate() {
                *entry = TlbEntry::empty(slot);
            }
            self.local[view].clear();
        }
        self.spaces.clear();
        self.large.clear();
        self.huge.clear();
        self.written.fill(0);
        region.hints().forget_all();
        self.windows.clear(region);
        self.direct.flush();
    }

    /// Maps a page into a window. Whether it is mapped as wanted.
    pub fn open_window(&mut self, region: &mut Region, tables: Tables, wanted: Wanted) -> bool {
        if !self.windows.make_room(region) {
            self.flush_local(region);
        }
        self.windows.open(region, tables, wanted)
    }

    /// Drops what is not global.
    pub fn flush_local(&mut self, region: &mut Region) {
        self.read_log(region);
        self.spaces.leave();
        self.windows.flush(region);
        self.direct.flush();
        region.hints().forget_all();
        for view in 0..VIEWS {
            let table = region.tlb(view);
            if self.local[view].len() < TLB_ENTRIES {
                for slot in self.local[view].drain(..) {
                    table[usize::from(slot)] = TlbEntry::empty(usize::from(slot));
                }
            } else {
                // The list overflowed: which slots are global is no longer known.
                self.local[view].clear();
                for (slot, entry) in table.iter_mut().enumerate() {
                    *entry = TlbEntry::empty(slot);
                }
            }
        }
    }

    /// Drops the page that holds `linear`, all of it if it is a large one.
    pub fn flush_page(&mut self, region: &mut Region, tables: Tables, linear: u64) {
        self.read_log(region);
        let slot = slot_of(linear);
        self.direct.flush_page(tables, linear);
        if !self.windows.flush_page(region, tables, linear) {
            self.flush_local(region);
        }
        // Which page it was is not known; what may be part of it goes.
        let size = if self.huge.may_hold(linear) {
            PageSize::Size1G
        } else if self.large.may_hold(linear) {
            PageSize::Size2M
        } else {
            PageSize::Size4K
        };
        let bytes = size.bytes();
        region.hints().forget_within(linear, bytes);
        let first = slot_of(linear & !(bytes - 1));
        let slots = first..first + ((bytes >> 12) as usize).min(TLB_ENTRIES);
        for view in 0..VIEWS {
            let table = region.tlb(view);
            table[slot] = TlbEntry::empty(slot);
            for slot in slots.clone() {
                let entry = &mut table[slot];
                let inside = |tag: u64| (tag ^ linear) & !(bytes - 1) == 0;
                if entry.physical & TlbEntry::LARGE != 0 && (inside(entry.read) || inside(entry.write)) {
                    *entry = TlbEntry::empty(slot);
                }
            }
        }
    }

    /// Gives up the right to write a page unseen, or that to all pages.
    pub fn withdraw(&mut self, region: &mut Region, guest: &Guest, page: Option<u64>) {
        match page {
            Some(page) => {
                self.protect_physical(region, guest, page);
                guest.watcher.dismiss_writer(page);
            }
            None => self.flush_all(region),
        }
    }

    /// Makes writes to a guest-physical page take the slow path.
    pub fn protect_physical(&mut self, region: &mut Region, guest: &Guest, physical: u64) {
        self.read_log(region);
        self.windows.protect(physical);
        self.direct.protect(guest, physical);
        let (word, bit) = written_bit(physical);
        if self.written[word] & bit == 0 {
            return;
        }
        region.hints().forget_all();
        // Having to look at all entries, it learns which pages have any now.
        self.written.fill(0);
        for view in 0..VIEWS {
            for (slot, entry) in region.tlb(view).iter_mut().enumerate() {
                let none = TlbEntry::empty(slot).write;
                if entry.page() == physical {
                    entry.write = none;
                } else if entry.write != none {
                    self.note_writable(entry.page());
                }
            }
        }
    }

    fn note_writable(&mut self, physical: u64) {
        let (word, bit) = written_bit(physical);
        self.written[word] |= bit;
    }
}

/// The number of the entry for a page in a view's table.
pub fn slot_of(linear: u64) -> usize {
    (linear >> 12) as usize & (TLB_ENTRIES - 1)
}

fn written_bit(physical: u64) -> (usize, u64) {
    let page = physical >> 12;
    ((page >> 6) as usize % WRITTEN_WORDS, 1 << (page & 63))
}
