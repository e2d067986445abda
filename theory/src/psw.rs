//! The program status word ⟨M, P, R⟩ (section 2 of the paper).

use std::fmt;

/// What a memory location holds.
pub type Word = u64;

/// M.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// For the control program.
    Supervisor,
    /// For everybody else.
    User,
}

/// R, the relocation-bounds register: where the program's memory begins, and how much of it there is. It is in
/// force in both modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Relocation {
    /// What is added to an address.
    pub l: Word,
    /// The first address that is too large.
    pub b: Word,
}

impl Relocation {
    /// The real address of a program's `a` on a machine of `size` words; `None` is a memory trap.
    pub fn apply(self, a: Word, size: Word) -> Option<Word> {
        let real = self.l.checked_add(a)?;
        (a < self.b && real < size).then_some(real)
    }
}

/// ⟨M, P, R⟩.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Psw {
    /// Mode.
    pub m: Mode,
    /// Program counter: the address, relative to R, of the next instruction.
    pub p: Word,
    /// Relocation-bounds register.
    pub r: Relocation,
}

impl Psw {
    /// A control program's: supervisor mode, all of a machine's memory.
    pub fn supervisor(p: Word, size: Word) -> Self {
        Self { m: Mode::Supervisor, p, r: Relocation { l: 0, b: size } }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Supervisor => "s",
            Self::User => "u",
        })
    }
}

impl fmt::Display for Psw {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}, P={}, R=({},{})", self.m, self.p, self.r.l, self.r.b)
    }
}

/// How large a machine and its words are, which decides how a PSW is packed into one word: from the lowest bit
/// on M (1 is user mode), P, l, b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    size: Word,
    address_bits: u32,
    bound_bits: u32,
    word_bits: u32,
}

impl Shape {
    /// The largest memory, in words, of a machine that runs programs.
    pub const MAX_SIZE: Word = 1 << 20;

    /// A machine that runs programs: 64-bit words, and the same PSW whatever its size.
    ///
    /// # Panics
    /// If there are no words, or more than [`Self::MAX_SIZE`].
    pub fn full(size: Word) -> Self {
        assert!((1..=Self::MAX_SIZE).contains(&size), "a machine of {size} words");
        Self { size, address_bits: 20, bound_bits: 21, word_bits: 64 }
    }

    /// A machine whose states can be counted out: words just wide enough for a PSW.
    ///
    /// # Panics
    /// If there are no words, or more than 16.
    pub fn tiny(size: Word) -> Self {
        assert!((1..=16).contains(&size), "a tiny machine of {size} words");
        let bits = |values: Word| values.next_power_of_two().trailing_zeros();
        let (address_bits, bound_bits) = (bits(size), bits(size + 1));
        Self { size, address_bits, bound_bits, word_bits: 1 + 2 * address_bits + bound_bits }
    }

    /// Words of memory: q of the paper.
    pub fn size(self) -> Word {
        self.size
    }

    /// How many addresses P and l can name.
    pub fn addresses(self) -> Word {
        1 << self.address_bits
    }

    /// How many bounds a PSW can hold.
    pub fn bounds(self) -> Word {
        1 << self.bound_bits
    }

    /// The largest word.
    pub fn max_word(self) -> Word {
        Word::MAX >> (Word::BITS - self.word_bits)
    }

    /// What of a value fits a word.
    pub fn word(self, value: Word) -> Word {
        value & self.max_word()
    }

    /// What of a value fits P and l.
    pub fn address(self, value: Word) -> Word {
        value & (self.addresses() - 1)
    }

    /// What of two values fits R.
    pub fn relocation(self, l: Word, b: Word) -> Relocation {
        Relocation { l: self.address(l), b: b & (self.bounds() - 1) }
    }

    /// A PSW in one word.
    pub fn pack(self, psw: Psw) -> Word {
        let Psw { m, p, r: Relocation { l, b } } = psw;
        let m = Word::from(m == Mode::User);
        m | p << 1 | l << (1 + self.address_bits) | b << (1 + 2 * self.address_bits)
    }

    /// The PSW in a word; bits beyond it mean nothing.
    pub fn unpack(self, word: Word) -> Psw {
        let m = if word & 1 == 0 { Mode::Supervisor } else { Mode::User };
        let p = self.address(word >> 1);
        let r = self.relocation(word >> (1 + self.address_bits), word >> (1 + 2 * self.address_bits));
        Psw { m, p, r }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_psw_of_a_tiny_machine_has_its_word() {
        let shape = Shape::tiny(3);
        for word in 0..=shape.max_word() {
            assert_eq!(shape.pack(shape.unpack(word)), word);
        }
        assert_eq!(shape.max_word(), 127, "one bit of M, two each of P, l and b");
    }

    #[test]
    fn a_full_machines_psw_fits() {
        let shape = Shape::full(Shape::MAX_SIZE);
        let largest = Relocation { l: Shape::MAX_SIZE - 1, b: Shape::MAX_SIZE };
        let psw = Psw { m: Mode::User, p: Shape::MAX_SIZE - 1, r: largest };
        assert_eq!(shape.unpack(shape.pack(psw)), psw);
    }

    #[test]
    fn relocation_checks_both_limits() {
        let r = Relocation { l: 2, b: 3 };
        assert_eq!([0, 1, 2, 3].map(|a| r.apply(a, 4)), [Some(2), Some(3), None, None]);
        assert_eq!([2, 3].map(|a| r.apply(a, 100)), [Some(4), None]);
        assert_eq!(Relocation { l: 1, b: Word::MAX }.apply(Word::MAX - 1, 10), None);
        assert_eq!(Relocation { l: 2, b: Word::MAX }.apply(Word::MAX - 1, 10), None, "no wrap");
    }
}
