//! What is in the jump tables, so that they can be emptied by what was put in: at a change of address space that is
//! a small part of them.
//!
//! A block that is dropped stays there, because its entry then leads to the engine.
//!
//! The engine itself goes by the tables, too: see [`Cache::known`].

use std::ops::Range;

use super::Cache;
use crate::block::BlockId;
use crate::context::{JUMP_ENTRIES, VICTIM_ENTRIES, VIEWS};
use crate::mode::ModeWord;
use crate::region::Region;
use crate::trampoline::{jump_slot, victim_slot};

/// Slots up to which emptying them one by one is quicker than all at once.
const FEW: usize = JUMP_ENTRIES / 4;

/// A view's jump table and victim table.
struct Table {
    /// Slots that were filled since they were all emptied; `FEW` or more of them mean any.
    jumps: Vec<u16>,
    victims: Vec<u16>,
    /// The block whose entry stands in each slot of the jump table, if one does.
    blocks: Box<[BlockId]>,
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
            blocks: vec![BlockId::NONE; JUMP_ENTRIES].into(),
        };
        Self { tables: std::array::from_fn(|_| table()), miss }
    }

    /// Puts a block's entry at its place for this guest address. Whose place that was is kept where it is still found:
    /// two that are wanted in turn would throw each other out at a crossing each time.
    pub fn insert(&mut self, region: &mut Region, view: usize, rip: u64, (id, entry): (BlockId, u64)) {
        let slot = jump_slot(rip);
        let table = &mut self.tables[view];
        table.blocks[slot] = id;
        let [loser, its_entry] = std::mem::replace(&mut region.jump_table(view)[slot], [rip, entry]);
        if its_entry == self.miss {
            note(&mut table.jumps, slot);
        } else if loser != rip {
            let slot = victim_slot(loser);
            let [_, former] = std::mem::replace(&mut region.victims(view)[slot], [loser, its_entry]);
            if former == self.miss {
                note(&mut table.victims, slot);
            }
        }
    }

    /// The same where that takes the place of nobody.
    pub fn offer(&mut self, region: &mut Region, view: usize, rip: u64, (id, entry): (BlockId, u64)) {
        let (slot, second) = (jump_slot(rip), victim_slot(rip));
        let table = &mut self.tables[view];
        if region.jump_table(view)[slot][1] == self.miss {
            table.blocks[slot] = id;
            region.jump_table(view)[slot] = [rip, entry];
            note(&mut table.jumps, slot);
        } else if region.jump_table(view)[slot][0] != rip && region.victims(view)[second][1] == self.miss {
            region.victims(view)[second] = [rip, entry];
            note(&mut table.victims, second);
        }
    }

    /// Takes out what leads to code in this range, whatever the view.
    pub fn forget_into(&mut self, region: &mut Region, code: &Range<u64>) {
        let leads = |entry: &&mut [u64; 2]| code.contains(&entry[1]);
        for view in 0..VIEWS {
            region.jump_table(view).iter_mut().filter(leads).for_each(|entry| *entry = [0, self.miss]);
            region.victims(view).iter_mut().filter(leads).for_each(|entry| *entry = [0, self.miss]);
        }
    }

    /// Empties a view's tables.
    pub fn clear(&mut self, region: &mut Region, view: usize) {
        let table = &mut self.tables[view];
        if table.jumps.len() < FEW {
            let jumps = region.jump_table(view);
            table.jumps.iter().for_each(|slot| jumps[usize::from(*slot) % JUMP_ENTRIES] = [0, self.miss]);
        } else {
            region.jump_table(view).fill([0, self.miss]);
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

impl Cache {
    /// The block that a jump of guest code's own to this rip would find in its view's jump table, if that is one of this
    /// mode and the block is still good. Whatever makes an entry wrong empties the table, since code follows it unasked; so
    /// this says what looking for the block by its key would, and neither walks page tables nor hashes.
    pub fn known(&mut self, rip: u64, mode: ModeWord) -> Option<BlockId> {
        let (view, slot) = (mode.view(), jump_slot(rip));
        let id = self.jumps.tables[view].blocks[slot];
        let block = self.blocks.get(id).filter(|block| block.valid)?;
        let stands = self.region.jump_table(view)[slot] == [rip, block.entry];
        (stands && self.views[view] == Some(mode)).then_some(id)
    }
}

fn note(slots: &mut Vec<u16>, slot: usize) {
    if slots.len() < FEW {
        slots.push(slot as u16);
    }
}
