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

use std::collections::{HashMap, HashSet};

use crate::context::VIEWS;
use crate::hint_table::{BUDGET, HINTS, HintId};
use crate::mode::{VIEW_USER, View};

/// The first ones, two for each view, are those of the stack pointer.
const STACK_HINTS: usize = 2 * VIEWS;
/// Cycles of the time-stamp counter within which it is too often for a budget to be spent: a miss costs 20 or so more than the
/// TLB would.
const TOO_FAST: u64 = BUDGET * 80;

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
    looked: HashMap<HintId, u64>,
}

/// The first of the others, for reads and for writes.
const FIRST: [usize; 2] = [STACK_HINTS, STACK_HINTS + 1];

impl Hints {
    /// Nobody has one.
    pub fn new() -> Self {
        Self { next: FIRST, roaming: HashSet::new(), looked: HashMap::new() }
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
        let since = self.looked.insert(hint, now).unwrap_or(0);
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
    use crate::mode::VIEW_KERNEL;

    #[test]
    fn the_stack_has_hints_of_its_own() {
        let mut hints = Hints::new();
        let stack: HashSet<_> =
            (0..VIEWS).flat_map(|view| [of_stack(view, false), of_stack(view, true)]).collect();
        assert_eq!(stack.len(), 2 * VIEWS);
        assert!(stack.iter().all(|hint| !is_counted(*hint)));
        assert_eq!(hints.assign(VIEW_KERNEL, false, 1), None);
        assert!(hints.assign(VIEW_USER, true, 1).is_some_and(|hint| !stack.contains(&hint)));
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
}
