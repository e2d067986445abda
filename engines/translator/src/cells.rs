//! Cells: where ring 3's direct jumps to other pages lead.
//!
//! Such a jump cannot be linked, since the mapping of the page may change with each process switch, and undoing links in
//! code is slow. It jumps through a cell of its own instead: a word that holds the target's host address while the mapping
//! is known, and else leads to the jump's way out. Forgetting mappings writes the words that have been filled. Neither
//! flags nor a register are touched.

use std::ops::Range;

use crate::by_part::{ByPart, PARTS, part_of};
use crate::context::{CELLS, CellId};
use crate::region::Region;

/// See the module's documentation.
#[derive(Default)]
pub struct Cells {
    /// Per part of the cache and cell that has an owner there, host address of its way out.
    stubs: ByPart<u64>,
    /// Those that lead to a target, once each.
    filled: Vec<CellId>,
}

impl Cells {
    /// A cell for a jump of a block in this part of the cache, if any is left.
    pub fn assign(&mut self, part: usize) -> Option<CellId> {
        (self.stubs.count(part) < CELLS / PARTS).then(|| self.stubs.push(part, 0) as CellId)
    }

    /// Tells where a cell's jump leaves its block.
    pub fn own(&mut self, region: &mut Region, cell: CellId, stub: u64) {
        if let Some(own) = self.stubs.get_mut(cell as usize) {
            *own = stub;
        }
        region.cells()[cell as usize] = stub;
    }

    /// Lets the jump of a cell that is not filled lead to a host address.
    pub fn fill(&mut self, region: &mut Region, cell: CellId, host: u64) {
        region.cells()[cell as usize] = host;
        self.filled.push(cell);
    }

    /// Whether the jump of a cell leads anywhere but to its way out.
    pub fn is_filled(&self, region: &mut Region, cell: CellId) -> bool {
        self.stubs.get(cell as usize).is_none_or(|stub| region.cells()[cell as usize] != *stub)
    }

    /// Lets all jumps that lead to code in these ranges lead to their ways out.
    pub fn forget_into(&mut self, region: &mut Region, code: &[Range<u64>]) {
        let (cells, stubs) = (region.cells(), &self.stubs);
        self.filled.retain(|cell| {
            let leads = code.iter().any(|code| code.contains(&cells[*cell as usize]));
            if leads {
                leave(cells, stubs, *cell);
            }
            !leads
        });
    }

    /// The same for all jumps.
    pub fn forget(&mut self, region: &mut Region) {
        let (cells, stubs) = (region.cells(), &self.stubs);
        self.filled.drain(..).for_each(|cell| leave(cells, stubs, cell));
    }

    /// The code of a part is gone.
    pub fn clear(&mut self, part: usize) {
        self.stubs.clear(part);
        self.filled.retain(|cell| part_of(*cell as usize) != part);
    }
}

/// Lets a cell's jump lead to its way out.
fn leave(cells: &mut [u64; CELLS], stubs: &ByPart<u64>, cell: CellId) {
    if let Some(stub) = stubs.get(cell as usize) {
        cells[cell as usize] = *stub;
    }
}
