//! Where ring 3's cells have led to, by the pages that they join.
//!
//! Like the targets of indirect jumps ([`super::targets`]), which cells lead where is known already when an address space is new.
//! But what a cell leads to depends on two pages. So each is listed with both, and filled when the second of them is met.

use super::Cache;
use super::listed::Listed;
use crate::block::{BlockId, Place};
use crate::context::{CellId, PageSlot};
use crate::mode::VIEW_USER;

/// A cell that has been filled.
#[derive(Clone, Copy, Debug)]
struct Bridge {
    cell: CellId,
    to: BlockId,
    /// Host address.
    goal: u64,
    /// Slots of the pages: looked up more often than anything, and without hashing.
    slots: [PageSlot; 2],
    /// From the first page's linear address to the second's.
    distance: u64,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Bridges(Listed<Bridge>);

impl Bridges {
    fn note(&mut self, pages: [u64; 2], bridge: Bridge) {
        for page in pages {
            self.0.note(page, bridge, |other| other.cell == bridge.cell);
        }
    }

    /// Forgets all, before blocks go.
    pub fn clear(&mut self) {
        self.0.clear();
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
            self.bridges.note(pages, Bridge { cell, to, goal, slots: [first, second], distance });
        }
    }

    /// Fills the cells that are known to join a page with others, as far as both are where they were then.
    pub(super) fn offer_bridges(&mut self, page: u64) {
        let mode = self.views[VIEW_USER];
        for bridge in self.bridges.0.of(page) {
            let [from, into] = bridge.slots.map(|slot| self.anchors.address(&self.region, slot));
            let stands = from.is_some_and(|from| into == Some(from.wrapping_add(bridge.distance)));
            if !stands || self.cells.is_filled(&mut self.region, bridge.cell) {
                continue;
            }
            let target = self.blocks.get(bridge.to).filter(|block| block.valid);
            if target.is_some_and(|block| Some(block.key.mode) == mode) {
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
        let mut bridges = Bridges::default();
        for n in 0..2 * MOST as u32 {
            let pages = [0x5000, 0x6000 + u64::from(n % 2) * 0x1000];
            let bridge = Bridge { cell: n / 2, to: BlockId(n), goal: 0, slots: [0; 2], distance: 0x1000 };
            bridges.note(pages, bridge);
        }
        let known = |page| bridges.0.of(page);
        assert_eq!([0x5000, 0x6000, 0x7000].map(|page| known(page).len()), [MOST; 3]);
        assert!(known(0x5000).iter().all(|bridge| bridge.to.0 == 2 * bridge.cell + 1));
    }
}
