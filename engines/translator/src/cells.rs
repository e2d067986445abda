//! Cells: where ring 3's direct jumps to other pages lead.
//!
//! Such a jump cannot be linked, since the mapping of the page may change with each process switch, and undoing links in
//! code is slow. It jumps through a cell of its own instead: a word that holds the target's host address while the mapping
//! is known, and else leads to the jump's way out. Forgetting mappings writes the words that have been filled. Neither
//! flags nor a register are touched.

use std::ops::Range;

use crate::context::{CELLS, CellId};
use crate::region::Region;

/// See the module's documentation.
#[derive(Default)]
pub struct Cells {
    /// Per cell that has an owner, host address of its way out.
    stubs: Vec<u64>,
    /// Those that lead to a target, once each.
    filled: Vec<CellId>,
}

impl Cells {
    /// A cell for a jump, if any is left.
    pub fn assign(&mut self) -> Option<CellId> {
        let free = self.stubs.len();
        (free < CELLS).then(|| {
            self.stubs.push(0);
            free as CellId
        })
    }

    /// Tells where a cell's jump leaves its block.
    pub fn own(&mut self, region: &mut Region, cell: CellId, stub: u64) {
        self.stubs[cell as usize] = stub;
        region.cells()[cell as usize] = stub;
    }

    /// Lets the jump of a cell that is not filled lead to a host address.
    pub fn fill(&mut self, region: &mut Region, cell: CellId, host: u64) {
        region.cells()[cell as usize] = host;
        self.filled.push(cell);
    }

    /// Lets all jumps that lead to a block, whose host code this is, lead to their ways out.
    pub fn forget_into(&mut self, region: &mut Region, block: &[Range<u64>]) {
        let cells = region.cells();
        self.filled.retain(|cell| {
            let cell = *cell as usize;
            let leads = block.iter().any(|code| code.contains(&cells[cell]));
            if leads {
                cells[cell] = self.stubs[cell];
            }
            !leads
        });
    }

    /// The same for all jumps.
    pub fn forget(&mut self, region: &mut Region) {
        let cells = region.cells();
        for cell in self.filled.drain(..).map(|cell| cell as usize) {
            cells[cell] = self.stubs[cell];
        }
    }

    /// All code is gone.
    pub fn clear(&mut self) {
        self.stubs.clear();
        self.filled.clear();
    }
}
