//! Blocks by number and by where their code is.

use crate::block::{Block, BlockId};
use crate::by_part::ByPart;

/// All blocks of a cache. Those of a part are in the order of their host addresses.
#[derive(Default)]
pub struct Blocks(ByPart<Block>);

impl Blocks {
    /// A block by number.
    pub fn get(&self, id: BlockId) -> Option<&Block> {
        self.0.get(id.0 as usize)
    }

    /// The same, to change.
    pub fn get_mut(&mut self, id: BlockId) -> Option<&mut Block> {
        self.0.get_mut(id.0 as usize)
    }

    /// The number that the next block of a part will have.
    pub fn next(&self, part: usize) -> BlockId {
        BlockId(self.0.next(part) as u32)
    }

    /// Adds one, whose code is behind that of all others of the part.
    pub fn push(&mut self, part: usize, block: Block) {
        self.0.push(part, block);
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
        self.0.iter().map(|(n, block)| (BlockId(n as u32), block))
    }

    /// The same, part by part.
    pub fn parts(&self) -> impl Iterator<Item = &[Block]> {
        self.0.parts()
    }

    /// Whether there is none in a part.
    pub fn is_empty(&self, part: usize) -> bool {
        self.0.count(part) == 0
    }

    /// Takes all out of a part.
    pub fn take(&mut self, part: usize) -> impl Iterator<Item = (BlockId, Block)> + use<> {
        self.0.take(part).map(|(n, block)| (BlockId(n as u32), block))
    }
}
