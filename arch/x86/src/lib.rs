//! What the processor is: registers, segments, modes, page tables, exceptions, CPUID, MSRs, and the class of
//! each of its instructions. It depends on nothing of ours and holds no state; *SDM* in a comment is Intel's
//! "64 and IA-32 Architectures Software Developer's Manual", *APM* is AMD's "AMD64 Architecture Programmer's
//! Manual".

pub mod classify;
pub mod cpuid;
pub mod debug;
pub mod descriptor;
pub mod exception;
pub mod mode;
pub mod msr;
pub mod paging;
pub mod register;
pub mod segment;

pub use descriptor::{Descriptor, Gate, LongDescriptor, Selector};
pub use exception::{Exception, Vector};
pub use mode::Mode;
pub use register::{Cr0, Cr4, Efer, Rflags, Xcr0};
pub use segment::{Segment, SegmentRegister, TableRegister};
