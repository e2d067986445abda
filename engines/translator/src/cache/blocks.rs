//! Blocks by number and by where their code is.

use crate::block::{Block, BlockId, PARTS};

/// All blocks of a cache. Those of a part are in the order of their host addresses.
#[derive(Default)]
pub struct Blocks {
    parts: [Vec<Block>; PARTS],
}

impl Blocks {
    /// A block by number.
    pub fn get(&self, id: BlockId) -> Option<&Block> {
        self.parts[id.part()].get(id.number())
    }

    /// The same, to change.
    pub fn get_mut(&mut self, id: BlockId) -> Option<&mut Block> {
        self.parts[id.part()].get_mut(id.number())
    }

    /// The number that the next block of a part will have.
    pub fn next(&self, part: usize) -> BlockId {
        BlockId::new(part, self.parts[part].len())
    }

    /// Adds one, whose code is behind that of all others of the part.
    pub fn push(&mut self, part: usize, block: Block) {
        self.parts[part].push(block);
    }

    /// The block whose host code contains an address.
    pub fn at(&self, host: u64) -> Option<&Block> {
        let begun = |blocks: &&[Block]| blocks.first().is_some_and(|block| block.entry <= host);
        // Parts are in the order of addresses, too, but not all of them need have blocks.
        let blocks = self.parts().filter(begun).last()?;
        let n = blocks.partition_point(|block| block.entry <= host).checked_sub(1)?;
        blocks.get(n).filter(|block| host < block.end)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (BlockId, &Block)> {
        (0..PARTS).flat_map(|part| {
            self.parts[part].iter().enumerate().map(move |(n, block)| (BlockId::new(part, n), block))
        })
    }

    /// The same, part by part.
    pub fn parts(&self) -> impl Iterator<Item = &[Block]> {
        self.parts.iter().map(Vec::as_slice)
    }

    /// Takes all of a part.
    pub fn take(&mut self, part: usize) -> Vec<Block> {
        std::mem::take(&mut self.parts[part])
    }
}
