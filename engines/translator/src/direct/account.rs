//! Whether direct execution pays: who is promoted when, and for how long.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::hash::KeyHasher;

/// Cycles of the time-stamp counter, at most, for the way there and back; what it is is measured.
const MOST_WAY: u64 = 70_000;
/// What is lost beside: caches and TLBs know less each time.
const LOSS: i64 = 40_000;
/// How much longer translated code takes, less one.
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
/// For how many cycles an address space rests that has not been worth it, the first time: some hundredths of a second; twice as
/// long each time.
const REST: u64 = 1 << 26;
const MOST_RESTS: u32 = 3;

/// What an address space has gained and lost, in cycles.
#[derive(Clone, Copy, Debug)]
pub struct Account(i64);

/// Which address space has been found running the last times.
#[derive(Debug, Default)]
struct Found {
    cr3: Option<u64>,
    times: u32,
    since: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    until: u64,
    times: u32,
}

/// What is known of all address spaces. Times are of the time-stamp counter.
#[derive(Debug)]
pub struct Accounts {
    /// What the way to a stub and back takes: the shortest of the last hundreds of bursts, that of a program that did next to
    /// nothing.
    way: u64,
    found: Found,
    resting: HashMap<u64, Rest, BuildHasherDefault<KeyHasher>>,
}

impl Default for Accounts {
    fn default() -> Self {
        Self { way: MOST_WAY, found: Found::default(), resting: HashMap::default() }
    }
}

impl Accounts {
    /// This address space's ring 3 has been found running, or none: whether it is busy.
    pub fn find(&mut self, cr3: Option<u64>, now: u64) -> bool {
        if cr3.is_none() || self.found.cr3 != cr3 {
            self.found = Found { cr3, times: 0, since: now };
        }
        self.found.times += 1;
        cr3.is_some() && self.found.times >= FOUND && now.wrapping_sub(self.found.since) >= BUSY
    }

    /// Opens an account, unless the address space rests.
    pub fn open(&self, cr3: u64, now: u64) -> Option<Account> {
        let rests = self.resting.get(&cr3).is_some_and(|rest| now < rest.until);
        (!rests).then_some(Account(CREDIT))
    }

    /// A burst of so many cycles has ended.
    pub fn burst(&mut self, account: &mut Account, cr3: u64, cycles: u64) {
        self.way = cycles.min(self.way + self.way / 256).min(MOST_WAY);
        let inside = (cycles - self.way).min(MOST_CREDIT as u64) as i64;
        account.0 = (account.0 + GAIN * inside).min(MOST_CREDIT);
        if account.0 == MOST_CREDIT {
            // Whatever program had this number before.
            self.resting.remove(&cr3);
        }
    }

    /// A burst has ended for something that has to be dealt with each time it happens; `false` if that has been too often, and
    /// the address space rests from now on.
    pub fn returned(&mut self, account: &mut Account, cr3: u64, now: u64) -> bool {
        self.charge(account, self.way as i64 + LOSS, cr3, now)
    }

    /// The same where code cannot be run directly.
    pub fn refused(&mut self, account: &mut Account, cr3: u64, now: u64) -> bool {
        self.charge(account, REFUSAL, cr3, now)
    }

    fn charge(&mut self, account: &mut Account, cost: i64, cr3: u64, now: u64) -> bool {
        account.0 -= cost;
        if account.0 >= 0 {
            return true;
        }
        if self.resting.len() > 4096 {
            self.resting.clear();
        }
        let rest = self.resting.entry(cr3).or_default();
        rest.until = now + (REST << rest.times);
        rest.times = (rest.times + 1).min(MOST_RESTS);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_found_three_times_in_a_row_is_busy() {
        let mut accounts = Accounts::default();
        assert!(!accounts.find(Some(1), 0) && !accounts.find(Some(1), BUSY));
        assert!(!accounts.find(None, 2 * BUSY), "the kernel");
        assert!(!accounts.find(Some(1), 3 * BUSY) && !accounts.find(Some(2), 4 * BUSY));
        assert!(!accounts.find(Some(2), 5 * BUSY - 1) && accounts.find(Some(2), 5 * BUSY));
        let at_once = |accounts: &mut Accounts| accounts.find(Some(3), 9 * BUSY);
        assert!((0..10).all(|_| !at_once(&mut accounts)), "not in no time");
    }

    /// Bursts that are as long as this beside the way: how many until the address space rests.
    fn lasts(inside: u64, most: u32) -> u32 {
        const WAY: u64 = 50_000;
        let mut accounts = Accounts::default();
        let mut account = accounts.open(1, 0).expect("it does not rest");
        // Somebody else's, which did nothing.
        accounts.burst(&mut account, 2, WAY);
        (0..most)
            .take_while(|_| {
                accounts.burst(&mut account, 1, WAY + inside);
                accounts.returned(&mut account, 1, 0)
            })
            .count() as u32
    }

    #[test]
    fn long_bursts_pay_and_short_ones_do_not() {
        assert!(lasts(0, 1000) < 60);
        assert!(lasts(20_000, 1000) < 200);
        assert_eq!(lasts(100_000, 1000), 1000);
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
}
