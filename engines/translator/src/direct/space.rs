//! An address space that is promoted, or was.

use host::stub::{BREAKPOINTS, Stub};

use super::account::Account;
use super::guards::Guards;
use super::scan::Places;
use super::shadow::Shadow;

/// One address space that is promoted, or rests.
pub struct Space {
    /// Where it runs.
    pub stub: Stub,
    /// What is mapped there.
    pub shadow: Shadow,
    /// Where its breakpoints are.
    guards: Guards,
    /// An address at which a burst has met nothing, and that the guest may have something at meanwhile.
    pub wanted: Option<u64>,
    /// Where a burst has ended last for what was not mapped, for which address, and how often in a row.
    missed: (u64, u64, u32),
    pub(super) account: Account,
    /// Whatever it costs, it is not to be translated.
    is_for_good: bool,
    /// It has turned out to be faster translated.
    pub(super) is_slow: bool,
    /// It is promoted no more, and keeps what it has in case it is again.
    pub(super) rests: bool,
    /// When it has run last, by the time-stamp counter.
    pub(super) used: u64,
}

/// How often a burst may end at one place for one address: an access may want more of its page than it was given at first.
const TRIES: u32 = 4;

impl Space {
    /// Promoted now; nothing is mapped yet.
    pub(super) fn new(stub: Stub, shadow: Shadow, account: Account, is_for_good: bool) -> Self {
        Self {
            stub,
            shadow,
            guards: Guards::default(),
            wanted: None,
            missed: (0, 0, 0),
            account,
            is_for_good,
            is_slow: false,
            rests: false,
            used: host::cpu::rdtsc(),
        }
    }

    /// Promoted once more.
    pub(super) fn wake(&mut self, account: Account) {
        (self.account, self.is_slow, self.rests) = (account, false, false);
    }

    /// A burst has ended here for what was not mapped at this address, and is now: whether that has not helped before.
    pub fn is_stuck(&mut self, rip: u64, address: u64) -> bool {
        let (at, of, times) = self.missed;
        let times = if (at, of) == (rip, address) { times + 1 } else { 1 };
        self.missed = (rip, address, times % (TRIES + 1));
        times > TRIES
    }

    /// Has the processor stop at these places of a page whose code is about to be mapped. `false` if it does not.
    pub fn guard(&mut self, page: u64, places: Places) -> bool {
        let shadow = &self.shadow;
        let is_run = |page| shadow.rights(page).is_some_and(|rights| rights.execute);
        let given = self.guards.give((page, places), host::cpu::rdtsc(), self.is_for_good, is_run);
        given.is_some_and(|lost| {
            lost.into_iter().for_each(|page| self.shadow.unmap(page));
            self.set_breakpoints()
        })
    }

    /// Gives breakpoints up that may be of no use any more.
    pub(super) fn age_guards(&mut self) {
        let old = if self.is_for_good { Vec::new() } else { self.guards.age(self.used) };
        if !old.is_empty() {
            old.into_iter().for_each(|page| self.shadow.unmap(page));
            self.set_breakpoints();
        }
    }

    /// Puts breakpoints where they belong. If that cannot be, no page may be run that wants some.
    fn set_breakpoints(&mut self) -> bool {
        let mut addresses = [None; BREAKPOINTS];
        addresses.iter_mut().zip(self.guards.addresses()).for_each(|(place, address)| *place = Some(address));
        let done = self.stub.set_breakpoints(addresses).is_ok();
        if !done {
            self.guards.clear().into_iter().for_each(|page| self.shadow.unmap(page));
        }
        done
    }
}
