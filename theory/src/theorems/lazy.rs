//! All memories at once: words are chosen when an instruction reads them, and every choice is tried in turn. What
//! an instruction does not read cannot matter to it, so counting out what it reads counts out all memories.

use std::cell::RefCell;

use crate::semantics::Store;
use crate::{Relocation, Word};

/// What a choice is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    /// A word of the program's own region, by its address there. The states of a pair share it: the e|r of the
    /// definitions.
    Region(Word),
    /// Any other word, by its real address, of one of the states.
    Real(Side, Word),
}

/// Which state of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    First,
    Second,
}

/// The words that have been chosen, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(super) struct Choices {
    made: Vec<(Key, Word)>,
}

impl Choices {
    fn choose(&mut self, key: Key) -> Word {
        match self.made.iter().find(|(other, _)| *other == key) {
            Some(&(_, word)) => word,
            None => {
                self.made.push((key, 0));
                0
            }
        }
    }

    /// Goes on to the next combination; `false` after the last. The last choice varies first, and what was asked
    /// for after it is asked for anew, if at all.
    pub(super) fn advance(&mut self, max: Word) -> bool {
        while let Some((_, word)) = self.made.last_mut() {
            if *word < max {
                *word += 1;
                return true;
            }
            self.made.pop();
        }
        false
    }
}

/// One state's memory.
pub(super) struct Lazy<'a> {
    choices: &'a RefCell<Choices>,
    side: Side,
    /// Real addresses of the program's region.
    region: std::ops::Range<Word>,
    written: [(Word, Word); WRITES],
    writes: usize,
}

/// No instruction writes more words than this.
const WRITES: usize = 2;

impl<'a> Lazy<'a> {
    /// For a state with this R, on a machine of `size` words.
    pub(super) fn new(choices: &'a RefCell<Choices>, side: Side, r: Relocation, size: Word) -> Self {
        let end = r.l.saturating_add(r.b).min(size);
        Self { choices, side, region: r.l.min(end)..end, written: [(0, 0); WRITES], writes: 0 }
    }

    fn key(&self, real: Word) -> Key {
        if self.region.contains(&real) {
            Key::Region(real - self.region.start)
        } else {
            Key::Real(self.side, real)
        }
    }

    /// What the word was at first, if anybody has looked.
    pub(super) fn before(&self, real: Word) -> Option<Word> {
        let key = self.key(real);
        self.choices.borrow().made.iter().find(|(other, _)| *other == key).map(|&(_, word)| word)
    }

    fn now(&self, real: Word) -> Option<Word> {
        let mut written = self.written[..self.writes].iter();
        written.find(|(other, _)| *other == real).map(|&(_, word)| word)
    }

    /// How many words were written, which all are in the region.
    pub(super) fn writes(&self) -> usize {
        self.writes
    }

    /// The address in the region of the `n`th of them.
    pub(super) fn written(&self, n: usize) -> Word {
        self.written[n].0 - self.region.start
    }

    /// What the word of the region is now.
    pub(super) fn at(&mut self, a: Word) -> Word {
        self.read(self.region.start + a)
    }

    /// What the word is now, if anybody has looked at it or changed it.
    pub(super) fn after(&self, real: Word) -> Option<Word> {
        self.now(real).or_else(|| self.before(real))
    }
}

impl Store for Lazy<'_> {
    fn read(&mut self, real: Word) -> Word {
        self.now(real).unwrap_or_else(|| self.choices.borrow_mut().choose(self.key(real)))
    }

    fn write(&mut self, real: Word, value: Word) {
        match self.written[..self.writes].iter_mut().find(|(other, _)| *other == real) {
            Some((_, word)) => *word = value,
            None => {
                self.written[self.writes] = (real, value);
                self.writes += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three words of which the last is read only if the first is not 0: all memories that differ there.
    #[test]
    fn every_combination_comes_once() {
        let choices = RefCell::default();
        let mut seen = Vec::new();
        loop {
            let mut memory = Lazy::new(&choices, Side::First, Relocation { l: 1, b: 2 }, 4);
            let first = memory.read(1);
            seen.push((first, if first == 0 { None } else { Some(memory.read(3)) }));
            if !choices.borrow_mut().advance(2) {
                break;
            }
        }
        let expected = [(0, None), (1, Some(0)), (1, Some(1)), (1, Some(2))];
        assert_eq!(seen[..4], expected);
        assert_eq!(seen.len(), 7);
    }
}
