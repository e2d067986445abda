//! Where the processor's breakpoints are in a stub: at what is sensitive in pages that are otherwise harmless.
//!
//! There are few, and a program begins with code that has some: what the C library finds out of the processor. So the pages
//! that were given theirs first give way, but not faster than now and then, since that takes some system calls.

use host::stub::{BREAKPOINTS, Stub};

use super::scan::Places;
use super::shadow::Shadow;
use crate::windows::PAGE;

/// For how many cycles of the time-stamp counter a page keeps its breakpoints: some milliseconds.
const KEPT: u64 = 1 << 23;

/// One that is set.
#[derive(Clone, Copy, Debug)]
struct Guard {
    address: u64,
    since: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Guards([Option<Guard>; BREAKPOINTS]);

impl Guards {
    /// Sets those for a page that is about to be mapped. `false` if there is no room.
    pub fn set(
        &mut self,
        stub: &mut Stub,
        shadow: &mut Shadow,
        page: u64,
        places: &Places,
        now: u64,
    ) -> bool {
        places.iter().map(|offset| page + offset).all(|address| {
            if self.has(address) {
                return true;
            }
            let free = self.room(shadow, page, now).filter(|n| stub.set_breakpoint(*n, address).is_ok());
            free.map(|n| self.0[n] = Some(Guard { address, since: now })).is_some()
        })
    }

    fn has(&self, address: u64) -> bool {
        self.0.iter().flatten().any(|guard| guard.address == address)
    }

    /// One that is of no use, or can be given up, for a page.
    fn room(&self, shadow: &mut Shadow, page: u64, now: u64) -> Option<usize> {
        let others = |guard: &Guard| guard.address / PAGE != page / PAGE;
        if let Some(free) = self.0.iter().position(Option::is_none) {
            return Some(free);
        }
        let of_others = || (0..BREAKPOINTS).filter_map(|n| Some((n, self.0[n].filter(others)?)));
        let unused = |guard: &Guard| !shadow.rights(guard.address).is_some_and(|rights| rights.execute);
        if let Some((free, _)) = of_others().find(|(_, guard)| unused(guard)) {
            return Some(free);
        }
        let (oldest, guard) = of_others().min_by_key(|(_, guard)| guard.since)?;
        let had_it_long = now.wrapping_sub(guard.since) > KEPT;
        had_it_long.then(|| {
            shadow.unmap(guard.address);
            oldest
        })
    }
}
