//! Memory-type range registers and the page attribute table (SDM vol. 3 ch. 12.11 and 12.12). Values are kept
//! and checked; memory types have no effect, since guest memory is always write-back.

use vcpu::Environment;
use x86::Exception;

use crate::Context;

/// Variable ranges.
pub(crate) const RANGES: u64 = 8;
/// IA32_MTRRCAP: the variable ranges, fixed ranges, write-combining.
pub(crate) const CAPABILITIES: u64 = RANGES | 1 << 8 | 1 << 10;

/// Memory types an MTRR may have: UC, WC, WT, WP, WB.
const fn is_type(value: u64) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

/// Which entry of `Msrs::mtrr_fixed` an MSR is.
pub(crate) const fn fixed_index(msr: u32) -> Option<usize> {
    match msr {
        0x250 => Some(0),
        0x258 => Some(1),
        0x259 => Some(2),
        0x268..=0x26f => Some(3 + (msr - 0x268) as usize),
        _ => None,
    }
}

/// Whether a value may be written to the page attribute table.
pub(crate) fn valid_pat(value: u64) -> bool {
    value.to_le_bytes().into_iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

/// Whether a value may be written to a fixed-range register.
pub(crate) fn valid_fixed(value: u64) -> bool {
    value.to_le_bytes().into_iter().all(|kind| is_type(kind.into()))
}

/// Whether a value may be written to IA32_MTRR_DEF_TYPE.
pub(crate) const fn valid_default(value: u64) -> bool {
    value & !0xcff == 0 && is_type(value & 0xff)
}

impl<E: Environment + ?Sized> Context<'_, E> {
    /// Writes IA32_MTRR_PHYSBASEn or, with `mask`, PHYSMASKn.
    pub(crate) fn write_mtrr_variable(
        &mut self,
        index: usize,
        mask: bool,
        value: u64,
    ) -> Result<(), Exception> {
        let beyond = u64::MAX << self.physical_bits();
        let valid = if mask {
            value & (beyond | 0x7ff) == 0
        } else {
            value & (beyond | 0xf00) == 0 && is_type(value & 0xff)
        };
        match self.cpu.msrs.mtrr_variable.get_mut(index) {
            Some(range) if valid => {
                range[usize::from(mask)] = value;
                Ok(())
            }
            _ => Err(Exception::gp(0)),
        }
    }
}
