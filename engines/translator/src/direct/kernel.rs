//! How much of what a stub takes for the guest's own time is the kernel's: from the stub's last word to the guest's first
//! instruction, and from a fault to the stub's next word.
//!
//! Nobody can say; but many bursts do next to nothing, and what such take is that part. It depends on what has ended them: a system call is
//! stopped at the kernel's entry, and a breakpoint has the kernel write debug registers, which a host of this machine may have to do
//! for it.

use host::stub::Stop;

/// Cycles, of a system call, a page fault and anything else, on a processor of 2.6 GHz (AMD's Zen 4) in a virtual machine.
const USUAL: [u64; 3] = [8_000, 10_000, 40_000];
/// How far it may be off that.
const FACTOR: u64 = 2;
/// It follows what is shorter eight times as fast as what is longer, which keeps it where a ninth is shorter.
const DOWN: u64 = 32;
const UP: u64 = 256;

/// The kernel's part, by what has ended the burst.
#[derive(Debug)]
pub struct Kernel {
    parts: [u64; 3],
}

impl Default for Kernel {
    fn default() -> Self {
        Self { parts: USUAL }
    }
}

impl Kernel {
    /// Of a burst that has ended for this after so many cycles by the stub's word, those that were the guest's; rather too few than
    /// too many.
    pub fn take_off(&mut self, stop: &Stop, cycles: u64) -> u64 {
        let kind = match stop {
            Stop::SystemCall => 0,
            Stop::PageFault { .. } => 1,
            Stop::Fault { .. } => 2,
            // As it comes at any time, nothing can be learnt of it.
            Stop::Interrupted => return cycles.saturating_sub(self.parts[0]),
        };
        let part = &mut self.parts[kind];
        *part = if cycles < *part { *part - *part / DOWN } else { *part + *part / UP };
        *part = (*part).clamp(USUAL[kind] / FACTOR, USUAL[kind] * FACTOR);
        cycles.saturating_sub(*part + *part / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_nothing_has_nothing() {
        let mut kernel = Kernel::default();
        let fault = Stop::Fault { signal: 5, code: 1, address: 0 };
        for (stop, usual) in [(Stop::SystemCall, 5_000), (fault, 70_000)] {
            // Noise of a tenth.
            let bursts = |n: u64| usual + usual / 10 * (n % 10) / 10;
            (0..2_000).for_each(|n| _ = kernel.take_off(&stop, bursts(n)));
            assert!((0..10).all(|n| kernel.take_off(&stop, bursts(n)) == 0));
            assert!(kernel.take_off(&stop, 2 * usual) > usual / 2);
        }
    }

    #[test]
    fn what_always_does_much_is_believed() {
        let mut kernel = Kernel::default();
        let most = (0..10_000).map(|_| kernel.take_off(&Stop::SystemCall, 100_000)).min();
        assert!(most > Some(70_000));
        assert_eq!(kernel.take_off(&Stop::SystemCall, 0), 0);
        assert!(kernel.take_off(&Stop::Interrupted, u64::MAX) > u64::MAX / 2);
    }
}
