//! The block device's saved state. Nothing is under way then; what its queues hold the transport saves.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::Block;

/// See [`Block`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockStateV1 {
    /// Of the disk that the guest knows.
    pub(super) capacity: u64,
    pub(super) read_only: bool,
    pub(super) writeback: bool,
}

impl Saved for BlockStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for Block {
    const KIND: &'static str = "virtio-block";
    type State = BlockStateV1;

    fn save(&self) -> BlockStateV1 {
        let Self {
            config,
            backend: _,
            queues: _,
            features: _,
            writeback,
            slots: _,
            life: _,
            under_way: _,
            stale: _,
            held_up: _,
        } = self;
        BlockStateV1 { capacity: config.capacity, read_only: config.read_only, writeback: *writeback }
    }

    fn check(&self, state: &BlockStateV1) -> Result<(), Invalid> {
        require(state.capacity == self.config.capacity, "the disk has another size")?;
        require(
            state.read_only == self.config.read_only,
            "the disk was writable and is not, or was not and is",
        )
    }

    fn commit(&mut self, state: BlockStateV1) {
        let BlockStateV1 { capacity: _, read_only: _, writeback } = state;
        self.writeback = writeback;
    }
}
