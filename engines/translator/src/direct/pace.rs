//! How fast programs get on: how long it takes from one entry to the kernel to the next, translated and directly.
//!
//! What a burst gains is an estimate, and too high for a program that translates well, as a loop of few instructions between
//! two system calls does: in a pipeline of two such programs, each with a stub, waking one after the other costs more than anything. But then
//! such a program does the same all the time, and it shows whether it has got slower.

/// Entries of a program that tell how fast it is: translated, and directly.
const TRANSLATED: u64 = 64;
const DIRECTLY: u64 = 256;
/// Most cycles of a stretch that counts: the machine has slept in longer ones, for all we know.
const LONGEST: u64 = 1 << 24;

/// A sum of stretches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    cycles: u64,
    entries: u64,
}

impl Pace {
    /// A stretch of so many cycles, with so many entries. What is long ago counts for less.
    pub fn add(&mut self, more: Pace) {
        self.cycles += more.cycles;
        self.entries += more.entries;
        if self.entries > 2 * DIRECTLY {
            self.cycles /= 2;
            self.entries /= 2;
        }
    }

    /// Whether a program that runs directly at this pace has been faster when it was translated, by a quarter at least; `false` if too
    /// little of either has been seen.
    pub fn is_slower_than(&self, translated: &Pace) -> bool {
        let each = |pace: &Pace| pace.cycles / pace.entries.max(1);
        let is_enough = self.entries >= DIRECTLY && translated.entries >= TRANSLATED;
        is_enough && each(self) > each(translated) + each(translated) / 4
    }
}

/// What has run since when: an address space, directly or not.
#[derive(Debug, Default)]
pub struct Stretch {
    cr3: u64,
    directly: bool,
    since: u64,
    /// How often ring 3 had entered the kernel then.
    entries: u64,
}

impl Stretch {
    /// Whether it is one of this address space, run like that.
    pub fn is_of(&self, cr3: u64, directly: bool) -> bool {
        (self.cr3, self.directly) == (cr3, directly)
    }

    /// It ends, and another begins; gives which address space's it was, and if it says anything, whether it ran directly, and how fast.
    pub fn end(&mut self, next: (u64, bool), entries: u64, now: u64) -> Option<(u64, bool, Pace)> {
        let (cr3, directly) = next;
        let last = std::mem::replace(self, Self { cr3, directly, since: now, entries });
        let cycles = now.wrapping_sub(last.since);
        let pace = Pace { cycles, entries: entries.wrapping_sub(last.entries) };
        (cycles <= LONGEST).then_some((last.cr3, last.directly, pace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(each: u64, entries: u64) -> Pace {
        Pace { cycles: each * entries, entries }
    }

    #[test]
    fn slower_is_who_takes_a_quarter_longer() {
        let translated = pace(1000, TRANSLATED);
        assert!(pace(1300, DIRECTLY).is_slower_than(&translated));
        assert!(!pace(1200, DIRECTLY).is_slower_than(&translated));
        assert!(!pace(9000, DIRECTLY - 1).is_slower_than(&translated), "too soon");
        assert!(!pace(9000, DIRECTLY).is_slower_than(&pace(1000, TRANSLATED - 1)));
        assert!(!Pace::default().is_slower_than(&Pace::default()));
    }

    #[test]
    fn what_is_long_ago_counts_for_less() {
        let mut now = Pace::default();
        (0..100).for_each(|_| now.add(pace(1000, 100)));
        (0..30).for_each(|_| now.add(pace(9000, 100)));
        assert!(now.is_slower_than(&pace(7000, TRANSLATED)));
    }

    #[test]
    fn a_stretch_is_of_who_ran_before() {
        let mut stretch = Stretch::default();
        assert_eq!(stretch.end((1, false), 10, LONGEST * 9), None, "nobody knows since when");
        assert!(stretch.is_of(1, false) && !stretch.is_of(1, true));
        let ended = stretch.end((1, true), 15, LONGEST * 9 + 500);
        assert_eq!(ended, Some((1, false, Pace { cycles: 500, entries: 5 })));
        assert_eq!(stretch.end((2, false), 15, LONGEST * 10 + 501), None, "who knows who slept");
    }
}
