//! What firmware would have left in the processor when it hands over to a kernel: caching on, memory types set,
//! the time-stamp counter near zero.

use vcpu::CpuState;
use x86::Cr0;

use crate::clock::Clock;
use crate::map::{FOUR_GIB, PCI_HOLE};

/// MTRRs and fixed-range MTRRs on, write-back by default (SDM vol. 3 ch. 12.11.2.1).
const MTRR_DEF_TYPE: u64 = 3 << 10 | WRITE_BACK;
const UNCACHED: u64 = 0;
const WRITE_BACK: u64 = 6;
/// Valid bit of a variable range's mask.
const VALID: u64 = 1 << 11;
/// Index of the fixed range register of A0000 to BFFFF.
const FIXED_VGA: usize = 2;

/// A processor after RESET, its counter at zero when the machine was turned on.
pub fn reset(clock: &Clock) -> CpuState {
    CpuState { tsc_offset: clock.initial_tsc_offset(), ..CpuState::reset() }
}

/// Adds to a loader's state what is no boot protocol's business.
pub fn finish(mut cpu: CpuState, clock: &Clock, physical_bits: u8) -> CpuState {
    cpu.tsc_offset = clock.initial_tsc_offset();
    cpu.cr0.remove(Cr0::CD | Cr0::NW);
    let every = |kind: u64| u64::from_ne_bytes([kind as u8; 8]);
    cpu.msrs.mtrr_def_type = MTRR_DEF_TYPE;
    cpu.msrs.mtrr_fixed = [every(WRITE_BACK); 11];
    cpu.msrs.mtrr_fixed[FIXED_VGA] = every(UNCACHED);
    let addresses = (1_u64 << physical_bits) - 1;
    let mask = addresses & !(FOUR_GIB - PCI_HOLE - 1);
    cpu.msrs.mtrr_variable[0] = [PCI_HOLE | UNCACHED, mask | VALID];
    cpu
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hole_is_uncached_and_nothing_else() {
        let clock = Clock::start(|| 1000, 1);
        let cpu = finish(CpuState::reset(), &clock, 40);
        let [base, mask] = cpu.msrs.mtrr_variable[0];
        let matches = |address: u64| address & mask & !0xfff == base & mask & !0xfff;
        assert!(matches(PCI_HOLE) && matches(FOUR_GIB - 1));
        assert!(!matches(PCI_HOLE - 1) && !matches(FOUR_GIB));
        assert_eq!(mask, 0xff_c000_0800);
        assert_eq!(cpu.msrs.mtrr_def_type, 0xc06);
        assert_eq!(cpu.tsc_offset.wrapping_add(1000), 0);
        assert!(!cpu.cr0.intersects(Cr0::CD | Cr0::NW));
    }
}
