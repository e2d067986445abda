//! The architectural state of a virtual CPU.

use x86::{Cr0, Cr4, Efer, Mode, Rflags, Segment, SegmentRegister, TableRegister, Xcr0};

/// Everything a program could find out about its processor, in the processor's own terms.
#[derive(Clone, Debug, PartialEq)]
pub struct CpuState {
    /// General registers by [`x86::register::gpr`].
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags; bit 1 is kept set.
    pub rflags: Rflags,
    /// Segment registers by [`SegmentRegister`].
    pub segments: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: TableRegister,
    /// Interrupt descriptor table.
    pub idtr: TableRegister,
    /// CR0.
    pub cr0: Cr0,
    /// CR2, the address of the last page fault.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// XCR0.
    pub xcr0: Xcr0,
    /// EFER.
    pub efer: Efer,
    /// Debug registers; 4 and 5 are unused.
    pub dr: [u64; 8],
    /// Model-specific registers that are plain values.
    pub msrs: Msrs,
    /// What is added to [`crate::Environment::tsc`] for this vCPU, modulo 2^64.
    pub tsc_offset: u64,
    /// Whether it runs, halts or waits.
    pub activity: Activity,
    /// Interrupts held off for one instruction.
    pub shadow: Shadow,
    /// Between an NMI's delivery and the next IRET.
    pub nmi_blocked: bool,
    /// An NMI waits for [`Self::nmi_blocked`] or a shadow to end.
    pub nmi_pending: bool,
    /// x87, MMX, SSE, AVX and AVX-512 state.
    pub fpu: FpuState,
}

/// Model-specific registers without side effects beyond their value. The local APIC's live in the APIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub tsc_aux: u64,
    pub tsc_adjust: u64,
    pub misc_enable: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [[u64; 2]; 8],
    pub spec_ctrl: u64,
    /// AMD's HWCR.
    pub hwcr: u64,
}

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Executing instructions.
    Running,
    /// After HLT, until an interrupt.
    Halted,
    /// An application processor before its start-up interrupt.
    WaitForStartUp,
    /// After a triple fault.
    Shutdown,
}

/// Width of the code segment that a system-call instruction loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 32 bits.
    Protected,
    /// 64 bits.
    Long,
}

/// The one-instruction interrupt shadow (SDM vol. 3 ch. 6.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shadow {
    /// None.
    None,
    /// After STI: interrupts, and NMIs with them, as processors may, wait for the instruction at this address to complete.
    Sti,
    /// After a load of SS: interrupts, NMIs and debug traps wait.
    MovSs,
}

/// An XSAVE area in the standard (non-compacted) format, big enough for every component popf offers.
#[derive(Clone, PartialEq)]
#[repr(C, align(64))]
pub struct FpuState {
    /// The area; its layout is the processor's (SDM vol. 1 ch. 13.4).
    pub area: [u8; Self::SIZE],
}

impl FpuState {
    /// Room for x87, SSE, AVX and AVX-512 in any processor's standard format, with some to spare.
    pub const SIZE: usize = 3072;
    /// MXCSR after reset.
    pub const MXCSR_RESET: u32 = 0x1f80;
}

impl Default for FpuState {
    /// The state after FNINIT, with MXCSR as at reset and every other register zero. Power-up leaves FCW
    /// 0x40, but every loader and operating system starts with FNINIT, and 0x37f is what it sets.
    fn default() -> Self {
        let mut area = [0; Self::SIZE];
        area[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        area[24..28].copy_from_slice(&Self::MXCSR_RESET.to_le_bytes());
        // XSTATE_BV: x87 and SSE are present, so that FCW and MXCSR above are loaded.
        area[512] = 3;
        Self { area }
    }
}

impl std::fmt::Debug for FpuState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FpuState").finish_non_exhaustive()
    }
}

impl CpuState {
    /// The state after RESET (SDM vol. 3 table 9-1).
    pub fn reset() -> Self {
        let data = Segment {
            base: 0,
            limit: 0xffff,
            selector: 0,
            attributes: Segment::PRESENT
                | Segment::CODE_OR_DATA
                | Segment::READABLE_OR_WRITABLE
                | Segment::ACCESSED,
        };
        let code = Segment {
            base: 0xffff_0000,
            selector: 0xf000,
            attributes: data.attributes | Segment::EXECUTABLE,
            ..data
        };
        let mut gpr = [0; 16];
        gpr[x86::register::gpr::RDX] = 0x600;
        let mut dr = [0; 8];
        dr[6] = 0xffff_0ff0;
        dr[7] = 0x400;
        Self {
            gpr,
            rip: 0xfff0,
            rflags: Rflags::FIXED,
            segments: [data, code, data, data, data, data],
            ldtr: Segment { limit: 0xffff, attributes: Segment::PRESENT | 2, ..Segment::default() },
            tr: Segment { limit: 0xffff, attributes: Segment::PRESENT | 11, ..Segment::default() },
            gdtr: TableRegister { base: 0, limit: 0xffff },
            idtr: TableRegister { base: 0, limit: 0xffff },
            cr0: Cr0::ET | Cr0::NW | Cr0::CD,
            cr2: 0,
            cr3: 0,
            cr4: Cr4::empty(),
            xcr0: Xcr0::X87,
            efer: Efer::empty(),
            dr,
            // HWCR: the TSC counts at the rate of the highest P-state.
            msrs: Msrs { pat: 0x0007_0406_0007_0406, misc_enable: 1, hwcr: 1 << 24, ..Msrs::default() },
            tsc_offset: 0,
            activity: Activity::Running,
            shadow: Shadow::None,
            nmi_blocked: false,
            nmi_pending: false,
            fpu: FpuState::default(),
        }
    }

    /// The operating mode.
    pub fn mode(&self) -> Mode {
        Mode::of(self.cr0, self.efer, self.rflags, self.segment(SegmentRegister::Cs))
    }

    /// Linear address of the instruction at RIP.
    pub fn linear_rip(&self) -> u64 {
        match self.mode() {
            Mode::Long64 => self.rip,
            _ => self.segment(SegmentRegister::Cs).base.wrapping_add(self.rip) & 0xffff_ffff,
        }
    }

    /// Current privilege level: that of SS, as the processor defines it; 0 in real and 3 in virtual-8086 mode.
    pub fn cpl(&self) -> u8 {
        match self.mode() {
            Mode::Real => 0,
            Mode::Virtual8086 => 3,
            _ => self.segment(SegmentRegister::Ss).dpl(),
        }
    }

    /// Loads CS and SS with the fixed flat segments of the system-call instructions; no descriptor is read.
    pub fn load_flat_segments(&mut self, cs: u16, ss: u16, width: Width, ring: u8) {
        const CODE: u16 = Segment::PRESENT
            | Segment::CODE_OR_DATA
            | Segment::EXECUTABLE
            | Segment::READABLE_OR_WRITABLE
            | Segment::ACCESSED
            | Segment::GRANULARITY;
        const DATA: u16 = CODE & !Segment::EXECUTABLE | Segment::BIG;
        let ring = u16::from(ring & 3);
        let code = match width {
            Width::Protected => CODE | Segment::BIG,
            Width::Long => CODE | Segment::LONG,
        };
        let flat = |selector: u16, attributes: u16| Segment {
            base: 0,
            limit: u32::MAX,
            selector: selector | ring,
            attributes: attributes | ring << 5,
        };
        *self.segment_mut(SegmentRegister::Cs) = flat(cs, code);
        *self.segment_mut(SegmentRegister::Ss) = flat(ss, DATA);
    }

    /// One segment register.
    pub fn segment(&self, register: SegmentRegister) -> &Segment {
        &self.segments[register as usize]
    }

    /// One segment register, to change.
    pub fn segment_mut(&mut self, register: SegmentRegister) -> &mut Segment {
        &mut self.segments[register as usize]
    }
}
