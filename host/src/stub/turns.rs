//! How a stub and its owner take turns: *together* on one processor, each asleep while the other works, or *apart* on two, each
//! watching for the other for a while before it sleeps.
//!
//! Apart is several times as fast, as long as nobody falls asleep: an idle processor takes long to wake, and where another
//! program wants it, the stub may wait for as long as the scheduler lets that run, which is what hundreds of turns earn. So a stub begins together,
//! and goes apart once it has been run often in a row for a short time each; and if what turns apart cost is more than what the same turns
//! would have cost together, they go together again, longer each time.

/// Short turns in a row after which they go apart, at first and at most.
const PATIENCE: u32 = 16;
const MOST_PATIENCE: u32 = 4096;
/// Cycles of the time-stamp counter of a turn that is short, with the way there and back.
const SHORT: u64 = 200_000;
/// For how many cycles each watches for the other: some 200 us, as KVM watches for an interrupt before it lets a processor halt.
pub const WATCHED: u32 = 520_000;
/// Cycles that a way there and back takes together, before any has been measured, and at most: whoever has waited for longer has waited for others.
const USUAL: i64 = 40_000;
const MOST: i64 = 150_000;
/// How much of what has been earned apart is kept, in cycles: a rare wait for a whole slice of the scheduler's is no reason to go together.
const MOST_CREDIT: i64 = 32_000_000;

/// See the module's documentation.
#[derive(Debug)]
pub struct Turns {
    apart: bool,
    short: u32,
    patience: u32,
    /// Cycles that the way there and back takes together, of late.
    together: i64,
    /// Cycles that going apart has saved, of late.
    credit: i64,
}

impl Turns {
    pub fn new() -> Self {
        Self { apart: false, short: 0, patience: PATIENCE, together: USUAL, credit: 0 }
    }

    /// Whether the next turn is one apart.
    pub fn are_apart(&mut self) -> bool {
        if !self.apart && self.short >= self.patience {
            (self.apart, self.credit) = (true, MOST_CREDIT / 2);
        }
        self.apart
    }

    /// One has ended, of so many cycles for the way there and back, and so many for what was done there.
    pub fn ended(&mut self, way: u64, work: u64) {
        let is_short = way.saturating_add(work) < SHORT;
        let way = i64::try_from(way).unwrap_or(i64::MAX);
        if !self.apart {
            self.together += (way.min(MOST) - self.together) / 8;
            self.short = if is_short { self.short + 1 } else { 0 };
            return;
        }
        self.credit = self.credit.saturating_add(self.together - way).min(MOST_CREDIT);
        if self.credit == MOST_CREDIT {
            self.patience = PATIENCE;
        }
        if self.credit < 0 {
            (self.apart, self.short) = (false, 0);
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: u64 = 10_000;

    /// Turns together until they go apart.
    fn go_apart(turns: &mut Turns) -> u32 {
        for n in 1.. {
            turns.ended(50_000, WORK);
            if turns.are_apart() {
                return n;
            }
        }
        unreachable!()
    }

    #[test]
    fn short_turns_in_a_row_go_apart_and_others_do_not() {
        let mut turns = Turns::new();
        assert_eq!(go_apart(&mut turns), PATIENCE);
        let mut turns = Turns::new();
        for n in 0..10 * PATIENCE {
            turns.ended(50_000, if n % PATIENCE == 0 { SHORT } else { WORK });
            assert!(!turns.are_apart());
        }
    }

    #[test]
    fn who_waits_apart_goes_together_for_longer_each_time() {
        let mut turns = Turns::new();
        let waits = [0; 3].map(|_| {
            let wait = go_apart(&mut turns);
            for n in 0.. {
                // A slice of the scheduler's, once in a hundred turns.
                turns.ended(if n % 100 == 0 { 8_000_000 } else { WORK }, WORK);
                if !turns.are_apart() {
                    break;
                }
            }
            wait
        });
        assert_eq!(waits, [PATIENCE, 2 * PATIENCE, 4 * PATIENCE]);
    }

    #[test]
    fn a_rare_wait_is_no_reason() {
        let mut turns = Turns::new();
        go_apart(&mut turns);
        for n in 0..10_000 {
            turns.ended(if n % 400 == 0 { 8_000_000 } else { WORK }, WORK);
            assert!(turns.are_apart());
        }
        turns.ended(u64::MAX, WORK);
        assert!(!turns.are_apart());
    }
}
