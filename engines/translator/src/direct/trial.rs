//! Whether a program that runs directly would be faster translated: now and then it is tried.
//!
//! What a burst gains is an estimate, and too high for a program that translates well, as a loop of few instructions or the rounds of a
//! hash do. Nor does it know what else a stub's turns cost, such as a pipeline of two programs with a stub each, which wake each
//! other. But who does much the same all the time shows it, if it is seen both ways one behind the other.

use super::pace::Pace;

/// Entries to the kernel before the first trial, and how many times more before each further one.
const FIRST: u64 = 512;
const RARER: u64 = 8;
/// Entries of a trial, at most.
const TRIAL: u64 = 48;

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub struct Trials {
    /// How fast it is, directly.
    directly: Pace,
    /// Entries until the next trial, and before that.
    left: u64,
    period: u64,
    /// How fast it is now that it is tried.
    translated: Option<Pace>,
}

impl Trials {
    /// None yet.
    pub fn new() -> Self {
        Self { directly: Pace::default(), left: FIRST, period: FIRST, translated: None }
    }

    /// Whether it runs translated for now.
    pub fn is_on(&self) -> bool {
        self.translated.is_some()
    }

    /// The program has run for a while, at this pace. If there `is_doubt` whether direct execution pays, it may be tried. Whether a trial
    /// has shown that it does not.
    pub fn passed(&mut self, directly: bool, pace: Pace, is_doubt: bool) -> bool {
        match &mut self.translated {
            None if directly => {
                self.directly.add(pace);
                self.left = self.left.saturating_sub(pace.entries);
                if self.left == 0 && is_doubt {
                    self.translated = Some(Pace::default());
                }
                false
            }
            Some(translated) if !directly => {
                translated.add(pace);
                // Once it has taken longer than directly, however few entries that were, it need not be waited for.
                let is_slower = translated.cycles > self.directly.each() * TRIAL;
                if translated.entries < TRIAL && !is_slower {
                    return false;
                }
                self.translated = None;
                self.period = self.period.saturating_mul(RARER);
                self.left = self.period;
                !is_slower
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs for so many entries of so many cycles directly and translated; how many of each until it is decided, and how.
    fn run(trials: &mut Trials, directly: u64, translated: u64) -> (u64, u64, bool) {
        let (mut before, mut within) = (0, 0);
        while !trials.is_on() {
            assert!(!trials.passed(true, Pace { cycles: directly, entries: 1 }, true));
            before += 1;
        }
        loop {
            let is_better = trials.passed(false, Pace { cycles: translated, entries: 1 }, true);
            within += 1;
            if !trials.is_on() {
                return (before, within, is_better);
            }
        }
    }

    #[test]
    fn who_is_faster_translated_is_found_out() {
        assert_eq!(run(&mut Trials::new(), 1000, 900), (FIRST, TRIAL, true));
        assert!(!run(&mut Trials::new(), 1000, 1100).2);
    }

    #[test]
    fn who_is_much_slower_is_tried_for_a_moment_and_seldom() {
        let mut trials = Trials::new();
        let tries = [0; 3].map(|_| run(&mut trials, 1000, 9000));
        let within = TRIAL / 9 + 1;
        assert_eq!(tries, [1, RARER, RARER * RARER].map(|times| (FIRST * times, within, false)));
    }

    #[test]
    fn who_is_beyond_doubt_is_not_tried() {
        let mut trials = Trials::new();
        for _ in 0..2 * FIRST {
            trials.passed(true, Pace { cycles: 1000, entries: 1 }, false);
        }
        assert!(!trials.is_on());
        trials.passed(true, Pace { cycles: 1000, entries: 1 }, true);
        assert!(trials.is_on());
        trials.passed(true, Pace { cycles: 1000, entries: 1 }, true);
        assert!(trials.is_on(), "a stretch of before");
    }
}
