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
    epoch: u64,
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
#[derive(Default)]
pub struct Anchors {
    pages: HashMap<u64, Anchor, BuildHasherDefault<KeyHasher>>,
    /// Slots that had a page.
    free: Vec<PageSlot>,
    epoch: u64,
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
            let base = &mut region.page_bases()[usize::from(anchor.slot) % PAGE_SLOTS];
            if anchor.bound {
                return Anchored::Bound;
            }
            if anchor.epoch == self.epoch && *base != linear {
                anchor.bound = true;
                return Anchored::BoundNow;
            }
            (anchor.epoch, *base) = (self.epoch, linear);
            return Anchored::At(anchor.slot);
        }
        let unused = (unused < PAGE_SLOTS).then_some(unused as PageSlot);
        let Some(slot) = self.free.pop().or(unused) else { return Anchored::Bound };
        self.pages.insert(physical, Anchor { slot, epoch: self.epoch, bound: false, sought: 0 });
        region.page_bases()[usize::from(slot)] = linear;
        Anchored::At(slot)
    }

    /// Linear address of a page that has been met in this epoch, unless it is bound.
    pub fn address(&self, region: &Region, physical: u64) -> Option<u64> {
        let anchor = self.pages.get(&physical)?;
        let met = anchor.epoch == self.epoch && !anchor.bound;
        met.then(|| region.page_bases_ref()[usize::from(anchor.slot) % PAGE_SLOTS])
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
