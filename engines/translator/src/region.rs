//! The reservation that holds everything generated code touches, and the only way to it.
//!
//! Unsafe, because generated code changes these bytes behind Rust's back. The rules that keep this sound: no
//! reference into the region lives across [`Region::enter`]; the kick word is the only part that other threads
//! touch, and it is atomic.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use host::stub::Interrupter;
use host::{Advice, DualMapping, HUGE_PAGE, HostError, Protection, Reservation};

use crate::context::{
    BOUNCE_OFFSET, CELLS, CELLS_OFFSET, CODE_OFFSET, Context, HINTS_OFFSET, JUMP_BYTES, JUMP_ENTRIES,
    JUMP_OFFSET, KICK_OFFSET, Layout, PAGE_SLOTS, PAGES_OFFSET, TLB_BYTES, TLB_ENTRIES, TLB_OFFSET,
    VICTIM_BYTES, VICTIM_ENTRIES, VICTIM_OFFSET, VIEWS,
};
use crate::hint_table::HintTable;
use crate::tlb_entry::TlbEntry;
use crate::trampoline::Crossings;

const PAGE: usize = 4096;

/// See the module's documentation.
pub struct Region {
    reservation: Reservation,
    code: DualMapping,
    code_bytes: usize,
    /// Which huge pages of the translation cache anything has been written to.
    begun: Vec<bool>,
    /// The thread that has run guest code last, by the place of its [`LAST`], and what the x87 part of the XSAVE area was
    /// behind that.
    left: (usize, [u64; X87_WORDS]),
}

/// An XSAVE area up to the vector registers, and whether it holds that part at all.
const X87_WORDS: usize = 21;

thread_local! {
    /// The region whose guest code ran last on this thread. The host's code does not touch the x87 registers.
    static LAST: Cell<usize> = const { Cell::new(0) };
}

impl Region {
    /// Reserves and places everything, with a translation cache of `code_bytes`.
    pub fn new(code_bytes: usize) -> Result<Self, HostError> {
        let mut reservation = Reservation::low(CODE_OFFSET + code_bytes)?;
        reservation.place_anonymous(0, BOUNCE_OFFSET, Protection::ReadWrite)?;
        reservation.place_anonymous(BOUNCE_OFFSET + PAGE, 2 * PAGE, Protection::ReadWrite)?;
        reservation.place_anonymous(TLB_OFFSET, CODE_OFFSET - TLB_OFFSET, Protection::ReadWrite)?;
        // Less of the processor's TLBs for them leaves more for the guest's memory. Where there are none, it is slower.
        let _ = reservation.advise(TLB_OFFSET, CODE_OFFSET - TLB_OFFSET, Advice::HugePage);
        let code = DualMapping::within(&mut reservation, CODE_OFFSET, code_bytes)?;
        let begun = vec![false; code_bytes / HUGE_PAGE];
        Ok(Self { reservation, code, code_bytes, begun, left: (0, [0; X87_WORDS]) })
    }

    /// Where things stand; what stands in the cache is filled in once it is emitted.
    pub fn layout(&self) -> Layout {
        Layout { context: self.reservation.address() as u64, exit: 0, refill: 0, repeat: 0, walk: 0 }
    }

    /// Size of the translation cache.
    pub fn code_bytes(&self) -> usize {
        self.code_bytes
    }

    /// The shared state.
    pub fn context(&mut self) -> &mut Context {
        // SAFETY: the first pages of the reservation are placed, zeroed (valid for Context) and aligned; `self`
        // is borrowed, so that no other reference to them exists and no guest code runs.
        unsafe { &mut *self.reservation.as_ptr().cast::<Context>() }
    }

    /// The shared state, to read.
    pub fn context_ref(&self) -> &Context {
        // SAFETY: as for `context`; nobody writes while `self` is borrowed.
        unsafe { &*self.reservation.as_ptr().cast::<Context>() }
    }

    /// The raw address of the shared state, for the fault handler.
    pub fn context_ptr(&self) -> *mut Context {
        self.reservation.as_ptr().cast()
    }

    /// The kick word.
    pub fn kick(&self) -> &AtomicU32 {
        // SAFETY: placed with the context, aligned, and touched by atomic operations only (generated code reads
        // it with one aligned instruction).
        unsafe { &*self.reservation.as_ptr().add(KICK_OFFSET).cast::<AtomicU32>() }
    }

    /// A view's software TLB.
    pub fn tlb(&mut self, view: usize) -> &mut [TlbEntry; TLB_ENTRIES] {
        assert!(view < VIEWS);
        // SAFETY: the range is placed and aligned, any bytes are a TlbEntry, and `self` is borrowed.
        unsafe { &mut *self.reservation.as_ptr().add(TLB_OFFSET + view * TLB_BYTES).cast() }
    }

    /// A view's jump table: guest address and host address of blocks' entries for indirect jumps.
    pub fn jump_table(&mut self, view: usize) -> &mut [[u64; 2]; JUMP_ENTRIES] {
        assert!(view < VIEWS);
        // SAFETY: as for `tlb`.
        unsafe { &mut *self.reservation.as_ptr().add(JUMP_OFFSET + view * JUMP_BYTES).cast() }
    }

    /// A view's victim table: entries that lost their slot in the jump table.
    pub fn victims(&mut self, view: usize) -> &mut [[u64; 2]; VICTIM_ENTRIES] {
        assert!(view < VIEWS);
        // SAFETY: as for `tlb`.
        unsafe { &mut *self.reservation.as_ptr().add(VICTIM_OFFSET + view * VICTIM_BYTES).cast() }
    }

    /// The hints.
    pub fn hints(&mut self) -> &mut HintTable {
        // SAFETY: as for `tlb`.
        unsafe { &mut *self.reservation.as_ptr().add(HINTS_OFFSET).cast() }
    }

    /// The hints, to read.
    pub fn hints_ref(&self) -> &HintTable {
        // SAFETY: as for `tlb`; nobody writes while `self` is borrowed.
        unsafe { &*self.reservation.as_ptr().add(HINTS_OFFSET).cast() }
    }

    /// The linear addresses of ring 3's code pages.
    pub fn page_bases(&mut self) -> &mut [u64; PAGE_SLOTS] {
        // SAFETY: as for `tlb`.
        unsafe { &mut *self.reservation.as_ptr().add(PAGES_OFFSET).cast() }
    }

    /// The same, to read.
    pub fn page_bases_ref(&self) -> &[u64; PAGE_SLOTS] {
        // SAFETY: as for `tlb`; nobody writes while `self` is borrowed.
        unsafe { &*self.reservation.as_ptr().add(PAGES_OFFSET).cast() }
    }

    /// The cells: host addresses of where each leads now, and of its way out.
    pub fn cells(&mut self) -> &mut [[u64; 2]; CELLS] {
        // SAFETY: as for `tlb`.
        unsafe { &mut *self.reservation.as_ptr().add(CELLS_OFFSET).cast() }
    }

    /// The two bounce pages.
    pub fn bounce(&mut self) -> &mut [u8; 2 * PAGE] {
        // SAFETY: as for `tlb`.
        unsafe { &mut *self.reservation.as_ptr().add(BOUNCE_OFFSET + PAGE).cast() }
    }

    /// Writes code at an offset of the translation cache, through the writable mapping.
    pub fn write_code(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.code_bytes));
        // SAFETY: in range by the assertion; the guest does not run while `self` is borrowed.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.code.writable().add(offset), bytes.len());
        }
        if let Some(begun @ false) = self.begun.get_mut(offset / HUGE_PAGE) {
            *begun = true;
            // The kernel takes nothing for an answer that has no page yet, so it is asked behind the first write.
            let page = offset / HUGE_PAGE * HUGE_PAGE;
            let _ = self.reservation.advise(CODE_OFFSET + page, HUGE_PAGE, Advice::Collapse);
        }
    }

    /// Code at an offset of the translation cache; none where that is out of it.
    pub fn read_code(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        if offset.checked_add(len).is_none_or(|end| end > self.code_bytes) {
            return Vec::new();
        }
        // SAFETY: in range by the check; the mapping is there as long as `self`, and only `write_code` writes to it.
        unsafe {
            std::ptr::copy_nonoverlapping(self.code.writable().add(offset), bytes.as_mut_ptr(), len);
        }
        bytes
    }

    /// The x87 part of the XSAVE area that guest code runs on, word by word.
    fn x87(&self) -> impl Iterator<Item = u64> + use<> {
        const XSTATE_BV: usize = 64;
        let area = self.context_ref().fpu as *const u64;
        // SAFETY: the engine has put the address of the vCPU's area there, which is longer and is lent to it for as long as
        // it enters guest code. Volatile, since the crossings write there unbeknown to the compiler.
        let word = move |n: usize| unsafe { area.add(n).read_volatile() };
        (0..X87_WORDS).map(move |n| if n < X87_WORDS - 1 { word(n) } else { word(XSTATE_BV) & 1 })
    }

    /// Whether the x87 registers of this thread are what the XSAVE area says.
    fn is_warm(&self, thread: usize, last: usize) -> bool {
        let (by, left) = &self.left;
        // All are compared before it is said, which is quicker than a way out behind each.
        last == self.reservation.address()
            && thread == *by
            && self.x87().zip(left).fold(0, |differ, (now, then)| differ | (now ^ then)) == 0
    }

    /// Runs guest code: calls an enter stub, which jumps to `Context::enter_target` and returns at the next exit.
    pub fn enter(&mut self, crossings: Crossings) {
        let region = self.reservation.address();
        let (thread, last) = LAST.with(|last| (std::ptr::from_ref(last) as usize, last.replace(region)));
        let warm = crossings.enter_warm.filter(|_| self.is_warm(thread, last));
        let stub = warm.unwrap_or(crossings.enter);
        // SAFETY: `stub` is the address of an enter stub that `trampoline` emitted into this region, a function
        // of this signature. The code behind it touches the region, guest memory that the software TLB admits, the vCPU's
        // XSAVE area, and nothing else of this process.
        unsafe {
            let enter: extern "sysv64" fn() = std::mem::transmute(stub as usize);
            enter();
        }
        self.left.0 = thread;
        let x87 = self.x87();
        self.left.1.iter_mut().zip(x87).for_each(|(left, now)| *left = now);
    }
}

/// The kick word as other threads hold it: an address in a region that the engine keeps alive, or none once
/// the engine is gone.
pub struct KickWord {
    address: std::sync::Mutex<Option<usize>>,
    /// The number of the process that the engine runs guest code in at this moment, or 0.
    elsewhere: AtomicU32,
}

impl KickWord {
    /// For a region that will not move.
    pub fn new(region: &Region) -> Self {
        Self {
            address: std::sync::Mutex::new(Some(std::ptr::from_ref(region.kick()) as usize)),
            elsewhere: AtomicU32::new(0),
        }
    }

    /// Guest code runs in a process of its own from now on, which is to be interrupted by a kick, or does no more. Whoever says so looks at
    /// the word behind that, so that one of the two sees the other.
    pub fn announce(&self, process: Option<Interrupter>) {
        self.elsewhere.store(process.map_or(0, Interrupter::number), Ordering::SeqCst);
    }

    /// Detaches: kicks from now on do nothing.
    pub fn detach(&self) {
        *self.address.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}

impl vcpu::Kick for KickWord {
    fn kick(&self) {
        let address = self.address.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(address) = *address {
            // SAFETY: the engine detaches under this lock before it drops the region.
            let word = unsafe { &*(address as *const AtomicU32) };
            word.store(1, Ordering::SeqCst);
            match self.elsewhere.load(Ordering::SeqCst) {
                0 => {}
                process => Interrupter::of(process).interrupt(),
            }
        }
    }
}
