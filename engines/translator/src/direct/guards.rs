//! Where the processor's breakpoints are in a stub: at what is sensitive in pages that are otherwise harmless.
//!
//! There are few, and they are dear: the kernel loads them at every switch to the stub and back, and in a virtual machine its host has to
//! do that for it, which made a burst take four times as long. But a program begins with code that has some, as the C library
//! finds out what the processor can do, and comes by there once. So a page is refused first, which has the translator run it;
//! has its breakpoints if that happens again and again; and loses them after a while, since nobody sees whether it is still run.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use host::stub::BREAKPOINTS;

use super::scan::Places;
use crate::hash::KeyHasher;

/// How often a page is refused before it has breakpoints.
const REFUSALS: u32 = 16;
/// For how many cycles of the time-stamp counter a page keeps them, at first: some milliseconds; twice as long each time.
const KEPT: u64 = 1 << 23;
const MOST_TIMES: u32 = 8;
/// Pages of which anything is known.
const MOST_PAGES: usize = 1024;

/// A page that has breakpoints.
#[derive(Clone, Copy, Debug)]
struct Guard {
    page: u64,
    places: Places,
    since: u64,
    /// How long it keeps them.
    kept: u64,
}

/// What is known of a page beside that.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    refusals: u32,
    /// How often it had breakpoints.
    times: u32,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Guards {
    set: Vec<Guard>,
    records: HashMap<u64, Record, BuildHasherDefault<KeyHasher>>,
}

impl Guards {
    /// Gives breakpoints to a page that is about to be run, unless it has them or is to be refused first (`at_once` says it is not):
    /// the pages that have lost theirs for it, or none if it has none. `is_run` says whether a page may be run.
    pub fn give(
        &mut self,
        (page, places): (u64, Places),
        now: u64,
        at_once: bool,
        is_run: impl Fn(u64) -> bool,
    ) -> Option<Vec<u64>> {
        if self.set.iter().any(|guard| (guard.page, guard.places) == (page, places)) {
            return Some(Vec::new());
        }
        if !at_once && !self.is_due(page) {
            return None;
        }
        self.set.retain(|guard| guard.page != page && is_run(guard.page));
        // The oldest are in front.
        let room = BREAKPOINTS - places.iter().count();
        let is_enough = |lost: &usize| count(&self.set[*lost..]) <= room;
        let lost = (0..=self.set.len()).find(is_enough)?;
        if self.set[..lost].iter().any(|guard| now.wrapping_sub(guard.since) <= KEPT) {
            return None;
        }
        let lost = self.set.drain(..lost).map(|guard| guard.page).collect();
        let record = self.records.entry(page).or_default();
        let kept = KEPT << record.times;
        *record = Record { refusals: 0, times: (record.times + 1).min(MOST_TIMES) };
        self.set.push(Guard { page, places, since: now, kept });
        Some(lost)
    }

    /// Takes them from pages that have had them for long, which are to be refused again: those.
    pub fn age(&mut self, now: u64) -> Vec<u64> {
        let is_old = |guard: &Guard| now.wrapping_sub(guard.since) > guard.kept;
        self.set.extract_if(.., |guard| is_old(guard)).map(|guard| guard.page).collect()
    }

    /// None can be set: the pages that want some.
    pub fn clear(&mut self) -> Vec<u64> {
        self.set.drain(..).map(|guard| guard.page).collect()
    }

    /// Where the breakpoints belong.
    pub fn addresses(&self) -> impl Iterator<Item = u64> {
        self.set.iter().flat_map(|guard| guard.places.iter().map(|offset| guard.page + offset))
    }

    /// Whether a page has been refused often enough.
    fn is_due(&mut self, page: u64) -> bool {
        if self.records.len() > MOST_PAGES {
            self.records.clear();
        }
        let refusals = &mut self.records.entry(page).or_default().refusals;
        *refusals += 1;
        *refusals > REFUSALS
    }
}

/// How many breakpoints these have.
fn count(guards: &[Guard]) -> usize {
    guards.iter().map(|guard| guard.places.iter().count()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = 0x1000;
    const SECOND: u64 = 0x5000;

    fn three() -> Places {
        let mut places = Places::default();
        assert!([1, 2, 3].into_iter().all(|at| places.add(at)));
        places
    }

    fn give(guards: &mut Guards, page: u64, now: u64) -> Option<Vec<u64>> {
        guards.give((page, three()), now, true, |_| true)
    }

    #[test]
    fn a_page_is_refused_first() {
        let mut guards = Guards::default();
        let mut is_refused = || guards.give((FIRST, three()), 0, false, |_| true).is_none();
        assert_eq!((0..100).take_while(|_| is_refused()).count(), REFUSALS as usize);
        assert!(guards.addresses().eq([FIRST + 1, FIRST + 2, FIRST + 3]));
        assert!(guards.give((FIRST, Places::default()), 0, false, |_| true).is_none(), "other code");
    }

    #[test]
    fn who_has_them_keeps_them_for_longer_each_time() {
        let mut guards = Guards::default();
        for times in 0..2 * MOST_TIMES {
            let kept = KEPT << times.min(MOST_TIMES);
            assert_eq!(give(&mut guards, FIRST, 1000), Some(Vec::new()));
            assert!(guards.age(1000 + kept).is_empty());
            assert_eq!(guards.age(1001 + kept), [FIRST]);
            assert_eq!(guards.addresses().count(), 0);
        }
    }

    #[test]
    fn the_oldest_gives_way_but_not_at_once() {
        let mut guards = Guards::default();
        assert_eq!(give(&mut guards, FIRST, 0), Some(Vec::new()));
        assert_eq!(give(&mut guards, SECOND, KEPT), None);
        assert_eq!(give(&mut guards, FIRST, KEPT), Some(Vec::new()), "it has them");
        assert_eq!(give(&mut guards, SECOND, KEPT + 1), Some(vec![FIRST]));
        let mut two = Guards::default();
        let mut one = Places::default();
        assert!(one.add(7));
        assert_eq!(two.give((FIRST, one), 0, true, |_| true), Some(Vec::new()));
        assert_eq!(give(&mut two, SECOND, KEPT), Some(Vec::new()));
        assert_eq!(give(&mut two, 0x9000, KEPT + 1), None, "only one of both has had them long enough");
        assert_eq!(two.addresses().count(), 4, "nobody has lost any for nothing");
        assert_eq!(give(&mut two, 0x9000, 2 * KEPT + 1), Some(vec![FIRST, SECOND]));
        assert!(guards.addresses().all(|address| address > SECOND));
        assert_eq!(
            guards.give((FIRST, three()), KEPT + 1, true, |_| false),
            Some(Vec::new()),
            "nobody runs it"
        );
    }
}
