//! Hints: for a memory access of translated code, the page it found last.
//!
//! The software TLB's lookup lies on the way to every address: its index is made of the address, and what it loads
//! is added to it. A hint belongs to one access, so that its code knows where it is; comparing with it lies beside the
//! way, and only one addition is left on it. A miss asks the TLB, in generated code too, and fills the hint.
//!
//! Accesses through the stack pointer, half of all, share two hints of their view, one for reads and one for writes.
//! Other accesses have their own in ring 3 only: a kernel's code is too large and meets too many pages for them. An access
//! that roams over pages would miss all the time; each miss costs a bit of a budget, and when that is spent too fast the
//! access is translated again to go by the TLB alone.

use std::collections::HashSet;
use std::mem::offset_of;

use crate::context::VIEWS;
use crate::mode::{VIEW_USER, View};

/// Hints in all; a power of two. Few are not enough: two busy accesses that share one throw each other's page out at 20
/// cycles each time.
pub const HINTS: usize = 16384;
/// Hints that are forgotten together, if one of them has been filled.
pub const GROUP: usize = 64;
const GROUPS: usize = HINTS / GROUP;
/// The first ones, two for each view, are those of the stack pointer.
const STACK_HINTS: usize = 2 * VIEWS;
/// The first of the others, for reads and for writes.
const FIRST: [usize; 2] = [STACK_HINTS, STACK_HINTS + 1];
/// How often a hint may miss before the engine is asked.
pub const BUDGET: u64 = 128;
/// Cycles of the time-stamp counter within which that is too often: a miss costs 20 or so more than the TLB would.
const TOO_FAST: u64 = BUDGET * 80;
/// A page that no access can be in: its addresses are not canonical. Should the guest compute such an address all the same,
/// it meets the processor's own check of it, because then nothing is added to it.
const NOWHERE: u64 = 0x8000_5a5a_5a5a_5000;

/// A hint as it lies in memory; the layout is known to generated code.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Hint {
    /// Linear address of the page.
    pub tag: u64,
    /// What is to be added to an address in it to get the host's.
    pub delta: u64,
    /// Misses left before the engine is to be asked.
    pub budget: u64,
    /// Fills half a cache line, and lets all be forgotten by whole-vector stores.
    pub unused: u64,
}

impl Hint {
    /// Knows no page.
    pub const EMPTY: Self = Self { tag: NOWHERE, delta: 0, budget: BUDGET, unused: 0 };
    /// Bytes of a hint.
    pub const BYTES: usize = size_of::<Self>();
    /// Offset of the tag.
    pub const TAG: i32 = offset_of!(Self, tag) as i32;
    /// Offset of the delta.
    pub const DELTA: i32 = offset_of!(Self, delta) as i32;
    /// Offset of the budget.
    pub const BUDGET: i32 = offset_of!(Self, budget) as i32;

    /// Whether it knows a page.
    pub fn is_filled(&self) -> bool {
        self.tag != NOWHERE
    }
}

/// All hints as they lie in memory. A process switch forgets them all, so that it matters which have been filled at all:
/// code that fills one marks its group.
#[derive(Debug)]
#[repr(C)]
pub struct HintTable {
    /// The hints.
    pub hints: [Hint; HINTS],
    /// Per group, not zero if one may be filled.
    pub filled: [u8; GROUPS],
}

impl HintTable {
    /// Forgets all pages, whatever is marked.
    pub fn empty(&mut self) {
        self.filled.fill(1);
        self.forget_all();
    }

    /// Forgets all pages.
    pub fn forget_all(&mut self) {
        for (hints, filled) in self.hints.chunks_mut(GROUP).zip(&mut self.filled) {
            if std::mem::take(filled) != 0 {
                hints.fill(Hint::EMPTY);
            }
        }
    }

    /// Forgets one page.
    pub fn forget_page(&mut self, linear: u64) {
        let page = linear & !0xfff;
        let filled = self.hints.chunks_mut(GROUP).zip(&self.filled).filter(|(_, filled)| **filled != 0);
        for hint in filled.flat_map(|(hints, _)| hints).filter(|hint| hint.tag == page) {
            hint.tag = NOWHERE;
            hint.delta = 0;
        }
    }
}

/// The number of a hint.
pub type HintId = u16;

/// The hint for accesses through the stack pointer.
pub fn of_stack(view: View, write: bool) -> HintId {
    (2 * view + usize::from(write)) as HintId
}

/// Whether misses of this hint are counted: not those of the stack, which moves slowly.
pub fn is_counted(hint: HintId) -> bool {
    usize::from(hint) >= STACK_HINTS
}

/// Who has which hint.
pub struct Hints {
    /// The next for a read and the next for a write. What a read may find a write may not, so that they never
    /// share one: even numbers are for reads, odd ones for writes.
    next: [usize; 2],
    /// Guest-physical addresses of instructions that do without.
    roaming: HashSet<u64>,
    /// Per hint, the time of the last look at its budget.
    looked: Box<[u64; HINTS]>,
}

impl Hints {
    /// Nobody has one.
    pub fn new() -> Self {
        Self { next: FIRST, roaming: HashSet::new(), looked: Box::new([0; HINTS]) }
    }

    /// Whether the access of the instruction at this guest-physical address goes by a hint, be it the stack's or its own.
    pub fn may_have(&self, view: View, on_stack: bool, physical: u64) -> bool {
        on_stack || view == VIEW_USER && !self.roaming.contains(&physical)
    }

    /// A hint for the instruction at this guest-physical address, if it is to have one. When all are given away they are given
    /// to others too.
    pub fn assign(&mut self, view: View, write: bool, physical: u64) -> Option<HintId> {
        if !self.may_have(view, false, physical) {
            return None;
        }
        let kind = usize::from(write);
        let hint = self.next[kind];
        self.next[kind] = if hint + 2 < HINTS { hint + 2 } else { FIRST[kind] };
        Some(hint as HintId)
    }

    /// A hint's budget is spent: whether its instruction had better do without it.
    pub fn is_roaming(&mut self, hint: HintId, physical: u64, now: u64) -> bool {
        let since = std::mem::replace(&mut self.looked[usize::from(hint) % HINTS], now);
        let roams = now.wrapping_sub(since) < TOO_FAST;
        if roams {
            self.roaming.insert(physical);
        }
        roams
    }

    /// All code is gone.
    pub fn clear(&mut self) {
        self.next = FIRST;
        self.roaming.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Box<HintTable> {
        Box::new(HintTable { hints: [Hint::EMPTY; HINTS], filled: [0; GROUPS] })
    }

    impl HintTable {
        /// As generated code does it.
        fn fill(&mut self, n: usize, page: u64) {
            self.hints[n] = Hint { tag: page, delta: 9, ..Hint::EMPTY };
            self.filled[n / GROUP] = 1;
        }
    }

    #[test]
    fn all_that_were_filled_are_forgotten() {
        let mut table = table();
        for n in [0, GROUP - 1, GROUP, HINTS - 1] {
            table.fill(n, 0x5000);
        }
        table.forget_all();
        assert!(table.hints.iter().all(|hint| hint.tag == NOWHERE));
        assert!(table.filled.iter().all(|filled| *filled == 0));
        table.hints[7].tag = 0x5000;
        table.empty();
        assert_eq!(table.hints[7].tag, NOWHERE, "one that is not marked");
    }

    #[test]
    fn the_stack_has_hints_of_its_own() {
        let mut hints = Hints::new();
        let stack: HashSet<_> =
            (0..VIEWS).flat_map(|view| [of_stack(view, false), of_stack(view, true)]).collect();
        assert_eq!(stack.len(), 2 * VIEWS);
        assert!(stack.iter().all(|hint| !is_counted(*hint)));
        assert_eq!(hints.assign(0, false, 1), None, "a kernel's");
    }

    #[test]
    fn reads_and_writes_never_share() {
        let mut hints = Hints::new();
        let mut given = [HashSet::new(), HashSet::new()];
        for at in 0..3 * HINTS as u64 {
            let write = at % 3 == 0;
            let hint = hints.assign(VIEW_USER, write, at).unwrap();
            assert!(is_counted(hint) && usize::from(hint) < HINTS);
            given[usize::from(write)].insert(hint);
        }
        assert!(given[0].is_disjoint(&given[1]));
    }

    #[test]
    fn who_roams_loses_its_hint() {
        let mut hints = Hints::new();
        let hint = hints.assign(VIEW_USER, false, 7).unwrap();
        assert!(!hints.is_roaming(hint, 7, 1 << 30));
        assert!(!hints.is_roaming(hint, 7, (1 << 30) + TOO_FAST), "slowly");
        assert!(hints.is_roaming(hint, 7, (1 << 30) + 2 * TOO_FAST - 1));
        assert_eq!(hints.assign(VIEW_USER, false, 7), None);
        hints.clear();
        assert!(hints.assign(VIEW_USER, false, 7).is_some());
    }

    #[test]
    fn a_page_is_forgotten() {
        let mut table = table();
        table.fill(3, 0x5000);
        table.fill(4, 0x6000);
        table.fill(HINTS - 1, 0x5000);
        table.forget_page(0x5abc);
        assert_eq!([3, 4, HINTS - 1].map(|n| table.hints[n].tag), [NOWHERE, 0x6000, NOWHERE]);
        assert!((NOWHERE as i64) << 16 >> 16 != NOWHERE as i64, "not canonical");
    }
}
