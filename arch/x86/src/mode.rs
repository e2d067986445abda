//! Operating modes (APM vol. 2 ch. 1.3; SDM vol. 3 ch. 2.2).

use crate::{Cr0, Efer, Rflags, Segment};

/// How the processor decodes and addresses at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// CR0.PE clear.
    Real,
    /// Protected mode with EFLAGS.VM set.
    Virtual8086,
    /// Protected mode or compatibility mode, 16-bit code segment.
    Protected16,
    /// Protected mode or compatibility mode, 32-bit code segment.
    Protected32,
    /// 64-bit mode.
    Long64,
}

impl Mode {
    /// The mode that these registers select.
    pub fn of(cr0: Cr0, efer: Efer, rflags: Rflags, cs: &Segment) -> Self {
        if !cr0.contains(Cr0::PE) {
            Self::Real
        } else if efer.contains(Efer::LMA) && cs.has(Segment::LONG) {
            Self::Long64
        } else if rflags.contains(Rflags::VM) {
            Self::Virtual8086
        } else if cs.has(Segment::BIG) {
            Self::Protected32
        } else {
            Self::Protected16
        }
    }

    /// Default code size in bits: 16, 32 or 64.
    pub fn code_bits(self) -> u32 {
        match self {
            Self::Real | Self::Virtual8086 | Self::Protected16 => 16,
            Self::Protected32 => 32,
            Self::Long64 => 64,
        }
    }

    /// Whether segments are paragraphs rather than descriptors.
    pub fn is_real_style(self) -> bool {
        matches!(self, Self::Real | Self::Virtual8086)
    }
}
