//! Where blocks' code goes.
//!
//! What runs of a block seldom, its ways out, stands apart from what runs often: else it would lie between one block
//! and the next, in the same cache lines and pages, and the processor would fetch it for nothing.
//!
//! Both halves have as many parts as each other. Blocks go into one part until it is full.

use std::ops::Range;

use super::{BLOCK_ROOM, ENTRY_ALIGN};
use crate::by_part::PARTS;

/// Least that a part of either half has room for, of the largest blocks.
const LEAST: usize = 8;

/// Offsets in the translation cache of one part.
#[derive(Debug)]
struct Part {
    /// All that there is for blocks.
    hot: Range<usize>,
    /// For their ways out.
    cold: Range<usize>,
    next: (usize, usize),
    /// How many parts had been begun when this one was.
    begun: u64,
}

impl Part {
    fn new(hot: Range<usize>, cold: Range<usize>) -> Self {
        let next = (hot.start, cold.start);
        Self { hot, cold, next, begun: 0 }
    }

    fn used(&self) -> usize {
        self.next.0 - self.hot.start + self.next.1 - self.cold.start
    }

    fn clear(&mut self) {
        self.next = (self.hot.start, self.cold.start);
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Room {
    parts: Vec<Part>,
    current: usize,
    begun: u64,
}

impl Room {
    /// Between two offsets, nothing of it used.
    pub fn new(all: Range<usize>) -> Self {
        // As it comes out: a block's ways out are about as long as the rest of it.
        let half = all.len() / 2;
        let count = (half / (LEAST * BLOCK_ROOM)).clamp(1, PARTS);
        let each = half / count / ENTRY_ALIGN * ENTRY_ALIGN;
        let start = all.start.next_multiple_of(ENTRY_ALIGN);
        let slice = |n: usize| start + n * each..(start + (n + 1) * each).min(all.end);
        let parts = (0..count).map(|n| Part::new(slice(n), slice(count + n))).collect();
        Self { parts, current: 0, begun: 0 }
    }

    fn here(&self) -> &Part {
        &self.parts[self.current]
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// The part into which blocks go.
    pub fn current(&self) -> usize {
        self.current
    }

    /// Where the next block begins, and where its ways out do.
    pub fn next(&self) -> (usize, usize) {
        let (hot, cold) = self.here().next;
        (hot.next_multiple_of(ENTRY_ALIGN), cold)
    }

    /// Takes so many bytes for a block and for its ways out, from where the next ones begin.
    pub fn take(&mut self, block: usize, ways_out: usize) {
        let (hot, cold) = self.next();
        self.parts[self.current].next = (hot + block, cold + ways_out);
    }

    /// Whether there are so many bytes left of both in this part.
    pub fn has(&self, bytes: usize) -> bool {
        let left = |all: &Range<usize>, next: usize| all.end.saturating_sub(next);
        let Part { hot, cold, next, .. } = self.here();
        left(hot, next.0).min(left(cold, next.1)) >= bytes
    }

    /// Goes on with a part that nothing is in; `false` if there is none.
    pub fn begin_next(&mut self) -> bool {
        let unused = self.parts.iter().position(|part| part.used() == 0);
        unused.inspect(|part| self.begin(*part)).is_some()
    }

    fn begin(&mut self, part: usize) {
        self.begun += 1;
        self.parts[part].begun = self.begun;
        self.current = part;
    }

    /// The part that was begun before all others.
    pub fn oldest(&self) -> usize {
        (0..self.parts.len()).min_by_key(|part| self.parts[*part].begun).unwrap_or(0)
    }

    /// Whether nothing is at an offset.
    pub fn is_free(&self, offset: usize) -> bool {
        let used = |part: &Part| {
            let (hot, cold) = part.next;
            (part.hot.start..hot).contains(&offset) || (part.cold.start..cold).contains(&offset)
        };
        !self.parts.iter().any(used)
    }

    /// The first offset for a block.
    pub fn start(&self) -> usize {
        self.parts[0].hot.start
    }

    /// Bytes that are used.
    pub fn used(&self) -> usize {
        self.parts.iter().map(Part::used).sum()
    }

    /// The offsets of a part, for blocks and for ways out.
    pub fn offsets(&self, part: usize) -> [Range<usize>; 2] {
        let Part { hot, cold, .. } = &self.parts[part];
        [hot.clone(), cold.clone()]
    }

    /// Nothing is used any more of a part, and blocks go there.
    pub fn empty(&mut self, part: usize) {
        self.parts[part].clear();
        self.begin(part);
    }

    /// Nothing is used any more.
    pub fn clear(&mut self) {
        self.parts.iter_mut().for_each(Part::clear);
        self.current = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_ways_out_are_apart() {
        let mut room = Room::new(100..4200);
        let (hot, cold) = room.next();
        assert_eq!((hot, room.used(), room.parts()), (128, 0, 1));
        assert!(cold > 2000 && cold.is_multiple_of(ENTRY_ALIGN), "{cold}");
        room.take(5, 7);
        assert_eq!(room.next(), (160, cold + 7), "a block is aligned, a way out follows the one before");
        let free = [hot, hot + 5, cold, cold + 7].map(|offset| room.is_free(offset));
        assert_eq!(free, [false, true, false, true]);
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

    #[test]
    fn parts_are_filled_one_after_the_other_and_emptied_alone() {
        const EACH: usize = LEAST * BLOCK_ROOM;
        let mut room = Room::new(0..2 * 3 * EACH);
        assert_eq!(room.parts(), 3);
        for part in 0..3 {
            assert_eq!(room.current(), part);
            let (hot, cold) = room.next();
            assert_eq!((hot, cold), (part * EACH, (3 + part) * EACH));
            room.take(EACH - 1, 1);
            assert!(!room.has(BLOCK_ROOM));
            assert_eq!(room.begin_next(), part < 2);
        }
        assert_eq!(room.oldest(), 0);
        room.empty(1);
        assert_eq!((room.current(), room.used()), (1, 2 * EACH));
        assert_eq!(room.next(), (EACH, 4 * EACH));
        assert!(room.is_free(EACH) && !room.is_free(0) && !room.is_free(2 * EACH));
    }
}
