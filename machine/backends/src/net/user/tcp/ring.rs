//! Bytes on their way through a connection, and the budget that all connections share.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};

/// What a ring may always have.
pub(super) const SMALLEST: usize = 16 << 10;
/// What it grows to, if the budget allows: some more than the largest frame many times over, so that reading, sending
/// and acknowledging overlap.
pub(super) const LARGEST: usize = 512 << 10;

/// How many bytes rings may have beyond [`SMALLEST`] each.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
    tight: usize,
}

impl Budget {
    pub(super) fn new(left: usize) -> Self {
        Self { left, tight: left / 2 }
    }

    /// Less than half is left.
    pub(super) fn is_tight(&self) -> bool {
        self.left < self.tight
    }

    fn grant(&mut self, bytes: usize) -> bool {
        let granted = bytes <= self.left;
        if granted {
            self.left -= bytes;
        }
        granted
    }
}

/// A queue of bytes in a ring that grows by doubling. An empty one has no memory.
#[derive(Debug, Default)]
pub(super) struct Ring {
    bytes: Box<[u8]>,
    head: usize,
    len: usize,
}

impl Ring {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How much fits without growing.
    pub(super) fn room(&self) -> usize {
        self.bytes.len() - self.len
    }

    /// Doubles, if this may be and `budget` allows.
    pub(super) fn grow(&mut self, budget: &mut Budget) -> bool {
        let old = self.bytes.len();
        let new = if old == 0 { SMALLEST } else { old * 2 };
        if new > LARGEST || (old != 0 && !budget.grant(new - old)) {
            return false;
        }
        let mut bytes = vec![0; new].into_boxed_slice();
        let (first, second) = self.peek(0, self.len);
        bytes[..first.len()].copy_from_slice(first);
        bytes[first.len()..self.len].copy_from_slice(second);
        self.bytes = bytes;
        self.head = 0;
        true
    }

    /// Gives the memory back. What is in it is gone.
    pub(super) fn release(&mut self, budget: &mut Budget) {
        budget.left += self.bytes.len().saturating_sub(SMALLEST);
        *self = Self::default();
    }

    /// `len` bytes from `offset` on, in two parts. They are in the ring.
    pub(super) fn peek(&self, offset: usize, len: usize) -> (&[u8], &[u8]) {
        debug_assert!(offset + len <= self.len);
        if len == 0 {
            return (&[], &[]);
        }
        let start = (self.head + offset) % self.bytes.len();
        let first = len.min(self.bytes.len() - start);
        (&self.bytes[start..start + first], &self.bytes[..len - first])
    }

    /// Forgets the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len);
        self.len -= count;
        // From the start again when empty: the rest is then in one piece, and in the cache.
        self.head = if self.len == 0 { 0 } else { (self.head + count) % self.bytes.len() };
    }

    /// Takes as many bytes as fit, growing if it may.
    pub(super) fn push(&mut self, bytes: &[u8], budget: &mut Budget) -> usize {
        while self.room() < bytes.len() && self.grow(budget) {}
        let taken = bytes.len().min(self.room());
        let (first, second) = self.spare();
        let split = taken.min(first.len());
        first[..split].copy_from_slice(&bytes[..split]);
        second[..taken - split].copy_from_slice(&bytes[split..taken]);
        self.len += taken;
        taken
    }

    fn spare(&mut self) -> (&mut [u8], &mut [u8]) {
        let size = self.bytes.len();
        let room = size - self.len;
        if room == 0 {
            return (&mut [], &mut []);
        }
        let tail = (self.head + self.len) % size;
        let first = room.min(size - tail);
        let (before, after) = self.bytes.split_at_mut(tail);
        (&mut after[..first], &mut before[..room - first])
    }

    /// Reads once into the room there is.
    pub(super) fn fill(&mut self, mut source: impl Read) -> io::Result<usize> {
        let (first, second) = self.spare();
        let count = source.read_vectored(&mut [IoSliceMut::new(first), IoSliceMut::new(second)])?;
        self.len += count;
        Ok(count)
    }

    /// Writes once from the front, and forgets what was written.
    pub(super) fn drain(&mut self, mut target: impl Write) -> io::Result<usize> {
        let (first, second) = self.peek(0, self.len);
        let count = target.write_vectored(&[IoSlice::new(first), IoSlice::new(second)])?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(ring: &Ring) -> Vec<u8> {
        let (first, second) = ring.peek(0, ring.len());
        [first, second].concat()
    }

    #[test]
    fn bytes_go_round() {
        let mut budget = Budget::new(0);
        let mut ring = Ring::default();
        let text: Vec<u8> = (0..=255).cycle().take(SMALLEST - 10).collect();
        assert_eq!(ring.push(&text, &mut budget), text.len());
        ring.consume(text.len() - 5);
        assert_eq!(ring.push(&text, &mut budget), text.len());
        assert_eq!(content(&ring), [&text[text.len() - 5..], &text].concat());
        assert_eq!(ring.peek(5, 3).0, &text[..3]);
        // Five more, then it is full and may not grow.
        assert_eq!(ring.push(&text, &mut budget), 5);
        assert_eq!((ring.room(), ring.push(b"x", &mut budget)), (0, 0));
        let mut out = Vec::new();
        while !ring.is_empty() {
            ring.drain(&mut out).unwrap();
        }
        assert_eq!(out, [&text[text.len() - 5..], &text, &text[..5]].concat());
        assert_eq!(ring.fill(&text[..]).unwrap(), text.len());
        assert_eq!(content(&ring), text);
    }

    #[test]
    fn growth_is_paid_for_and_paid_back() {
        let mut budget = Budget::new(3 * SMALLEST);
        let mut ring = Ring::default();
        assert_eq!(ring.push(&[7; SMALLEST], &mut budget), SMALLEST);
        ring.consume(SMALLEST / 2);
        assert_eq!(ring.push(&[8; LARGEST], &mut budget), 4 * SMALLEST - SMALLEST / 2);
        assert_eq!(budget.left, 0);
        assert_eq!(content(&ring)[..SMALLEST / 2], [7; SMALLEST / 2]);
        assert!(content(&ring)[SMALLEST / 2..].iter().all(|byte| *byte == 8));
        ring.release(&mut budget);
        assert_eq!((budget.left, ring.len(), ring.room()), (3 * SMALLEST, 0, 0));
        let mut rich = Budget::new(usize::MAX);
        assert_eq!(ring.push(&[0; 2 * LARGEST], &mut rich), LARGEST);
    }
}
