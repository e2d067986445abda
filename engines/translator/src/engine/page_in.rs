//! What a burst needs to have mapped: see [`crate::direct`].

use vcpu::CpuState;
use x86::Exception;
use x86::paging::{Access, AccessKind, probe};

use super::Translator;
use crate::direct::{self, AHEAD, END, Verdict, joins, judge};
use crate::windows::{Mappable, PAGE, Tables};

/// Pages that are mapped at once, if they may be: surroundings of one.
const AROUND: u64 = 16 * PAGE;

/// What comes of it.
pub(super) enum PagedIn {
    /// What the burst has met will pass now.
    Passes,
    /// It will not, for reasons of ours: the translator is to go on.
    Refused,
    /// The guest's tables do not have it.
    Faults(Exception),
}

impl Translator {
    fn rights(&mut self, linear: u64) -> Option<direct::Rights> {
        self.tlb.direct.space(self.paging.cr3)?.shadow.rights(linear)
    }

    pub(super) fn may_execute(&mut self, linear: u64) -> bool {
        self.rights(linear).is_some_and(|rights| rights.execute)
    }

    /// Maps what a burst has met without, or with less than it wanted, and marks the guest's tables as the access does.
    pub(super) fn page_in(&mut self, cpu: &CpuState, linear: u64, kind: AccessKind) -> PagedIn {
        if linear >= END {
            return PagedIn::Refused;
        }
        let fetch = kind == AccessKind::Execute;
        let marked = match fetch {
            true => self.code_page(cpu, linear).map(|_| true),
            false => self.page(linear, kind == AccessKind::Write).map(|page| page.fast),
        };
        match marked {
            Ok(true) => self.map_around(linear, fetch),
            Ok(false) => return PagedIn::Refused,
            Err(fault) => {
                self.counters.slow_faults += 1;
                if let Some(space) = self.tlb.direct.space(self.paging.cr3) {
                    space.wanted = Some(linear);
                }
                return PagedIn::Faults(fault);
            }
        }
        let passes = self.rights(linear).is_some_and(|rights| match kind {
            AccessKind::Read => true,
            AccessKind::Write => rights.write,
            AccessKind::Execute => rights.execute,
        });
        if passes { PagedIn::Passes } else { PagedIn::Refused }
    }

    /// Maps a page, to be executed or not, and what lies around it and is not mapped, as far as the tables allow it now.
    pub(super) fn map_around(&mut self, linear: u64, fetch: bool) {
        let start = linear & !(AROUND - 1);
        for page in (start..start + AROUND).step_by(PAGE as usize) {
            if page == linear & !(PAGE - 1) {
                self.map_directly(page, fetch);
            } else if self.rights(page).is_none() {
                self.map_directly(page, false);
            }
        }
    }

    /// Maps a page. One that may be written and executed is either, as is wanted: what is executed has to be watched.
    fn map_directly(&mut self, linear: u64, fetch: bool) {
        let tables = Tables { guest: &self.guest, paging: &self.paging };
        let Some(page) = Mappable::at(tables, linear) else { return };
        let is_data = !fetch && page.writable;
        let execute = !page.entry.large && !is_data && self.is_harmless(linear, fetch);
        if let Some(space) = self.tlb.direct.space(self.paging.cr3) {
            space.shadow.map(&self.guest, page, execute);
        }
    }

    /// Whether the page at this address may be executed as it is. Breakpoints are for what is about to be.
    fn is_harmless(&mut self, linear: u64, wanted: bool) -> bool {
        let start = linear & !(PAGE - 1);
        let Some(physical) = self.code_at(start) else { return false };
        self.watch_code(physical, start);
        match self.cache.originals().verdict(physical) {
            Some(Verdict::Harmless) => true,
            Some(Verdict::Open) => {
                let next = self.code_at(start.wrapping_add(PAGE));
                let bytes = |at: u64| self.guest.ram.read_u16(at).ok().map(u16::to_le_bytes);
                let last = bytes(physical + PAGE - 2);
                let first = next.and_then(bytes);
                last.zip(first).is_some_and(|(last, first)| joins(last, first))
            }
            Some(Verdict::Guarded(places)) if wanted => {
                let space = self.tlb.direct.space(self.paging.cr3);
                space.is_some_and(|space| space.guard(start, places))
            }
            Some(Verdict::Guarded(_) | Verdict::Sensitive) | None => false,
        }
    }

    /// Where the page of code at this address is, if it may be executed.
    fn code_at(&self, linear: u64) -> Option<u64> {
        let fetch = Access::explicit(AccessKind::Execute, true);
        let found = probe(&self.paging, &self.guest, linear, fetch).ok()?;
        Some(found.physical & !(PAGE - 1))
    }

    /// Looks at a page's code, unless that has been done, and has writes to it noticed from now on. What lies in front of it
    /// says only where its first instruction begins, as long as nobody has the page elsewhere, too.
    fn watch_code(&mut self, physical: u64, linear: u64) {
        let mut bytes = [0; PAGE as usize];
        if self.cache.originals().knows(physical) {
            return;
        }
        // Before it is read.
        let watched = self.cache.watch(&self.guest, &mut self.tlb, physical);
        let read = watched && self.guest.ram.read(physical, &mut bytes).is_ok();
        let mut ahead = [0; AHEAD];
        let before = self.code_at(linear.wrapping_sub(PAGE)).map(|before| before + PAGE - AHEAD as u64);
        let before =
            before.filter(|at| self.guest.ram.read(*at, &mut ahead).is_ok()).map_or(&[][..], |_| &ahead);
        if watched {
            let counts_as_host = self.cache.region.context_ref().tsc_offset == 0;
            let verdict = if read { judge(before, &bytes, counts_as_host) } else { Verdict::Sensitive };
            self.cache.add_original(physical, verdict);
        }
    }
}
