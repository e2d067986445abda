//! Hints: for a memory access of translated code, the page it found last.
//!
//! The software TLB's lookup lies on the way to every address: its index is made of the address, and what it loads
//! is added to it. A hint belongs to one access, so that its code knows where it is; comparing with it lies beside the
//! way, and only one addition is left on it. A miss asks the TLB, in generated code too, and fills the hint.
//!
//! Accesses through the stack pointer, half of all, share a few hints of their view, half of them for reads and half for writes.
//! Other accesses have their own in ring 3 only: a kernel's code is too large and meets too many pages for them. An access
//! that roams over pages would miss all the time; each miss costs a bit of a budget, and when that is spent too fast the
//! access is translated again to go by the TLB alone.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::context::VIEWS;
use crate::hash::KeyHasher;
use crate::hint_table::{BUDGET, HINTS, HintId};
use crate::mode::{VIEW_USER, View};

/// Which pages of ring 3's are mapped into windows, where the host's page tables find them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Windowing {
    /// Those that are used much.
    #[default]
    Hot,
    /// All, when they are used first, and half of the accesses look for the window themselves: slow, but it leaves nothing
    /// out of a test.
    All,
}

/// How much may be accessed behind an address that a hint lets pass. In ring 3 the hint itself says how far it reaches, so that
/// those who share one must want the same of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// At most 64 bytes: any single access.
    Narrow,
    /// At most 256 bytes: a group of accesses.
    Wide,
}

impl Reach {
    /// That of an access to this many bytes; none if no hint reaches so far.
    pub fn of(bytes: u32) -> Option<Self> {
        [Self::Narrow, Self::Wide].into_iter().find(|reach| bytes <= reach.bytes())
    }

    /// In bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Narrow => 64,
            Self::Wide => 256,
        }
    }
}

/// Hints for the stack pointer in each view; they are the first ones.
const STACKS: usize = 32;
const STACK_HINTS: usize = STACKS * VIEWS;
/// The first of those that reach far.
const WIDE: usize = HINTS / 4 * 3;

/// Which stack it may be that code has the stack pointer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Whichever its caller has: by the guest-physical address of the code.
    Callers(u64),
    /// One that it has loaded from memory itself: by the displacement.
    Loaded(u64),
}

impl Stack {
    fn number(self) -> usize {
        const EACH: usize = STACKS / 4;
        match self {
            Self::Callers(physical) => (physical >> 12) as usize % EACH,
            Self::Loaded(displacement) => EACH + (displacement >> 3 ^ displacement >> 6) as usize % EACH,
        }
    }
}

/// The hint for accesses through the stack pointer. A kernel goes from one stack to another and back in each system call, and
/// its hints would be filled as often; how far they reach, its code says itself.
pub fn of_stack(view: View, write: bool, reach: Reach, stack: Stack) -> HintId {
    let kind = match view {
        VIEW_USER => reach as usize,
        _ => stack.number(),
    };
    (STACKS * view + 2 * kind + usize::from(write)) as HintId
}

/// Whether misses of this hint are counted: not those of the stack, which moves slowly.
pub fn is_counted(hint: HintId) -> bool {
    usize::from(hint) >= STACK_HINTS
}

/// What an access roams over that has no hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roaming {
    /// Pages: it goes by the software TLB.
    Pages,
    /// Windows: it goes by the table of windows.
    Windows,
}

impl Roaming {
    /// Cycles of the time-stamp counter within which it is too often for a budget to be spent. A miss costs 20 or so more than
    /// the TLB would; where windows know all pages, only process switches should make hints miss.
    fn too_fast(self) -> u64 {
        match self {
            Self::Pages => BUDGET * 80,
            Self::Windows => BUDGET * 10_000,
        }
    }
}

/// Who has which hint.
pub struct Hints {
    windows: Windowing,
    /// The next for a read and the next for a write, by reach. What a read may find a write may not, so that they never
    /// share one: even numbers are for reads, odd ones for writes.
    next: [[usize; 2]; 2],
    /// Guest-physical addresses of instructions that do without.
    roaming: HashMap<u64, Roaming, BuildHasherDefault<KeyHasher>>,
    /// Per hint, the time of the last look at its budget.
    looked: HashMap<HintId, u64, BuildHasherDefault<KeyHasher>>,
}

/// The first of the others by reach, for reads and for writes.
const FIRST: [[usize; 2]; 2] = [[STACK_HINTS, STACK_HINTS + 1], [WIDE, WIDE + 1]];
/// One past the last by reach.
const END: [usize; 2] = [WIDE, HINTS];

impl Hints {
    /// Nobody has one.
    pub fn new(windows: Windowing) -> Self {
        Self { windows, next: FIRST, roaming: HashMap::default(), looked: HashMap::default() }
    }

    /// Whether the access of the instruction at this guest-physical address goes by a hint, be it the stack's or its own.
    pub fn may_have(&self, view: View, on_stack: bool, physical: u64) -> bool {
        on_stack || view == VIEW_USER && self.roaming(physical).is_none()
    }

    /// A hint for the instruction at this guest-physical address, if it is to have one. When all are given away they are given
    /// to others too.
    pub fn assign(&mut self, view: View, write: bool, reach: Reach, physical: u64) -> Option<HintId> {
        if !self.may_have(view, false, physical) {
            return None;
        }
        let (reach, kind) = (reach as usize, usize::from(write));
        let hint = self.next[reach][kind];
        self.next[reach][kind] = if hint + 2 < END[reach] { hint + 2 } else { FIRST[reach][kind] };
        Some(hint as HintId)
    }

    /// A hint's budget is spent: whether its instruction had better do without it.
    pub fn is_roaming(&mut self, hint: HintId, physical: u64, over: Roaming, now: u64) -> bool {
        let since = self.looked.insert(hint, now).unwrap_or(0);
        let roams = now.wrapping_sub(since) < over.too_fast();
        if roams {
            self.roaming.insert(physical, over);
        }
        roams
    }

    /// Over what the access of the instruction at this guest-physical address roams, if it does.
    pub fn roaming(&self, physical: u64) -> Option<Roaming> {
        if self.windows == Windowing::All && physical & 2 != 0 {
            return Some(Roaming::Windows);
        }
        self.roaming.get(&physical).copied()
    }

    /// All code is gone.
    pub fn clear(&mut self) {
        self.next = FIRST;
        self.roaming.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::mode::VIEW_KERNEL;

    const REACHES: [Reach; 2] = [Reach::Narrow, Reach::Wide];

    #[test]
    fn the_stack_has_hints_of_its_own() {
        let mut hints = Hints::new(Windowing::Hot);
        let stacks = |view| {
            REACHES
                .map(|reach| [false, true].map(|write| of_stack(view, write, reach, Stack::Callers(0x5000))))
        };
        let user: HashSet<_> = stacks(VIEW_USER).into_iter().flatten().collect();
        assert_eq!(user.len(), 4);
        let kernel = |n: u64| {
            let stacks = [Stack::Callers(n << 12), Stack::Loaded(n << 3)];
            stacks.map(|stack| [false, true].map(|write| of_stack(VIEW_KERNEL, write, Reach::Wide, stack)))
        };
        let kernel = |n: u64| kernel(n).into_iter().flatten();
        let stack: HashSet<_> = (0..100).flat_map(kernel).chain(user.iter().copied()).collect();
        assert_eq!(stack.len(), 4 + STACKS);
        assert!(stack.iter().all(|hint| !is_counted(*hint)));
        assert_eq!(hints.assign(VIEW_KERNEL, false, Reach::Narrow, 1), None);
        for reach in REACHES {
            assert!(hints.assign(VIEW_USER, true, reach, 1).is_some_and(|hint| !stack.contains(&hint)));
        }
    }

    #[test]
    fn reads_and_writes_never_share_nor_do_those_that_reach_less() {
        let mut hints = Hints::new(Windowing::Hot);
        let mut given: [HashSet<HintId>; 4] = Default::default();
        for at in 0..3 * HINTS as u64 {
            let (write, reach) = (at % 3 == 0, REACHES[(at % 2) as usize]);
            let hint = hints.assign(VIEW_USER, write, reach, at).unwrap();
            assert!(is_counted(hint) && usize::from(hint) < HINTS);
            given[usize::from(write) + 2 * reach as usize].insert(hint);
        }
        for (a, b) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
            assert!(given[a].is_disjoint(&given[b]));
        }
    }

    #[test]
    fn what_is_accessed_is_within_reach() {
        assert_eq!(
            [1, 64, 65, 256, 257].map(Reach::of),
            [Some(Reach::Narrow), Some(Reach::Narrow), Some(Reach::Wide), Some(Reach::Wide), None]
        );
    }

    #[test]
    fn who_roams_loses_its_hint() {
        let mut hints = Hints::new(Windowing::Hot);
        let hint = hints.assign(VIEW_USER, false, Reach::Narrow, 7).unwrap();
        assert!(!hints.is_roaming(hint, 7, Roaming::Pages, 1 << 30));
        assert!(!hints.is_roaming(hint, 7, Roaming::Pages, (1 << 30) + Roaming::Pages.too_fast()), "slowly");
        assert!(hints.is_roaming(hint, 7, Roaming::Pages, (1 << 30) + 2 * Roaming::Pages.too_fast() - 1));
        assert_eq!(hints.assign(VIEW_USER, false, Reach::Narrow, 7), None);
        hints.clear();
        assert!(hints.assign(VIEW_USER, false, Reach::Narrow, 7).is_some());
    }
}
