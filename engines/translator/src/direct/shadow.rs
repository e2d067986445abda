//! What a stub is to have mapped of one address space: a shadow of the guest's page tables.
//!
//! As in a window, it is what a processor's TLB could know, never more: pages whose accessed bit is set, for writing if the
//! dirty one is and nobody has to see the writes, to be executed if the code is harmless and writes to it are watched.
//! Changes are listed and made before the stub runs next.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::ops::Range;

use host::stub::Change;
use x86::paging::{PageEntry, entry_of_page};

use crate::guest::Guest;
use crate::hash::KeyHasher;
use crate::windows::{LARGE, Mappable, PAGE, Table, Tables};

/// One past the last address that a stub can have anything at: four levels of page tables, and what the kernel keeps.
pub const END: u64 = (1 << 47) - PAGE;
/// Most pages. Linux gives a process 65,530 mappings, and a page between two that are not mapped takes two.
const MOST_PAGES: usize = 24_000;

/// How a page is mapped that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Whether it may be written.
    pub write: bool,
    /// Whether it may be executed.
    pub execute: bool,
}

/// See the module's documentation.
pub struct Shadow {
    /// By number of 2 MiB.
    tables: HashMap<u64, Table, BuildHasherDefault<KeyHasher>>,
    /// Linear addresses of pages that may be executed.
    code: HashSet<u64, BuildHasherDefault<KeyHasher>>,
    /// Where guest-physical pages are mapped that may be written or executed. The address of a large one has bit 0 set.
    by_physical: HashMap<u64, Vec<u64>, BuildHasherDefault<KeyHasher>>,
    pages: usize,
    changes: Vec<Change>,
    /// Where nothing may be mapped.
    own: Range<u64>,
    /// When it was last compared with the guest's tables.
    epoch: u64,
}

impl Shadow {
    /// Nothing is mapped. The stub has these addresses for itself.
    pub fn new(own: Range<u64>) -> Self {
        Self {
            tables: HashMap::default(),
            code: HashSet::default(),
            by_physical: HashMap::default(),
            pages: 0,
            changes: Vec::new(),
            own,
            epoch: 0,
        }
    }

    /// What is to be changed in the stub.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// How many pages of code are mapped.
    pub fn code_pages(&self) -> usize {
        self.code.len()
    }

    /// How a page is mapped, if it is.
    pub fn rights(&self, linear: u64) -> Option<Rights> {
        let write = self.tables.get(&(linear / LARGE))?.mapped(linear)?;
        Some(Rights { write, execute: self.code.contains(&(linear & !(PAGE - 1))) })
    }

    /// Maps a page; to be executed, too, if it may be, which is for one of 4 KiB whose code is harmless, and watched.
    pub fn map(&mut self, guest: &Guest, page: Mappable, execute: bool) {
        let Mappable { entry, start, physical, bytes, offset, .. } = page;
        if start >= END || start < self.own.end && start + bytes > self.own.start {
            return;
        }
        let (write, refused) = page.writes(guest);
        let rights = Rights { write, execute };
        if self.rights(start) == Some(rights) && self.tables[&(start / LARGE)].has(start, entry) {
            return;
        }
        self.make_room(start, entry);
        let key = physical | u64::from(entry.large);
        self.push(Change::Map { at: start, len: bytes, offset: offset as u64, write, execute });
        let table = self.tables.entry(start / LARGE).or_insert_with(|| Table::new(start));
        table.set(start, entry, write);
        self.pages += 1;
        if execute {
            self.code.insert(start);
        }
        if write || execute {
            self.by_physical.entry(key).or_default().push(start);
        }
        refused.into_iter().for_each(|page| self.protect(guest, page));
    }

    /// Takes away what is where this entry's page goes.
    fn make_room(&mut self, start: u64, entry: PageEntry) {
        if self.pages >= MOST_PAGES {
            self.clear();
        }
        match self.tables.get(&(start / LARGE)) {
            Some(table) if !table.is_of(entry) => {
                let all: Vec<_> = table.all().collect();
                all.into_iter().for_each(|page| self.unmap(page));
            }
            _ => self.unmap(start),
        }
    }

    /// Takes one page away, if it is mapped; all of it, if it is a large one.
    pub fn unmap(&mut self, linear: u64) {
        let Some(piece) = self.tables.get_mut(&(linear / LARGE)).and_then(|table| table.take(linear)) else {
            return;
        };
        if self.tables[&(linear / LARGE)].len() == 0 {
            self.tables.remove(&(linear / LARGE));
        }
        self.pages -= 1;
        self.code.remove(&piece.linear);
        let key = piece.physical | u64::from(piece.bytes == LARGE);
        if let Some(places) = self.by_physical.get_mut(&key) {
            places.retain(|place| *place != piece.linear);
            if places.is_empty() {
                self.by_physical.remove(&key);
            }
        }
        self.push(Change::Unmap { at: piece.linear, len: piece.bytes });
    }

    /// Lets nobody write a guest-physical page unseen.
    pub fn protect(&mut self, guest: &Guest, physical: u64) {
        let small = self.by_physical.get(&physical).cloned().unwrap_or_default();
        let large = self.by_physical.get(&(physical & !(LARGE - 1) | 1)).cloned().unwrap_or_default();
        let within = large.into_iter().map(|start| start | physical & (LARGE - 1));
        let Some(offset) = guest.ram.file_offset(physical) else { return };
        for linear in small.into_iter().chain(within) {
            let Some(rights) = self.rights(linear).filter(|rights| rights.write) else { continue };
            if let Some(table) = self.tables.get_mut(&(linear / LARGE)) {
                table.set_writable(linear, false);
            }
            let (offset, execute) = (offset as u64, rights.execute);
            self.push(Change::Map { at: linear, len: PAGE, offset, write: false, execute });
        }
    }

    /// The code in a guest-physical page is not what it was.
    pub fn forget_code(&mut self, physical: u64) {
        let places = self.by_physical.get(&physical).cloned().unwrap_or_default();
        places
            .into_iter()
            .filter(|place| self.code.contains(place))
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|place| self.unmap(place));
    }

    /// A page is mapped no more unless the tables have it as it was.
    pub fn flush_page(&mut self, tables: Tables, linear: u64) {
        let Some(table) = self.tables.get(&(linear / LARGE)).filter(|table| table.mapped(linear).is_some())
        else {
            return;
        };
        let now = entry_of_page(tables.paging, tables.guest, linear);
        if now.is_none_or(|now| !table.has(linear, now)) {
            self.unmap(linear);
        }
    }

    /// Takes away what the guest's tables do not have any more as it is mapped, if that may be anything since they were
    /// last compared. Whether anything to speak of is left: if not, another program has the number of one that has ended.
    pub fn compare(&mut self, tables: Tables, epoch: u64) -> bool {
        if std::mem::replace(&mut self.epoch, epoch) == epoch {
            return true;
        }
        let before = self.pages;
        let stale: Vec<u64> = self.tables.values_mut().flat_map(|table| table.stale(tables)).collect();
        stale.into_iter().for_each(|page| self.unmap(page));
        self.pages >= before / 2
    }

    /// Takes all away.
    pub fn clear(&mut self) {
        self.tables.clear();
        self.code.clear();
        self.by_physical.clear();
        self.pages = 0;
        let Range { start, end } = self.own;
        self.changes = vec![Change::Unmap { at: 0, len: start }, Change::Unmap { at: end, len: END - end }];
    }

    /// Lists a change, as one with the last if that goes on in it.
    fn push(&mut self, change: Change) {
        match (self.changes.last_mut(), change) {
            (
                Some(Change::Map { at, len, offset, write, execute }),
                Change::Map { at: next, len: more, offset: from, write: w, execute: x },
            ) if *at + *len == next && *offset + *len == from && (*write, *execute) == (w, x) => *len += more,
            (Some(Change::Unmap { at, len }), Change::Unmap { at: next, len: more })
                if *at + *len == next =>
            {
                *len += more;
            }
            _ => self.changes.push(change),
        }
    }
}
