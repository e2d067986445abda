//! Whether direct execution pays: who is promoted when, and for how long.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::known::{Known, Trail};
use super::pace::Pace;
use crate::hash::KeyHasher;
use crate::windows::PAGE;

/// What is lost each time beside the way there and back, in cycles of the time-stamp counter: caches and TLBs know less.
const LOSS: i64 = 20_000;
/// How much longer translated code takes, less one: gcc's takes nine times as long and python's ten, that of a hash hardly more. Whose does not
/// is found out by its pace.
const GAIN: i64 = 8;
/// What an account begins with: it takes some bursts until what a program needs is mapped.
const CREDIT: i64 = 4_000_000;
/// What it has gained at the least that was worth it.
const WORTH: i64 = CREDIT;
/// The most it may hold, so that a program which changes its ways is found out.
const MOST_CREDIT: i64 = 8 * CREDIT;
/// What it costs to find that code at an address cannot be run directly.
const REFUSAL: i64 = LOSS / 10;
/// Blocks of new code translated for an address space, and within how many cycles, that are reason enough: each takes as long as half a
/// way, and most run a few times at best. But a short program that is run again and again is better off if it is translated once. So it takes
/// twice as many each time that it is found so, until one was worth it.
const COLD: u32 = 256;
const COLD_WITHIN: u64 = 1 << 24;
const MOST_PATIENCE: u32 = 2;
/// Cycles of a burst that is too short for its worth to be beyond doubt.
const SHORT: u64 = 32_000;
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
    /// All that has been gained, less what has been lost.
    gained: i64,
    /// Where its program has come by before.
    trail: Trail,
    /// What the last burst's way there and back has taken.
    way: i64,
    /// Cycles inside all of them, and how many they were.
    inside: u64,
    bursts: u64,
    /// How fast the program gets on.
    pace: Pace,
}

impl Account {
    fn new(credit: i64, trail: Trail) -> Self {
        Self { credit, gained: 0, trail, way: 0, inside: 0, bursts: 0, pace: Pace::default() }
    }

    fn lose(&mut self, cost: i64) {
        self.credit -= cost;
        self.gained -= cost;
    }
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
    /// Where its code was looked up, and whether that is known to be worth it.
    trail: Trail,
    is_known: bool,
    /// How fast its program gets on, translated.
    pace: Pace,
}

/// What is known of all address spaces. Times are of the time-stamp counter.
#[derive(Debug, Default)]
pub struct Accounts {
    known: Known,
    /// Which page's code was looked up last, and for whom.
    here: (u64, u64),
    /// How often it takes twice as much new code.
    patience: u32,
    records: HashMap<u64, Record, BuildHasherDefault<KeyHasher>>,
}

impl Accounts {
    /// Code of this address space is looked up at a guest-physical address.
    pub fn entered(&mut self, cr3: u64, physical: u64) {
        let page = physical & !(PAGE - 1);
        if std::mem::replace(&mut self.here, (cr3, page)) == (cr3, page) {
            return;
        }
        let pays = self.known.pays(page);
        let record = self.record(cr3);
        record.trail.note(page);
        record.is_known |= pays;
    }

    /// Other code is in a guest-physical page now.
    pub fn forget(&mut self, page: u64) {
        self.known.forget(page);
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

    /// Whether there is reason enough without its being busy: so much of its code is new that translating it takes longer than
    /// any way, or it is known.
    pub fn is_due(&self, cr3: u64) -> bool {
        self.records.get(&cr3).is_some_and(|record| record.is_known || self.is_cold(record))
    }

    fn is_cold(&self, record: &Record) -> bool {
        record.blocks >= COLD << self.patience
    }

    /// Opens an account, unless the address space rests and there is no other reason.
    pub fn open(&mut self, cr3: u64, now: u64) -> Option<Account> {
        let mut record = *self.record(cr3);
        let is_cold = self.is_cold(&record);
        let may = record.is_known || is_cold || now >= record.rests_until;
        record.is_known = false;
        let mut credit = CREDIT;
        if is_cold {
            self.patience = (self.patience + 1).min(MOST_PATIENCE);
            record.blocks = 0;
            // What did not pay was cheaper than this; the more often, the longer it is tried.
            credit = (CREDIT << record.rests).min(MOST_CREDIT / 2);
        }
        *self.record(cr3) = record;
        may.then(|| Account::new(credit, record.trail))
    }

    /// An address space rests no more.
    pub fn wake(&mut self, cr3: u64) {
        self.record(cr3).rests_until = 0;
    }

    /// An account is of no use any more: what there is to be learnt of it.
    pub fn close(&mut self, account: &Account) {
        if account.gained < 0 {
            self.known.learn(&account.trail, false);
        }
    }

    fn record(&mut self, cr3: u64) -> &mut Record {
        if self.records.len() > MOST_RECORDS {
            self.records.clear();
        }
        self.records.entry(cr3).or_default()
    }

    /// A burst has ended that has taken so many cycles; for some of them the guest's code ran.
    pub fn burst(&mut self, account: &mut Account, cr3: u64, cycles: u64, inside: u64) {
        let inside = inside.min(cycles);
        account.inside = account.inside.saturating_add(inside);
        account.bursts += 1;
        if account.inside > LONG {
            self.patience = 0;
        }
        let [cycles, inside] = [cycles, inside].map(|cycles| cycles.min(MOST_CREDIT as u64) as i64);
        account.way = cycles - inside;
        let before = account.gained;
        account.gained += GAIN * inside;
        if before < WORTH && account.gained >= WORTH {
            self.known.learn(&account.trail, true);
        }
        account.credit = (account.credit + GAIN * inside).min(MOST_CREDIT);
        if account.credit == MOST_CREDIT {
            // Whatever program had this number before.
            self.records.remove(&cr3);
        }
    }

    /// The address space has run for a while, translated.
    pub fn passed(&mut self, cr3: u64, pace: Pace) {
        self.record(cr3).pace.add(pace);
    }

    /// The same, directly; `false` if it had better rest, since its program was faster before.
    pub fn passed_directly(&mut self, account: &mut Account, cr3: u64, pace: Pace, now: u64) -> bool {
        account.pace.add(pace);
        let record = self.record(cr3);
        if account.inside / account.bursts.max(1) >= SHORT || !account.pace.is_slower_than(&record.pace) {
            return true;
        }
        self.known.learn(&account.trail, false);
        self.rest(cr3, now);
        false
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
        account.lose(cost);
        if account.credit >= 0 {
            return true;
        }
        self.rest(cr3, now);
        false
    }

    fn rest(&mut self, cr3: u64, now: u64) {
        let record = self.record(cr3);
        record.rests_until = now + (REST << record.rests);
        record.rests = (record.rests + 1).min(MOST_RESTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bursts that are as long as this beside the way: how many until the address space rests.
    fn lasts(inside: u64, most: u32) -> u32 {
        const WAY: u64 = 30_000;
        let mut accounts = Accounts::default();
        let mut account = accounts.open(1, 0).expect("it does not rest");
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
        assert!(lasts(3_000, 1000) < 200);
        assert_eq!(lasts(100_000, 1000), 1000);
    }

    #[test]
    fn nobody_runs_for_longer_than_it_took() {
        let mut accounts = Accounts::default();
        let mut account = accounts.open(1, 0).expect("it does not rest");
        accounts.burst(&mut account, 1, 1000, u64::MAX);
        assert_eq!((account.credit, account.way), (CREDIT + GAIN * 1000, 0));
    }

    #[test]
    fn who_was_worth_it_is_known_when_it_comes_by_again() {
        let mut accounts = Accounts::default();
        let mut run = |cr3, pages: [u64; 2], inside: u64| {
            let known = pages.map(|page| {
                // Not where it was the last time.
                accounts.entered(cr3, page + 8 * cr3);
                accounts.is_due(cr3)
            });
            let mut account = accounts.open(cr3, 0).expect("it does not rest, or is known");
            assert!(!accounts.is_due(cr3), "once is enough");
            accounts.burst(&mut account, cr3, inside + 10_000, inside);
            while inside == 0 && accounts.returned(&mut account, cr3, 0) {}
            accounts.close(&account);
            known
        };
        const LIBRARY: u64 = 0x1000;
        assert_eq!(run(1, [LIBRARY, 0x2000], WORTH as u64), [false, false]);
        assert_eq!(run(1, [LIBRARY, 0x2000], WORTH as u64), [true, true]);
        assert_eq!(run(2, [LIBRARY, 0x3000], 0), [true, true]);
        assert_eq!(run(3, [LIBRARY, 0x2000], WORTH as u64), [false, true]);
        accounts.forget(0x2000);
        accounts.entered(4, 0x2008);
        assert!(!accounts.is_due(4), "that is other code");
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
        assert!(!accounts.refused(&mut Account::new(0, Trail::default()), 1, now));
        assert!(accounts.open(1, now).is_none());
        accounts.wake(1);
        assert!(accounts.open(1, now).is_some());
        assert_eq!(rests, [1, 2, 4, 8, 8, 8]);
        assert!(accounts.open(2, 0).is_some());
    }

    #[test]
    fn who_has_much_to_be_translated_does_not_rest() {
        let mut accounts = Accounts::default();
        let mut bursts = || {
            let mut account = accounts.open(1, 0)?;
            let bursts = (1..).take_while(|_| accounts.returned(&mut account, 1, 0)).count();
            let before = accounts.is_due(1);
            let blocks = (1..).find(|n| {
                accounts.translated(1, u64::from(*n));
                accounts.is_due(1)
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
        assert!(!accounts.is_due(3), "as time goes by");
    }
}
