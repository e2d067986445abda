//! What is in the jump tables, so that they can be emptied by what was put in: at a change of address space that is
//! a small part of them.
//!
//! A block that is dropped stays there, because its entry then leads to the engine.

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
        };
        Self { tables: std::array::from_fn(|_| table()), miss }
    }

    /// Puts a block's entry at its place for this guest address. Whose place that was is kept where it is still found:
    /// two that are wanted in turn would throw each other out at a crossing each time.
    pub fn insert(&mut self, region: &mut Region, view: usize, rip: u64, entry: u64) {
        let slot = jump_slot(rip);
        let table = &mut self.tables[view];
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

fn note(slots: &mut Vec<u16>, slot: usize) {
    if slots.len() < FEW {
        slots.push(slot as u16);
    }
}
