//! Guest RAM: allocation, regions, observers.
#![allow(unsafe_code)] // Pointers into the mapping are sent between threads and advised on.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use host::{Advice, Memfd};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::tracking::Tracking;
use crate::{
    AllocateError, DirtyPages, DiscardError, GuestMemory, HIGH_RAM_START, LOW_RAM_END, OutOfRange, PAGE_SIZE,
    WatchError, WatchSink, Watcher, WriteLog,
};

/// More than this a process cannot map (47-bit user addresses, half of them left for everything else).
const MAX_RAM: u64 = 1 << 46;

/// How RAM is to be allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RamOptions {
    /// Ask for transparent huge pages: faster, but memory is taken 2 MiB at a time.
    pub huge_pages: bool,
}

/// A contiguous piece of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first guest-physical address.
    pub gpa: u64,
    /// Its length in bytes, a multiple of the page size.
    pub len: u64,
    /// Where this process sees it; good for as long as the [`GuestRam`] lives.
    pub host: NonNull<u8>,
}

/// The guest's RAM. Clones are handles to the same memory.
#[derive(Clone, Debug)]
pub struct GuestRam {
    /// The first region, kept at hand: nearly every access goes there.
    pub(crate) low: Region,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    regions: Box<[Region]>,
    /// Owns the mappings the regions point into.
    memory: GuestMemory,
    tracking: Arc<Tracking>,
    memfd: Memfd,
}

// SAFETY: the pointers lead into a mapping that `Inner` owns for as long as any handle lives; memory behind them
// is accessed as the crate's header says, which is sound from any thread.
unsafe impl Send for GuestRam {}
// SAFETY: as above.
unsafe impl Sync for GuestRam {}
// SAFETY: as above.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl GuestRam {
    /// `bytes` of zeroed RAM as a PC has it: from 0 to at most [`LOW_RAM_END`], the rest from
    /// [`HIGH_RAM_START`]. Nothing is populated before it is touched.
    pub fn allocate(bytes: u64) -> Result<Self, AllocateError> {
        Self::allocate_with(bytes, RamOptions::default())
    }

    /// As [`allocate`](Self::allocate), with options.
    pub fn allocate_with(bytes: u64, options: RamOptions) -> Result<Self, AllocateError> {
        let low = bytes.min(LOW_RAM_END);
        let layout = [(0, low), (HIGH_RAM_START, bytes - low)];
        let used = if bytes > low { 2 } else { 1 };
        Self::with_layout(&layout[..used], options)
    }

    /// RAM in regions given as address and length, ascending and disjoint, each of whole pages.
    pub fn with_layout(layout: &[(u64, u64)], options: RamOptions) -> Result<Self, AllocateError> {
        let total = check_layout(layout)?;
        let memfd = Memfd::new("guest-ram", total)?;
        let tracking = Arc::new(Tracking::new(layout));

        let mut offset = 0;
        let mut regions = Vec::with_capacity(layout.len());
        let mut mapped = Vec::with_capacity(layout.len());
        for (index, &(gpa, len)) in layout.iter().enumerate() {
            let mapping = map_region(&memfd, offset, len, WriteLog::new(&tracking, index))?;
            let bad_layout = AllocateError::Layout { gpa, len };
            let Some(host) = NonNull::new(mapping.as_ptr()) else {
                return Err(bad_layout);
            };
            let advice = if options.huge_pages { Advice::HugePage } else { Advice::NoHugePage };
            // Advice only: a kernel built without the feature refuses it, and nothing is lost.
            // SAFETY: the range is exactly the mapping just made, which no reference points into.
            unsafe {
                let _ = host::mapping::advise(host.as_ptr(), len as usize, advice);
                let _ = host::mapping::advise(host.as_ptr(), len as usize, Advice::DontDump);
            }
            regions.push(Region { gpa, len, host });
            mapped.push(GuestRegionMmap::new(mapping, GuestAddress(gpa)).ok_or(bad_layout)?);
            offset += len;
        }
        let (gpa, len) = layout[0];
        let memory = GuestMemoryMmap::from_regions(mapped).map_err(|_| AllocateError::Layout { gpa, len })?;
        Ok(Self {
            low: regions[0],
            inner: Arc::new(Inner { regions: regions.into(), memory, tracking, memfd }),
        })
    }

    /// The pieces of RAM, ascending.
    pub fn regions(&self) -> &[Region] {
        &self.inner.regions
    }

    /// All RAM in bytes.
    pub fn size(&self) -> u64 {
        self.regions().iter().map(|region| region.len).sum()
    }

    /// Bytes of host memory that RAM takes now.
    pub fn resident(&self) -> Result<u64, host::HostError> {
        self.inner.memfd.resident()
    }

    /// For vm-memory's consumers. Their writes are tracked as ours are.
    pub fn as_guest_memory(&self) -> &GuestMemory {
        &self.inner.memory
    }

    /// The memory's file, for another process or KVM to map; regions follow each other in it.
    pub fn memfd(&self) -> &Memfd {
        &self.inner.memfd
    }

    /// Where this process sees the byte at `gpa`; good up to the end of its page, and for as long as the
    /// [`GuestRam`] lives. Who writes through it calls [`mark_written`](Self::mark_written).
    #[inline]
    pub fn host_address(&self, gpa: u64) -> Option<NonNull<u8>> {
        self.locate(gpa, 1).map(|(_, host)| host)
    }

    /// Where the byte at `gpa` is in the memory's file.
    pub fn file_offset(&self, gpa: u64) -> Option<usize> {
        let ((index, offset), _) = self.locate(gpa, 1)?;
        let before: u64 = self.regions()[..index].iter().map(|region| region.len).sum();
        Some(before as usize + offset)
    }

    /// Region index, offset and host address of a range that lies within one region.
    #[inline]
    pub(crate) fn find(&self, gpa: u64, len: usize) -> Option<(usize, usize, NonNull<u8>)> {
        let ((index, offset), host) = self.locate(gpa, len)?;
        Some((index, offset, host))
    }

    #[inline]
    fn locate(&self, gpa: u64, len: usize) -> Option<((usize, usize), NonNull<u8>)> {
        if let Some(offset) = self.low.offset_of(gpa, len) {
            // SAFETY: `offset_of` checked that the range lies in the region's mapping.
            return Some(((0, offset), unsafe { self.low.host.add(offset) }));
        }
        let mut regions = self.inner.regions.iter().enumerate().skip(1);
        regions.find_map(|(index, region)| {
            let offset = region.offset_of(gpa, len)?;
            // SAFETY: as above.
            Some(((index, offset), unsafe { region.host.add(offset) }))
        })
    }

    pub(crate) fn tracking(&self) -> &Tracking {
        &self.inner.tracking
    }

    /// Bytes were written through a host address: tells dirty log and watchers. Call it after the write.
    pub fn mark_written(&self, gpa: u64, len: usize) -> Result<(), OutOfRange> {
        let (index, offset, _) = self.find(gpa, len).ok_or(OutOfRange { gpa, len })?;
        self.tracking().written(index, offset, len);
        Ok(())
    }

    /// Enters a range into the dirty log only, for an engine that has dealt with its own translations.
    pub fn mark_dirty(&self, gpa: u64, len: usize) -> Result<(), OutOfRange> {
        let (index, offset, _) = self.find(gpa, len).ok_or(OutOfRange { gpa, len })?;
        self.tracking().mark_dirty(index, offset, len);
        Ok(())
    }

    /// Gives the whole pages of a range back to the host; they read as zero, and take memory again once they are
    /// written. Dirty log and watchers are told as of a write.
    pub fn discard(&self, gpa: u64, len: usize) -> Result<(), DiscardError> {
        let missing = OutOfRange { gpa, len };
        let (index, offset, host) = self.find(gpa, len).ok_or(missing)?;
        let page = PAGE_SIZE as usize;
        let start = offset.next_multiple_of(page);
        let len = ((offset + len) / page * page).saturating_sub(start);
        if len == 0 {
            return Ok(());
        }
        // SAFETY: `find` checked the range, of which this is a part; it is only ever shared as raw memory.
        unsafe { host::mapping::advise(host.add(start - offset).as_ptr(), len, Advice::Remove) }?;
        self.tracking().written(index, start, len);
        Ok(())
    }

    /// Registers a sink for writes to watched pages; see [`Watcher`].
    pub fn watcher(&self, sink: Arc<dyn WatchSink>) -> Result<Watcher, WatchError> {
        Watcher::register(&self.inner.tracking, sink)
    }

    /// Where the marks of the pages of the region that begins at `gpa` are, for generated code: a word for each page, in order, not
    /// 0 if any watcher watches it. Good for as long as the [`GuestRam`] lives.
    pub fn watched_marks(&self, gpa: u64) -> Option<*const AtomicU64> {
        self.tracking().watched_marks(gpa)
    }

    /// Whether any watcher watches the page that holds `gpa`.
    #[inline]
    pub fn is_watched(&self, gpa: u64) -> bool {
        self.tracking().is_watched(gpa)
    }

    /// Empties the dirty log and switches it on. Engines that write past this type have to be told to report.
    pub fn start_dirty_log(&self) {
        self.tracking().start_dirty_log();
    }

    /// Switches the dirty log off.
    pub fn stop_dirty_log(&self) {
        self.tracking().stop_dirty_log();
    }

    /// Takes the dirty pages out of the log, which goes on empty. Read the pages after this call.
    pub fn take_dirty(&self) -> DirtyPages {
        self.tracking().take_dirty()
    }
}

impl Region {
    #[inline]
    fn offset_of(&self, gpa: u64, len: usize) -> Option<usize> {
        let offset = gpa.wrapping_sub(self.gpa);
        // In this order nothing overflows: both differences are taken from larger values.
        (offset < self.len && len as u64 <= self.len - offset).then_some(offset as usize)
    }
}

/// Checks a layout and adds it up.
fn check_layout(layout: &[(u64, u64)]) -> Result<usize, AllocateError> {
    let mut end = 0u64;
    let mut total = 0u64;
    for &(gpa, len) in layout {
        let bad = AllocateError::Layout { gpa, len };
        let aligned = gpa.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE);
        if len == 0 || !aligned || gpa < end || len > MAX_RAM {
            return Err(bad);
        }
        end = gpa.checked_add(len).ok_or(bad)?;
        total += len;
        if total > MAX_RAM {
            return Err(AllocateError::Layout { gpa, len });
        }
    }
    if total == 0 {
        return Err(AllocateError::Layout { gpa: 0, len: 0 });
    }
    Ok(total as usize)
}

fn map_region(
    memfd: &Memfd,
    offset: u64,
    len: u64,
    log: WriteLog,
) -> Result<MmapRegion<WriteLog>, AllocateError> {
    let file = FileOffset::new(memfd.try_clone_file()?, offset);
    Ok(MmapRegionBuilder::new_with_bitmap(len as usize, log)
        .with_file_offset(file)
        .with_mmap_prot(host::mapping::READ_WRITE)
        .with_mmap_flags(host::mapping::SHARED)
        .build()?)
}
