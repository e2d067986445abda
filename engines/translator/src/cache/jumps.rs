//! What is in the jump tables, so that they can be emptied by what was put in: at a change of address space that is
//! a small part of them.

use crate::block::BlockId;
use crate::context::{JUMP_ENTRIES, VICTIM_ENTRIES, VIEWS};
use crate::region::Region;
use crate::trampoline::{jump_slot, victim_slot};

/// Slots up to which emptying them one by one is quicker than all at once.
const FEW: usize = JUMP_ENTRIES / 8;

/// A view's jump table and victim table.
struct Table {
    /// Slots that were filled since they were all emptied; `FEW` or more of them mean any.
    jumps: Vec<u16>,
    victims: Vec<u16>,
    /// Whose entry each slot holds, where it holds one.
    owners: Box<[BlockId; JUMP_ENTRIES]>,
}

/// See the module's documentation.
pub struct Jumps {
    tables: [Table; VIEWS],
    /// Host address that stands in an empty slot.
    miss: u64,
}

impl Jumps {
    /// All empty, once every view has been cleared.
    pub fn new(miss: u64) -> Self {
        let table = || Table {
            // Emptied whole the first time.
            jumps: vec![0; FEW],
            victims: vec![0; FEW],
            owners: Box::new([BlockId(0); JUMP_ENTRIES]),
        };
        Self { tables: std::array::from_fn(|_| table()), miss }
    }

    /// Puts a block's entry at its place; the block that lost the place, if there was another.
    pub fn insert(
        &mut self,
        region: &mut Region,
        view: usize,
        rip: u64,
        block: BlockId,
        entry: u64,
    ) -> Option<BlockId> {
        let slot = jump_slot(rip);
        let former = std::mem::replace(&mut region.jump_table(view)[slot], entry);
        if former == entry {
            return None;
        }
        let table = &mut self.tables[view];
        let owner = std::mem::replace(&mut table.owners[slot], block);
        if former == self.miss {
            note(&mut table.jumps, slot);
            return None;
        }
        Some(owner)
    }

    /// Keeps an entry that lost its place where it is still found.
    pub fn insert_victim(&mut self, region: &mut Region, view: usize, rip: u64, entry: u64) {
        let slot = victim_slot(rip);
        region.victims(view)[slot] = [rip, entry];
        note(&mut self.tables[view].victims, slot);
    }

    /// Takes a block's entry out of both.
    pub fn remove(&self, region: &mut Region, view: usize, rip: u64, entry: u64) {
        let slot = &mut region.jump_table(view)[jump_slot(rip)];
        if *slot == entry {
            *slot = self.miss;
        }
        let victim = &mut region.victims(view)[victim_slot(rip)];
        if victim[1] == entry {
            *victim = [0, self.miss];
        }
    }

    /// Empties a view's tables.
    pub fn clear(&mut self, region: &mut Region, view: usize) {
        let table = &mut self.tables[view];
        if table.jumps.len() < FEW {
            let jumps = region.jump_table(view);
            table.jumps.iter().for_each(|slot| jumps[usize::from(*slot) % JUMP_ENTRIES] = self.miss);
        } else {
            region.jump_table(view).fill(self.miss);
        }
        if table.victims.len() < FEW {
            let victims = region.victims(view);
            table
                .victims
                .iter()
                .for_each(|slot| victims[usize::from(*slot) % VICTIM_ENTRIES] = [0, self.miss]);
        } else {
            region.victims(view).fill([0, self.miss]);
        }
        table.jumps.clear();
        table.victims.clear();
    }
}

fn note(slots: &mut Vec<u16>, slot: usize) {
    if slots.len() < FEW {
        slots.push(slot as u16);
    }
}
