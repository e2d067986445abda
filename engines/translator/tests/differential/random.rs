//! A small generator of repeatable random numbers (SplitMix64).

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Values at which arithmetic turns.
    pub fn interesting(&mut self) -> u64 {
        let value = self.pick(&[
            0,
            1,
            2,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            u64::MAX,
            0x0101_0101_0101_0101,
        ]);
        if self.chance(20) { value.wrapping_add(self.below(5)).wrapping_sub(2) } else { value }
    }

    pub fn float64(&mut self) -> f64 {
        match self.below(4) {
            0 => self.pick(&[
                0.0,
                -0.0,
                1.0,
                -1.5,
                f64::INFINITY,
                f64::NEG_INFINITY,
                f64::NAN,
                f64::MIN_POSITIVE / 2.0,
                f64::MAX,
                2_147_483_648.0,
                -9_223_372_036_854_775_808.0,
            ]),
            _ => (self.next() as i64 as f64) / f64::from(1 << self.below(31)),
        }
    }

    pub fn float32(&mut self) -> f32 {
        self.float64() as f32
    }
}
