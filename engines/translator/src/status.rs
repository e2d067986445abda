//! The status flags between their two forms: RFLAGS, and the ax form that `lahf; seto al` leaves and
//! `add al, 127; sahf` takes back.

use x86::Rflags;

/// From ax form.
pub fn from_ax(ax: u64) -> Rflags {
    let low = Rflags::from_bits_retain(ax >> 8 & 0xff) & (Rflags::STATUS - Rflags::OF);
    let overflow = if ax & 1 != 0 { Rflags::OF } else { Rflags::empty() };
    low | overflow
}

/// To ax form.
pub fn to_ax(flags: Rflags) -> u64 {
    let low = (flags & (Rflags::STATUS - Rflags::OF)).bits();
    (low | 2) << 8 | u64::from(flags.contains(Rflags::OF))
}

/// In ax form, the flags after `cmp left, right` on `bytes` bytes.
pub fn of_subtraction(left: u64, right: u64, bytes: u32) -> u64 {
    let unused = 64 - 8 * bytes;
    let sign = 1 << (8 * bytes - 1);
    let mask = u64::MAX >> unused;
    let result = left.wrapping_sub(right) & mask;
    let mut flags = Rflags::empty();
    flags.set(Rflags::CF, left < right);
    flags.set(Rflags::PF, (result as u8).count_ones().is_multiple_of(2));
    flags.set(Rflags::AF, (left ^ right ^ result) & 0x10 != 0);
    flags.set(Rflags::ZF, result == 0);
    flags.set(Rflags::SF, result & sign != 0);
    flags.set(Rflags::OF, (left ^ right) & (left ^ result) & sign != 0);
    to_ax(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ax_form_holds_every_combination() {
        for bits in 0..64_u64 {
            let mut flags = Rflags::empty();
            for (n, flag) in [Rflags::CF, Rflags::PF, Rflags::AF, Rflags::ZF, Rflags::SF, Rflags::OF]
                .into_iter()
                .enumerate()
            {
                flags.set(flag, bits >> n & 1 != 0);
            }
            assert_eq!(from_ax(to_ax(flags)), flags);
        }
    }

    #[test]
    fn subtraction_flags_of_known_cases() {
        let flags = |l, r, b| from_ax(of_subtraction(l, r, b));
        assert_eq!(flags(5, 5, 1), Rflags::ZF | Rflags::PF);
        assert_eq!(flags(0, 1, 1), Rflags::CF | Rflags::PF | Rflags::AF | Rflags::SF);
        assert_eq!(flags(0x80, 1, 1), Rflags::OF | Rflags::AF);
        assert_eq!(flags(0x7fff_ffff, 0xffff_ffff, 4), Rflags::CF | Rflags::SF | Rflags::OF | Rflags::PF);
    }
}
