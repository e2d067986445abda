//! Model-specific registers (SDM vol. 4; APM vol. 2 appendix A; AMD's processor programming references).
//!
//! Architectural ones behave; those of AMD's that an operating system reads without asking read as a machine
//! without errata would; all others are #GP, which systems expect of a processor they do not know.

use vcpu::{Environment, Invalidation};
use x86::msr as number;
use x86::{Cr0, Efer, Exception, SegmentRegister};

use crate::Context;
use crate::mtrr::{self, fixed_index};

/// AMD's registers that systems read unasked, and of which zero is the harmless reading; writes are dropped.
/// PERF_CTL and PERF_CTR 0 to 3, which every processor has and here count nothing; SYSCFG, the I/O range registers, TOP_MEM, TOP_MEM2, NB_CFG, INT_PENDING, MMIO_CFG_BASE, SMM's address and
/// mask, LS_CFG, IC_CFG, DC_CFG, TW_CFG, FP_CFG, BU_CFG2, LS_CFG2, BP_CFG.
#[rustfmt::skip]
const AMD_ZERO: [u32; 29] = [
    0xc001_0000, 0xc001_0001, 0xc001_0002, 0xc001_0003, 0xc001_0004, 0xc001_0005, 0xc001_0006, 0xc001_0007,
    0xc001_0010,
    0xc001_0016, 0xc001_0017, 0xc001_0018, 0xc001_0019,
    0xc001_001a, 0xc001_001d,
    0xc001_001f,
    0xc001_0055, 0xc001_0058,
    0xc001_0112, 0xc001_0113,
    0xc001_1020, 0xc001_1021, 0xc001_1022, 0xc001_1023,
    0xc001_1028, 0xc001_102a, 0xc001_102b, 0xc001_102d, 0xc001_102e,
];

/// DE_CFG: LFENCE serialises dispatch, as it does on the host whose LFENCE runs.
const LFENCE_SERIALISES: u64 = 1 << 1;
/// VM_CR: virtualization is disabled and locked.
const SVM_DISABLED: u64 = 1 << 3 | 1 << 4;
/// HWCR bits that software may set: SMMLOCK, TLB cache disable, MC status write, CPB off, performance counters.
const HWCR_WRITABLE: u64 = 1 | 1 << 3 | 1 << 18 | 1 << 24 | 1 << 25 | 1 << 30;
/// SPEC_CTRL bits: IBRS, STIBP, SSBD, PSFD, BHI_DIS_S.
const SPEC_CTRL_WRITABLE: u64 = 0b111 | 1 << 7 | 1 << 10;

type Read = Result<u64, Exception>;

impl<E: Environment + ?Sized> Context<'_, E> {
    pub(crate) fn read_msr(&mut self, msr: u32) -> Read {
        use number as n;
        let msrs = &self.cpu.msrs;
        Ok(match msr {
            n::FS_BASE => self.cpu.segment(SegmentRegister::Fs).base,
            n::GS_BASE => self.cpu.segment(SegmentRegister::Gs).base,
            n::KERNEL_GS_BASE => msrs.kernel_gs_base,
            n::TSC_DEADLINE | n::APIC_BASE | n::X2APIC_FIRST..=n::X2APIC_LAST => {
                return self.env.read_apic_msr(msr).ok_or(Exception::gp(0));
            }
            n::TIME_STAMP_COUNTER => self.tsc(),
            n::EFER => self.cpu.efer.bits(),
            n::STAR => msrs.star,
            n::LSTAR => msrs.lstar,
            n::CSTAR => msrs.cstar,
            n::SFMASK => msrs.sfmask,
            n::TSC_AUX => msrs.tsc_aux,
            n::SYSENTER_CS => msrs.sysenter_cs,
            n::SYSENTER_ESP => msrs.sysenter_esp,
            n::SYSENTER_EIP => msrs.sysenter_eip,
            n::TSC_ADJUST if self.offers_tsc_adjust() => msrs.tsc_adjust,
            n::PAT => msrs.pat,
            n::MTRRCAP => mtrr::CAPABILITIES,
            n::MTRR_DEF_TYPE => msrs.mtrr_def_type,
            n::MTRR_PHYSBASE0..=n::MTRR_PHYSMASK7 => {
                let at = (msr - n::MTRR_PHYSBASE0) as usize;
                msrs.mtrr_variable[at / 2][at % 2]
            }
            n::MISC_ENABLE => msrs.misc_enable,
            n::SPEC_CTRL if self.offers_spec_ctrl() => msrs.spec_ctrl,
            n::P5_MC_ADDR | n::P5_MC_TYPE | n::MCG_CAP | n::MCG_STATUS | n::DEBUGCTL => 0,
            n::LAST_BRANCH_FROM_IP..=n::LAST_INT_TO_IP => 0,
            // A microcode revision that no erratum's check finds too old. AMD's has 32 bits, Intel's stands in the
            // upper half.
            n::BIOS_SIGN_ID if self.is_amd() => 0x7fff_ffff,
            n::BIOS_SIGN_ID => 0x7fff_ffff << 32,
            _ => match fixed_index(msr) {
                Some(index) => msrs.mtrr_fixed[index],
                None if self.is_amd() => return self.read_amd_msr(msr),
                None => return self.read_intel_msr(msr),
            },
        })
    }

    fn read_amd_msr(&self, msr: u32) -> Read {
        use number as n;
        Ok(match msr {
            n::HWCR => self.cpu.msrs.hwcr,
            n::DE_CFG => LFENCE_SERIALISES,
            n::VM_CR => SVM_DISABLED,
            n::VIRT_SPEC_CTRL if self.offers_virt_ssbd() => self.cpu.msrs.spec_ctrl & 4,
            n::OSVW_ID_LENGTH | n::OSVW_STATUS => 0,
            n::PSTATE_CURRENT_LIMIT..=n::PSTATE_7 => 0,
            _ if AMD_ZERO.contains(&msr) => 0,
            _ => return Err(Exception::gp(0)),
        })
    }

    fn read_intel_msr(&self, msr: u32) -> Read {
        use number as n;
        Ok(match msr {
            n::PLATFORM_ID => 0,
            // Locked, with nothing enabled.
            n::FEATURE_CONTROL => 1,
            n::ARCH_CAPABILITIES if self.cpuid(7, 0)[3] & (1 << 29) != 0 => n::arch_capabilities::OFFERED,
            _ => return Err(Exception::gp(0)),
        })
    }

    pub(crate) fn write_msr(&mut self, msr: u32, value: u64) -> Result<(), Exception> {
        use number as n;
        let invalid = Err(Exception::gp(0));
        match msr {
            n::TSC_DEADLINE | n::APIC_BASE | n::X2APIC_FIRST..=n::X2APIC_LAST => {
                let offset = self.cpu.tsc_offset;
                return self.env.write_apic_msr(msr, value, offset).ok_or(Exception::gp(0));
            }
            n::FS_BASE
            | n::GS_BASE
            | n::KERNEL_GS_BASE
            | n::LSTAR
            | n::CSTAR
            | n::SYSENTER_ESP
            | n::SYSENTER_EIP
                if !self.canonical_in_register(value) =>
            {
                return invalid;
            }
            n::FS_BASE => self.cpu.segment_mut(SegmentRegister::Fs).base = value,
            n::GS_BASE => self.cpu.segment_mut(SegmentRegister::Gs).base = value,
            n::KERNEL_GS_BASE => self.cpu.msrs.kernel_gs_base = value,
            n::LSTAR => self.cpu.msrs.lstar = value,
            n::CSTAR => self.cpu.msrs.cstar = value,
            n::STAR => self.cpu.msrs.star = value,
            n::SFMASK => self.cpu.msrs.sfmask = value & 0xffff_ffff,
            n::SYSENTER_CS => self.cpu.msrs.sysenter_cs = value & 0xffff_ffff,
            n::SYSENTER_ESP => self.cpu.msrs.sysenter_esp = value,
            n::SYSENTER_EIP => self.cpu.msrs.sysenter_eip = value,
            n::EFER => return self.write_efer(value),
            n::TSC_AUX if value >> 32 == 0 => self.cpu.msrs.tsc_aux = value,
            n::TIME_STAMP_COUNTER => {
                let change = value.wrapping_sub(self.tsc());
                self.adjust_tsc(change);
            }
            n::TSC_ADJUST if self.offers_tsc_adjust() => {
                let change = value.wrapping_sub(self.cpu.msrs.tsc_adjust);
                self.adjust_tsc(change);
            }
            n::PAT if mtrr::valid_pat(value) => self.cpu.msrs.pat = value,
            n::MTRR_DEF_TYPE if mtrr::valid_default(value) => self.cpu.msrs.mtrr_def_type = value,
            n::MTRR_PHYSBASE0..=n::MTRR_PHYSMASK7 => {
                let at = (msr - n::MTRR_PHYSBASE0) as usize;
                return self.write_mtrr_variable(at / 2, at % 2 == 1, value);
            }
            n::MISC_ENABLE => self.cpu.msrs.misc_enable = value,
            n::SPEC_CTRL if self.offers_spec_ctrl() && value & !SPEC_CTRL_WRITABLE == 0 => {
                self.cpu.msrs.spec_ctrl = value;
            }
            // A barrier: the guest shares no predictor state that popf could flush from here.
            n::PRED_CMD if self.offers_spec_ctrl() && value & !0x81 == 0 => {}
            n::FLUSH_CMD if self.cpuid(7, 0)[3] & (1 << 28) != 0 && value & !1 == 0 => {}
            n::MCG_STATUS | n::P5_MC_ADDR | n::P5_MC_TYPE if value == 0 => {}
            // Branch tracing and single-step on branches are not there.
            n::DEBUGCTL if value == 0 => {}
            // Software clears it before it asks CPUID for the microcode revision.
            n::BIOS_SIGN_ID | n::BIOS_UPDT_TRIG => {}
            _ => match fixed_index(msr) {
                Some(index) if mtrr::valid_fixed(value) => self.cpu.msrs.mtrr_fixed[index] = value,
                None if self.is_amd() => return self.write_amd_msr(msr, value),
                _ => return invalid,
            },
        }
        Ok(())
    }

    fn write_amd_msr(&mut self, msr: u32, value: u64) -> Result<(), Exception> {
        use number as n;
        match msr {
            n::HWCR => {
                let kept = self.cpu.msrs.hwcr & !HWCR_WRITABLE;
                self.cpu.msrs.hwcr = kept | (value & HWCR_WRITABLE);
            }
            n::VIRT_SPEC_CTRL if self.offers_virt_ssbd() && value & !4 == 0 => {
                self.cpu.msrs.spec_ctrl = self.cpu.msrs.spec_ctrl & !4 | value;
            }
            n::DE_CFG | n::PATCH_LOADER => {}
            _ if AMD_ZERO.contains(&msr) => {}
            _ => return Err(Exception::gp(0)),
        }
        Ok(())
    }

    fn write_efer(&mut self, value: u64) -> Result<(), Exception> {
        let invalid = Err(Exception::gp(0));
        let new = Efer::from_bits_truncate(value);
        let old = self.cpu.efer;
        let [_, _, ecx, edx] = self.cpuid(0x8000_0001, 0);
        let [eax, ..] = self.cpuid(0x8000_0021, 0);
        let mut offered = Efer::SCE | Efer::LMA;
        for (register, bit, flag) in [
            (edx, 20, Efer::NXE),
            (edx, 25, Efer::FFXSR),
            (edx, 29, Efer::LME),
            (ecx, 17, Efer::TCE),
            (eax, 8, Efer::AIBRSE),
        ] {
            if register & (1 << bit) != 0 {
                offered |= flag;
            }
        }
        if new.bits() != value || !offered.contains(new) {
            return invalid;
        }
        if (old ^ new).contains(Efer::LME) && self.cpu.cr0.contains(Cr0::PG) {
            return invalid;
        }
        // LMA is the processor's to set.
        self.cpu.efer = (new - Efer::LMA) | (old & Efer::LMA);
        if (old ^ new).contains(Efer::NXE) {
            self.effects.invalidate(Invalidation::AllPages);
        }
        Ok(())
    }

    fn adjust_tsc(&mut self, change: u64) {
        self.cpu.tsc_offset = self.cpu.tsc_offset.wrapping_add(change);
        self.cpu.msrs.tsc_adjust = self.cpu.msrs.tsc_adjust.wrapping_add(change);
    }

    fn offers_tsc_adjust(&self) -> bool {
        self.cpuid(7, 0)[1] & (1 << 1) != 0
    }

    /// Intel: IBRS, STIBP or SSBD in leaf 7; AMD: IBPB, IBRS, STIBP or SSBD in leaf 8000_0008.
    fn offers_spec_ctrl(&self) -> bool {
        self.cpuid(7, 0)[3] & (1 << 26 | 1 << 27 | 1 << 31) != 0
            || self.cpuid(0x8000_0008, 0)[1] & (1 << 12 | 1 << 14 | 1 << 15 | 1 << 24) != 0
    }

    fn offers_virt_ssbd(&self) -> bool {
        self.cpuid(0x8000_0008, 0)[1] & (1 << 25) != 0
    }
}
