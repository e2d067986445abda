//! Which pages of the linear address space something has been seen in.
//!
//! Small pages are told apart modulo 65,536, which is enough for one address space: a program has hundreds of pages of code, and one in
//! hundreds of its other pages is taken for one. Larger pages are noted by [gigabyte](Gigabytes).

use crate::gigabytes::Gigabytes;

const WORDS: usize = 1024;

/// See the module's documentation.
#[derive(Debug)]
pub struct Seen {
    /// A bit for each page number modulo 65,536.
    small: Box<[u64; WORDS]>,
    /// Which of these words are not zero, so that forgetting a few takes no longer than noting them.
    words: Vec<u16>,
    large: Gigabytes,
}

impl Default for Seen {
    fn default() -> Self {
        Self { small: Box::new([0; WORDS]), words: Vec::new(), large: Gigabytes::default() }
    }
}

impl Seen {
    /// Takes note of the page at an address, which is larger than 4 KiB or not.
    pub fn note(&mut self, linear: u64, large: bool) {
        if large {
            self.large.note(linear);
            return;
        }
        let (word, bit) = place(linear);
        if self.small[word] == 0 {
            self.words.push(word as u16);
        }
        self.small[word] |= bit;
    }

    /// Whether it may have been in the page at an address.
    pub fn may_hold(&self, linear: u64) -> bool {
        let (word, bit) = place(linear);
        self.small[word] & bit != 0 || self.large.may_hold(linear)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.words.drain(..).for_each(|word| self.small[usize::from(word)] = 0);
        self.large.clear();
    }
}

fn place(linear: u64) -> (usize, u64) {
    let page = linear >> 12;
    ((page >> 6) as usize % WORDS, 1 << (page & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_there_until_it_is_forgotten() {
        let mut seen = Seen::default();
        for round in 0..3 {
            assert!(!seen.may_hold(0x7f12_3456_7000) && !seen.may_hold(0x5000_0000_0000), "round {round}");
            seen.note(0x7f12_3456_7000, false);
            seen.note(0x7f12_3456_9000, false);
            seen.note(0x5000_0020_0000, true);
            assert!(seen.may_hold(0x7f12_3456_7fff) && seen.may_hold(0x7f12_3456_9000));
            assert!(!seen.may_hold(0x7f12_3456_8000));
            assert!(seen.may_hold(0x5000_003f_ffff), "all of a large page");
            seen.clear();
        }
    }

    #[test]
    fn no_guest_makes_it_long() {
        let mut seen = Seen::default();
        (0..1 << 20).for_each(|page: u64| seen.note(page << 12, false));
        assert_eq!(seen.words.len(), WORDS);
        seen.clear();
        assert!((0..1 << 16).all(|page: u64| !seen.may_hold(page << 12)));
    }
}
