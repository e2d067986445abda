//! What has been thrown away lately, and whether it is wanted again.
//!
//! Of that a cache that is too small for what runs can be told from one that is full of what ran before: what it makes it
//! has thrown away. Two sets of bits by guest-physical address do, of which the older is forgotten when everything has been
//! thrown away once more; that two addresses may share a bit changes a count of thousands by a few.

use crate::block::{Block, PARTS};

/// Bits of one set: ten times as many as blocks are in a cache.
const BITS: usize = 1 << 21;

/// See the module's documentation.
pub struct Ghosts {
    lately: Vec<u64>,
    before: Vec<u64>,
    /// Parts that have been thrown away into `lately`.
    parts: usize,
    /// Blocks made since it was last asked, and those of them that had been thrown away.
    made: u32,
    again: u32,
}

impl Ghosts {
    /// Nothing has been.
    pub fn new() -> Self {
        let none = || vec![0; BITS / 64];
        Self { lately: none(), before: none(), parts: 0, made: 0, again: 0 }
    }

    /// A part with these blocks is thrown away.
    pub fn add(&mut self, blocks: &[Block]) {
        if self.parts == PARTS {
            std::mem::swap(&mut self.lately, &mut self.before);
            self.lately.fill(0);
            self.parts = 0;
        }
        self.parts += 1;
        for block in blocks {
            let (word, bit) = place(block.key.physical);
            self.lately[word] |= bit;
        }
    }

    /// A block is made of code at this guest-physical address.
    pub fn made(&mut self, physical: u64) {
        let (word, bit) = place(physical);
        self.made += 1;
        self.again += u32::from((self.lately[word] | self.before[word]) & bit != 0);
    }

    /// Whether most of what was made since this was last asked had been thrown away before.
    pub fn are_most(&mut self) -> bool {
        let (made, again) = (std::mem::take(&mut self.made), std::mem::take(&mut self.again));
        2 * again > made
    }
}

fn place(physical: u64) -> (usize, u64) {
    let n = physical.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BITS.trailing_zeros());
    (n as usize / 64, 1 << (n % 64))
}
