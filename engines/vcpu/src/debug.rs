//! What a debugger outside the guest asks of engine and monitor.
//!
//! None of it is the processor's: the guest's own debug registers are in [`crate::CpuState`] and go on as if there
//! were no debugger, and neither its memory nor any register shows a sign of one.

/// Where guest code is to be left for a debugger. Addresses are linear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugPoints {
    /// In order, each once.
    breakpoints: Vec<u64>,
    watchpoints: Vec<Watchpoint>,
}

/// Memory whose use a debugger waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchpoint {
    /// Linear address of its first byte.
    pub linear: u64,
    /// Bytes, at least one.
    pub len: u64,
    /// Reads count.
    pub read: bool,
    /// Writes count.
    pub write: bool,
}

/// What a debugger is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugEvent {
    /// The instruction at `cpu.rip` has a breakpoint and has not run.
    Breakpoint,
    /// The instruction before has used this memory.
    Watchpoint(Watchpoint),
    /// One instruction has run, or one event been delivered.
    Stepped,
}

impl DebugPoints {
    /// These, in any order.
    pub fn new(breakpoints: impl IntoIterator<Item = u64>, watchpoints: Vec<Watchpoint>) -> Self {
        let mut breakpoints: Vec<u64> = breakpoints.into_iter().collect();
        breakpoints.sort_unstable();
        breakpoints.dedup();
        Self { breakpoints, watchpoints }
    }

    /// Whether an instruction there is to be left alone.
    pub fn breaks_at(&self, linear: u64) -> bool {
        !self.breakpoints.is_empty() && self.breakpoints.binary_search(&linear).is_ok()
    }

    /// Whether there is any breakpoint.
    pub fn has_breakpoints(&self) -> bool {
        !self.breakpoints.is_empty()
    }

    /// Whether there is any watchpoint.
    pub fn has_watchpoints(&self) -> bool {
        !self.watchpoints.is_empty()
    }

    /// Breakpoints that only one of the two has.
    pub fn changed_breakpoints<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u64> + 'a {
        let missing = |of: &'a Self, from: &'a Self| {
            of.breakpoints.iter().copied().filter(move |&linear| !from.breaks_at(linear))
        };
        missing(self, other).chain(missing(other, self))
    }

    /// The watchpoint that an access to `size` bytes hits.
    pub fn watch(&self, linear: u64, size: u64, write: bool) -> Option<Watchpoint> {
        self.watchpoints.iter().copied().find(|point| {
            let wanted = if write { point.write } else { point.read };
            // Addresses wrap around.
            let overlaps =
                linear.wrapping_sub(point.linear) < point.len || point.linear.wrapping_sub(linear) < size;
            wanted && overlaps
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakpoints_are_found_and_compared() {
        let (one, two) =
            (DebugPoints::new([5, 3, 5], Vec::new()), DebugPoints::new([3, u64::MAX], Vec::new()));
        assert!(one.breaks_at(3) && one.breaks_at(5) && !one.breaks_at(4) && one.has_breakpoints());
        assert_eq!(one.changed_breakpoints(&two).collect::<Vec<_>>(), [5, u64::MAX]);
        assert_eq!(one.changed_breakpoints(&one).count(), 0);
        assert!(!DebugPoints::default().has_breakpoints() && !DebugPoints::default().breaks_at(0));
    }

    #[test]
    fn a_watchpoint_waits_for_its_bytes_and_kind_of_access() {
        let writes = Watchpoint { linear: 0x1000, len: 3, read: false, write: true };
        let reads = Watchpoint { linear: u64::MAX, len: 2, read: true, write: false };
        let points = DebugPoints::new([], vec![writes, reads]);
        assert!(points.has_watchpoints() && !points.has_breakpoints());
        for (linear, size, hit) in
            [(0xfff, 1, false), (0xfff, 2, true), (0x1002, 8, true), (0x1003, 1, false), (0xff0, 64, true)]
        {
            assert_eq!(points.watch(linear, size, true), hit.then_some(writes), "{linear:#x} {size}");
        }
        assert_eq!(points.watch(0x1000, 1, false), None, "a write is wanted");
        assert_eq!(points.watch(0, 1, false), Some(reads), "over the end of the address space");
        assert_eq!(points.watch(0, 1, true), None);
    }
}
