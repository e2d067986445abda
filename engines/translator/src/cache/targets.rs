//! Where ring 3's indirect jumps have led to, page by page.
//!
//! An address space that is new knows none of the code that others have run: each return and each call through a pointer
//! would leave guest code once to find the block that is there already. So when one is met in a page for the first time, all
//! others that have been met there in any address space are put into the jump table, where there is room.

use super::Cache;
use super::listed::Listed;
use crate::block::BlockId;
use crate::mode::{ModeWord, VIEW_USER};

/// A block that a jump has led to.
#[derive(Clone, Copy, Debug)]
struct Target {
    /// In its page.
    offset: u16,
    mode: ModeWord,
    to: BlockId,
    entry: u64,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Targets(Listed<Target>);

impl Targets {
    fn note(&mut self, page: u64, target: Target) {
        self.0.note(page, target, |other| (other.offset, other.mode) == (target.offset, target.mode));
    }

    /// Forgets all, before blocks go.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Cache {
    /// Takes note that an indirect jump has led to a block which the jump table did not know.
    pub fn note_target(&mut self, id: BlockId) {
        let Some(block) = self.blocks.get(id) else { return };
        let key = block.key;
        // Where the second page is may be different each time.
        if key.floats() && !key.apart && block.second_page.is_none() && !key.mode.steps() {
            let (offset, entry) = ((key.physical & 0xfff) as u16, block.entry);
            self.targets.note(key.physical & !0xfff, Target { offset, mode: key.mode, to: id, entry });
        }
    }

    /// Lets indirect jumps find what is known of a page of code that is at this linear address now.
    pub(super) fn offer_targets(&mut self, physical: u64, linear: u64) {
        let mode = self.views[VIEW_USER];
        for target in self.targets.0.of(physical).iter().filter(|target| Some(target.mode) == mode) {
            let rip = linear | u64::from(target.offset);
            self.jumps.offer(&mut self.region, VIEW_USER, rip, (target.to, target.entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::listed::MOST;
    use super::*;

    #[test]
    fn a_newer_block_takes_the_place_of_an_older() {
        let mode = ModeWord::of(&vcpu::CpuState::reset());
        let mut targets = Targets::default();
        for n in 0..2 * MOST as u32 {
            let offset = (n / 2) as u16;
            targets.note(0x5000, Target { offset, mode, to: BlockId(n), entry: 0 });
        }
        let known = targets.0.of(0x5000);
        assert_eq!(known.len(), MOST);
        assert!(known.iter().all(|target| target.to.0 == 2 * u32::from(target.offset) + 1));
        targets.note(0x5000, Target { offset: 4000, mode, to: BlockId(0), entry: 0 });
        assert_eq!(targets.0.of(0x5000).len(), MOST);
    }
}
