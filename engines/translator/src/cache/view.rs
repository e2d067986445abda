//! The cache, looked at from outside: nothing here changes it.

use super::Cache;
use crate::block::{Block, BlockId};
use crate::decode::{self, GuestInsn};
use crate::mode::ModeWord;

impl Cache {
    /// The good blocks that hold an instruction which begins at this guest rip, where ring 3 has this physical page.
    pub fn blocks_over(&self, rip: u64, user_page: Option<u64>) -> impl Iterator<Item = BlockId> {
        let over = move |(id, block): (BlockId, &Block)| {
            let mapped = !block.key.floats() || user_page == Some(block.key.physical & !0xfff);
            let found = block.valid && mapped && block.resume_point(rip & !0xfff, rip).is_some();
            found.then_some(id)
        };
        self.blocks.iter().filter_map(over)
    }

    /// How many good blocks there are, and how many direct jumps between them.
    pub fn population(&self) -> (u64, u64) {
        let good = self.blocks.iter().map(|(_, block)| block).filter(|block| block.valid);
        good.fold((0, 0), |(blocks, links), block| {
            let straight = block.links.iter().filter(|link| link.leads_to.is_some()).count();
            (blocks + 1, links + straight as u64)
        })
    }

    /// Host code between two addresses.
    pub fn host_code(&self, from: u64, to: u64) -> Vec<u8> {
        let start = self.emitter.layout().code();
        let offset = from.saturating_sub(start) as usize;
        self.region.read_code(offset, to.saturating_sub(from) as usize)
    }

    /// Decodes a block's bytes as it was decoded when it was made, but for which flags are live.
    pub fn decode_list(&mut self, code: &[u8], rip: u64, mode: ModeWord, limit: usize) -> Vec<GuestInsn> {
        decode::decode(code, rip, mode, limit, &mut self.accesses).0
    }
}
