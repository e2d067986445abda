//! Guest memory as the translator uses it: page walks, code bytes, and the watch on pages it has translated.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use host::HostError;
use memory::{GuestRam, WatchSink, Watcher};
use vcpu::Kick;
use x86::paging::PageTables;

use crate::block::Range;
use crate::code::Code;
use crate::region::KickWord;

/// Writes to translated code by anyone but the guest's own stores, until the engine comes to drop the blocks.
pub struct Mailbox {
    written: Mutex<Vec<Range>>,
    /// Whether there is anything, so that the engine need not take the lock at each of its runs.
    waits: AtomicBool,
    kick: Arc<KickWord>,
}

impl Mailbox {
    /// Takes what has come.
    pub fn take(&self) -> Vec<Range> {
        if !self.waits.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // Changed with the lock held only, so that it agrees with the list.
        self.waits.store(false, Ordering::Relaxed);
        std::mem::take(&mut *written)
    }
}

thread_local! {
    /// The mailbox of the engine that is writing on this thread: it drops its own blocks at once.
    static WRITER: Cell<*const Mailbox> = const { Cell::new(std::ptr::null()) };
}

impl WatchSink for Mailbox {
    fn written(&self, gpa: u64, len: usize) {
        if std::ptr::eq(WRITER.get(), self) {
            return;
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // A device may write the same buffer over and over before the vCPU looks: one note will do.
        if written.last() != Some(&Range { start: gpa, len: len as u64 }) {
            written.push(Range { start: gpa, len: len as u64 });
        }
        self.waits.store(true, Ordering::Release);
        drop(written);
        self.kick.kick();
    }
}

/// Guest-physical memory, as one vCPU's translator holds it.
pub struct Guest {
    /// RAM.
    pub ram: GuestRam,
    /// Which pages hold translated code.
    pub watcher: Watcher,
    /// Where others' writes to them are noted.
    pub mailbox: Arc<Mailbox>,
}

impl Guest {
    /// Registers a watcher for one engine.
    pub fn new(ram: GuestRam, kick: Arc<KickWord>) -> Result<Self, memory::WatchError> {
        let mailbox = Arc::new(Mailbox { written: Mutex::new(Vec::new()), waits: false.into(), kick });
        let watcher = ram.watcher(mailbox.clone())?;
        Ok(Self { ram, watcher, mailbox })
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
        WRITER.set(Arc::as_ptr(&self.mailbox));
        let written = self.ram.write(physical, bytes).is_ok();
        WRITER.set(std::ptr::null());
        written
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
