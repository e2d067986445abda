//! Where blocks' code goes.
//!
//! What runs of a block seldom, its ways out, stands apart from what runs often: else it would lie between one block
//! and the next, in the same cache lines and pages, and the processor would fetch it for nothing.

use std::ops::Range;

use super::ENTRY_ALIGN;

/// Offsets in the translation cache.
#[derive(Debug)]
pub struct Room {
    /// All that there is for blocks.
    hot: Range<usize>,
    /// For their ways out.
    cold: Range<usize>,
    next: (usize, usize),
}

impl Room {
    /// Between two offsets, nothing of it used.
    pub fn new(all: Range<usize>) -> Self {
        // As it comes out: a block's ways out are about as long as the rest of it.
        let middle = all.start.midpoint(all.end).next_multiple_of(ENTRY_ALIGN);
        let (hot, cold) = (all.start..middle, middle..all.end);
        let next = (hot.start, cold.start);
        Self { hot, cold, next }
    }

    /// Where the next block begins, and where its ways out do.
    pub fn next(&self) -> (usize, usize) {
        (self.next.0.next_multiple_of(ENTRY_ALIGN), self.next.1)
    }

    /// Takes so many bytes for a block and for its ways out, from where the next ones begin.
    pub fn take(&mut self, block: usize, ways_out: usize) {
        let (hot, cold) = self.next();
        self.next = (hot + block, cold + ways_out);
    }

    /// Whether there are so many bytes left of both.
    pub fn has(&self, bytes: usize) -> bool {
        let left = |all: &Range<usize>, next: usize| all.end.saturating_sub(next);
        left(&self.hot, self.next.0).min(left(&self.cold, self.next.1)) >= bytes
    }

    /// Whether nothing is at an offset, and whether it is one for ways out.
    pub fn place(&self, offset: usize) -> (bool, bool) {
        let cold = offset >= self.cold.start;
        (offset >= if cold { self.next.1 } else { self.next.0 }, cold)
    }

    /// The first offset for a block.
    pub fn start(&self) -> usize {
        self.hot.start
    }

    /// Bytes that are used.
    pub fn used(&self) -> usize {
        self.next.0 - self.hot.start + self.next.1 - self.cold.start
    }

    /// Nothing is used any more.
    pub fn clear(&mut self) {
        self.next = (self.hot.start, self.cold.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_ways_out_are_apart() {
        let mut room = Room::new(100..4100);
        let (hot, cold) = room.next();
        assert_eq!((hot, room.used()), (128, 0));
        assert!(cold > 2000 && cold.is_multiple_of(ENTRY_ALIGN), "{cold}");
        room.take(5, 7);
        assert_eq!(room.next(), (160, cold + 7), "a block is aligned, a way out follows the one before");
        let places = [hot, hot + 5, cold, cold + 7].map(|offset| room.place(offset));
        assert_eq!(places, [(false, false), (true, false), (false, true), (true, true)]);
        room.clear();
        assert_eq!((room.next(), room.used()), ((hot, cold), 0));
    }

    #[test]
    fn either_may_be_full() {
        let mut room = Room::new(0..4096);
        assert!(room.has(2048) && !room.has(2049));
        room.take(2000, 0);
        assert!(room.has(48) && !room.has(49));
        room.clear();
        room.take(0, 2048);
        assert!(room.has(0) && !room.has(1));
    }
}
