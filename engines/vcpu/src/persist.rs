//! The saved form of a vCPU. Independent of the engine, so that a vCPU saved under one goes on under another.
//!
//! Not here: whether the host has what CR4, XCR0 and EFER switch on. The board holds CPUID as it was offered
//! against the host before anything is restored.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};
use x86::{Cr0, Cr4, Efer, Rflags, Segment, TableRegister, Xcr0};

use crate::{Activity, CpuState, FpuState, Msrs, Shadow};

/// [`Segment`], saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SegmentV1 {
    pub base: u64,
    pub limit: u32,
    pub selector: u16,
    pub attributes: u16,
}

/// [`TableRegister`], saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TableRegisterV1 {
    pub base: u64,
    pub limit: u16,
}

/// [`Msrs`], saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct MsrsV1 {
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
    pub hwcr: u64,
}

/// [`Activity`], saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ActivityV1 {
    Running,
    Halted,
    WaitForStartUp,
    Shutdown,
}

/// [`Shadow`], saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ShadowV1 {
    None,
    Sti,
    MovSs,
}

/// [`CpuState`], saved. Flag registers are plain numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CpuStateV1 {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub segments: [SegmentV1; 6],
    pub ldtr: SegmentV1,
    pub tr: SegmentV1,
    pub gdtr: TableRegisterV1,
    pub idtr: TableRegisterV1,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub xcr0: u64,
    pub efer: u64,
    pub dr: [u64; 8],
    pub msrs: MsrsV1,
    pub tsc_offset: u64,
    pub activity: ActivityV1,
    pub shadow: ShadowV1,
    pub nmi_blocked: bool,
    pub nmi_pending: bool,
    /// An XSAVE area in the standard format, without trailing zeros.
    pub fpu: Vec<u8>,
}

impl Saved for CpuStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl From<Segment> for SegmentV1 {
    fn from(segment: Segment) -> Self {
        let Segment { base, limit, selector, attributes } = segment;
        Self { base, limit, selector, attributes }
    }
}

impl From<SegmentV1> for Segment {
    fn from(saved: SegmentV1) -> Self {
        let SegmentV1 { base, limit, selector, attributes } = saved;
        Self { base, limit, selector, attributes }
    }
}

impl From<TableRegister> for TableRegisterV1 {
    fn from(register: TableRegister) -> Self {
        let TableRegister { base, limit } = register;
        Self { base, limit }
    }
}

impl From<TableRegisterV1> for TableRegister {
    fn from(saved: TableRegisterV1) -> Self {
        let TableRegisterV1 { base, limit } = saved;
        Self { base, limit }
    }
}

/// Two conversions between a struct and its saved twin of the same fields.
macro_rules! twins {
    ($live:ident, $saved:ident, { $($field:ident),* $(,)? }) => {
        impl From<$live> for $saved {
            fn from($live { $($field),* }: $live) -> Self {
                Self { $($field),* }
            }
        }

        impl From<$saved> for $live {
            fn from($saved { $($field),* }: $saved) -> Self {
                Self { $($field),* }
            }
        }
    };
}

twins!(Msrs, MsrsV1, {
    star, lstar, cstar, sfmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip, pat, tsc_aux,
    tsc_adjust, misc_enable, mtrr_def_type, mtrr_fixed, mtrr_variable, spec_ctrl, hwcr,
});

/// Two conversions between an enum and its saved twin of the same variants.
macro_rules! enum_twins {
    ($live:ident, $saved:ident, { $($variant:ident),* $(,)? }) => {
        impl From<$live> for $saved {
            fn from(live: $live) -> Self {
                match live { $($live::$variant => Self::$variant),* }
            }
        }

        impl From<$saved> for $live {
            fn from(saved: $saved) -> Self {
                match saved { $($saved::$variant => Self::$variant),* }
            }
        }
    };
}

enum_twins!(Activity, ActivityV1, { Running, Halted, WaitForStartUp, Shutdown });
enum_twins!(Shadow, ShadowV1, { None, Sti, MovSs });

/// Offsets in an XSAVE area (SDM vol. 1 ch. 13.4).
const MXCSR: usize = 24;
const XSTATE_BV: usize = 512;
const HEADER_END: usize = 576;
/// MXCSR bits any processor has; bit 17 is AMD's misaligned mode.
const MXCSR_BITS: u32 = 0x2_ffff;

/// What a host's XRSTOR relies on.
fn check_fpu(area: &[u8], xcr0: u64) -> Result<(), Invalid> {
    require(area.len() <= FpuState::SIZE, "the floating-point state is too long")?;
    let bytes = |at: usize| area.get(at).copied().unwrap_or(0);
    let mxcsr = u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes(MXCSR + i)));
    require(mxcsr & !MXCSR_BITS == 0, "MXCSR has a reserved bit set")?;
    let present = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| bytes(XSTATE_BV + i)));
    let known = xcr0 | (Xcr0::X87 | Xcr0::SSE).bits();
    require(present & !known == 0, "XSTATE_BV has components that XCR0 lacks")?;
    let rest_is_zero = (XSTATE_BV + 8..HEADER_END).all(|at| bytes(at) == 0);
    require(rest_is_zero, "the XSAVE header has a reserved bit set")
}

impl Persist for CpuState {
    const KIND: &'static str = "vcpu";
    type State = CpuStateV1;

    fn save(&self) -> CpuStateV1 {
        let Self {
            gpr,
            rip,
            rflags,
            segments,
            ldtr,
            tr,
            gdtr,
            idtr,
            cr0,
            cr2,
            cr3,
            cr4,
            xcr0,
            efer,
            dr,
            msrs,
            tsc_offset,
            activity,
            shadow,
            nmi_blocked,
            nmi_pending,
            fpu: FpuState { area },
        } = self;
        let used = area.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        CpuStateV1 {
            gpr: *gpr,
            rip: *rip,
            rflags: rflags.bits(),
            segments: segments.map(SegmentV1::from),
            ldtr: (*ldtr).into(),
            tr: (*tr).into(),
            gdtr: (*gdtr).into(),
            idtr: (*idtr).into(),
            cr0: cr0.bits(),
            cr2: *cr2,
            cr3: *cr3,
            cr4: cr4.bits(),
            xcr0: xcr0.bits(),
            efer: efer.bits(),
            dr: *dr,
            msrs: (*msrs).into(),
            tsc_offset: *tsc_offset,
            activity: (*activity).into(),
            shadow: (*shadow).into(),
            nmi_blocked: *nmi_blocked,
            nmi_pending: *nmi_pending,
            fpu: area[..used].to_vec(),
        }
    }

    fn check(&self, state: &CpuStateV1) -> Result<(), Invalid> {
        let known = "a register has a bit that does not exist";
        let rflags = require_bits(Rflags::from_bits(state.rflags), known)?;
        let cr0 = require_bits(Cr0::from_bits(state.cr0), known)?;
        let cr4 = require_bits(Cr4::from_bits(state.cr4), known)?;
        let efer = require_bits(Efer::from_bits(state.efer), known)?;
        let xcr0 = require_bits(Xcr0::from_bits(state.xcr0), known)?;
        require(rflags.contains(Rflags::FIXED), "bit 1 of RFLAGS is clear")?;
        let paging = cr0.contains(Cr0::PG);
        require(!paging || cr0.contains(Cr0::PE), "paging is on in real mode")?;
        let long = efer.contains(Efer::LMA);
        require(long == (efer.contains(Efer::LME) && paging), "EFER.LMA contradicts LME and PG")?;
        require(!long || cr4.contains(Cr4::PAE), "long mode is on without PAE")?;
        require(!long || !rflags.contains(Rflags::VM), "virtual-8086 mode is on in long mode")?;
        require(xcr0.contains(Xcr0::X87), "XCR0 lacks x87")?;
        require(!xcr0.contains(Xcr0::AVX) || xcr0.contains(Xcr0::SSE), "XCR0 has AVX without SSE")?;
        let avx512 = xcr0 & Xcr0::AVX512;
        let whole = avx512.is_empty() || xcr0.contains(Xcr0::AVX512 | Xcr0::AVX);
        require(whole, "XCR0 has a part of AVX-512")?;
        check_fpu(&state.fpu, state.xcr0)
    }

    fn commit(&mut self, state: CpuStateV1) {
        let CpuStateV1 {
            gpr,
            rip,
            rflags,
            segments,
            ldtr,
            tr,
            gdtr,
            idtr,
            cr0,
            cr2,
            cr3,
            cr4,
            xcr0,
            efer,
            dr,
            msrs,
            tsc_offset,
            activity,
            shadow,
            nmi_blocked,
            nmi_pending,
            fpu,
        } = state;
        let mut area = [0; FpuState::SIZE];
        let used = fpu.len().min(FpuState::SIZE);
        area[..used].copy_from_slice(&fpu[..used]);
        *self = Self {
            gpr,
            rip,
            rflags: Rflags::from_bits_truncate(rflags),
            segments: segments.map(Segment::from),
            ldtr: ldtr.into(),
            tr: tr.into(),
            gdtr: gdtr.into(),
            idtr: idtr.into(),
            cr0: Cr0::from_bits_truncate(cr0),
            cr2,
            cr3,
            cr4: Cr4::from_bits_truncate(cr4),
            xcr0: Xcr0::from_bits_truncate(xcr0),
            efer: Efer::from_bits_truncate(efer),
            dr,
            msrs: msrs.into(),
            tsc_offset,
            activity: activity.into(),
            shadow: shadow.into(),
            nmi_blocked,
            nmi_pending,
            fpu: FpuState { area },
        };
    }
}

fn require_bits<T>(register: Option<T>, why: &'static str) -> Result<T, Invalid> {
    register.ok_or(Invalid::new(why))
}

#[cfg(test)]
mod tests {
    use savestate::{Sections, Writer};

    use super::*;

    fn unusual() -> CpuState {
        let mut cpu = CpuState::reset();
        cpu.gpr = std::array::from_fn(|index| index as u64 * 0x0101_0101_0101_0101);
        cpu.rip = 0xffff_ffff_8100_0000;
        cpu.cr0 = Cr0::PE | Cr0::PG | Cr0::WP;
        cpu.cr4 = Cr4::PAE | Cr4::OSXSAVE;
        cpu.efer = Efer::LME | Efer::LMA | Efer::NXE;
        cpu.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
        cpu.segments[4].base = 0x7fff_0000_1000;
        cpu.msrs.lstar = 0xffff_ffff_8200_0000;
        cpu.msrs.mtrr_variable[3][1] = 0x800;
        cpu.tsc_offset = u64::MAX;
        cpu.activity = Activity::Halted;
        cpu.shadow = Shadow::MovSs;
        cpu.nmi_blocked = true;
        cpu.nmi_pending = true;
        cpu.fpu.area[700] = 9;
        cpu
    }

    #[test]
    fn a_vcpu_comes_back_as_it_was() {
        let saved = unusual();
        let mut writer = Writer::new();
        writer.add(0, &saved).unwrap();
        let file = writer.finish();
        let mut restored = CpuState::reset();
        let sections = Sections::parse(&file).unwrap();
        sections.check([(0, &mut restored as _)]).unwrap().commit();
        assert_eq!(restored, saved);
    }

    #[test]
    fn impossible_states_are_refused() {
        let cpu = CpuState::reset();
        let good = unusual().save();
        assert!(cpu.check(&good).is_ok());
        let spoil: [fn(&mut CpuStateV1); 9] = [
            |state| state.rflags = 0,
            |state| state.rflags |= 1 << 40,
            |state| state.cr0 &= !1,
            |state| state.efer &= !(1 << 8),
            |state| state.cr4 = 0,
            |state| state.xcr0 = 6,
            |state| state.xcr0 |= 1 << 5,
            |state| state.fpu[27] = 0x80,
            |state| state.fpu[512] |= 0x80,
        ];
        for change in spoil {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(cpu.check(&bad).is_err());
        }
        let mut long = good.clone();
        long.fpu = vec![0; FpuState::SIZE + 1];
        assert!(cpu.check(&long).is_err());
    }
}
