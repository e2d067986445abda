//! What has been thrown away lately, and whether it is wanted again.
//!
//! Of that a cache that is too small for what runs can be told from one that is full of what ran before: what it makes it
//! has thrown away. Two sets of bits by guest-physical address do, of which the older is forgotten when everything has been
//! thrown away once more; that two addresses may share a bit changes a count of thousands by a few.

use crate::by_part::PARTS;

/// Bits of one set: ten times as many as blocks are in a cache.
const BITS: usize = 1 << 21;

/// See the module's documentation.
pub struct Ghosts {
    lately: Vec<u64>,
    before: Vec<u64>,
    /// Parts that have been thrown away into `lately`.
    parts: usize,
    /// Blocks made, and those of them that had been thrown away; a sixteenth of either is forgotten each time that it is asked.
    made: u64,
    again: u64,
}

impl Ghosts {
    /// Nothing has been.
    pub fn new() -> Self {
        let none = || vec![0; BITS / 64];
        Self { lately: none(), before: none(), parts: 0, made: 0, again: 0 }
    }

    /// Another part is thrown away.
    pub fn begin_part(&mut self) {
        if self.parts == PARTS {
            std::mem::swap(&mut self.lately, &mut self.before);
            self.lately.fill(0);
            self.parts = 0;
        }
        self.parts += 1;
    }

    /// With it goes a block of code at this guest-physical address.
    pub fn add(&mut self, physical: u64) {
        let (word, bit) = place(physical);
        self.lately[word] |= bit;
    }

    /// A block is made of code at this guest-physical address.
    pub fn made(&mut self, physical: u64) {
        let (word, bit) = place(physical);
        self.made += 1;
        self.again += u64::from((self.lately[word] | self.before[word]) & bit != 0);
    }

    /// Whether most of what has been made had been thrown away before, and that for more than one turn through all parts: a
    /// program that has just begun may be where another was.
    pub fn are_most(&mut self) -> bool {
        let most = 4 * self.again > 3 * self.made;
        self.made -= self.made / PARTS as u64;
        self.again -= self.again / PARTS as u64;
        most
    }
}

fn place(physical: u64) -> (usize, u64) {
    let n = physical.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BITS.trailing_zeros());
    (n as usize / 64, 1 << (n % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_most_after_more_than_a_turn() {
        const EACH: u64 = 4000;
        let mut ghosts = Ghosts::new();
        let turn = |ghosts: &mut Ghosts, first: u64| {
            let mut most = 0;
            for part in 0..PARTS as u64 {
                (0..EACH).for_each(|n| ghosts.made((first + part * EACH + n) * 32));
                most += u32::from(ghosts.are_most());
            }
            most
        };
        assert_eq!(turn(&mut ghosts, 1 << 30), 0);
        // As if all of a program's blocks had been thrown away.
        ghosts.begin_part();
        (0..PARTS as u64 * EACH).for_each(|n| ghosts.add(n * 32));
        assert_eq!(turn(&mut ghosts, 0), 0, "another may have been there");
        assert!(turn(&mut ghosts, 0) > 4);
        turn(&mut ghosts, 1 << 31);
        assert_eq!(turn(&mut ghosts, 1 << 32), 0);
    }
}
