//! Windows: gigabytes of ring 3's memory, where the host's own page tables find the page.
//!
//! A hint knows one page, and an access that goes over many fills it again each time. A window is a range of host addresses
//! for a whole gigabyte of one address space, into which the pages that are used most are mapped one by one, each where
//! the guest has it, with the rights that the guest's tables give. A hint may know a window; what it lets pass that is
//! not mapped raises a signal, and the engine looks ([`crate::engine`]). So a program that is hot finds its memory as
//! the host's processor finds any, and hints that miss are rare.
//!
//! Mapping a page costs what two hundred misses cost, so it is for pages that have had as many: every hint's every 128th
//! miss counts for the surroundings of the page. A program that ends soon has no window.
//!
//! What is mapped is what a processor's TLB could know, never more: entries are looked up as it does, with their accessed
//! and, for writes, dirty bits set; INVLPG takes a page out; after a write of CR3 no window may be used before all that
//! it maps has been compared with the tables. Pages that must see every write (translated code) are mapped for reading.

mod mappable;
mod pages;
mod table;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use host::Reservation;
use x86::paging::{PagingContext, PagingMode};

use crate::guest::Guest;
use crate::hash::KeyHasher;
use crate::hint_table::{WINDOWS, WindowHint};
use crate::region::Region;
pub use mappable::Mappable;
pub use table::Table;

const GIGABYTE: u64 = 1 << 30;
/// Bytes of a large page.
pub const LARGE: u64 = 2 << 20;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Windows that may be open, of all address spaces.
const SLOTS: usize = 128;
/// Pages that are mapped at once, if they may be: surroundings of one.
const AROUND: u64 = 8 * PAGE;
/// How often surroundings have to be noticed.
const NOTICED: u8 = 6;
/// Most pages in windows, of all engines. Linux gives a process 65,530 mappings, and a page between two that are not mapped takes two.
const MOST_PAGES: usize = 20_000;
/// Most of the guest's page tables that anything of is in windows; each takes 8 KiB here.
const MOST_TABLES: usize = 2048;
/// How many pages of a window may go or change by flushes or be missed, if it has not more than half as many, before it is closed: a
/// page that is mapped again and again costs more than it brings.
const MOST_CHURN: usize = 256;
/// For how many cycles of the time-stamp counter it stays closed then, at first: some tenths of a second; twice as long each time.
const REST: u64 = 1 << 29;
const MOST_RESTS: u32 = 4;
/// For how many there are none at all when there was no room for those that were wanted: a few seconds.
const LONG_REST: u64 = 1 << 33;
/// The last page of a window is never mapped, so that no access reaches into the next window.
const LAST: u64 = GIGABYTE - PAGE;

/// A guest's memory and its tables as they are now.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// Memory.
    pub guest: &'a Guest,
    /// How linear addresses are translated.
    pub paging: &'a PagingContext,
}

/// One window.
#[derive(Debug)]
struct Window {
    /// CR3, and the number of the gigabyte.
    place: (u64, u64),
    /// When it was last compared with the guest's tables.
    epoch: u64,
    tables: Vec<Table>,
    /// How many pages have gone or been changed by flushes, and how often one was not there.
    churn: usize,
    /// Until when it stays closed, by the time-stamp counter, and how often it has had to. It is empty meanwhile.
    rests_until: u64,
    rests: u32,
}

impl Window {
    fn new(place: (u64, u64), epoch: u64) -> Self {
        Self { place, epoch, tables: Vec::new(), churn: 0, rests_until: 0, rests: 0 }
    }

    fn is_restless(&self) -> bool {
        host::cpu::rdtsc() < self.rests_until
    }

    /// Takes note of pages that have gone or been changed; whether that is too many by now.
    fn churns(&mut self, pages: usize) -> bool {
        let mapped: usize = self.tables.iter().map(Table::len).sum();
        self.churn += pages;
        let too_many = self.churn >= MOST_CHURN.max(2 * mapped);
        if too_many {
            self.churn = 0;
            self.rests_until = host::cpu::rdtsc() + (REST << self.rests);
            self.rests = (self.rests + 1).min(MOST_RESTS);
        }
        too_many
    }
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Pages mapped into windows.
    pub mapped: u64,
    /// Pages taken out of them.
    pub unmapped: u64,
    /// Accesses to what is not mapped.
    pub faults: u64,
}

/// What is to be mapped.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// An address in the page.
    pub linear: u64,
    /// Whether it is to be written.
    pub write: bool,
    /// Whether its surroundings are, too, if they may be.
    pub around: bool,
}

/// What a miss at an address means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// There can be no window.
    Hopeless,
    /// Nothing yet.
    Seldom,
    /// The surroundings had better be mapped.
    Often,
    /// They are.
    Mapped,
}

/// All windows of an engine.
pub struct Windows {
    /// None if the host gives no addresses; there are no windows then.
    reservation: Option<Reservation>,
    /// Each has the gigabyte of the reservation with its number.
    list: Vec<Option<Window>>,
    by_place: HashMap<(u64, u64), usize, BuildHasherDefault<KeyHasher>>,
    /// Those that may be used in the current address space, as generated code finds them.
    current: [Option<usize>; WINDOWS],
    /// Guest-physical pages that are mapped for writing, and at which linear addresses of which windows. The address of a large
    /// one has bit 0 set.
    writable: HashMap<u64, Vec<(usize, u64)>, BuildHasherDefault<KeyHasher>>,
    /// Surroundings that have been noticed, by CR3 and number, and how often.
    noticed: HashMap<(u64, u64), u8, BuildHasherDefault<KeyHasher>>,
    /// Counts the flushes.
    epoch: u64,
    pages: usize,
    tables: usize,
    /// When there may be windows again, by the time-stamp counter.
    rests_until: u64,
    tally: Tally,
    /// How many engines share what the host gives.
    engines: usize,
}

impl Windows {
    /// None yet, of one of so many engines.
    pub fn new(engines: usize) -> Self {
        let reservation = Reservation::anywhere(SLOTS << 30).ok();
        Self {
            reservation,
            list: (0..SLOTS).map(|_| None).collect(),
            by_place: HashMap::default(),
            current: [None; WINDOWS],
            writable: HashMap::default(),
            noticed: HashMap::default(),
            epoch: 1,
            pages: 0,
            tables: 0,
            rests_until: 0,
            tally: Tally::default(),
            engines,
        }
    }

    /// What has happened.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// All that is mapped may be stale.
    pub fn flush(&mut self, region: &mut Region) {
        self.epoch += 1;
        for (place, window) in self.current.iter_mut().enumerate() {
            if window.take().is_some() {
                region.hints().set_window(place, WindowHint::NONE);
            }
        }
    }

    /// A page is mapped no more as it was, but as the tables have it now.
    /// `false` if its window is closed therefore, so that hints and TLB entries may know of it that must not.
    pub fn flush_page(&mut self, region: &mut Region, tables: Tables, linear: u64) -> bool {
        if self.pages == 0 {
            return true;
        }
        let place = place_in_table(linear);
        let Some(n) = self.current[place] else { return true };
        if self.list[n].as_ref().is_none_or(|window| window.place.1 != linear >> 30) {
            return true;
        }
        if !self.renew(tables, n, linear & !(PAGE - 1)) {
            return true;
        }
        if !self.list[n].as_mut().is_some_and(|window| window.churns(1)) {
            return true;
        }
        self.empty(n);
        self.current[place] = None;
        region.hints().set_window(place, WindowHint::NONE);
        false
    }

    /// Gives up all windows. Hints and TLB entries that know of them must be forgotten.
    pub fn clear(&mut self, region: &mut Region) {
        if self.pages > 0 {
            self.withdraw(0, SLOTS << 30);
        }
        self.list.iter_mut().for_each(|window| *window = None);
        self.by_place.clear();
        self.writable.clear();
        self.noticed.clear();
        self.tally.unmapped += self.pages as u64;
        (self.pages, self.tables) = (0, 0);
        self.flush(region);
    }

    /// The linear address that a host address stands for, if it is in a window that may be used.
    pub fn linear_of(&self, host: u64) -> Option<u64> {
        let base = self.reservation.as_ref()?.address() as u64;
        let offset = host.checked_sub(base)?;
        let window = self.list.get((offset >> 30) as usize)?.as_ref()?;
        let linear = window.place.1 << 30 | offset & (GIGABYTE - 1);
        (window.epoch == self.epoch).then_some(linear)
    }

    /// A miss at this address is one of many.
    pub fn notice(&mut self, paging: &PagingContext, linear: u64) -> Noticed {
        if !self.may_open(paging, linear) {
            return Noticed::Hopeless;
        }
        match self.current[place_in_table(linear)] {
            Some(n) if self.mapped(n, linear).is_some() => {
                return Noticed::Mapped;
            }
            Some(_) => {}
            None if self.rests(paging, linear) => return Noticed::Hopeless,
            None => {}
        }
        // What has been noticed once is no news after a while.
        if self.noticed.len() > 4096 {
            self.noticed.clear();
        }
        let times = self.noticed.entry((paging.cr3, linear / AROUND)).or_default();
        *times += 1;
        if *times < NOTICED {
            return Noticed::Seldom;
        }
        *times = 0;
        Noticed::Often
    }

    fn rests(&self, paging: &PagingContext, linear: u64) -> bool {
        let n = self.by_place.get(&(paging.cr3, linear >> 30));
        let window = n.and_then(|n| self.list[*n].as_ref());
        window.is_some_and(Window::is_restless)
    }

    fn may_open(&self, paging: &PagingContext, linear: u64) -> bool {
        self.reservation.is_some()
            && matches!(paging.mode, PagingMode::FourLevel | PagingMode::FiveLevel)
            && linear & (GIGABYTE - 1) < LAST
            && host::cpu::rdtsc() >= self.rests_until
    }

    /// The place, and one, of the window in which this page is mapped, for writing too if it may be written; 0 if in none.
    pub fn number(&mut self, region: &mut Region, tables: Tables, linear: u64, writable: bool) -> usize {
        if self.pages == 0 {
            return 0;
        }
        let Some(n) = self.window_at(region, tables, linear) else { return 0 };
        match self.mapped(n, linear) {
            Some(for_writing) if for_writing || !writable => place_in_table(linear) + 1,
            Some(_) if self.make_writable(tables, n, linear) => place_in_table(linear) + 1,
            _ => 0,
        }
    }

    /// The window that holds this address, if there is one that may be used; it is compared with the tables if need be.
    fn window_at(&mut self, region: &mut Region, tables: Tables, linear: u64) -> Option<usize> {
        let n = *self.by_place.get(&(tables.paging.cr3, linear >> 30))?;
        let place = place_in_table(linear);
        if self.current[place] != Some(n) {
            let window = self.list[n].as_mut()?;
            if self.current[place].is_some() || window.is_restless() {
                return None;
            }
            window.epoch = self.epoch;
            let mapped: usize = window.tables.iter().map(Table::len).sum();
            let gone: Vec<u64> = window.tables.iter_mut().flat_map(|table| table.stale(tables)).collect();
            if window.churns(gone.len()) {
                self.empty(n);
                return None;
            }
            // Another program has got the tables of one that ended: at once is cheaper than one by one.
            if gone.len() > mapped / 2 {
                self.empty(n);
            } else {
                gone.into_iter().for_each(|page| self.unmap(n, page));
            }
            self.current[place] = Some(n);
            region.hints().set_window(place, self.hint_of(n, linear));
        }
        Some(n)
    }

    /// Maps a page for a read or for a write, in a window that is opened for it if need be; what else may be mapped around it,
    /// too, if wanted. Whether the page is.
    pub fn open(&mut self, region: &mut Region, tables: Tables, wanted: Wanted) -> bool {
        let Wanted { linear, write, around } = wanted;
        if !self.may_open(tables.paging, linear) {
            return false;
        }
        let place = (tables.paging.cr3, linear >> 30);
        if !self.by_place.contains_key(&place)
            && let Some(n) = self.list.iter().position(Option::is_none)
        {
            self.list[n] = Some(Window::new(place, self.epoch));
            self.by_place.insert(place, n);
        }
        let Some(n) = self.window_at(region, tables, linear) else { return false };
        let page = linear & !(PAGE - 1);
        if around {
            let start = page & !(AROUND - 1);
            for other in (start..start + AROUND).step_by(PAGE as usize) {
                let mapped = self.mapped(n, other).is_some();
                if other != page && !mapped && other & (GIGABYTE - 1) < LAST {
                    self.map(tables, n, other);
                }
            }
        }
        match self.mapped(n, page) {
            Some(for_writing) if for_writing || !write => true,
            Some(_) => self.make_writable(tables, n, page),
            None => self.map(tables, n, page) && (!write || self.mapped(n, page) == Some(true)),
        }
    }

    /// Makes room for another page and window: gives up those of other address spaces, and if that is not enough all, for a
    /// while. `false` if hints and TLB entries may know of windows that are gone.
    pub fn make_room(&mut self, region: &mut Region) -> bool {
        let is_full = |list: &[Option<Window>]| list.iter().all(Option::is_some);
        let (most_pages, most_tables) = (MOST_PAGES / self.engines, MOST_TABLES / self.engines);
        let has_room = |windows: &Self| windows.pages < most_pages && windows.tables < most_tables;
        if has_room(self) && !is_full(&self.list) {
            return true;
        }
        for n in 0..self.list.len() {
            if self.list[n].as_ref().is_some_and(|window| window.epoch != self.epoch) {
                self.close(n);
            }
        }
        if self.pages < most_pages / 4 * 3 && self.tables < most_tables / 4 * 3 && !is_full(&self.list) {
            return true;
        }
        self.rest();
        self.clear(region);
        false
    }

    /// Opens none for a while.
    fn rest(&mut self) {
        self.rests_until = host::cpu::rdtsc() + LONG_REST;
    }

    /// Gives up one.
    fn close(&mut self, n: usize) {
        self.empty(n);
        if let Some(window) = self.list[n].take() {
            self.by_place.remove(&window.place);
        }
    }

    fn hint_of(&self, n: usize, linear: u64) -> WindowHint {
        let base = self.reservation.as_ref().map_or(0, |reservation| reservation.address() as u64);
        let tag = linear & !(GIGABYTE - 1);
        let host = base + ((n as u64) << 30);
        WindowHint { tag, delta: host.wrapping_sub(tag), limit: LAST - 1, host }
    }

    /// An access has met what is not mapped at this address, which costs as much as mapping does.
    pub fn count_fault(&mut self, linear: u64) {
        self.tally.faults += 1;
        let window = self.current[place_in_table(linear)].and_then(|n| self.list[n].as_mut());
        if let Some(window) = window {
            window.churn += 1;
        }
    }
}

/// Where generated code looks for the window of an address.
fn place_in_table(linear: u64) -> usize {
    (linear >> 30) as usize % WINDOWS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_churns_rests_longer_each_time() {
        let mut window = Window::new((0, 0), 1);
        let mut rests = (0..8).map(|_| {
            assert!(!window.churns(MOST_CHURN - 1) && window.churns(1), "not before it is too much");
            assert!(window.is_restless());
            window.rests_until.saturating_sub(host::cpu::rdtsc()).div_ceil(REST)
        });
        // Less what has passed meanwhile, which is next to nothing of it.
        assert!([1, 2, 4, 8, 16, 16, 16, 16].into_iter().all(|rest| rests.next() == Some(rest)));
    }
}
