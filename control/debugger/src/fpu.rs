//! x87 and SSE registers in an XSAVE area (SDM vol. 1 ch. 13.4 and table 10-2).

use vcpu::FpuState;

/// Where XSTATE_BV stands, and its bits.
const XSTATE_BV: usize = 512;
const X87: u8 = 1 << 0;
const SSE: u8 = 1 << 1;
const FSW: usize = 2;
const FTW: usize = 4;
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;

/// x87 control registers, in GDB's order and with its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Control {
    Fctrl,
    Fstat,
    Ftag,
    Fiseg,
    Fioff,
    Foseg,
    Fooff,
    Fop,
}

impl Control {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Fctrl, Self::Fstat, Self::Ftag, Self::Fiseg, Self::Fioff, Self::Foseg, Self::Fooff, Self::Fop];

    /// GDB's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fctrl => "fctrl",
            Self::Fstat => "fstat",
            Self::Ftag => "ftag",
            Self::Fiseg => "fiseg",
            Self::Fioff => "fioff",
            Self::Foseg => "foseg",
            Self::Fooff => "fooff",
            Self::Fop => "fop",
        }
    }

    /// Offset and bytes in the area; the tag word is kept in another form.
    fn place(self) -> (usize, usize) {
        match self {
            Self::Fctrl => (0, 2),
            Self::Fstat => (FSW, 2),
            Self::Ftag => (FTW, 1),
            Self::Fop => (6, 2),
            Self::Fioff => (8, 4),
            Self::Fiseg => (12, 4),
            Self::Fooff => (16, 4),
            Self::Foseg => (20, 4),
        }
    }
}

/// Whether a component's bytes mean anything; if not, its registers have their initial values.
fn has(fpu: &FpuState, component: u8) -> bool {
    fpu.area[XSTATE_BV] & component != 0
}

/// Makes a component's bytes mean what its registers hold.
fn settle(fpu: &mut FpuState, component: u8) {
    if has(fpu, component) {
        return;
    }
    let initial = FpuState::default().area;
    let bytes = match component {
        X87 => [0..MXCSR, ST..XMM],
        _ => [XMM..XMM + 256, 0..0],
    };
    for range in bytes {
        fpu.area[range.clone()].copy_from_slice(&initial[range]);
    }
    fpu.area[XSTATE_BV] |= component;
}

/// A control register.
pub fn control(fpu: &FpuState, control: Control) -> u32 {
    let initial = FpuState::default();
    let fpu = if has(fpu, X87) { fpu } else { &initial };
    if control == Control::Ftag {
        return full_tags(fpu).into();
    }
    let (offset, size) = control.place();
    let mut bytes = [0; 4];
    bytes[..size].copy_from_slice(&fpu.area[offset..offset + size]);
    u32::from_le_bytes(bytes)
}

/// Sets a control register; bits it has not are lost.
pub fn set_control(fpu: &mut FpuState, control: Control, value: u32) {
    settle(fpu, X87);
    let (offset, size) = control.place();
    let value = match control {
        // A tag of 3 is an empty register; the others follow from what it holds.
        Control::Ftag => (0..8).filter(|n| value >> (2 * n) & 3 != 3).fold(0, |bits, n| bits | 1 << n),
        _ => value,
    };
    fpu.area[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// The tag word as FSTENV stores it, from the one bit a register that FXSAVE keeps (SDM vol. 1 table 10-3).
fn full_tags(fpu: &FpuState) -> u16 {
    let top = usize::from(fpu.area[FSW + 1] >> 3 & 7);
    (0..8).fold(0, |tags, physical: usize| {
        let tag = if fpu.area[FTW] >> physical & 1 == 0 {
            3
        } else {
            tag_of(st(fpu, physical.wrapping_sub(top) & 7))
        };
        tags | tag << (2 * physical)
    })
}

/// Valid, zero or special.
fn tag_of(st: [u8; 16]) -> u16 {
    let significand = u64::from_le_bytes(std::array::from_fn(|n| st[n]));
    let exponent = u16::from_le_bytes([st[8], st[9]]) & 0x7fff;
    match (exponent, significand) {
        (0, 0) => 1,
        (0 | 0x7fff, _) => 2,
        (_, significand) if significand >> 63 == 0 => 2,
        _ => 0,
    }
}

fn bytes(fpu: &FpuState, component: u8, offset: usize, size: usize) -> [u8; 16] {
    let mut value = [0; 16];
    if has(fpu, component) {
        value[..size].copy_from_slice(&fpu.area[offset..offset + size]);
    }
    value
}

/// An x87 register, ten bytes.
pub fn st(fpu: &FpuState, n: usize) -> [u8; 16] {
    bytes(fpu, X87, ST + 16 * n, 10)
}

/// Sets an x87 register.
pub fn set_st(fpu: &mut FpuState, n: usize, value: &[u8; 16]) {
    settle(fpu, X87);
    fpu.area[ST + 16 * n..][..10].copy_from_slice(&value[..10]);
}

/// An SSE register.
pub fn xmm(fpu: &FpuState, n: usize) -> [u8; 16] {
    bytes(fpu, SSE, XMM + 16 * n, 16)
}

/// Sets an SSE register.
pub fn set_xmm(fpu: &mut FpuState, n: usize, value: &[u8; 16]) {
    settle(fpu, SSE);
    fpu.area[XMM + 16 * n..][..16].copy_from_slice(value);
}

/// MXCSR, which has a value whatever XSTATE_BV says.
pub fn mxcsr(fpu: &FpuState) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|n| fpu.area[MXCSR + n]))
}

/// Sets MXCSR; `None` for a value that LDMXCSR would not take.
pub fn set_mxcsr(fpu: &mut FpuState, value: u32) -> Option<()> {
    (value >> 16 == 0).then(|| fpu.area[MXCSR..MXCSR + 4].copy_from_slice(&value.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_area_has_its_initial_value() {
        let mut fpu = FpuState::default();
        fpu.area[XSTATE_BV] = 0;
        fpu.area[0..2].copy_from_slice(&[0xaa; 2]);
        fpu.area[XMM..XMM + 16].fill(0xaa);
        assert_eq!((control(&fpu, Control::Fctrl), control(&fpu, Control::Ftag)), (0x37f, 0xffff));
        assert_eq!(xmm(&fpu, 0), [0; 16]);
        set_xmm(&mut fpu, 1, &[7; 16]);
        assert_eq!((xmm(&fpu, 0), xmm(&fpu, 1)), ([0; 16], [7; 16]), "the stale bytes are gone");
        set_control(&mut fpu, Control::Fop, 0x123);
        assert_eq!((control(&fpu, Control::Fctrl), control(&fpu, Control::Fop)), (0x37f, 0x123));
        assert_eq!(fpu.area[XSTATE_BV], X87 | SSE);
    }

    #[test]
    fn tags_follow_from_what_the_registers_hold() {
        let mut fpu = FpuState::default();
        // Top is 6: ST(0) is physical register 6.
        set_control(&mut fpu, Control::Fstat, 6 << 11);
        set_control(&mut fpu, Control::Ftag, 0x0fff & !3);
        let mut one = [0; 16];
        (one[7], one[8], one[9]) = (0x80, 0xff, 0x3f);
        set_st(&mut fpu, 0, &one);
        let mut infinity = one;
        (infinity[8], infinity[9]) = (0xff, 0x7f);
        set_st(&mut fpu, 1, &infinity);
        // Physical 0 is ST(2), which holds zero.
        assert_eq!(control(&fpu, Control::Ftag), 2 << 14 | 0x0ffc | 1);
    }

    #[test]
    fn mxcsr_takes_no_reserved_bits() {
        let mut fpu = FpuState::default();
        assert_eq!(set_mxcsr(&mut fpu, 1 << 16), None);
        assert_eq!(set_mxcsr(&mut fpu, 0x1fa0), Some(()));
        assert_eq!(mxcsr(&fpu), 0x1fa0);
    }
}
