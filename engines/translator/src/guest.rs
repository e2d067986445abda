//! Guest memory as the translator uses it: page walks, code bytes, and the watch on pages it has translated.

use std::sync::Arc;

use host::HostError;
use memory::{GuestRam, Watcher};
use x86::paging::PageTables;

use crate::code::Code;
use crate::peers::{Mailbox, Peers, writing};
use crate::region::KickWord;

/// Guest-physical memory, as one vCPU's translator holds it.
pub struct Guest {
    /// RAM.
    pub ram: GuestRam,
    /// Which pages hold translated code.
    pub watcher: Watcher,
    /// Where others' writes to them are noted.
    pub mailbox: Arc<Mailbox>,
    /// The others.
    pub peers: Arc<Peers>,
}

impl Guest {
    /// Registers a watcher for one engine.
    pub fn new(ram: GuestRam, kick: Arc<KickWord>, peers: Arc<Peers>) -> Result<Self, memory::WatchError> {
        let mailbox = Arc::new(Mailbox::new(kick));
        let watcher = ram.watcher(mailbox.clone())?;
        peers.add(watcher.slot(), &mailbox);
        Ok(Self { ram, watcher, mailbox, peers })
    }

    /// Whether guest code may write a page without anybody being told, from now on until the page is
    /// [protected](crate::tlb::Tlb::protect_physical).
    pub fn admits_writes(&self, physical: u64) -> bool {
        match self.peers.is_alone() {
            true => !self.watcher.watches(physical),
            false => self.watcher.admit_writer(physical),
        }
    }

    /// Watches a page from before its code is read; `false` if there is none. What guest code of this engine's may write is
    /// the caller's to see to, as are the pages that `withdrawn` is called with meanwhile.
    pub fn watch(&self, page: u64, mut withdrawn: impl FnMut(&Self, Option<u64>)) -> bool {
        if !self.watcher.watch(page) {
            return false;
        }
        if self.peers.is_alone() {
            return true;
        }
        self.watcher.dismiss_writer(page);
        let writers = self.watcher.writers(page);
        if writers != 0 {
            self.mailbox.depart();
            self.peers.withdraw(writers, page);
            self.mailbox.arrive();
            if let Some((news, number)) = self.mailbox.take_withdrawals() {
                news.withdrawn.iter().for_each(|page| withdrawn(self, Some(*page)));
                if news.all_withdrawn {
                    withdrawn(self, None);
                }
                self.mailbox.answer(number);
            }
        }
        true
    }

    /// Bytes from `physical` to at most the end of its page.
    pub fn code(&self, physical: u64, most: usize) -> Option<Vec<u8>> {
        let room = 4096 - (physical & 0xfff) as usize;
        let mut bytes = vec![0; most.min(room)];
        self.ram.read(physical, &mut bytes).ok()?;
        Some(bytes)
    }

    /// The bytes that the longest instruction at `physical` would have, if its page holds one byte more: what takes two
    /// reads, and is asked for at each exit.
    #[inline]
    pub fn instruction(&self, physical: u64) -> Option<Code> {
        if physical & 0xfff > 4096 - 16 {
            return None;
        }
        let (low, high) = (self.ram.read_u64(physical).ok()?, self.ram.read_u64(physical + 8).ok()?);
        Some(Code::of_words(low, high))
    }

    /// Writes RAM on behalf of the engine itself, which then sees to its own blocks; `false` if there is none.
    pub fn write(&self, physical: u64, bytes: &[u8]) -> bool {
        writing(&self.mailbox, || self.ram.write(physical, bytes).is_ok())
    }

    /// Copies RAM in the same way.
    pub fn copy(&self, from: u64, to: u64, len: usize) -> bool {
        writing(&self.mailbox, || self.ram.copy(from, to, len).is_ok())
    }

    /// Sets bytes of RAM in the same way.
    pub fn fill(&self, physical: u64, len: usize, value: u8) -> bool {
        writing(&self.mailbox, || self.ram.fill(physical, len, value).is_ok())
    }

    /// Writes `new` in the same way, if `current` is there, in one indivisible step; whether it was. `None` if there is no RAM or
    /// it cannot be done in one.
    pub fn exchange(&self, physical: u64, current: &[u8], new: &[u8]) -> Option<bool> {
        writing(&self.mailbox, || self.ram.compare_exchange(physical, current, new).ok().flatten())
    }

    /// Host address of the page at `physical`, if it is RAM.
    pub fn host_page(&self, physical: u64) -> Option<u64> {
        self.ram.host_address(physical & !0xfff).map(|p| p.as_ptr() as u64)
    }
}

impl PageTables for Guest {
    fn read_u32(&self, gpa: u64) -> u32 {
        self.ram.read_u32(gpa).unwrap_or(u32::MAX)
    }

    fn read_u64(&self, gpa: u64) -> u64 {
        self.ram.read_u64(gpa).unwrap_or(u64::MAX)
    }

    fn compare_exchange_u32(&self, gpa: u64, current: u32, new: u32) -> bool {
        self.ram.compare_exchange_u32(gpa, current, new).map_or(true, |r| r.is_ok())
    }

    fn compare_exchange_u64(&self, gpa: u64, current: u64, new: u64) -> bool {
        self.ram.compare_exchange_u64(gpa, current, new).map_or(true, |r| r.is_ok())
    }
}

/// Wraps what the host refused.
pub fn refused(
    what: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> vcpu::EngineError {
    vcpu::EngineError::Host { what, source: Box::new(source) }
}

/// The same, for a host error.
pub fn host_refused(what: &'static str) -> impl FnOnce(HostError) -> vcpu::EngineError {
    move |source| refused(what, source)
}
