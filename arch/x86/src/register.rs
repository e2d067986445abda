//! Control and flag registers (SDM vol. 1 ch. 3.4, vol. 3 ch. 2.5; APM vol. 2 ch. 3).

// The bits' names are the manuals'; the macro below repeats them where an attribute cannot reach.
#![allow(missing_docs)]

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// Index of a general register in `CpuState::gpr`, in the order of its encoding (SDM vol. 2 table 2-2).
#[allow(missing_docs)]
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
    pub const R9: usize = 9;
    pub const R10: usize = 10;
    pub const R11: usize = 11;
    pub const R12: usize = 12;
    pub const R13: usize = 13;
    pub const R14: usize = 14;
    pub const R15: usize = 15;
}

bitflags! {
    /// RFLAGS (SDM vol. 1 ch. 3.4.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[allow(missing_docs)]
    pub struct Rflags: u64 {
        const CF = 1 << 0;
        /// Reads as one.
        const FIXED = 1 << 1;
        const PF = 1 << 2;
        const AF = 1 << 4;
        const ZF = 1 << 6;
        const SF = 1 << 7;
        const TF = 1 << 8;
        const IF = 1 << 9;
        const DF = 1 << 10;
        const OF = 1 << 11;
        const IOPL = 3 << 12;
        const NT = 1 << 14;
        const RF = 1 << 16;
        const VM = 1 << 17;
        const AC = 1 << 18;
        const VIF = 1 << 19;
        const VIP = 1 << 20;
        const ID = 1 << 21;
        /// The six flags arithmetic writes.
        const STATUS = Self::CF.bits() | Self::PF.bits() | Self::AF.bits() | Self::ZF.bits()
            | Self::SF.bits() | Self::OF.bits();
    }
}

impl Rflags {
    /// The I/O privilege level, 0 to 3.
    pub fn iopl(self) -> u8 {
        ((self.bits() >> 12) & 3) as u8
    }
}

bitflags! {
    /// CR0 (SDM vol. 3 ch. 2.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[allow(missing_docs)]
    pub struct Cr0: u64 {
        const PE = 1 << 0;
        const MP = 1 << 1;
        const EM = 1 << 2;
        const TS = 1 << 3;
        const ET = 1 << 4;
        const NE = 1 << 5;
        const WP = 1 << 16;
        const AM = 1 << 18;
        const NW = 1 << 29;
        const CD = 1 << 30;
        const PG = 1 << 31;
    }

    /// CR4 (SDM vol. 3 ch. 2.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[allow(missing_docs)]
    pub struct Cr4: u64 {
        const VME = 1 << 0;
        const PVI = 1 << 1;
        const TSD = 1 << 2;
        const DE = 1 << 3;
        const PSE = 1 << 4;
        const PAE = 1 << 5;
        const MCE = 1 << 6;
        const PGE = 1 << 7;
        const PCE = 1 << 8;
        const OSFXSR = 1 << 9;
        const OSXMMEXCPT = 1 << 10;
        const UMIP = 1 << 11;
        const LA57 = 1 << 12;
        const VMXE = 1 << 13;
        const SMXE = 1 << 14;
        const FSGSBASE = 1 << 16;
        const PCIDE = 1 << 17;
        const OSXSAVE = 1 << 18;
        const SMEP = 1 << 20;
        const SMAP = 1 << 21;
        const PKE = 1 << 22;
        const CET = 1 << 23;
    }

    /// The extended-feature register, MSR C000_0080 (APM vol. 2 ch. 3.1.7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[allow(missing_docs)]
    pub struct Efer: u64 {
        const SCE = 1 << 0;
        const LME = 1 << 8;
        const LMA = 1 << 10;
        const NXE = 1 << 11;
        const SVME = 1 << 12;
        const LMSLE = 1 << 13;
        const FFXSR = 1 << 14;
        const TCE = 1 << 15;
        /// Automatic IBRS.
        const AIBRSE = 1 << 21;
    }

    /// XCR0, the state components XSAVE manages (SDM vol. 1 ch. 13.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[allow(missing_docs)]
    pub struct Xcr0: u64 {
        const X87 = 1 << 0;
        const SSE = 1 << 1;
        const AVX = 1 << 2;
        const OPMASK = 1 << 5;
        const ZMM_HI256 = 1 << 6;
        const HI16_ZMM = 1 << 7;
        const PKRU = 1 << 9;
        /// The three components of AVX-512, set or clear together.
        const AVX512 = Self::OPMASK.bits() | Self::ZMM_HI256.bits() | Self::HI16_ZMM.bits();
    }
}
