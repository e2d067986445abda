//! Where the pages of ring 3's code are mapped now.
//!
//! A block that is good at any address asks a slot of its physical page for the linear address of the page. The slot is
//! filled when the engine looks for code in the page, and that comes before any of its blocks can run: whatever leads to
//! ring 3's code (jump table, cells) is emptied when mappings may change, which begins a new *epoch*. So nothing has to be
//! kept up to date while code runs. The price: within an epoch a page may be at one address only. One that is met at two is
//! *bound*: its blocks are made for one address each, like those of a kernel.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::context::{PAGE_SLOTS, PageSlot};
use crate::hash::KeyHasher;
use crate::region::Region;

struct Anchor {
    slot: PageSlot,
    bound: bool,
    /// The epoch in which code in it has been looked for last.
    sought: u64,
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchored {
    /// Its slot says where it is.
    At(PageSlot),
    /// It is at more than one address, since just now: blocks that ask its slot must not run again.
    BoundNow,
    /// It has been known to be, or there are no slots left.
    Bound,
}

/// See the module's documentation.
pub struct Anchors {
    pages: HashMap<u64, Anchor, BuildHasherDefault<KeyHasher>>,
    /// Slots that had a page.
    free: Vec<PageSlot>,
    epoch: u64,
    /// By slot, the epoch in which its page has been met last, and is at one address.
    met: Box<[u64]>,
}

/// No epoch.
const NEVER: u64 = u64::MAX;

impl Default for Anchors {
    fn default() -> Self {
        let met = vec![NEVER; PAGE_SLOTS].into();
        Self { pages: HashMap::default(), free: Vec::new(), epoch: 0, met }
    }
}

impl Anchors {
    /// Mappings may change.
    pub fn begin_epoch(&mut self) {
        self.epoch += 1;
    }

    /// Takes note that this physical page is at this linear address now.
    pub fn anchor(&mut self, region: &mut Region, physical: u64, linear: u64) -> Anchored {
        let unused = self.pages.len() + self.free.len();
        if let Some(anchor) = self.pages.get_mut(&physical) {
            if anchor.bound {
                return Anchored::Bound;
            }
            let slot = usize::from(anchor.slot) % PAGE_SLOTS;
            let (met, base) = (&mut self.met[slot], &mut region.page_bases()[slot]);
            if *met == self.epoch && *base != linear {
                (anchor.bound, *met) = (true, NEVER);
                return Anchored::BoundNow;
            }
            (*met, *base) = (self.epoch, linear);
            return Anchored::At(anchor.slot);
        }
        let unused = (unused < PAGE_SLOTS).then_some(unused as PageSlot);
        let Some(slot) = self.free.pop().or(unused) else { return Anchored::Bound };
        self.pages.insert(physical, Anchor { slot, bound: false, sought: 0 });
        (self.met[usize::from(slot)], region.page_bases()[usize::from(slot)]) = (self.epoch, linear);
        Anchored::At(slot)
    }

    /// Linear address of the page that has a slot, if it has been met in this epoch and is not bound.
    pub fn address(&self, region: &Region, slot: PageSlot) -> Option<u64> {
        let slot = usize::from(slot) % PAGE_SLOTS;
        (self.met[slot] == self.epoch).then(|| region.page_bases_ref()[slot])
    }

    /// Whether code in this page is looked for now for the first time in this epoch.
    pub fn is_first(&mut self, physical: u64) -> bool {
        let anchor = self.pages.get_mut(&physical);
        anchor.is_some_and(|anchor| std::mem::replace(&mut anchor.sought, self.epoch) != self.epoch)
    }

    /// Forgets the pages in which no code is any more.
    pub fn retain(&mut self, has_code: impl Fn(u64) -> bool) {
        let gone = self.pages.extract_if(|page, _| !has_code(*page));
        self.free.extend(gone.map(|(_, anchor)| anchor.slot));
    }
}
