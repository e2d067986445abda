//! Exceptions (SDM vol. 3 ch. 6; APM vol. 2 ch. 8).

use serde::{Deserialize, Serialize};

/// Exception vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Vector {
    DivideError = 0,
    Debug = 1,
    Nmi = 2,
    Breakpoint = 3,
    Overflow = 4,
    BoundRange = 5,
    InvalidOpcode = 6,
    DeviceNotAvailable = 7,
    DoubleFault = 8,
    InvalidTss = 10,
    SegmentNotPresent = 11,
    StackSegment = 12,
    GeneralProtection = 13,
    PageFault = 14,
    X87FloatingPoint = 16,
    AlignmentCheck = 17,
    MachineCheck = 18,
    SimdFloatingPoint = 19,
}

/// An exception the guest is owed. What the guest did wrong is always one of these, never a Rust error of
/// popf's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Which.
    pub vector: Vector,
    /// The error code, for those vectors that push one.
    pub error_code: Option<u32>,
    /// What CR2 receives, for a page fault; what DR6 gains, for a debug exception.
    pub detail: u64,
}

impl Exception {
    /// An exception without error code.
    pub const fn new(vector: Vector) -> Self {
        Self { vector, error_code: None, detail: 0 }
    }

    /// An exception with error code.
    pub const fn with_code(vector: Vector, code: u32) -> Self {
        Self { vector, error_code: Some(code), detail: 0 }
    }

    /// #UD.
    pub const UD: Self = Self::new(Vector::InvalidOpcode);
    /// #NM.
    pub const NM: Self = Self::new(Vector::DeviceNotAvailable);

    /// #GP with a selector or zero.
    pub const fn gp(code: u32) -> Self {
        Self::with_code(Vector::GeneralProtection, code)
    }

    /// #SS with a selector or zero.
    pub const fn ss(code: u32) -> Self {
        Self::with_code(Vector::StackSegment, code)
    }

    /// #PF at a linear address, with the error code of SDM vol. 3 figure 4-12.
    pub const fn page_fault(address: u64, code: u32) -> Self {
        Self { vector: Vector::PageFault, error_code: Some(code), detail: address }
    }
}
