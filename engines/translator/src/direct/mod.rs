//! Direct execution: ring 3's code as it is, on the bare processor, in a process that has the guest program's memory and
//! nothing else ([`host::stub`]).
//!
//! Such code takes no longer than anywhere, and needs no translation. But to get there and back takes some ten
//! microseconds, and a page has to be mapped there first. So a program begins in the translator; one that is found [busy]
//! when the engine is kicked, by a timer most times, that has much code to be translated, or that is [known] is *promoted*, and as long as the
//! *bursts* between its faults and system calls are long enough to pay for the way, it stays so. [Accounts](accounts) say whether they are, and a
//! [trial] whether that was right.
//!
//! What is promoted is an address space, by its CR3. It has a stub and a [shadow] of its tables. One that was not worth it *rests*: it keeps both, until
//! another wants its stub, since mapping all of a program's memory once more costs more than most of what it may lose. While one is current that is promoted, the
//! jump table of ring 3 stays empty, so that whatever goes to ring 3 leaves to the engine, which runs a burst. What a burst
//! cannot do (system calls, faults, what traps) the translator does, from the state that the burst has left: nothing is
//! decided here that the translator or the monitor would have to decide, too.

mod account;
mod accounts;
mod busy;
mod guards;
mod kernel;
mod known;
mod pace;
mod promotion;
mod scan;
mod shadow;
mod space;
mod trial;
mod vectors;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use host::stub::{Stop, Stub, Stubs};
use host::{Affinity, HostError};

use crate::guest::Guest;
use crate::hash::KeyHasher;
use crate::windows::Tables;

use accounts::Accounts;
use busy::{Busy, Found};
use kernel::Kernel;
use pace::Stretch;
use shadow::Shadow;

pub use account::Loss;
pub use scan::{AHEAD, Verdict, joins, judge};
pub use shadow::{END, Rights};
pub use space::Space;
pub use vectors::{get, put};

/// When an address space is promoted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Promotion {
    /// When it is found busy.
    #[default]
    Busy,
    /// When it is met, and for good: slow, but it leaves nothing out of a test.
    Always,
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Bursts.
    pub bursts: u64,
    /// Cycles of the time-stamp counter in them.
    pub cycles: u64,
    /// Of them those that ended where nothing was mapped that could be.
    pub misses: u64,
    /// Address spaces promoted.
    pub promoted: u64,
    /// How often one was not worth it.
    pub demoted: u64,
}

/// All address spaces that are promoted, and some that were.
#[derive(Default)]
pub struct Direct {
    stubs: Option<Arc<Stubs>>,
    when: Promotion,
    spaces: HashMap<u64, Space, BuildHasherDefault<KeyHasher>>,
    /// Stubs that have none.
    spare: Vec<(Stub, Shadow)>,
    accounts: Accounts,
    found: Found,
    kernel: Kernel,
    stretch: Stretch,
    /// Where the engine's thread may run.
    affinity: Option<Affinity>,
    /// Which address space has run last.
    last: Option<u64>,
    /// Counts the flushes.
    epoch: u64,
    /// What has happened.
    pub tally: Tally,
}

impl Direct {
    /// Takes stubs from here.
    pub fn set_stubs(&mut self, stubs: Arc<Stubs>, when: Promotion) {
        (self.stubs, self.when) = (Some(stubs), when);
    }

    /// Whether there is no direct execution.
    pub fn is_off(&self) -> bool {
        self.stubs.is_none()
    }

    /// An address space is entered, and its ring 3 or others' has entered the kernel so often: whether it runs directly.
    pub fn enter(&mut self, cr3: u64, entries: u64) -> bool {
        let runs = self.runs(cr3);
        if !self.is_off() && !self.stretch.is_of(cr3, runs) {
            self.pass(cr3, entries);
        }
        runs
    }

    /// A stretch has ended, and another begins: what it says of the pace of whoever ran.
    fn pass(&mut self, next: u64, entries: u64) {
        let now = host::cpu::rdtsc();
        if self.when != Promotion::Always
            && let Some((cr3, directly, pace)) = self.stretch.end(entries, now)
            && let Some(space) = self.spaces.get_mut(&cr3).filter(|space| !space.rests)
            && space.account.passed(directly, pace, space.shadow.code_pages())
        {
            space.is_slow = true;
            self.accounts.found_slow(&space.account, cr3, now);
        }
        self.stretch.begin(next, self.runs(next), entries, now);
    }

    /// Whether an address space is promoted, and not on trial.
    pub fn runs(&self, cr3: u64) -> bool {
        self.spaces.get(&cr3).is_some_and(|space| !space.rests && !space.account.is_on_trial())
    }

    /// Whether an address space is promoted.
    pub fn has(&self, cr3: u64) -> bool {
        self.spaces.get(&cr3).is_some_and(|space| !space.rests)
    }

    /// One that is.
    pub fn space(&mut self, cr3: u64) -> Option<&mut Space> {
        self.spaces.get_mut(&cr3)
    }

    /// This address space's ring 3 has been found running, or none, and has entered the kernel so often: whether it is busy.
    pub fn find(&mut self, cr3: Option<u64>, entries: u64) -> bool {
        if let Some(cr3) = cr3 {
            self.pass(cr3, entries);
        }
        let now = host::cpu::rdtsc();
        let busy = self.found.find(cr3, entries, now);
        if let (Busy::Surely, Some(cr3)) = (busy, cr3) {
            // What its program did before it is through with.
            self.accounts.wake(cr3, now);
        }
        busy != Busy::Hardly
    }

    /// Code of an address space is looked up at a guest-physical address.
    pub fn entered(&mut self, cr3: u64, physical: u64) {
        if !self.is_off() {
            self.accounts.entered(cr3, physical);
        }
    }

    /// A block of an address space's code has been translated.
    pub fn translated(&mut self, cr3: u64) {
        if !self.is_off() {
            self.accounts.translated(cr3, host::cpu::rdtsc());
        }
    }

    /// Whether an address space that is about to run is to be promoted, busy or not.
    pub fn is_due(&self, cr3: u64) -> bool {
        self.when == Promotion::Always || self.accounts.is_due(cr3)
    }

    /// A burst has ended for this; it has taken so many cycles with the way there and back.
    pub fn burst(&mut self, cr3: u64, stop: &Stop, cycles: u64) {
        self.tally.bursts += 1;
        self.tally.cycles += cycles;
        if let Some(space) = self.spaces.get_mut(&cr3) {
            let inside = self.kernel.take_off(stop, space.stub.cycles());
            self.accounts.burst(&mut space.account, cr3, cycles, inside);
        }
    }

    /// It was for this: whether the address space had better be demoted, since it loses too much.
    pub fn loses(&mut self, cr3: u64, loss: Loss) -> bool {
        self.tally.misses += u64::from(loss == Loss::Missed);
        let Some(space) = self.spaces.get_mut(&cr3).filter(|_| self.when != Promotion::Always) else {
            return false;
        };
        !self.accounts.lose(&mut space.account, loss, cr3, host::cpu::rdtsc())
    }

    /// Gets an address space ready to run: it is compared with the guest's tables if need be. `false` if it is promoted no more: it is not
    /// the one that was, or had better not have been.
    pub fn compare(&mut self, tables: Tables) -> bool {
        let (epoch, cr3) = (self.epoch, tables.paging.cr3);
        let Some(space) = self.spaces.get_mut(&cr3) else { return false };
        space.used = host::cpu::rdtsc();
        space.age_guards();
        let is_same = space.shadow.compare(tables, epoch);
        if self.when == Promotion::Always || is_same && !space.is_slow {
            return true;
        }
        if is_same {
            self.demote(cr3)
        } else {
            self.forget(cr3)
        }
        false
    }

    /// It is this address space's turn: the engine's thread and its stub are to run where they take turns best. With it the one that
    /// has run last, if that is another.
    pub fn turn(&mut self, cr3: u64) -> Option<(&mut Space, Option<&Space>)> {
        if self.affinity.is_none() {
            self.affinity = Affinity::of_this_thread().ok();
        }
        let last = self.last.replace(cr3).filter(|last| *last != cr3);
        let (space, last) = match last {
            Some(last) => {
                let [space, last] = self.spaces.get_disjoint_mut([&cr3, &last]);
                (space?, last.map(|last| &*last))
            }
            None => (self.spaces.get_mut(&cr3)?, None),
        };
        if let Some(affinity) = &mut self.affinity {
            space.stub.bind(affinity);
        }
        Some((space, last))
    }

    /// The engine's thread may go where the host thinks fit.
    pub fn release(&mut self) {
        if let Some(affinity) = &mut self.affinity {
            affinity.release();
        }
    }

    /// All that is mapped may be stale.
    pub fn flush(&mut self) {
        self.epoch += 1;
    }

    /// A page of the current address space is mapped no more as it was.
    pub fn flush_page(&mut self, tables: Tables, linear: u64) {
        if let Some(space) = self.spaces.get_mut(&tables.paging.cr3) {
            space.shadow.flush_page(tables, linear);
        }
    }

    /// Lets nobody write a guest-physical page unseen.
    pub fn protect(&mut self, guest: &Guest, physical: u64) {
        self.spaces.values_mut().for_each(|space| space.shadow.protect(guest, physical));
    }

    /// The code in a guest-physical page is not what it was.
    pub fn forget_code(&mut self, physical: u64) {
        self.accounts.forget(physical);
        self.spaces.values_mut().for_each(|space| space.shadow.forget_code(physical));
    }

    /// Nothing is mapped any more.
    pub fn clear(&mut self) {
        self.spaces.values_mut().for_each(|space| space.shadow.clear());
    }
}

/// What can be said of an error that ends a machine.
pub fn lost(error: HostError) -> vcpu::EngineError {
    crate::guest::host_refused("running the guest's program in a process of its own")(error)
}
