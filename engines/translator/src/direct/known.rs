//! Which code is worth it: where programs come by for which direct execution has paid, or has not.
//!
//! A program that runs again, as a compiler does, is known by the guest-physical pages of its code, which the guest has in its page
//! cache. Some belong to many programs, as those of libraries do, and say nothing: what has been met by one that was not worth it is
//! not believed any more.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::hash::KeyHasher;

/// Pages of which anything is known.
const MOST_PAGES: usize = 1 << 16;
/// The length of a trail.
const TRAIL: usize = 48;

/// The last pages in which code of an address space was looked up.
#[derive(Clone, Copy, Debug)]
pub struct Trail {
    pages: [u64; TRAIL],
    next: u8,
}

/// No page's address.
const NONE: u64 = 1;

impl Default for Trail {
    fn default() -> Self {
        Self { pages: [NONE; TRAIL], next: 0 }
    }
}

impl Trail {
    /// Code in this page is about to run.
    pub fn note(&mut self, page: u64) {
        if !self.pages.contains(&page) {
            self.pages[usize::from(self.next)] = page;
            self.next = (self.next + 1) % TRAIL as u8;
        }
    }

    fn pages(&self) -> impl Iterator<Item = u64> {
        self.pages.iter().copied().filter(|page| *page != NONE)
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Known {
    /// Whether all programs that were met there have been worth it.
    pages: HashMap<u64, bool, BuildHasherDefault<KeyHasher>>,
}

impl Known {
    /// Whether a program whose code is there is worth it, as far as anybody knows.
    pub fn pays(&self, page: u64) -> bool {
        self.pages.get(&page).is_some_and(|pays| *pays)
    }

    /// Whether all that a program has come by is known from those that were not worth it.
    pub fn is_hopeless(&self, trail: &Trail) -> bool {
        let mut verdicts = trail.pages().map(|page| self.pages.get(&page) == Some(&false)).peekable();
        verdicts.peek().is_some() && verdicts.all(|bad| bad)
    }

    /// A program that has come by there was worth it, or was not.
    pub fn learn(&mut self, trail: &Trail, pays: bool) {
        for page in trail.pages() {
            if self.pages.len() >= MOST_PAGES {
                self.pages.clear();
            }
            *self.pages.entry(page).or_insert(pays) &= pays;
        }
    }

    /// Other code is in a page now.
    pub fn forget(&mut self, page: u64) {
        self.pages.remove(&page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(pages: &[u64]) -> Trail {
        let mut trail = Trail::default();
        pages.iter().for_each(|page| trail.note(*page));
        trail
    }

    #[test]
    fn what_one_program_shares_with_a_worse_one_says_nothing() {
        let mut known = Known::default();
        known.learn(&trail(&[0x1000, 0x2000]), true);
        known.learn(&trail(&[0x2000, 0x3000]), false);
        known.learn(&trail(&[0x2000, 0x3000]), true);
        assert_eq!(
            [0x1000, 0x2000, 0x3000, 0x4000].map(|page| known.pays(page)),
            [true, false, false, false]
        );
        let hopeless = |pages| known.is_hopeless(&trail(pages));
        assert_eq!(
            [
                hopeless(&[0x2000, 0x3000]),
                hopeless(&[0x2000, 0x1000]),
                hopeless(&[0x3000, 0x4000]),
                hopeless(&[])
            ],
            [true, false, false, false]
        );
        known.forget(0x3000);
        known.learn(&trail(&[0x3000]), true);
        assert!(known.pays(0x3000), "other code");
    }

    #[test]
    fn a_trail_has_the_last_pages() {
        let pages: Vec<u64> = (1..=2 * TRAIL as u64).map(|page| page << 12).collect();
        let mut trail = trail(&pages);
        pages.iter().rev().take(TRAIL).for_each(|page| trail.note(*page));
        let mut kept: Vec<u64> = trail.pages().collect();
        kept.sort_unstable();
        assert_eq!(kept, pages[TRAIL..]);
    }

    #[test]
    fn no_guest_fills_the_table_for_good() {
        let mut known = Known::default();
        (0..2 * MOST_PAGES as u64).for_each(|page| known.learn(&trail(&[page << 12]), true));
        assert!(known.pages.len() <= MOST_PAGES && known.pays((2 * MOST_PAGES as u64 - 1) << 12));
    }
}
