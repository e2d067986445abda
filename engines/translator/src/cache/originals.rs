//! Pages whose code runs as it is, outside of the cache: see [`crate::direct`]. They are watched like those with blocks, and a
//! write to one is noted for whoever runs it.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::Cache;
use crate::direct::Verdict;
use crate::guest::Guest;
use crate::hash::KeyHasher;
use crate::tlb::Tlb;

/// Guest-physical pages whose code has been looked at.
#[derive(Default)]
pub struct Originals {
    pages: HashMap<u64, Verdict, BuildHasherDefault<KeyHasher>>,
    /// Those that have been written since somebody asked.
    written: Vec<u64>,
}

impl Originals {
    /// Whether a page has been looked at, and not been written since.
    pub fn knows(&self, page: u64) -> bool {
        self.pages.contains_key(&page)
    }

    /// What its code has been found to be.
    pub fn verdict(&self, page: u64) -> Option<Verdict> {
        self.pages.get(&page).copied()
    }

    /// A page is written. Whether it was known.
    pub(super) fn forget(&mut self, page: u64) -> bool {
        let known = self.pages.remove(&page);
        if known.is_some_and(|verdict| verdict != Verdict::Sensitive) {
            self.written.push(page);
        }
        known.is_some()
    }

    /// All are watched no more.
    pub(super) fn forget_all(&mut self) {
        self.written.extend(self.pages.drain().map(|(page, _)| page));
    }
}

impl Cache {
    /// See [`Originals`].
    pub fn originals(&self) -> &Originals {
        &self.originals
    }

    /// A page that is watched has been looked at.
    pub fn add_original(&mut self, page: u64, verdict: Verdict) {
        self.originals.pages.insert(page, verdict);
    }

    /// What their code is has to be found again.
    pub fn forget_originals(&mut self) {
        self.originals.forget_all();
    }

    /// Pages of them that have been written since this was asked last, or have to be looked at again.
    pub fn take_written_originals(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.originals.written)
    }

    /// Has writes to a page noticed from now on; `false` if there is none.
    pub fn watch(&mut self, guest: &Guest, tlb: &mut Tlb, page: u64) -> bool {
        if guest.watcher.watches(page) {
            return true;
        }
        let region = &mut self.region;
        if !guest.watch(page, |guest, page| tlb.withdraw(region, guest, page)) {
            return false;
        }
        tlb.protect_physical(&mut self.region, guest, page);
        true
    }

    /// Lets a page be written unseen again, unless it is needed.
    pub(super) fn unwatch(&self, guest: &Guest, page: u64) {
        if !self.by_page.contains_key(&page) && !self.originals.knows(page) {
            guest.watcher.unwatch(page);
        }
    }

    /// Whether nothing is to lead to ring 3's code but through the engine, from now on.
    pub fn withhold(&mut self, withheld: bool) {
        if withheld && !self.withheld {
            self.clear_view(crate::mode::VIEW_USER);
        }
        self.withheld = withheld;
    }

    /// Whether a debugger has breakpoints.
    pub fn has_breakpoints(&self) -> bool {
        self.points.has_breakpoints()
    }
}
