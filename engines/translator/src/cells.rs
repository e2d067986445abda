//! Cells: where ring 3's direct jumps to other pages lead.
//!
//! Such a jump cannot be linked, since the mapping of the page may change with each process switch, and undoing links in
//! code is slow. It jumps through a cell of its own instead: a word that holds the target's host address while the mapping
//! is known, and else leads to the jump's way out. Forgetting mappings writes the words that have been filled. Neither
//! flags nor a register are touched.

use std::ops::Range;

use crate::block::PARTS;
use crate::context::{CELLS, CellId};
use crate::region::Region;

/// See the module's documentation.
#[derive(Default)]
pub struct Cells {
    /// Per part of the cache and cell that has an owner there, host address of its way out.
    stubs: [Vec<u64>; PARTS],
    /// Those that lead to a target, once each.
    filled: Vec<CellId>,
}

impl Cells {
    /// A cell for a jump of a block in this part of the cache, if any is left.
    pub fn assign(&mut self, part: usize) -> Option<CellId> {
        let stubs = &mut self.stubs[part];
        let free = stubs.len();
        (free < CELLS / PARTS).then(|| {
            stubs.push(0);
            (free * PARTS + part) as CellId
        })
    }

    /// Where a cell's jump leaves its block.
    fn stub(&mut self, cell: CellId) -> &mut u64 {
        let cell = cell as usize;
        &mut self.stubs[cell % PARTS][cell / PARTS]
    }

    /// Tells where a cell's jump leaves its block.
    pub fn own(&mut self, region: &mut Region, cell: CellId, stub: u64) {
        *self.stub(cell) = stub;
        region.cells()[cell as usize] = stub;
    }

    /// Lets the jump of a cell that is not filled lead to a host address.
    pub fn fill(&mut self, region: &mut Region, cell: CellId, host: u64) {
        region.cells()[cell as usize] = host;
        self.filled.push(cell);
    }

    /// Lets all jumps that lead to code in these ranges lead to their ways out.
    pub fn forget_into(&mut self, region: &mut Region, code: &[Range<u64>]) {
        let cells = region.cells();
        let stubs = &self.stubs;
        self.filled.retain(|cell| {
            let cell = *cell as usize;
            let leads = code.iter().any(|code| code.contains(&cells[cell]));
            if leads {
                cells[cell] = stubs[cell % PARTS][cell / PARTS];
            }
            !leads
        });
    }

    /// The same for all jumps.
    pub fn forget(&mut self, region: &mut Region) {
        let cells = region.cells();
        for cell in self.filled.drain(..).map(|cell| cell as usize) {
            cells[cell] = self.stubs[cell % PARTS][cell / PARTS];
        }
    }

    /// The code of a part is gone.
    pub fn clear(&mut self, part: usize) {
        self.stubs[part].clear();
        self.filled.retain(|cell| *cell as usize % PARTS != part);
    }
}
