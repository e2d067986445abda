//! Ways from block to block: jumps patched to go straight, cells, and groups' ways apart.

use super::{BLOCK_ROOM, Cache};
use crate::block::{BlockId, Key, LinkState, Place};
use crate::context::ContextField;
use crate::emit::Reg;
use crate::trampoline;

impl Cache {
    /// Links a new block's jumps to blocks of its own page that are there already, so that they need not be met first.
    pub(super) fn link_to_known(&mut self, id: BlockId) {
        let Some(block) = self.block(id).filter(|block| block.second_page.is_none()) else { return };
        let (key, linear) = (block.key, block.linear);
        let near = block.links.iter().enumerate().filter_map(|(n, link)| {
            let there = linear.wrapping_add(link.target.wrapping_sub(key.rip(0)));
            let physical = key.physical & !0xfff | there & 0xfff;
            let place = match key.place {
                Place::At(_) => Place::At(link.target),
                anywhere => anywhere,
            };
            let inside = link.cell.is_none() && there >> 12 == linear >> 12;
            inside.then_some((n as u16, Key { physical, place, mode: link.mode, apart: false }))
        });
        let known: Vec<_> = near.filter_map(|(n, key)| self.find(&key).map(|to| (n, to))).collect();
        for (n, to) in known {
            if self.block(to).is_some_and(|target| target.second_page.is_none()) {
                self.link(id, n, to);
            }
        }
    }

    /// Lets a direct jump go straight to its target.
    pub fn link(&mut self, from: BlockId, n: u16, to: BlockId) {
        let (Some(source), Some(target)) = (self.blocks.get(from), self.blocks.get(to)) else {
            return;
        };
        let Some(link) = source.links.get(usize::from(n)).copied() else {
            return;
        };
        if let Some(cell) = link.cell {
            if source.valid && target.valid && link.mode == target.key.mode {
                let goal = match link {
                    LinkState { parked: true, .. } => target.entry,
                    LinkState { backward: true, .. } => target.checked,
                    _ => target.body,
                };
                self.cells.fill(&mut self.region, cell, goal);
                self.note_cell(from, n, to, goal);
                self.note_bridge(from, n, to, goal);
            }
            return;
        }
        if !source.valid || !target.valid || link.mode != target.key.mode || target.key.rip(0) != link.target
        {
            return;
        }
        // If not, the page has been mapped elsewhere meanwhile; what it was is still good there.
        if !source.key.shares_page(&target.key) {
            return;
        }
        if target.second_page.is_some() {
            if !self.room.has(BLOCK_ROOM) {
                return;
            }
            // Only the table notices when the second page's mapping changes.
            let stub = self.table_stub(link.mode.view(), source.key.place, link.target);
            self.patch(link.at, stub);
            self.table_links.push((self.room.current(), from, n));
            return;
        }
        let goal = if link.backward { target.checked } else { target.body };
        if source.linear >> 12 != target.linear >> 12 {
            self.far_links.push((from, n));
        }
        self.patch(link.at, goal);
        if let Some(target) = self.blocks.get_mut(to) {
            target.incoming.push((from, n));
        }
        if let Some(link) = self.link_mut(from, n) {
            link.leads_to = Some(to);
        }
    }

    /// Lets a group of a block lead to another block where it straddles pages.
    pub fn lead_apart(&mut self, from: BlockId, group: u8, to: BlockId) {
        let (Some(source), Some(target)) = (self.block(from), self.block(to)) else { return };
        let group = source.groups.get(usize::from(group)).copied().flatten();
        let Some(group) = group.filter(|_| target.valid && source.key.shares_page(&target.key)) else {
            return;
        };
        let body = target.body as u32;
        self.write_word(group.apart, body);
        if let Some(target) = self.blocks.get_mut(to).filter(|to| !to.straddlers.contains(&group.apart)) {
            target.straddlers.push(group.apart);
            self.straddled.push(to);
        }
    }

    pub(super) fn write_word(&mut self, at: u64, value: u32) {
        let offset = (at - self.emitter.layout().code()) as usize;
        self.region.write_code(offset, &value.to_le_bytes());
    }

    /// Code that goes through the jump table, for a jump that cannot be linked.
    fn table_stub(&mut self, view: usize, place: Place, target: u64) -> u64 {
        let (_, cold) = self.room.next();
        let stub = self.emitter.layout().code() + cold as u64;
        self.emitter.restart(stub);
        let second_chance = self.second_chance[view];
        trampoline::emit_flags_to_context(&mut self.emitter);
        let other = match place {
            Place::Anywhere(slot) => {
                self.emitter.load_and_add(Reg::R9, ContextField::PageBase(slot), target);
                trampoline::emit_jump_hash(&mut self.emitter, view)
            }
            Place::At(_) => trampoline::emit_jump_to_known(&mut self.emitter, view, target),
        };
        self.emitter.fix_to(other, second_chance);
        self.region.write_code(cold, self.emitter.code());
        self.room.take(0, self.emitter.code().len());
        stub
    }

    /// Lets the jumps that go straight to a block leave by their ways out again. Not all that are named need do so any more.
    pub(super) fn unlink_all(&mut self, to: BlockId, incoming: Vec<(BlockId, u16)>) {
        for (from, n) in incoming {
            if self.link_mut(from, n).is_some_and(|link| link.leads_to == Some(to)) {
                self.unlink(from, n);
            }
        }
    }

    /// Lets a jump leave by its way out again.
    pub(super) fn unlink(&mut self, from: BlockId, n: u16) {
        let Some(link) = self.link_mut(from, n) else { return };
        link.leads_to = None;
        let (at, stub) = (link.at, link.stub);
        self.patch(at, stub);
    }

    fn link_mut(&mut self, from: BlockId, n: u16) -> Option<&mut LinkState> {
        self.blocks.get_mut(from)?.links.get_mut(usize::from(n))
    }

    fn patch(&mut self, at: u64, goal: u64) {
        self.write_word(at, goal.wrapping_sub(at + 4) as u32);
    }
}
