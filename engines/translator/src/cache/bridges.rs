//! Where ring 3's cells have led to, by the pages that they join.
//!
//! Like the targets of indirect jumps ([`super::targets`]), which cells lead where is known already when an address space is new.
//! But what a cell leads to depends on two pages. So each is listed with both, and filled when the second of them is met.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use super::Cache;
use super::listed::Listed;
use crate::block::{BlockId, Place};
use crate::context::{CellId, PageSlot};
use crate::hash::KeyHasher;
use crate::mode::{ModeWord, VIEW_USER};

/// A cell that has been filled.
#[derive(Clone, Copy, Debug)]
struct Bridge {
    cell: CellId,
    to: BlockId,
    /// Host address, and the mode of the block there.
    goal: u64,
    mode: ModeWord,
    /// Slots of the pages: looked up more often than anything, and without hashing.
    slots: [PageSlot; 2],
    /// From the first page's linear address to the second's.
    distance: u64,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Bridges {
    listed: Listed<Bridge>,
    /// Blocks that have been dropped since: few, where the blocks themselves would each be a miss of the processor's caches.
    dropped: HashSet<BlockId, BuildHasherDefault<KeyHasher>>,
}

impl Bridges {
    fn note(&mut self, pages: [u64; 2], bridge: Bridge) {
        for page in pages {
            self.listed.note(page, bridge, |other| other.cell == bridge.cell);
        }
    }

    /// Forgets all, before blocks go.
    pub fn clear(&mut self) {
        self.listed.clear();
        self.dropped.clear();
    }

    /// Leads to this block no more.
    pub fn drop_block(&mut self, id: BlockId) {
        self.dropped.insert(id);
    }
}

impl Cache {
    /// Takes note that the cell of the `n`th jump of a block leads to this host address of another.
    pub(super) fn note_bridge(&mut self, from: BlockId, n: u16, to: BlockId, goal: u64) {
        let (Some(source), Some(target)) = (self.blocks.get(from), self.blocks.get(to)) else { return };
        let Some((link, cell)) = source.links.get(usize::from(n)).and_then(|link| Some((link, link.cell?)))
        else {
            return;
        };
        // Where the second page of one that has two is may be different each time.
        if let (Place::Anywhere(first), Place::Anywhere(second), None) =
            (source.key.place, target.key.place, target.second_page)
        {
            let pages = [source.key.physical, target.key.physical].map(|physical| physical & !0xfff);
            // Rips in a block that floats count from the beginning of its page.
            let distance = link.target & !0xfff;
            let mode = target.key.mode;
            self.bridges.note(pages, Bridge { cell, to, goal, mode, slots: [first, second], distance });
        }
    }

    /// Fills the cells that are known to join a page with others, as far as both are where they were then.
    pub(super) fn offer_bridges(&mut self, page: u64) {
        let mode = self.views[VIEW_USER];
        let Bridges { listed, dropped } = &self.bridges;
        for bridge in listed.of(page).iter().filter(|bridge| Some(bridge.mode) == mode) {
            let [from, into] = bridge.slots.map(|slot| self.anchors.address(&self.region, slot));
            let stands = from.is_some_and(|from| into == Some(from.wrapping_add(bridge.distance)));
            if stands && !dropped.contains(&bridge.to) && !self.cells.is_filled(&mut self.region, bridge.cell)
            {
                self.cells.fill(&mut self.region, bridge.cell, bridge.goal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::listed::MOST;
    use super::*;

    #[test]
    fn a_cell_is_known_to_both_pages_once() {
        let mode = ModeWord::of(&vcpu::CpuState::reset());
        let mut bridges = Bridges::default();
        for n in 0..2 * MOST as u32 {
            let pages = [0x5000, 0x6000 + u64::from(n % 2) * 0x1000];
            let (cell, to, distance) = (n / 2, BlockId(n), 0x1000);
            let bridge = Bridge { cell, to, goal: 0, mode, slots: [0; 2], distance };
            bridges.note(pages, bridge);
        }
        let known = |page| bridges.listed.of(page);
        assert_eq!([0x5000, 0x6000, 0x7000].map(|page| known(page).len()), [MOST; 3]);
        assert!(known(0x5000).iter().all(|bridge| bridge.to.0 == 2 * bridge.cell + 1));
    }
}
