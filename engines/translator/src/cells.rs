//! Cells: where ring 3's direct jumps to other pages lead.
//!
//! Such a jump cannot be linked, since the mapping of the page may change with each process switch, and undoing links in
//! code is slow. It jumps through a cell of its own instead: a word that holds the target's host address while the mapping
//! is known, and else leads to the jump's way out, which the word behind it holds. Forgetting mappings writes the words that
//! have been filled. Neither flags nor a register are touched.

use std::ops::Range;

use crate::by_part::{ByPart, PARTS, part_of};
use crate::context::{CELLS, CellId};
use crate::region::Region;

/// See the module's documentation.
#[derive(Default)]
pub struct Cells {
    /// Those that have an owner, by part of the cache.
    owned: ByPart<()>,
    /// Those that lead to a target, once each.
    filled: Vec<CellId>,
}

impl Cells {
    /// A cell for a jump of a block in this part of the cache, if any is left.
    pub fn assign(&mut self, part: usize) -> Option<CellId> {
        (self.owned.count(part) < CELLS / PARTS).then(|| self.owned.push(part, ()) as CellId)
    }

    /// Tells where a cell's jump leaves its block.
    pub fn own(&mut self, region: &mut Region, cell: CellId, way_out: u64) {
        region.cells()[cell as usize] = [way_out; 2];
    }

    /// Lets the jump of a cell that is not filled lead to a host address.
    pub fn fill(&mut self, region: &mut Region, cell: CellId, host: u64) {
        region.cells()[cell as usize][0] = host;
        self.filled.push(cell);
    }

    /// Whether the jump of a cell leads anywhere but to its way out.
    pub fn is_filled(&self, region: &mut Region, cell: CellId) -> bool {
        let [goal, way_out] = region.cells()[cell as usize];
        goal != way_out
    }

    /// Lets all jumps that lead to code in these ranges lead to their ways out.
    pub fn forget_into(&mut self, region: &mut Region, code: &[Range<u64>]) {
        let cells = region.cells();
        self.filled.retain(|cell| {
            let cell = &mut cells[*cell as usize];
            let leads = code.iter().any(|code| code.contains(&cell[0]));
            if leads {
                leave(cell);
            }
            !leads
        });
    }

    /// The same for all jumps.
    pub fn forget(&mut self, region: &mut Region) {
        let cells = region.cells();
        self.filled.drain(..).for_each(|cell| leave(&mut cells[cell as usize]));
    }

    /// The code of a part is gone.
    pub fn clear(&mut self, part: usize) {
        self.owned.clear(part);
        self.filled.retain(|cell| part_of(*cell as usize) != part);
    }
}

/// Lets a cell's jump lead to its way out.
fn leave([goal, way_out]: &mut [u64; 2]) {
    *goal = *way_out;
}
