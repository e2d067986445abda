//! What is mapped in windows, page by page.

use host::{Protection, Reservation};
use x86::paging::{Access, AccessKind, entry_of_page, probe};

use super::mappable::Mappable;
use super::table::Table;
use super::{GIGABYTE, LARGE, LAST, PAGE, Tables, Windows};

impl Windows {
    /// Lets nobody write a guest-physical page unseen.
    pub fn protect(&mut self, physical: u64) {
        let small = self.writable.remove(&physical).unwrap_or_default();
        let large = self.writable.get(&(physical & !(LARGE - 1) | 1)).cloned().unwrap_or_default();
        let within = large.into_iter().map(|(n, start)| (n, start | physical & (LARGE - 1)));
        for (n, linear) in small.into_iter().chain(within) {
            let place = place_of(n, linear);
            let protected = match &mut self.reservation {
                Some(reservation) => reservation.protect(place, PAGE as usize, Protection::Read).is_ok(),
                None => true,
            };
            // What cannot be protected has to go.
            if !protected {
                self.unmap(n, linear);
            } else if let Some(table) = self.table(n, linear) {
                table.set_writable(linear, false);
            }
        }
    }

    /// Takes all pages out of one.
    pub(super) fn empty(&mut self, n: usize) {
        let Some(window) = &mut self.list[n] else { return };
        self.tables -= window.tables.len();
        let pages: usize = window.tables.drain(..).map(|table| table.len()).sum();
        if pages > 0 {
            self.withdraw(n << 30, 1 << 30);
        }
        self.pages -= pages;
        self.tally.unmapped += pages as u64;
        for places in self.writable.values_mut() {
            places.retain(|(window, _)| *window != n);
        }
        self.writable.retain(|_, places| !places.is_empty());
    }

    /// Whether a page is mapped, and if so for writing.
    pub(super) fn mapped(&self, n: usize, linear: u64) -> Option<bool> {
        let tables = &self.list[n].as_ref()?.tables;
        tables.iter().find(|table| table.holds(linear))?.mapped(linear)
    }

    pub(super) fn table(&mut self, n: usize, linear: u64) -> Option<&mut Table> {
        self.list[n].as_mut()?.tables.iter_mut().find(|table| table.holds(linear))
    }

    /// Lets a page that is mapped be written, if it may be.
    pub(super) fn make_writable(&mut self, tables: Tables, n: usize, linear: u64) -> bool {
        // A page that is dirty now, most times.
        self.renew(tables, n, linear & !(PAGE - 1));
        self.mapped(n, linear) == Some(true)
            || self.map(tables, n, linear) && self.mapped(n, linear) == Some(true)
    }

    /// Maps one page as the guest's tables have it now, if ring 3 may read it and has.
    pub(super) fn map(&mut self, tables: Tables, n: usize, linear: u64) -> bool {
        let guest = tables.guest;
        let Some(page) = Mappable::at(tables, linear) else { return false };
        let Mappable { entry, start, physical, bytes, offset, .. } = page;
        if (start + bytes - 1) & (GIGABYTE - 1) >= LAST {
            return false;
        }
        let (writable, refused) = page.writes(guest);
        // What is mapped beside it rests on the same table, or goes.
        let beside = self.table(n, linear).filter(|table| !table.is_of(entry));
        let overlapped = beside.map_or(vec![linear], |table| table.all().collect());
        overlapped.into_iter().for_each(|page| self.unmap(n, page));
        let Some(reservation) = &mut self.reservation else { return false };
        let protection = if writable { Protection::ReadWrite } else { Protection::Read };
        let place = place_of(n, start);
        if reservation.place_memfd(place, bytes as usize, guest.ram.memfd(), offset, protection).is_err() {
            // No more mappings for this process.
            self.rest();
            return false;
        }
        self.tally.mapped += 1;
        self.pages += 1;
        if writable {
            let key = physical | u64::from(entry.large);
            self.writable.entry(key).or_default().push((n, start));
        }
        let Some(window) = &mut self.list[n] else { return false };
        if !window.tables.iter().any(|table| table.holds(linear)) {
            window.tables.push(Table::new(linear));
            self.tables += 1;
        }
        if let Some(table) = window.tables.iter_mut().find(|table| table.holds(linear)) {
            table.set(linear, entry, writable);
        }
        refused.into_iter().for_each(|page| self.protect(page));
        true
    }

    /// A page that is mapped gets the rights that the tables give it now, or goes if that is not all that has changed.
    /// Whether anything has.
    pub(super) fn renew(&mut self, tables: Tables, n: usize, linear: u64) -> bool {
        let Tables { guest, paging } = tables;
        let Some(table) = self.table(n, linear).filter(|table| table.mapped(linear).is_some()) else {
            return false;
        };
        let now = entry_of_page(paging, guest, linear);
        if now.is_some_and(|now| table.has(linear, now)) {
            return false;
        }
        let found = probe(paging, guest, linear, Access::explicit(AccessKind::Read, true));
        let (Some(now), Ok(found)) = (now.filter(|now| table.differs_in_rights(linear, *now)), found) else {
            self.unmap(n, linear);
            return true;
        };
        let physical = found.physical & !(PAGE - 1);
        let writable = found.writable && guest.admits_writes(physical);
        let protection = if writable { Protection::ReadWrite } else { Protection::Read };
        let protect = |r: &mut Reservation| r.protect(place_of(n, linear), PAGE as usize, protection).is_ok();
        if found.global || !now.accessed() || !self.reservation.as_mut().is_some_and(protect) {
            self.unmap(n, linear);
            return true;
        }
        self.forget_writable(physical, n, linear);
        if writable {
            self.writable.entry(physical).or_default().push((n, linear));
        }
        if let Some(table) = self.table(n, linear) {
            table.set(linear, now, writable);
        }
        true
    }

    pub(super) fn forget_writable(&mut self, key: u64, n: usize, linear: u64) {
        if let Some(places) = self.writable.get_mut(&key) {
            places.retain(|place| *place != (n, linear));
            if places.is_empty() {
                self.writable.remove(&key);
            }
        }
    }

    /// Takes one page out, if it is mapped; all of it, if it is a large one.
    pub(super) fn unmap(&mut self, n: usize, linear: u64) {
        let Some(window) = &mut self.list[n] else { return };
        let Some(at) = window.tables.iter().position(|table| table.holds(linear)) else { return };
        let Some(piece) = window.tables[at].take(linear) else { return };
        if window.tables[at].len() == 0 {
            window.tables.swap_remove(at);
            self.tables -= 1;
        }
        self.withdraw(place_of(n, piece.linear), piece.bytes as usize);
        self.pages -= 1;
        self.tally.unmapped += 1;
        self.forget_writable(piece.physical | u64::from(piece.bytes == LARGE), n, piece.linear);
    }

    /// Leaves nothing in a part of the reservation.
    pub(super) fn withdraw(&mut self, place: usize, bytes: usize) {
        if let Some(reservation) = &mut self.reservation
            && reservation.place_anonymous(place, bytes, Protection::None).is_err()
        {
            // The host is out of memory, since this takes mappings and does not make any. The guest may find what it had there,
            // which is its own; nothing more is mapped.
            self.rest();
        }
    }
}

/// Where a linear address is in the reservation, in the window of this number.
fn place_of(n: usize, linear: u64) -> usize {
    n << 30 | (linear & (GIGABYTE - 1)) as usize
}
