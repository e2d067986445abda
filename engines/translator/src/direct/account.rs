//! Whether direct execution pays: who is promoted when, and for how long.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::hash::KeyHasher;

/// What is lost each time beside the way there and back, in cycles of the time-stamp counter: caches and TLBs know less.
const LOSS: i64 = 20_000;
/// Cycles, at most, of what a stub takes for the guest's own that is the kernel's: from its last word to the guest's first instruction, and from a
/// fault to its next. What they are is measured.
const MOST_KERNEL: u64 = 30_000;
/// How much longer translated code takes, less one, if it is translated already.
const GAIN: i64 = 2;
/// What an account begins with: it takes some bursts until what a program needs is mapped.
const CREDIT: i64 = 4_000_000;
/// The most it may hold, so that a program which changes its ways is found out.
const MOST_CREDIT: i64 = 8 * CREDIT;
/// What it costs to find that code at an address cannot be run directly.
const REFUSAL: i64 = LOSS / 10;
/// How often in a row an address space has to be found running, and for how many cycles: most programs are short, and most of
/// what they do is done by the kernel.
const FOUND: u32 = 3;
const BUSY: u64 = 1 << 24;
/// Cycles between two looks that count. A timer's interrupt has others follow, which find the kernel at work on that.
const BETWEEN: u64 = 1 << 21;
/// Blocks of new code translated for an address space, and within how many cycles, that are reason enough: each takes as long as half a
/// way, and most run a few times at best. But a short program that is run again and again is better off if it is translated once. So it takes
/// twice as many each time that it is found so, until one was worth it.
const COLD: u32 = 256;
const COLD_WITHIN: u64 = 1 << 24;
const MOST_PATIENCE: u32 = 2;
/// Cycles of an address space's bursts that show that it was no short program: some hundredths of a second.
const LONG: u64 = 1 << 27;
/// For how many cycles an address space rests that has not been worth it, the first time: some hundredths of a second; twice as
/// long each time.
const REST: u64 = 1 << 26;
const MOST_RESTS: u32 = 3;
/// Address spaces of which anything is known.
const MOST_RECORDS: usize = 4096;

/// What an address space has gained and lost, in cycles.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    credit: i64,
    /// What the last burst's way there and back has taken.
    way: i64,
    /// Cycles inside all of them.
    inside: u64,
}

impl Account {
    fn new(credit: i64) -> Self {
        Self { credit, way: 0, inside: 0 }
    }
}

/// Which address space has been found running the last times.
#[derive(Debug, Default)]
struct Found {
    cr3: Option<u64>,
    times: u32,
    since: u64,
    last: u64,
}

/// What is known of an address space beside.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// Until when it rests, and how often it has had to.
    rests_until: u64,
    rests: u32,
    /// Blocks translated for it, and since when.
    blocks: u32,
    since: u64,
}

/// What is known of all address spaces. Times are of the time-stamp counter.
#[derive(Debug)]
pub struct Accounts {
    /// The kernel's part of what is inside: the shortest of the last hundreds of bursts, that of a program that did next to nothing.
    kernel: u64,
    found: Found,
    /// How often it takes twice as much new code.
    patience: u32,
    records: HashMap<u64, Record, BuildHasherDefault<KeyHasher>>,
}

impl Default for Accounts {
    fn default() -> Self {
        Self { kernel: MOST_KERNEL, found: Found::default(), patience: 0, records: HashMap::default() }
    }
}

impl Accounts {
    /// This address space's ring 3 has been found running, or none: whether it is busy.
    pub fn find(&mut self, cr3: Option<u64>, now: u64) -> bool {
        if now.wrapping_sub(self.found.last) < BETWEEN {
            return false;
        }
        if cr3.is_none() || self.found.cr3 != cr3 {
            self.found = Found { cr3, times: 0, since: now, last: now };
        }
        self.found.times += 1;
        self.found.last = now;
        cr3.is_some() && self.found.times >= FOUND && now.wrapping_sub(self.found.since) >= BUSY
    }

    /// A block of this address space's code has been translated.
    pub fn translated(&mut self, cr3: u64, now: u64) {
        let within = COLD_WITHIN << self.patience;
        let record = self.record(cr3);
        if now.wrapping_sub(record.since) > within {
            (record.blocks, record.since) = (0, now);
        }
        record.blocks += 1;
    }

    /// Whether so much of its code is new that translating it takes longer than any way.
    pub fn is_cold(&self, cr3: u64) -> bool {
        self.records.get(&cr3).is_some_and(|record| record.blocks >= COLD << self.patience)
    }

    /// Opens an account, unless the address space rests and its code is not new.
    pub fn open(&mut self, cr3: u64, now: u64) -> Option<Account> {
        if !self.is_cold(cr3) {
            return (now >= self.record(cr3).rests_until).then_some(Account::new(CREDIT));
        }
        self.patience = (self.patience + 1).min(MOST_PATIENCE);
        let record = self.record(cr3);
        record.blocks = 0;
        // What did not pay was cheaper than this; the more often, the longer it is tried.
        Some(Account::new((CREDIT << record.rests).min(MOST_CREDIT / 2)))
    }

    fn record(&mut self, cr3: u64) -> &mut Record {
        if self.records.len() > MOST_RECORDS {
            self.records.clear();
        }
        self.records.entry(cr3).or_default()
    }

    /// A burst has ended that has taken so many cycles; for some of them the guest's code ran, by its own word.
    pub fn burst(&mut self, account: &mut Account, cr3: u64, cycles: u64, inside: u64) {
        let inside = inside.min(cycles);
        self.kernel = inside.min(self.kernel + self.kernel / 256).min(MOST_KERNEL);
        let inside = inside - self.kernel;
        account.inside = account.inside.saturating_add(inside);
        if account.inside > LONG {
            self.patience = 0;
        }
        let [cycles, inside] = [cycles, inside].map(|cycles| cycles.min(MOST_CREDIT as u64) as i64);
        account.way = cycles - inside;
        account.credit = (account.credit + GAIN * inside).min(MOST_CREDIT);
        if account.credit == MOST_CREDIT {
            // Whatever program had this number before.
            self.records.remove(&cr3);
        }
    }

    /// A burst has ended for what was not mapped, and is now: as below, but for caches, which know as much as before.
    pub fn missed(&mut self, account: &mut Account, cr3: u64, now: u64) -> bool {
        self.charge(account, account.way, cr3, now)
    }

    /// A burst has ended for something that has to be dealt with each time it happens; `false` if that has been too often, and
    /// the address space rests from now on.
    pub fn returned(&mut self, account: &mut Account, cr3: u64, now: u64) -> bool {
        self.charge(account, account.way + LOSS, cr3, now)
    }

    /// The same where code cannot be run directly.
    pub fn refused(&mut self, account: &mut Account, cr3: u64, now: u64) -> bool {
        self.charge(account, REFUSAL, cr3, now)
    }

    fn charge(&mut self, account: &mut Account, cost: i64, cr3: u64, now: u64) -> bool {
        account.credit -= cost;
        if account.credit >= 0 {
            return true;
        }
        let record = self.record(cr3);
        record.rests_until = now + (REST << record.rests);
        record.rests = (record.rests + 1).min(MOST_RESTS);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_found_three_times_in_a_row_is_busy() {
        let mut accounts = Accounts::default();
        assert!(!accounts.find(Some(1), BUSY) && !accounts.find(Some(1), 2 * BUSY));
        assert!(!accounts.find(None, 3 * BUSY), "the kernel");
        assert!(!accounts.find(Some(1), 4 * BUSY) && !accounts.find(Some(2), 5 * BUSY));
        assert!(!accounts.find(Some(2), 6 * BUSY - 1) && accounts.find(Some(2), 6 * BUSY + BETWEEN));
        let at_once = |accounts: &mut Accounts, n| accounts.find(Some(3), 9 * BUSY + n * BETWEEN);
        assert!((0..BUSY / BETWEEN).all(|n| !at_once(&mut accounts, n)), "not in no time");
    }

    #[test]
    fn what_follows_on_a_look_does_not_count() {
        let mut accounts = Accounts::default();
        let mut looks = (1..).map(|n| {
            let busy = accounts.find(Some(1), n * BUSY);
            assert!(!accounts.find(None, n * BUSY + BETWEEN - 1));
            busy
        });
        assert_eq!(looks.position(|busy| busy), Some(FOUND as usize - 1));
    }

    /// Bursts that are as long as this beside the way: how many until the address space rests.
    fn lasts(inside: u64, most: u32) -> u32 {
        const WAY: u64 = 30_000;
        let mut accounts = Accounts::default();
        let mut account = accounts.open(1, 0).expect("it does not rest");
        // Somebody else's, which did nothing.
        accounts.burst(&mut account, 2, WAY, 0);
        (0..most)
            .take_while(|_| {
                accounts.burst(&mut account, 1, WAY + inside, inside);
                accounts.returned(&mut account, 1, 0)
            })
            .count() as u32
    }

    #[test]
    fn long_bursts_pay_and_short_ones_do_not() {
        assert!(lasts(0, 1000) < 100);
        assert!(lasts(10_000, 1000) < 200);
        assert_eq!(lasts(100_000, 1000), 1000);
    }

    #[test]
    fn nobody_runs_for_longer_than_it_took() {
        let mut accounts = Accounts::default();
        let mut account = accounts.open(1, 0).expect("it does not rest");
        accounts.burst(&mut account, 1, 1000, u64::MAX);
        accounts.burst(&mut account, 1, 5000, u64::MAX);
        let kernel = accounts.kernel as i64;
        assert_eq!((account.credit, account.way), (CREDIT + GAIN * (5000 - kernel), kernel));
    }

    #[test]
    fn who_did_not_pay_rests_longer_each_time() {
        let mut accounts = Accounts::default();
        let mut now = 0;
        let rests: Vec<u64> = (0..6)
            .map(|_| {
                let mut account = accounts.open(1, now).expect("it has rested");
                while accounts.refused(&mut account, 1, now) {}
                let begun = now;
                while accounts.open(1, now).is_none() {
                    now += REST / 4;
                }
                (now - begun) / REST
            })
            .collect();
        assert_eq!(rests, [1, 2, 4, 8, 8, 8]);
        assert!(accounts.open(2, 0).is_some());
    }

    #[test]
    fn who_has_much_to_be_translated_does_not_rest() {
        let mut accounts = Accounts::default();
        let mut bursts = || {
            let mut account = accounts.open(1, 0)?;
            let bursts = (1..).take_while(|_| accounts.returned(&mut account, 1, 0)).count();
            let before = accounts.is_cold(1);
            let blocks = (1..).find(|n| {
                accounts.translated(1, u64::from(*n));
                accounts.is_cold(1)
            });
            assert!(!before);
            Some((bursts, blocks?))
        };
        let (bursts, blocks): (Vec<usize>, Vec<u32>) = (0..6).map_while(|_| bursts()).unzip();
        assert!(bursts[..3].is_sorted_by(|a, b| 2 * a <= *b), "{bursts:?}");
        assert_eq!(blocks, [0, 1, 2, 2, 2, 2].map(|patience| COLD << patience));
        let mut account = accounts.open(2, 0).expect("it has never rested");
        accounts.burst(&mut account, 2, 2 * LONG, 2 * LONG);
        assert_eq!(accounts.patience, 0, "it was worth it");
        (0..COLD).for_each(|n| accounts.translated(3, u64::from(n) * COLD_WITHIN));
        assert!(!accounts.is_cold(3), "as time goes by");
    }
}
