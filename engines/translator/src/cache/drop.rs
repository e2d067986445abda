//! Dropping blocks: those whose bytes have changed, and those that are not made as they ought to be any more.

use std::sync::Arc;

use vcpu::DebugPoints;

use super::Cache;
use crate::block::{Block, BlockId, Range};
use crate::guest::Guest;
use crate::hint::Roaming;
use crate::hint_table::HintId;
use crate::mode::VIEW_USER;

impl Cache {
    /// Drops the blocks made from these guest-physical bytes.
    pub fn invalidate(&mut self, guest: &Guest, written: Range) {
        let last = written.start.saturating_add(written.len.saturating_sub(1));
        for page in (written.start >> 12)..=(last >> 12) {
            self.invalidate_in_page(guest, page << 12, written);
            if self.originals.forget(page << 12) {
                self.unwatch(guest, page << 12);
            }
        }
    }

    fn invalidate_in_page(&mut self, guest: &Guest, page: u64, written: Range) {
        let Some(ids) = self.by_page.get_mut(&page) else {
            return;
        };
        let mut stale = Vec::new();
        let blocks = &self.blocks;
        ids.retain(|id| {
            let hit = blocks
                .get(*id)
                .is_some_and(|block| block.sources.iter().any(|range| range.overlaps(written)));
            if hit {
                stale.push(*id);
            }
            !hit
        });
        if ids.is_empty() {
            self.by_page.remove(&page);
            self.unwatch(guest, page);
        }
        for id in stale {
            self.drop_block(id);
        }
    }

    /// The hint of an instruction at this place has missed too often: translates the block without, if it misses fast.
    pub fn roams(&mut self, id: BlockId, offset: u16, hint: HintId, over: Roaming) {
        self.region.hints().forget(hint);
        let Some(block) = self.block(id) else { return };
        let physical = block.key.physical.wrapping_add(u64::from(offset));
        if self.hints.is_roaming(hint, physical, over, host::cpu::rdtsc()) {
            self.drop_block(id);
        }
    }

    fn drop_block(&mut self, id: BlockId) {
        let Some(block) = self.blocks.get_mut(id) else { return };
        if !std::mem::replace(&mut block.valid, false) {
            return;
        }
        let (key, entry) = (block.key, block.entry);
        let straddlers = std::mem::take(&mut block.straddlers);
        let own = [entry..block.end, block.ways_out.clone()];
        let incoming = std::mem::take(&mut block.incoming);
        self.unlink_all(id, incoming);
        straddlers.into_iter().for_each(|word| self.write_word(word, 0));
        if key.mode.view() == VIEW_USER {
            self.cells.forget_into(&mut self.region, &own);
            self.bridges.drop_block(id);
        }
        if self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
        }
        // The jump table may hold it under any number of addresses: whoever is sent there goes on to the engine.
        self.emitter.restart(entry);
        self.emitter.jmp_to(self.miss);
        let offset = (entry - self.emitter.layout().code()) as usize;
        self.region.write_code(offset, self.emitter.code());
    }

    /// Takes a debugger's points, and drops the blocks that are not as they want them.
    pub fn set_debug_points(&mut self, points: &Arc<DebugPoints>) {
        let former = std::mem::replace(&mut self.points, points.clone());
        if former.has_breakpoints() != points.has_breakpoints() {
            // At once, where each block would look for cells that lead to it.
            self.clear_view(VIEW_USER);
            self.drop_where(|block| block.key.mode.is_relocatable());
        }
        for linear in former.changed_breakpoints(points) {
            self.drop_where(|block| block.covers(linear));
        }
    }

    pub(super) fn drop_where(&mut self, stale: impl Fn(&Block) -> bool) {
        let stale = self.blocks.iter().filter(|(_, block)| block.valid && stale(block));
        let stale: Vec<_> = stale.map(|(id, _)| id).collect();
        stale.into_iter().for_each(|id| self.drop_block(id));
    }
}
