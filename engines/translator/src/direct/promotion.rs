//! Who has a stub: promotion, resting and the end of both.

use host::stub::Stub;

use super::shadow::Shadow;
use super::space::Space;
use super::{Direct, Promotion};
use crate::guest::Guest;
use crate::windows::Tables;

impl Direct {
    /// Promotes the current one, unless it is to rest or there is no stub. Whether it is.
    pub fn promote(&mut self, tables: Tables) -> bool {
        let (epoch, cr3) = (self.epoch, tables.paging.cr3);
        let Some(account) = self.accounts.open(cr3, host::cpu::rdtsc()) else { return false };
        let rested = self.spaces.get_mut(&cr3);
        // Not if another program has the number of one that has ended.
        if let Some(space) = rested.and_then(|space| space.shadow.compare(tables, epoch).then_some(space)) {
            space.wake(account);
        } else {
            self.forget(cr3);
            let stub = self.spare.pop().or_else(|| self.take(tables.guest)).or_else(|| self.displace());
            let Some((stub, shadow)) = stub else { return false };
            let is_for_good = self.when == Promotion::Always;
            self.spaces.insert(cr3, Space::new(stub, shadow, account, is_for_good));
        }
        self.tally.promoted += 1;
        true
    }

    fn take(&mut self, guest: &Guest) -> Option<(Stub, Shadow)> {
        match self.stubs.as_ref()?.take(guest.ram.memfd()) {
            Ok(stub) => stub.map(|stub| {
                let shadow = Shadow::new(stub.own());
                (stub, shadow)
            }),
            Err(error) => {
                tracing::info!(%error, "all of the guest is translated: no process can be traced");
                self.turn_off();
                None
            }
        }
    }

    /// The stub of the address space that has not run for the longest time.
    fn displace(&mut self) -> Option<(Stub, Shadow)> {
        let oldest = self.spaces.iter().min_by_key(|(_, space)| space.used).map(|(cr3, _)| *cr3)?;
        self.forget(oldest);
        self.spare.pop()
    }

    /// Ends an address space's promotion for now.
    pub fn demote(&mut self, cr3: u64) {
        if let Some(space) = self.spaces.get_mut(&cr3).filter(|space| !space.rests) {
            self.tally.demoted += 1;
            self.accounts.close(&space.account);
            space.rests = true;
        }
    }

    /// Takes an address space's stub away, if it has one.
    pub(super) fn forget(&mut self, cr3: u64) {
        if let Some(Space { mut stub, mut shadow, account, rests, .. }) = self.spaces.remove(&cr3) {
            if !rests {
                self.accounts.close(&account);
            }
            shadow.clear();
            // They would be in the way of whatever runs there next.
            if stub.set_breakpoints(Default::default()).is_ok() {
                self.spare.push((stub, shadow));
            }
        }
    }

    /// The same where its stub is of no use any more.
    pub fn lose(&mut self, cr3: u64) {
        self.spaces.remove(&cr3);
    }

    /// Takes part no more, and gives the stubs back, which another thread may take then.
    pub fn turn_off(&mut self) {
        self.release();
        self.affinity = None;
        let spaces = std::mem::take(&mut self.spaces).into_values().map(|space| space.stub);
        let spare = std::mem::take(&mut self.spare).into_iter().map(|(stub, _)| stub);
        if let Some(stubs) = self.stubs.take() {
            spaces.chain(spare).for_each(|stub| stubs.give_back(stub));
        }
    }
}
