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

use crate::context::VIEWS;
use crate::mode::{VIEW_USER, View};

/// Hints in all; a power of two.
pub const HINTS: usize = 512;
/// The first ones, two for each view, are those of the stack pointer.
const STACK_HINTS: usize = 2 * VIEWS;
/// The first of the others, for reads and for writes.
const FIRST: [usize; 2] = [STACK_HINTS, STACK_HINTS + 1];
/// How often a hint may miss before the engine is asked.
const BUDGET: u64 = 128;
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

    /// A hint for the instruction at this guest-physical address, if it is to have one. When all are given away they are given
    /// to others too.
    pub fn assign(&mut self, view: View, write: bool, physical: u64) -> Option<HintId> {
        if view != VIEW_USER || self.roaming.contains(&physical) {
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

/// Forgets all pages.
pub fn forget_all(hints: &mut [Hint; HINTS]) {
    hints.fill(Hint::EMPTY);
}

/// Forgets one page.
pub fn forget_page(hints: &mut [Hint; HINTS], linear: u64) {
    let page = linear & !0xfff;
    for hint in hints.iter_mut().filter(|hint| hint.tag == page) {
        hint.tag = NOWHERE;
        hint.delta = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut hints = [Hint::EMPTY; HINTS];
        hints[3] = Hint { tag: 0x5000, delta: 9, ..Hint::EMPTY };
        hints[4] = Hint { tag: 0x6000, delta: 9, ..Hint::EMPTY };
        forget_page(&mut hints, 0x5abc);
        assert_eq!((hints[3].tag, hints[4].tag), (NOWHERE, 0x6000));
        assert!((NOWHERE as i64) << 16 >> 16 != NOWHERE as i64, "not canonical");
    }
}
