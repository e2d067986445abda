//! How a stub and its owner take turns: *together* on one processor, each asleep while the other works, or *apart* on two, each
//! watching for the other for a while before it sleeps.
//!
//! Apart is twice as fast, as long as nobody falls asleep: an idle processor takes long to wake, and where another
//! program wants it, it has better to do. So a stub begins together, and goes apart once it has been run often in a row for
//! a short time each; and if sleeping turns out to be the rule, they go together again, longer each time.

/// Short turns in a row after which they go apart, at first and at most.
const PATIENCE: u32 = 16;
const MOST_PATIENCE: u32 = 4096;
/// Cycles of the time-stamp counter of a turn that is short, with the way there and back.
const SHORT: u64 = 200_000;
/// For how many cycles each watches for the other: some 100 us, half of what KVM watches for an interrupt before it lets a processor halt.
pub const WATCHED: u32 = 260_000;
/// What a sleep costs of what a turn without earns, and how much of that is kept.
const SLEEP: i32 = 8;
const MOST_CREDIT: i32 = 64;

/// See the module's documentation.
#[derive(Debug)]
pub struct Turns {
    apart: bool,
    short: u32,
    patience: u32,
    credit: i32,
}

impl Turns {
    pub fn new() -> Self {
        Self { apart: false, short: 0, patience: PATIENCE, credit: 0 }
    }

    /// Whether the next turn is one apart.
    pub fn are_apart(&mut self) -> bool {
        if !self.apart && self.short >= self.patience {
            (self.apart, self.credit) = (true, MOST_CREDIT / 2);
        }
        self.apart
    }

    /// One of so many cycles has ended, and somebody slept meanwhile or not.
    pub fn ended(&mut self, cycles: u64, slept: bool) {
        if !self.apart {
            self.short = if cycles < SHORT { self.short + 1 } else { 0 };
            return;
        }
        self.credit = if slept { self.credit - SLEEP } else { (self.credit + 1).min(MOST_CREDIT) };
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

    #[test]
    fn short_turns_in_a_row_go_apart_and_others_do_not() {
        let mut turns = Turns::new();
        for _ in 0..PATIENCE {
            assert!(!turns.are_apart());
            turns.ended(SHORT / 2, true);
        }
        assert!(turns.are_apart());
        let mut turns = Turns::new();
        for _ in 0..10 * PATIENCE {
            turns.ended(2 * SHORT, true);
            assert!(!turns.are_apart());
        }
    }

    #[test]
    fn sleepers_go_together_for_longer_each_time() {
        let mut turns = Turns::new();
        let waits: Vec<u32> = (0..3)
            .map(|_| {
                let before = (0..).take_while(|_| {
                    turns.ended(1, true);
                    !turns.are_apart()
                });
                let before = before.count() as u32 + 1;
                while turns.are_apart() {
                    turns.ended(1, true);
                }
                before
            })
            .collect();
        assert_eq!(waits, [PATIENCE, 2 * PATIENCE, 4 * PATIENCE]);
        turns.short = MOST_PATIENCE;
        assert!(turns.are_apart());
        for n in 0..200 {
            turns.ended(1, n % 20 == 0);
        }
        assert!(turns.are_apart(), "now and then is no harm");
    }
}
