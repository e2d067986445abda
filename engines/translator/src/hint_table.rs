//! The hints as they lie in memory, where generated code looks at them and fills them.
//!
//! One array for each of their parts: a page that is flushed is looked for among the tags alone, many at a time. A process
//! switch forgets them all, so that it matters which have been filled at all: code that fills one marks its group.
//!
//! A hint knows a page, or all of a window (see [`crate::windows`]): what a window's hint has to be lies here as well.

use std::mem::offset_of;

/// Hints in all; a power of two. Few are not enough: two busy accesses that share one throw each other's page out at 20
/// cycles each time.
pub const HINTS: usize = 16384;
/// Hints that are forgotten together, if one of them has been filled.
pub const GROUP: usize = 64;
const GROUPS: usize = HINTS / GROUP;
/// Groups in which looking for a page takes so long that it is better to forget them all, once in so many looks: most are of code that
/// ran once, and what runs now is filled again.
const MANY: usize = GROUPS / 8;
const LOOKS: u64 = 64;
/// Places for windows of the address space that is current: one for every gigabyte whose number has the same last bits.
pub const WINDOWS: usize = 128;
/// How often a hint may miss before the engine is asked.
pub const BUDGET: u64 = 128;
/// A page that no access can be in: its addresses are not canonical. Should the guest compute such an address all the same,
/// it meets the processor's own check of it, because then nothing is added to it.
const NOWHERE: u64 = 0x8000_5a5a_5a5a_5000;

/// The number of a hint.
pub type HintId = u16;

/// What a hint is filled with to know a window. The layout is known to generated code.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WindowHint {
    /// Linear address of its first byte.
    pub tag: u64,
    /// What is to be added to an address in it to get the host's.
    pub delta: u64,
    /// Largest distance from the first byte at which an access may begin.
    pub limit: u64,
    /// Host address of its first byte.
    pub host: u64,
}

impl WindowHint {
    /// What no access finds itself in, or meets the processor's own check in.
    pub const NONE: Self = Self { tag: NOWHERE, delta: 0, limit: 0, host: NOWHERE };
}

/// See the module's documentation.
#[derive(Debug)]
#[repr(C)]
pub struct HintTable {
    /// Linear address of the page, or of the window, that each knows.
    tags: [u64; HINTS],
    /// What is to be added to an address in it to get the host's.
    deltas: [u64; HINTS],
    /// In ring 3, the largest distance from the tag at which an access may begin.
    limits: [u64; HINTS],
    /// Misses left before the engine is to be asked.
    budgets: [u64; HINTS],
    /// Per group, not zero if one may be filled.
    filled: [u8; GROUPS],
    /// The windows, by place.
    windows: [WindowHint; WINDOWS],
    /// How often a page was looked for since all were forgotten for being many.
    looks: u64,
}

impl HintTable {
    /// Offset of the tags.
    pub const TAGS: usize = offset_of!(Self, tags);
    /// Offset of the deltas.
    pub const DELTAS: usize = offset_of!(Self, deltas);
    /// Offset of the limits.
    pub const LIMITS: usize = offset_of!(Self, limits);
    /// Offset of the windows.
    pub const WINDOWS: usize = offset_of!(Self, windows);
    /// Offset of the budgets.
    pub const BUDGETS: usize = offset_of!(Self, budgets);
    /// Offset of the groups' marks.
    pub const FILLED: usize = offset_of!(Self, filled);

    /// Forgets all pages, whatever is marked.
    pub fn empty(&mut self) {
        self.filled.fill(1);
        self.windows.fill(WindowHint::NONE);
        self.budgets.fill(BUDGET);
        self.forget_all();
    }

    /// Forgets all pages.
    pub fn forget_all(&mut self) {
        for group in 0..GROUPS {
            if std::mem::take(&mut self.filled[group]) != 0 {
                let hints = group * GROUP..(group + 1) * GROUP;
                self.tags[hints.clone()].fill(NOWHERE);
                self.deltas[hints].fill(0);
            }
        }
    }

    /// Forgets the pages in a range that begins at a multiple of its size, as does each page's tag; all pages now and then.
    pub fn forget_within(&mut self, linear: u64, bytes: u64) {
        let is_inside = |tag: u64| (tag ^ linear) & !(bytes - 1) == 0;
        let (marks, _) = self.filled.as_chunks::<8>();
        self.looks += 1;
        if self.looks > LOOKS && sum(marks) > MANY {
            self.looks = 0;
            return self.forget_all();
        }
        // Most groups have none filled: eight of them are passed over at once.
        let some = std::array::from_fn::<_, { GROUPS / 8 }, _>(|n| u64::from_ne_bytes(marks[n]) != 0);
        for group in (0..GROUPS / 8).filter(|n| some[*n]).flat_map(|n| 8 * n..8 * n + 8) {
            let hints = group * GROUP..(group + 1) * GROUP;
            // All are compared before any is looked at, so that it takes few instructions.
            let meets = |tags: &[u64]| tags.iter().fold(false, |met, tag| met | is_inside(*tag));
            if self.filled[group] == 0 || !meets(&self.tags[hints.clone()]) {
                continue;
            }
            for hint in hints {
                if is_inside(self.tags[hint]) {
                    self.forget(hint as HintId);
                }
            }
        }
    }

    /// Forgets the page of one hint.
    pub fn forget(&mut self, hint: HintId) {
        self.tags[usize::from(hint)] = NOWHERE;
        self.deltas[usize::from(hint)] = 0;
    }

    /// Says which window is at a place.
    pub fn set_window(&mut self, place: usize, hint: WindowHint) {
        self.windows[place] = hint;
    }

    /// Whether a hint knows a page.
    pub fn is_filled(&self, hint: HintId) -> bool {
        self.tags[usize::from(hint)] != NOWHERE
    }

    /// Whether a hint has missed so often that the engine is to be asked. From now on it may miss as often again.
    pub fn take_spent(&mut self, hint: HintId) -> bool {
        let budget = &mut self.budgets[usize::from(hint)];
        let spent = *budget > BUDGET;
        if spent {
            *budget = BUDGET;
        }
        spent
    }
}

/// How many of these bytes are 1, where the others are 0; fewer than 256 times eight.
fn sum(bytes: &[[u8; 8]]) -> usize {
    let each: u64 = bytes.iter().map(|eight| u64::from_ne_bytes(*eight)).sum();
    each.to_ne_bytes().into_iter().map(usize::from).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Box<HintTable> {
        let mut table = Box::new(HintTable {
            tags: [0; HINTS],
            deltas: [0; HINTS],
            limits: [0; HINTS],
            budgets: [0; HINTS],
            filled: [0; GROUPS],
            windows: [WindowHint::NONE; WINDOWS],
            looks: 0,
        });
        table.empty();
        table
    }

    impl HintTable {
        /// As generated code does it.
        fn fill(&mut self, n: usize, page: u64) {
            (self.tags[n], self.deltas[n]) = (page, 9);
            self.filled[n / GROUP] = 1;
        }

        fn known(&self) -> Vec<usize> {
            (0..HINTS).filter(|n| self.is_filled(*n as HintId)).collect()
        }
    }

    #[test]
    fn all_that_were_filled_are_forgotten() {
        let mut table = table();
        for n in [0, GROUP - 1, GROUP, HINTS - 1] {
            table.fill(n, 0x5000);
        }
        assert_eq!(table.known().len(), 4);
        table.forget_all();
        assert!(table.known().is_empty());
        assert!(table.filled.iter().all(|filled| *filled == 0));
        table.tags[7] = 0x5000;
        table.empty();
        assert!(table.known().is_empty(), "one that is not marked");
    }

    #[test]
    fn a_page_is_forgotten() {
        let mut table = table();
        table.fill(3, 0x5000);
        table.fill(4, 0x6000);
        table.fill(HINTS - 1, 0x5000);
        table.forget_within(0x5abc, 0x1000);
        assert_eq!(table.known(), [4]);
        assert_eq!((table.deltas[3], table.deltas[4]), (0, 9));
        assert!((NOWHERE as i64) << 16 >> 16 != NOWHERE as i64, "not canonical");
    }

    #[test]
    fn so_many_that_looking_takes_long_are_forgotten_now_and_then() {
        let mut table = table();
        let mut looks = |groups: usize| {
            (0..groups).for_each(|group| table.fill(group * GROUP, 0x5000));
            (1..=3 * LOOKS).find(|_| {
                table.forget_within(0x7000, 0x1000);
                table.known().is_empty()
            })
        };
        assert_eq!(looks(MANY), None);
        assert_eq!(looks(MANY + 1), Some(1), "it is long ago");
        assert_eq!(looks(MANY + 1), Some(LOOKS + 1));
    }

    #[test]
    fn a_budget_is_spent_once() {
        let mut table = table();
        table.budgets[5] = u64::MAX;
        assert!(table.take_spent(5));
        assert!(!table.take_spent(5));
        assert!(!table.take_spent(6));
    }
}
