//! The vCPU's state for a message.

use std::fmt;

use vcpu::CpuState;
use x86::{Exception, Mode, SegmentRegister};

/// What a message says of a vCPU that cannot go on.
#[derive(Clone, Debug)]
pub struct Report {
    /// The state, in full.
    pub cpu: Box<CpuState>,
    /// The exception delivered last, and the instruction pointer then.
    pub last_exception: Option<(Exception, u64)>,
}

impl Report {
    pub(crate) fn new(cpu: &CpuState, last_exception: Option<(Exception, u64)>) -> Self {
        Self { cpu: Box::new(cpu.clone()), last_exception }
    }
}

impl fmt::Display for Report {
    /// One line; the rest is in the fields.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = &*self.cpu;
        let mode = match cpu.mode() {
            Mode::Real => "real",
            Mode::Virtual8086 => "virtual-8086",
            Mode::Protected16 => "16-bit protected",
            Mode::Protected32 => "32-bit protected",
            Mode::Long64 => "64-bit",
        };
        let cs = cpu.segment(SegmentRegister::Cs).selector;
        write!(f, "{mode} mode, ring {}, cs:rip {cs:04x}:{:#x}", cpu.cpl(), cpu.rip)?;
        write!(f, ", rsp {:#x}", cpu.gpr[x86::register::gpr::RSP])?;
        write!(f, ", cr0 {:#x}, cr2 {:#x}, cr3 {:#x}", cpu.cr0, cpu.cr2, cpu.cr3)?;
        write!(f, ", cr4 {:#x}, efer {:#x}", cpu.cr4, cpu.efer)?;
        if let Some((exception, rip)) = self.last_exception {
            write!(f, "; last exception {:?} at {rip:#x}", exception.vector)?;
            if let Some(code) = exception.error_code {
                write!(f, ", error code {code:#x}")?;
            }
        }
        Ok(())
    }
}
