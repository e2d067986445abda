//! Making room: a part of the cache is emptied when there is none left.
//!
//! That in which the oldest blocks are, most times. But a program that goes round in a little more code than the cache holds
//! comes back to each block when it is just gone, then. So when most of what is made had been thrown away lately
//! ([`super::ghosts`]), which part goes is left to chance: most of the program stays, and what is translated again grows with
//! what there is too much of.

use std::ops::Range;

use super::Cache;
use crate::block::{Block, BlockId};
use crate::guest::Guest;

/// Chooses parts: the high half of Knuth's linear congruential generator (MMIX).
pub struct Dice(u64);

impl Dice {
    /// The same in each run.
    pub fn new() -> Self {
        Self(0x5eed)
    }

    /// One of `sides`, of which there are some.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as usize % sides
    }
}

impl Cache {
    /// Makes room for another block, if need be by emptying a part of the cache. That comes before the block's key is made, of
    /// which nothing need be good any more then. No guest code may be half-way through a block.
    pub fn make_room(&mut self, guest: &Guest) {
        if self.room.has(super::BLOCK_ROOM) || self.room.begin_next() {
            return;
        }
        let (parts, full) = (self.room.parts(), self.room.current());
        let part = match self.ghosts.are_most() && parts > 1 {
            true => (full + 1 + self.dice.roll(parts - 1)) % parts,
            false => self.room.oldest(),
        };
        self.evict(guest, part);
    }

    /// Empties the cache. No guest code may be half-way through a block.
    pub fn clear(&mut self, guest: &Guest) {
        for part in 0..self.room.parts() {
            if !self.blocks.is_empty(part) {
                self.evict(guest, part);
            }
        }
        guest.watcher.unwatch_all();
        self.originals.forget_all();
        self.room.clear();
    }

    /// Empties a part, into which the next blocks go.
    fn evict(&mut self, guest: &Guest, part: usize) {
        self.retire();
        self.generation += 1;
        let start = self.emitter.layout().code();
        let code = self.room.offsets(part).map(|code| start + code.start as u64..start + code.end as u64);
        // Jump tables lead to entries, none of which is among the ways out.
        self.jumps.forget_into(&mut self.region, &code[0]);
        self.cells.forget_into(&mut self.region, &code);
        self.spaces.clear();
        self.targets.clear();
        self.bridges.clear();
        let inside = |id: &BlockId| id.part() == part;
        self.ghosts.begin_part();
        for (id, block) in self.blocks.take(part) {
            self.ghosts.add(block.key.physical);
            self.cut_off(guest, id, block);
        }
        let table_links: Vec<_> = self.table_links.extract_if(.., |(at, ..)| *at == part).collect();
        table_links.into_iter().for_each(|(_, from, n)| self.unlink(from, n));
        self.table_links.retain(|(_, from, _)| !inside(from));
        self.far_links.retain(|(from, _)| !inside(from));
        self.forget_straddlers(&code);
        self.anchors.retain(|page| self.by_page.contains_key(&page));
        self.sites.clear(part);
        self.cells.clear(part);
        self.hints.clear();
        self.room.empty(part);
    }

    /// Lets nothing that stays know of a block that goes.
    fn cut_off(&mut self, guest: &Guest, id: BlockId, block: Block) {
        self.unlink_all(id, block.incoming);
        block.straddlers.iter().for_each(|word| self.write_word(*word, 0));
        if self.by_key.get(&block.key) == Some(&id) {
            self.by_key.remove(&block.key);
        }
        for page in block.sources.iter().map(|range| range.start & !0xfff) {
            let Some(ids) = self.by_page.get_mut(&page) else { continue };
            ids.retain(|of| of.part() != id.part());
            if ids.is_empty() {
                self.by_page.remove(&page);
                self.unwatch(guest, page);
            }
        }
    }

    /// Forgets the groups of blocks that go, whose code this is, as such that lead to blocks which stay.
    fn forget_straddlers(&mut self, code: &[Range<u64>]) {
        let blocks = &mut self.blocks;
        self.straddled.retain(|id| {
            let Some(block) = blocks.get_mut(*id) else { return false };
            block.straddlers.retain(|word| !code.iter().any(|code| code.contains(word)));
            !block.straddlers.is_empty()
        });
    }
}
