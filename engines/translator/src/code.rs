//! The bytes of one instruction, as words.

/// The longest instruction.
pub const MOST: usize = 15;

/// As many bytes of code as an instruction may have; fewer, if no more can be fetched. In words, as they are read and
/// compared: bytes written one way and read another would wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Code {
    /// In their order, zero behind the last.
    words: [u64; 2],
    len: u8,
}

impl Code {
    /// The first of these bytes.
    pub fn new(code: &[u8]) -> Self {
        let len = code.len().min(MOST);
        let value = code[..len].iter().rev().fold(0, |value, byte| value << 8 | u128::from(*byte));
        Self { words: [value as u64, (value >> 64) as u64], len: len as u8 }
    }

    /// All that an instruction may have, of these sixteen.
    pub fn of_words(low: u64, high: u64) -> Self {
        Self { words: [low, high & u64::MAX >> 8], len: MOST as u8 }
    }

    /// As a list.
    pub fn to_vec(self) -> Vec<u8> {
        let bytes = self.words.into_iter().flat_map(u64::to_le_bytes);
        bytes.take(usize::from(self.len)).collect()
    }
}
