//! Who is promoted when, and for how long: all accounts there have been, and what was learnt of them.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::account::{Account, CREDIT, Loss, MOST_CREDIT};
use super::known::{Known, Trail};
use crate::hash::KeyHasher;
use crate::windows::PAGE;

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
/// The same for one that has turned out to be faster translated: a second or two.
const LONG_REST: u64 = 1 << 32;
/// Address spaces of which anything is known.
const MOST_RECORDS: usize = 4096;

/// What is known of an address space beside its account.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// Until when it rests, and how often it has had to.
    rests_until: u64,
    rests: u32,
    /// Until when nothing is reason enough: it has been translated for no longer than the last try has cost.
    barred_until: u64,
    /// Whether it would lose again what it lost then.
    recurs: bool,
    /// It does nothing but compute, as it seems.
    is_sure: bool,
    /// Blocks translated for it, and since when.
    blocks: u32,
    since: u64,
    /// Where its code was looked up, and whether that is known to be worth it.
    trail: Trail,
    is_known: bool,
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
        let is_worth_a_try = now >= record.rests_until && !self.known.is_hopeless(&record.trail);
        let may = record.is_known || is_cold || record.is_sure || is_worth_a_try;
        if !may || now < record.barred_until {
            return None;
        }
        // The more often it was given up while its memory was being mapped, the longer it is tried.
        let more = (CREDIT << record.rests).min(MOST_CREDIT);
        let credit = match record {
            Record { is_known: true, .. } => MOST_CREDIT,
            // What did not pay was cheaper than translating as much.
            _ if is_cold => more.min(MOST_CREDIT / 2),
            Record { is_sure: true, recurs: false, .. } => more,
            _ => CREDIT,
        };
        if is_cold {
            self.patience = (self.patience + 1).min(MOST_PATIENCE);
            record.blocks = 0;
        }
        (record.is_known, record.is_sure) = (false, false);
        *self.record(cr3) = record;
        Some(Account::new(credit, record.trail))
    }

    /// An address space does nothing but compute, and rests no more, unless it would have to again.
    pub fn wake(&mut self, cr3: u64, now: u64) {
        let record = self.record(cr3);
        record.is_sure = !record.recurs || now >= record.rests_until;
    }

    /// An account is of no use any more: what there is to be learnt of it.
    pub fn close(&mut self, account: &Account) {
        if account.lost() > 0 {
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
        if account.gain(cycles, inside) {
            self.known.learn(&account.trail, true);
        }
        if account.inside() > LONG {
            self.patience = 0;
        }
        if account.has_paid_off() {
            // Whatever program had this number before.
            self.records.remove(&cr3);
        }
    }

    /// The address space has turned out to be faster translated.
    pub fn found_slow(&mut self, account: &Account, cr3: u64, now: u64) {
        self.known.learn(&account.trail, false);
        self.rest(account, cr3, now);
        self.record(cr3).rests_until = now + LONG_REST;
    }

    /// The burst has ended for this; `false` if too much has been lost, and the address space rests from now on.
    pub fn lose(&mut self, account: &mut Account, loss: Loss, cr3: u64, now: u64) -> bool {
        account.lose(loss);
        if account.is_spent() {
            self.rest(account, cr3, now);
        }
        !account.is_spent()
    }

    fn rest(&mut self, account: &Account, cr3: u64, now: u64) {
        let record = self.record(cr3);
        record.barred_until = now + account.lost();
        record.recurs = account.recurs();
        record.rests_until = now + (REST << record.rests);
        record.rests = (record.rests + 1).min(MOST_RESTS);
    }
}

#[cfg(test)]
mod tests {
    use super::super::account::WORTH;
    use super::*;

    /// Bursts that are as long as this beside the way: how many until the address space rests.
    fn lasts(inside: u64, most: u32) -> u32 {
        const WAY: u64 = 30_000;
        let mut accounts = Accounts::default();
        let mut account = accounts.open(1, 0).expect("it does not rest");
        (0..most)
            .take_while(|_| {
                accounts.burst(&mut account, 1, WAY + inside, inside);
                accounts.lose(&mut account, Loss::Returned, 1, 0)
            })
            .count() as u32
    }

    /// Loses until there is nothing left; how often that was.
    fn fail(accounts: &mut Accounts, account: &mut Account, loss: Loss, now: u64) -> usize {
        (1..)
            .find(|_| {
                accounts.burst(account, 1, 30_000, 0);
                !accounts.lose(account, loss, 1, now)
            })
            .expect("it loses each time")
    }

    #[test]
    fn long_bursts_pay_and_short_ones_do_not() {
        assert!(lasts(0, 1000) < 100);
        assert!(lasts(3_000, 1000) < 200);
        assert_eq!(lasts(100_000, 1000), 1000);
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
            while inside == 0 && accounts.lose(&mut account, Loss::Returned, cr3, 0) {}
            accounts.close(&account);
            known
        };
        const LIBRARY: u64 = 0x1000;
        assert_eq!(run(1, [LIBRARY, 0x2000], WORTH as u64), [false, false]);
        assert_eq!(run(1, [LIBRARY, 0x2000], WORTH as u64), [true, true]);
        assert_eq!(run(2, [LIBRARY, 0x3000], 0), [true, true]);
        assert_eq!(run(3, [LIBRARY, 0x2000], WORTH as u64), [false, true]);
        accounts.entered(5, LIBRARY);
        assert!(accounts.open(5, 0).is_none(), "nothing is met that has ever paid");
        accounts.forget(0x2000);
        accounts.entered(4, 0x2008);
        assert!(!accounts.is_due(4), "that is other code");
        assert!(accounts.open(4, 0).is_some());
    }

    #[test]
    fn who_is_known_may_lose_more_before_it_pays() {
        let mut accounts = Accounts::default();
        let mut lasts = |cr3| {
            accounts.entered(cr3, 0x1000);
            let mut account = accounts.open(cr3, 0).expect("it does not rest");
            let lasted = fail(&mut accounts, &mut account, Loss::Faulted, 0);
            accounts.burst(&mut account, cr3, 1 << 30, 1 << 30);
            accounts.close(&account);
            lasted
        };
        let (first, second) = (lasts(1), lasts(2));
        assert!(second > 7 * first, "{first}, {second}");
    }

    #[test]
    fn who_did_not_pay_rests_longer_each_time() {
        let mut accounts = Accounts::default();
        let mut now = 0;
        let rests: Vec<u64> = (0..6)
            .map(|_| {
                let mut account = accounts.open(1, now).expect("it has rested");
                while accounts.lose(&mut account, Loss::Refused, 1, now) {}
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
    fn who_does_nothing_but_compute_is_tried_for_longer_each_time_unless_it_is_stopped_each_time() {
        let tries = |loss| {
            let mut accounts = Accounts::default();
            let mut now = 0;
            let mut tries = Vec::new();
            for _ in 0..4 {
                accounts.wake(1, now);
                let Some(mut account) = accounts.open(1, now) else { break };
                tries.push(fail(&mut accounts, &mut account, loss, now));
                accounts.wake(1, now);
                assert!(accounts.open(1, now).is_none(), "not before it has run translated for as long");
                now += account.lost();
            }
            tries
        };
        let faults = tries(Loss::Faulted);
        assert!(faults.len() == 4 && faults.is_sorted_by(|a, b| 3 * a < 2 * b), "{faults:?}");
        assert_eq!(tries(Loss::Returned).len(), 1);
    }

    #[test]
    fn who_has_much_to_be_translated_does_not_rest() {
        let mut accounts = Accounts::default();
        let mut now = 0;
        let mut bursts = || {
            now += 2 * MOST_CREDIT as u64;
            let mut account = accounts.open(1, now)?;
            let bursts = fail(&mut accounts, &mut account, Loss::Returned, now);
            let before = accounts.is_due(1);
            let blocks = (1..).find(|n| {
                accounts.translated(1, now + u64::from(*n));
                accounts.is_due(1)
            });
            assert!(!before);
            Some((bursts, blocks?))
        };
        let (bursts, blocks): (Vec<usize>, Vec<u32>) = (0..6).map_while(|_| bursts()).unzip();
        assert!(bursts[..3].is_sorted_by(|a, b| 3 * a < 2 * b), "{bursts:?}");
        assert_eq!(blocks, [0, 1, 2, 2, 2, 2].map(|patience| COLD << patience));
        let mut account = accounts.open(2, 0).expect("it has never rested");
        accounts.burst(&mut account, 2, 2 * LONG, 2 * LONG);
        assert_eq!(accounts.patience, 0, "it was worth it");
        (0..COLD).for_each(|n| accounts.translated(3, u64::from(n) * COLD_WITHIN));
        assert!(!accounts.is_due(3), "as time goes by");
    }
}
