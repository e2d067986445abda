//! What an address space has gained and lost by direct execution.

use super::known::Trail;
use super::pace::Pace;
use super::trial::Trials;

/// What is lost each time beside the way there and back, in cycles of the time-stamp counter: caches and TLBs know less.
const LOSS: i64 = 20_000;
/// How much longer translated code takes, less one: gcc's takes nine times as long and python's ten, that of a hash hardly more. Whose does not
/// is found out by trial.
const GAIN: i64 = 8;
/// What an account begins with: it takes some bursts until what a program needs is mapped.
pub const CREDIT: i64 = 4_000_000;
/// What it has gained at the least that was worth it.
pub const WORTH: i64 = CREDIT;
/// The most it may hold, so that a program which changes its ways is found out.
pub const MOST_CREDIT: i64 = 8 * CREDIT;
/// What it costs to find that code at an address cannot be run directly.
const REFUSAL: i64 = LOSS / 10;
/// Cycles of a burst that is too short for its worth to be beyond doubt, and pages of code of a program that may translate well: one of more
/// is cold code for the most part, and full of jumps whose targets are not known.
const SHORT: u64 = 1 << 17;
const FEW_PAGES: usize = 64;

/// What a burst has ended for, as far as it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Something was not mapped, and is now. Caches know as much as before.
    Missed,
    /// The guest's own page fault, most times the first access to a page.
    Faulted,
    /// Something that happens each time that the same code runs.
    Returned,
    /// The same, found before it ran: its code cannot be run directly.
    Refused,
}

/// See the module's documentation. All is in cycles.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    credit: i64,
    /// All that has been gained, less what has been lost.
    gained: i64,
    /// Of that, what was lost for what happens each time.
    recurring: i64,
    /// Where its program has come by before.
    pub trail: Trail,
    /// What the last burst's way there and back has taken.
    way: i64,
    /// Cycles inside all of them, and how many they were.
    inside: u64,
    bursts: u64,
    trials: Trials,
}

impl Account {
    /// One that may lose so much.
    pub fn new(credit: i64, trail: Trail) -> Self {
        let trials = Trials::new();
        Self { credit, gained: 0, recurring: 0, trail, way: 0, inside: 0, bursts: 0, trials }
    }

    /// A burst has taken so many cycles; for some of them the guest's code ran. Whether it has been worth it, for the first time.
    pub fn gain(&mut self, cycles: u64, inside: u64) -> bool {
        let inside = inside.min(cycles);
        self.inside = self.inside.saturating_add(inside);
        self.bursts += 1;
        let [cycles, inside] = [cycles, inside].map(|cycles| cycles.min(MOST_CREDIT as u64) as i64);
        self.way = cycles - inside;
        let before = self.gained;
        self.gained += GAIN * inside;
        self.credit = (self.credit + GAIN * inside).min(MOST_CREDIT);
        before < WORTH && self.gained >= WORTH
    }

    /// That was for this.
    pub fn lose(&mut self, loss: Loss) {
        let cost = match loss {
            Loss::Missed => self.way,
            Loss::Faulted | Loss::Returned => self.way + LOSS,
            Loss::Refused => REFUSAL,
        };
        self.credit -= cost;
        self.gained -= cost;
        if matches!(loss, Loss::Returned | Loss::Refused) {
            self.recurring += cost;
        }
    }

    /// Whether it has lost more than it may.
    pub fn is_spent(&self) -> bool {
        self.credit < 0
    }

    /// Whether it has gained as much as it may hold.
    pub fn has_paid_off(&self) -> bool {
        self.gained >= MOST_CREDIT
    }

    /// What has been lost, in all.
    pub fn lost(&self) -> u64 {
        self.gained.min(0).unsigned_abs()
    }

    /// Whether it would lose most of that again.
    pub fn recurs(&self) -> bool {
        self.recurring as u64 > self.lost() / 2
    }

    /// Cycles of the guest's own.
    pub fn inside(&self) -> u64 {
        self.inside
    }

    /// The program, of so many pages of code, has run for a while at this pace; whether it has turned out to be faster translated.
    pub fn passed(&mut self, directly: bool, pace: Pace, pages: usize) -> bool {
        let is_doubt = self.inside / self.bursts.max(1) < SHORT && pages < FEW_PAGES;
        self.trials.passed(directly, pace, is_doubt)
    }

    /// Whether it is being tried how it does translated.
    pub fn is_on_trial(&self) -> bool {
        self.trials.is_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_runs_for_longer_than_it_took() {
        let mut account = Account::new(CREDIT, Trail::default());
        assert!(!account.gain(1000, u64::MAX));
        assert_eq!((account.credit, account.way), (CREDIT + GAIN * 1000, 0));
    }

    #[test]
    fn what_happens_each_time_is_told_from_what_does_not() {
        let lose = |losses: &[Loss]| {
            let mut account = Account::new(CREDIT, Trail::default());
            for loss in losses {
                account.gain(30_000, 0);
                account.lose(*loss);
            }
            (account.lost(), account.recurs())
        };
        use Loss::{Faulted, Missed, Refused, Returned};
        assert_eq!(lose(&[Missed, Faulted, Returned]), (30_000 + 2 * 50_000, false));
        assert_eq!(lose(&[Returned, Faulted, Returned, Refused]), (3 * 50_000 + 2_000, true));
        assert_eq!(lose(&[]), (0, false));
    }

    #[test]
    fn small_programs_of_short_bursts_are_tried() {
        let is_tried = |inside, pages| {
            let mut account = Account::new(CREDIT, Trail::default());
            (0..1000).for_each(|_| {
                account.gain(inside + 30_000, inside);
                account.passed(true, Pace { cycles: inside, entries: 1 }, pages);
            });
            account.is_on_trial()
        };
        assert!(is_tried(SHORT - 1, FEW_PAGES - 1));
        assert!(!is_tried(SHORT, FEW_PAGES - 1) && !is_tried(SHORT - 1, FEW_PAGES));
    }

    #[test]
    fn it_is_worth_it_once() {
        let mut account = Account::new(CREDIT, Trail::default());
        let burst = WORTH as u64 / GAIN as u64 / 2;
        let worth = [0; 4].map(|_| account.gain(burst, burst));
        assert_eq!(worth, [false, true, false, false]);
        let bursts = (5..).find(|_| account.gain(burst, burst) || account.has_paid_off());
        assert_eq!(bursts, Some(2 * MOST_CREDIT / WORTH));
        let losses = (0..).find(|_| {
            account.lose(Loss::Returned);
            account.is_spent()
        });
        assert_eq!((losses, account.lost()), (Some(MOST_CREDIT / LOSS), LOSS as u64));
    }
}
