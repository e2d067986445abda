//! Breakpoints in the debug registers (SDM vol. 3 ch. 18.2; APM vol. 2 ch. 13.1).

/// DR6: what a debug exception is for.
pub mod dr6 {
    /// General detect: a debug register was accessed.
    pub const BD: u64 = 1 << 13;
    /// Single step.
    pub const BS: u64 = 1 << 14;
    /// A switch to a task with its trap bit set.
    pub const BT: u64 = 1 << 15;
    /// B0 to B3.
    pub const BREAKPOINTS: u64 = 0xf;
}

/// DR7: what is watched.
pub mod dr7 {
    /// L0 to L3, LE: enables that end with the task.
    pub const LOCAL: u64 = 0x155;
    /// General detect enable.
    pub const GD: u64 = 1 << 13;
    /// L0 to L3 and G0 to G3.
    pub const ENABLES: u64 = 0xff;
}

/// What a breakpoint waits for: the R/W field.
const EXECUTE: u64 = 0;
const WRITE: u64 = 1;
const PORT: u64 = 2;

/// The debug registers as a list of breakpoints. Answers are bits B0 to B3 of DR6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakpoints {
    addresses: [u64; 4],
    dr7: u64,
}

impl Breakpoints {
    /// Those of a vCPU's debug registers.
    pub fn of(dr: &[u64; 8]) -> Self {
        Self { addresses: [dr[0], dr[1], dr[2], dr[3]], dr7: dr[7] }
    }

    /// Whether any is enabled.
    pub fn any(&self) -> bool {
        self.dr7 & dr7::ENABLES != 0
    }

    /// Whether any waits for code or data.
    pub fn in_memory(&self) -> bool {
        self.any() && (0..4).any(|n| self.enabled(n) && self.kind(n) != PORT)
    }

    fn enabled(&self, n: usize) -> bool {
        self.dr7 >> (2 * n) & 3 != 0
    }

    fn kind(&self, n: usize) -> u64 {
        self.dr7 >> (16 + 4 * n) & 3
    }

    /// Bytes it watches, from a multiple of that on.
    fn len(&self, n: usize) -> u64 {
        match self.dr7 >> (18 + 4 * n) & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        }
    }

    fn hits(&self, matches: impl Fn(usize) -> bool) -> u64 {
        let hit = |n: &usize| self.enabled(*n) && matches(*n);
        (0..4).filter(hit).fold(0, |bits, n| bits | 1 << n)
    }

    /// For an instruction about to be executed at this linear address.
    pub fn execution(&self, linear: u64) -> u64 {
        self.hits(|n| self.kind(n) == EXECUTE && self.addresses[n] == linear)
    }

    /// For an access to `size` bytes of memory.
    pub fn access(&self, linear: u64, size: u64, write: bool) -> u64 {
        self.hits(|n| {
            let kind = self.kind(n);
            let watched = if write { kind & WRITE != 0 } else { kind == 3 };
            watched && self.overlaps(n, linear, size)
        })
    }

    /// For an access to `size` I/O ports; only with CR4.DE set is there such a breakpoint.
    pub fn port(&self, port: u16, size: u64) -> u64 {
        self.hits(|n| self.kind(n) == PORT && self.overlaps(n, port.into(), size))
    }

    fn overlaps(&self, n: usize, first: u64, size: u64) -> bool {
        let len = self.len(n);
        let start = self.addresses[n] & !(len - 1);
        // Addresses wrap around.
        first.wrapping_sub(start) < len || start.wrapping_sub(first) < size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(n: usize, address: u64, kind: u64, len: u64) -> Breakpoints {
        let mut dr = [0; 8];
        dr[n] = address;
        dr[7] = 0x400 | 2 << (2 * n) | kind << (16 + 4 * n) | len << (18 + 4 * n);
        Breakpoints::of(&dr)
    }

    #[test]
    fn what_is_not_enabled_is_not_watched() {
        let mut dr = [0x1000; 8];
        dr[7] = 0xffff_0400;
        let none = Breakpoints::of(&dr);
        assert!(!none.any() && !none.in_memory());
        assert_eq!(none.access(0x1000, 8, true), 0);
        assert!(one(0, 0x60, PORT, 0).any() && !one(0, 0x60, PORT, 0).in_memory());
    }

    #[test]
    fn code_is_watched_at_its_first_byte() {
        let breakpoint = one(2, 0x40_1000, EXECUTE, 0);
        assert_eq!((breakpoint.execution(0x40_1000), breakpoint.execution(0x40_0fff)), (4, 0));
        assert_eq!(breakpoint.access(0x40_1000, 1, false), 0);
    }

    #[test]
    fn data_are_watched_over_their_length() {
        for (len, bytes) in [(0, 1), (1, 2), (3, 4), (2, 8)] {
            let breakpoint = one(1, 0x2000, WRITE, len);
            for (first, size, hit) in [
                (0x2000, 1, true),
                (0x1fff, 1, false),
                (0x1fff, 2, true),
                (0x2000 + bytes - 1, 1, true),
                (0x2000 + bytes, 4, false),
                (0x1ff0, 64, true),
            ] {
                let expected = if hit { 2 } else { 0 };
                assert_eq!(breakpoint.access(first, size, true), expected, "{bytes}: {first:#x} {size}");
            }
            assert_eq!(breakpoint.access(0x2000, 1, false), 0, "a write is wanted");
        }
        assert_eq!(one(3, 0x2000, 3, 0).access(0x2000, 1, false), 8);
        // The address is taken as a multiple of the length.
        assert_eq!(one(0, 0x2003, 3, 3).access(0x2000, 1, false), 1);
    }

    #[test]
    fn ports_are_watched() {
        let breakpoint = one(0, 0x3f8, PORT, 1);
        assert_eq!(
            (breakpoint.port(0x3f9, 1), breakpoint.port(0x3fa, 1), breakpoint.port(0x3f6, 4)),
            (1, 0, 1)
        );
    }
}
