//! How fast programs get on: how long it takes from one entry to the kernel to the next, translated or directly.

/// Entries of which a pace is remembered, at most twice as many.
const ENTRIES: u64 = 256;
/// Most cycles of a stretch that counts: the machine has slept in longer ones, for all we know.
const LONGEST: u64 = 1 << 24;

/// A sum of stretches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Cycles of the time-stamp counter, those of the guest's kernel among them.
    pub cycles: u64,
    /// How often the kernel was entered.
    pub entries: u64,
}

impl Pace {
    /// A stretch of so many cycles, with so many entries. What is long ago counts for less.
    pub fn add(&mut self, more: Pace) {
        self.cycles += more.cycles;
        self.entries += more.entries;
        if self.entries > 2 * ENTRIES {
            self.cycles /= 2;
            self.entries /= 2;
        }
    }

    /// Cycles from one entry to the next.
    pub fn each(&self) -> u64 {
        self.cycles / self.entries.max(1)
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

    /// It ends; gives which address space's it was, and if it says anything, whether it ran directly, and how fast.
    pub fn end(&self, entries: u64, now: u64) -> Option<(u64, bool, Pace)> {
        let cycles = now.wrapping_sub(self.since);
        let pace = Pace { cycles, entries: entries.wrapping_sub(self.entries) };
        (cycles <= LONGEST).then_some((self.cr3, self.directly, pace))
    }

    /// Another begins.
    pub fn begin(&mut self, cr3: u64, directly: bool, entries: u64, now: u64) {
        *self = Self { cr3, directly, since: now, entries };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_ago_counts_for_less() {
        let mut now = Pace::default();
        let mut add = |each: u64| now.add(Pace { cycles: each * 100, entries: 100 });
        (0..100).for_each(|_| add(1000));
        (0..30).for_each(|_| add(9000));
        assert!(now.each() > 8000);
        assert_eq!(Pace::default().each(), 0);
    }

    #[test]
    fn a_stretch_is_of_who_ran_before() {
        let mut stretch = Stretch::default();
        assert_eq!(stretch.end(10, LONGEST * 9), None, "nobody knows since when");
        stretch.begin(1, false, 10, LONGEST * 9);
        assert!(stretch.is_of(1, false) && !stretch.is_of(1, true));
        assert_eq!(stretch.end(15, LONGEST * 9 + 500), Some((1, false, Pace { cycles: 500, entries: 5 })));
        assert_eq!(stretch.end(15, LONGEST * 10 + 501), None, "who knows who slept");
    }
}
