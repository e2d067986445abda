//! Reproducible data, made in the guest and again on the host to compare what was computed from it.
//!
//! Text of hexadecimal digits, so that a compressor has something to do.

/// Makes the data, always the same from its start.
pub struct Generator(u64);

impl Default for Generator {
    /// At the start of the data.
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Generator {
    /// A number.
    pub fn word(&mut self) -> u64 {
        // Marsaglia's xorshift, with its usual three shifts.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Continues with the data; the block's length is a multiple of 16.
    pub fn fill(&mut self, block: &mut [u8]) {
        for chunk in block.chunks_exact_mut(16) {
            let word = self.word();
            for (at, byte) in chunk.iter_mut().enumerate() {
                *byte = b"0123456789abcdef"[(word >> (at * 4) & 15) as usize];
            }
        }
    }
}
