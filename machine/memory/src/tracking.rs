//! Who wrote where: the dirty log and the write watch.
//!
//! Both are fed from one place, [`Tracking::written`], after the bytes have been written. The order matters:
//!
//! - harvest of the dirty log: a bit is cleared *before* its page is read, and set *after* the page is written,
//!   so that a write racing with the harvest is in the copy or in the next round, or in both;
//! - watch: an engine sets the watch *before* it reads the code it translates, a writer looks at the watch
//!   *after* it wrote. With a full fence between the two steps on both sides at least one of them sees the
//!   other's, so no translation of stale bytes goes unreported;
//! - writers: an engine that lets guest code write a page past this crate says so *before* it looks at the watch; one that
//!   is about to translate from the page watches it *before* it looks for writers. At least one of them sees the other's
//!   here, too. What they do then is theirs: the one does not let it, or the other has it stopped.
#![allow(unsafe_code)] // Zeroed tables of atomics, allocated lazily.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, PoisonError, RwLock};

use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};

use crate::{PAGE_SIZE, WatchError};

/// Slots for watchers: one bit each in a page's mask.
const SLOTS: usize = 64;

/// Is told of writes to pages its owner watches.
///
/// Called on the writing thread, often a device's or another vCPU's, in the middle of its access: an
/// implementation notes the page, perhaps kicks its vCPU, and returns. It must neither access guest memory nor
/// register or drop watchers.
pub trait WatchSink: Send + Sync {
    /// `len` bytes at `gpa` have been written; at least one page of the range is watched, and `gpa` and `len`
    /// cover the watched pages' part of the write only.
    fn written(&self, gpa: u64, len: usize);
}

type Sinks = [Option<Arc<dyn WatchSink>>; SLOTS];

/// Tracking of one region, `mask` and `dirty` indexed by the page's number in it.
struct RegionTracking {
    gpa: u64,
    pages: usize,
    watched: Box<[AtomicU64]>,
    writers: Box<[AtomicU64]>,
    dirty: Box<[AtomicU64]>,
}

/// Tracking of all regions of a machine.
pub(crate) struct Tracking {
    regions: Box<[RegionTracking]>,
    logging: AtomicBool,
    sinks: RwLock<Sinks>,
}

impl Tracking {
    /// Tables for regions given as address and length in bytes.
    pub(crate) fn new(regions: &[(u64, u64)]) -> Self {
        let regions = regions.iter().map(|&(gpa, len)| {
            // The caller maps regions of this length, so the numbers fit.
            let pages = (len / PAGE_SIZE) as usize;
            let (watched, writers, dirty) = (zeroed(pages), zeroed(pages), zeroed(pages.div_ceil(64)));
            RegionTracking { gpa, pages, watched, writers, dirty }
        });
        Self {
            regions: regions.collect(),
            logging: AtomicBool::new(false),
            sinks: RwLock::new([const { None }; SLOTS]),
        }
    }

    /// Bytes at `offset` of region `index` have been written.
    #[inline]
    pub(crate) fn written(&self, index: usize, offset: usize, len: usize) {
        self.mark_dirty(index, offset, len);
        // Between the write and the look at the watch; see the module's header.
        fence(Ordering::SeqCst);
        self.notify(index, offset, len);
    }

    /// As `written` behind a locked instruction, which is a full fence already.
    #[inline]
    pub(crate) fn written_locked(&self, index: usize, offset: usize, len: usize) {
        self.mark_dirty(index, offset, len);
        self.notify(index, offset, len);
    }

    /// Enters the range into the dirty log, if that is on.
    #[inline]
    pub(crate) fn mark_dirty(&self, index: usize, offset: usize, len: usize) {
        if self.logging.load(Ordering::Relaxed) {
            self.set_dirty(index, offset, len);
        }
    }

    #[cold]
    fn set_dirty(&self, index: usize, offset: usize, len: usize) {
        let region = &self.regions[index];
        for page in region.pages_of(offset, len) {
            region.dirty[page / 64].fetch_or(1 << (page % 64), Ordering::Release);
        }
    }

    #[inline]
    fn notify(&self, index: usize, offset: usize, len: usize) {
        let region = &self.regions[index];
        let mut pages = region.pages_of(offset, len);
        if pages.any(|page| region.watched[page].load(Ordering::Relaxed) != 0) {
            self.call_sinks(region, offset, len);
        }
    }

    #[cold]
    fn call_sinks(&self, region: &RegionTracking, offset: usize, len: usize) {
        // Poisoned means that some sink panicked; the table itself is never half-changed.
        let sinks = self.sinks.read().unwrap_or_else(PoisonError::into_inner);
        let end = offset.saturating_add(len);
        for page in region.pages_of(offset, len) {
            let mut mask = region.watched[page].load(Ordering::Relaxed);
            let first = (page * PAGE_SIZE as usize).max(offset);
            let last = ((page + 1) * PAGE_SIZE as usize).min(end);
            while mask != 0 {
                if let Some(sink) = &sinks[mask.trailing_zeros() as usize] {
                    sink.written(region.gpa + first as u64, last - first);
                }
                mask &= mask - 1;
            }
        }
    }

    fn region_of(&self, gpa: u64) -> Option<(&RegionTracking, usize)> {
        self.regions.iter().find_map(|region| {
            let page = gpa.checked_sub(region.gpa)? / PAGE_SIZE;
            (page < region.pages as u64).then_some((region, page as usize))
        })
    }

    pub(crate) fn watched_marks(&self, gpa: u64) -> Option<*const AtomicU64> {
        self.regions.iter().find(|region| region.gpa == gpa).map(|region| region.watched.as_ptr())
    }

    pub(crate) fn is_watched(&self, gpa: u64) -> bool {
        self.region_of(gpa).is_some_and(|(region, page)| region.watched[page].load(Ordering::Relaxed) != 0)
    }

    pub(crate) fn start_dirty_log(&self) {
        for region in &self.regions {
            region.dirty.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        self.logging.store(true, Ordering::SeqCst);
    }

    pub(crate) fn stop_dirty_log(&self) {
        self.logging.store(false, Ordering::SeqCst);
    }

    pub(crate) fn take_dirty(&self) -> DirtyPages {
        let take = |region: &RegionTracking| {
            (region.gpa, region.dirty.iter().map(|word| word.swap(0, Ordering::AcqRel)).collect())
        };
        DirtyPages { regions: self.regions.iter().map(take).collect() }
    }

    fn is_dirty(&self, index: usize, offset: usize) -> bool {
        let region = &self.regions[index];
        let page = offset / PAGE_SIZE as usize;
        page < region.pages && region.dirty[page / 64].load(Ordering::Acquire) & (1 << (page % 64)) != 0
    }
}

impl RegionTracking {
    /// The pages a range touches, clipped to the region: vm-memory may report more than was written.
    #[inline]
    fn pages_of(&self, offset: usize, len: usize) -> std::ops::Range<usize> {
        let first = offset / PAGE_SIZE as usize;
        let end = offset.saturating_add(len).div_ceil(PAGE_SIZE as usize).min(self.pages);
        if len == 0 { 0..0 } else { first.min(end)..end }
    }
}

impl fmt::Debug for Tracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracking")
            .field("regions", &self.regions.len())
            .field("logging", &self.logging)
            .finish_non_exhaustive()
    }
}

/// A table of zeroed atomics that takes no host memory until touched: RAM may be large and little of it watched.
fn zeroed(len: usize) -> Box<[AtomicU64]> {
    let plain = vec![0u64; len].into_boxed_slice();
    let raw = Box::into_raw(plain) as *mut [AtomicU64];
    // SAFETY: AtomicU64 has the size, alignment and valid values of u64, and we own the allocation alone.
    unsafe { Box::from_raw(raw) }
}

/// An engine's right to watch pages; dropping it ends all its watches.
///
/// Watches stand until they are taken back: a page written ten times is reported ten times. Several watchers may
/// watch one page; each is told, and each takes back its own.
pub struct Watcher {
    tracking: Arc<Tracking>,
    slot: usize,
}

impl Watcher {
    pub(crate) fn register(tracking: &Arc<Tracking>, sink: Arc<dyn WatchSink>) -> Result<Self, WatchError> {
        let mut sinks = tracking.sinks.write().unwrap_or_else(PoisonError::into_inner);
        let slot = sinks.iter().position(Option::is_none).ok_or(WatchError::TooMany(SLOTS))?;
        sinks[slot] = Some(sink);
        drop(sinks);
        Ok(Self { tracking: Arc::clone(tracking), slot })
    }

    /// Watches the page that holds `gpa`: **before** reading what is translated from it. Says whether there is
    /// RAM at all; where there is none, nothing is watched.
    pub fn watch(&self, gpa: u64) -> bool {
        let Some((region, page)) = self.tracking.region_of(gpa) else {
            return false;
        };
        // A locked instruction: the full fence the engine's side needs.
        region.watched[page].fetch_or(1 << self.slot, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        true
    }

    /// Ends this watcher's watch of the page that holds `gpa`.
    pub fn unwatch(&self, gpa: u64) {
        if let Some((region, page)) = self.tracking.region_of(gpa) {
            region.watched[page].fetch_and(!(1 << self.slot), Ordering::SeqCst);
        }
    }

    /// Whether this watcher watches the page that holds `gpa`.
    pub fn watches(&self, gpa: u64) -> bool {
        self.tracking.region_of(gpa).is_some_and(|(region, page)| {
            region.watched[page].load(Ordering::Relaxed) & (1 << self.slot) != 0
        })
    }

    /// Which bit of [`Self::writers`] is its own.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// Its owner wants to write the page that holds `gpa` past this crate, unreported, from now on: `false` if that may not
    /// be, because somebody watches it or there is no RAM.
    pub fn admit_writer(&self, gpa: u64) -> bool {
        let Some((region, page)) = self.tracking.region_of(gpa) else {
            return false;
        };
        let (watched, writers, bit) = (&region.watched[page], &region.writers[page], 1 << self.slot);
        if watched.load(Ordering::Relaxed) != 0 {
            return false;
        }
        // Who has said so before has been seen by whoever has begun to watch since, and will be told.
        writers.load(Ordering::Relaxed) & bit != 0
            || writers.fetch_or(bit, Ordering::SeqCst) & bit != 0
            || watched.load(Ordering::SeqCst) == 0
    }

    /// Its owner writes that page no more but through this crate.
    pub fn dismiss_writer(&self, gpa: u64) {
        if let Some((region, page)) = self.tracking.region_of(gpa) {
            region.writers[page].fetch_and(!(1 << self.slot), Ordering::SeqCst);
        }
    }

    /// Whose owners may write that page past this crate, a bit for each watcher: asked after [`Self::watch`]. There may be
    /// more than do.
    pub fn writers(&self, gpa: u64) -> u64 {
        self.tracking.region_of(gpa).map_or(0, |(region, page)| region.writers[page].load(Ordering::SeqCst))
    }

    /// Ends all watches of this watcher.
    pub fn unwatch_all(&self) {
        let bit = 1u64 << self.slot;
        for mask in self.tracking.regions.iter().flat_map(|region| &region.watched) {
            // Looking first keeps untouched parts of the table untouched.
            if mask.load(Ordering::Relaxed) & bit != 0 {
                mask.fetch_and(!bit, Ordering::SeqCst);
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.unwatch_all();
        let bit = 1u64 << self.slot;
        for mask in self.tracking.regions.iter().flat_map(|region| &region.writers) {
            if mask.load(Ordering::Relaxed) & bit != 0 {
                mask.fetch_and(!bit, Ordering::SeqCst);
            }
        }
        self.tracking.sinks.write().unwrap_or_else(PoisonError::into_inner)[self.slot] = None;
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("slot", &self.slot).finish_non_exhaustive()
    }
}

/// The pages that were dirty at a harvest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyPages {
    regions: Vec<(u64, Vec<u64>)>,
}

impl DirtyPages {
    /// The guest-physical addresses of the pages, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.regions.iter().flat_map(|(gpa, words)| {
            words.iter().enumerate().flat_map(move |(index, &word)| {
                let bits = (0..64u64).filter(move |bit| word >> bit & 1 != 0);
                bits.map(move |bit| gpa + (index as u64 * 64 + bit) * PAGE_SIZE)
            })
        })
    }

    /// How many pages there are.
    pub fn count(&self) -> u64 {
        self.regions.iter().flat_map(|(_, words)| words).map(|word| u64::from(word.count_ones())).sum()
    }
}

/// vm-memory's view of the tracking of one region.
#[derive(Clone, Debug)]
pub struct WriteLog {
    tracking: Arc<Tracking>,
    region: usize,
}

impl WriteLog {
    pub(crate) fn new(tracking: &Arc<Tracking>, region: usize) -> Self {
        Self { tracking: Arc::clone(tracking), region }
    }
}

impl<'a> WithBitmapSlice<'a> for WriteLog {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for WriteLog {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.tracking.written(self.region, offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.tracking.is_dirty(self.region, offset)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}
