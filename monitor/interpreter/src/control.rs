//! Control registers: MOV to and from CR0 to CR8, LMSW, SMSW, CLTS, XGETBV, XSETBV (SDM vol. 3 ch. 2.5 and
//! 10.8.5; APM vol. 2 ch. 14).
//!
//! Which CR4 and XCR0 bits exist follows from what CPUID offers the guest.

use iced_x86::{Instruction, OpKind, Register};
use vcpu::{Environment, Invalidation};
use x86::debug::{dr6, dr7};
use x86::register::gpr;
use x86::{Cr0, Cr4, Efer, Exception, Mode, Segment, SegmentRegister, Xcr0};

use crate::operand::{mask, read, width, write};
use crate::segment_check::long_mode;
use crate::{Context, Routed};

/// Changes of these change how page tables are read.
const CR0_PAGING: Cr0 = Cr0::PG.union(Cr0::WP).union(Cr0::PE);
const CR4_PAGING: Cr4 = Cr4::PSE
    .union(Cr4::PAE)
    .union(Cr4::PGE)
    .union(Cr4::LA57)
    .union(Cr4::PCIDE)
    .union(Cr4::SMEP)
    .union(Cr4::SMAP)
    .union(Cr4::PKE);

impl<E: Environment + ?Sized> Context<'_, E> {
    /// #GP(0) unless at privilege level 0.
    pub(crate) fn privileged(&self) -> Result<(), Exception> {
        if self.cpu.cpl() == 0 { Ok(()) } else { Err(Exception::gp(0)) }
    }

    pub(crate) fn mov_from_control(&mut self, insn: &Instruction) -> Routed {
        self.privileged()?;
        let value = match insn.op1_register() {
            Register::CR0 => self.cpu.cr0.bits(),
            Register::CR2 => self.cpu.cr2,
            Register::CR3 => self.cpu.cr3,
            Register::CR4 => self.cpu.cr4.bits(),
            Register::CR8 => self.env.task_priority().into(),
            _ => return Err(Exception::UD),
        };
        let value = value & mask(self.wide());
        write(self.cpu, insn.op0_register(), value);
        self.done(insn)
    }

    pub(crate) fn mov_to_control(&mut self, insn: &Instruction) -> Routed {
        self.privileged()?;
        let value = read(self.cpu, insn.op1_register()) & mask(self.wide());
        match insn.op0_register() {
            Register::CR0 => self.set_cr0(value)?,
            Register::CR2 => self.cpu.cr2 = value,
            Register::CR3 => self.set_cr3(value)?,
            Register::CR4 => self.set_cr4(value)?,
            Register::CR8 if value > 15 => return Err(Exception::gp(0)),
            Register::CR8 => self.env.set_task_priority(value as u8),
            _ => return Err(Exception::UD),
        }
        self.done(insn)
    }

    fn set_cr0(&mut self, value: u64) -> Result<(), Exception> {
        let invalid = Err(Exception::gp(0));
        if value >> 32 != 0 {
            return invalid;
        }
        let new = Cr0::from_bits_truncate(value) | Cr0::ET;
        let old = self.cpu.cr0;
        let paging = new.contains(Cr0::PG);
        if (paging && !new.contains(Cr0::PE)) || (new.contains(Cr0::NW) && !new.contains(Cr0::CD)) {
            return invalid;
        }
        let cs_long = self.cpu.segment(SegmentRegister::Cs).has(Segment::LONG);
        let mut efer = self.cpu.efer;
        if paging && !old.contains(Cr0::PG) {
            if efer.contains(Efer::LME) {
                if !self.cpu.cr4.contains(Cr4::PAE) || cs_long {
                    return invalid;
                }
                efer.insert(Efer::LMA);
            } else if self.cpu.cr4.contains(Cr4::PAE) {
                self.check_pdptes(self.cpu.cr3)?;
            }
        } else if !paging && old.contains(Cr0::PG) {
            if (long_mode(self.cpu) && cs_long) || self.cpu.cr4.contains(Cr4::PCIDE) {
                return invalid;
            }
            efer.remove(Efer::LMA);
        }
        self.cpu.cr0 = new;
        self.cpu.efer = efer;
        if (old ^ new).intersects(CR0_PAGING) {
            self.effects.invalidate(Invalidation::AllPages);
        }
        Ok(())
    }

    fn set_cr3(&mut self, value: u64) -> Result<(), Exception> {
        let mut value = value;
        let mut keep = false;
        if long_mode(self.cpu) {
            if self.cpu.cr4.contains(Cr4::PCIDE) {
                keep = value >> 63 != 0;
                value &= !(1 << 63);
            }
            // Guests of less than 4 GiB never need the look into CPUID.
            if value >> 32 != 0 && value >> self.physical_bits() != 0 {
                return Err(Exception::gp(0));
            }
        } else if self.cpu.cr4.contains(Cr4::PAE) && self.cpu.cr0.contains(Cr0::PG) {
            self.check_pdptes(value)?;
        }
        self.cpu.cr3 = value;
        if !keep {
            self.effects.invalidate(Invalidation::AddressSpace);
        }
        Ok(())
    }

    fn set_cr4(&mut self, value: u64) -> Result<(), Exception> {
        let invalid = Err(Exception::gp(0));
        let new = Cr4::from_bits_truncate(value);
        let old = self.cpu.cr4;
        if new.bits() != value || !self.offered_cr4().contains(new) {
            return invalid;
        }
        if long_mode(self.cpu) {
            if !new.contains(Cr4::PAE) || (old ^ new).contains(Cr4::LA57) {
                return invalid;
            }
        } else if self.cpu.cr0.contains(Cr0::PG) && new.contains(Cr4::PAE) {
            let reload = Cr4::PAE | Cr4::PGE | Cr4::PSE | Cr4::SMEP;
            if (old ^ new).intersects(reload) {
                self.check_pdptes(self.cpu.cr3)?;
            }
        }
        let pcid_on = new.contains(Cr4::PCIDE) && !old.contains(Cr4::PCIDE);
        if pcid_on && (!long_mode(self.cpu) || self.cpu.cr3 & 0xfff != 0) {
            return invalid;
        }
        self.cpu.cr4 = new;
        if (old ^ new).intersects(CR4_PAGING) {
            self.effects.invalidate(Invalidation::AllPages);
        }
        Ok(())
    }

    /// #GP if a page-directory pointer of PAE paging has a reserved bit set (SDM vol. 3 ch. 4.4.1).
    pub(crate) fn check_pdptes(&mut self, cr3: u64) -> Result<(), Exception> {
        let reserved = 0b1_1110_0110 | (u64::MAX << self.physical_bits());
        for index in 0..4 {
            let mut bytes = [0; 8];
            self.env.read_memory((cr3 & 0xffff_ffe0) + index * 8, &mut bytes);
            let entry = u64::from_le_bytes(bytes);
            if entry & 1 != 0 && entry & reserved != 0 {
                return Err(Exception::gp(0));
            }
        }
        Ok(())
    }

    pub(crate) fn lmsw(&mut self, insn: &Instruction) -> Routed {
        self.privileged()?;
        let word = self.read_operand(insn, 0, 2)?;
        let loadable = (Cr0::PE | Cr0::MP | Cr0::EM | Cr0::TS).bits();
        // PE can be set by it but not cleared.
        let kept = self.cpu.cr0.bits() & !(loadable & !Cr0::PE.bits());
        self.set_cr0(kept | (word & loadable))?;
        self.done(insn)
    }

    pub(crate) fn smsw(&mut self, insn: &Instruction) -> Routed {
        self.check_umip()?;
        let value = self.cpu.cr0.bits();
        if insn.op0_kind() == OpKind::Register {
            let register = insn.op0_register();
            write(self.cpu, register, value & mask(width(register)));
        } else {
            self.write_operand(insn, 0, 2, value)?;
        }
        self.done(insn)
    }

    pub(crate) fn clts(&mut self, insn: &Instruction) -> Routed {
        self.privileged()?;
        self.cpu.cr0.remove(Cr0::TS);
        self.done(insn)
    }

    /// #GP(0) if UMIP keeps this from outer rings.
    pub(crate) fn check_umip(&self) -> Result<(), Exception> {
        if self.cpu.cr4.contains(Cr4::UMIP) && self.cpu.cpl() > 0 {
            return Err(Exception::gp(0));
        }
        Ok(())
    }

    pub(crate) fn xgetbv(&mut self, insn: &Instruction) -> Routed {
        if !self.cpu.cr4.contains(Cr4::OSXSAVE) {
            return Err(Exception::UD);
        }
        let value = match self.cpu.gpr[gpr::RCX] as u32 {
            0 => self.cpu.xcr0.bits(),
            // XINUSE: claiming more in use than is costs the guest a longer save and nothing else.
            1 if self.cpuid(0xd, 1)[0] & 4 != 0 => self.cpu.xcr0.bits(),
            _ => return Err(Exception::gp(0)),
        };
        self.set_edx_eax(value);
        self.done(insn)
    }

    pub(crate) fn xsetbv(&mut self, insn: &Instruction) -> Routed {
        if !self.cpu.cr4.contains(Cr4::OSXSAVE) {
            return Err(Exception::UD);
        }
        self.privileged()?;
        let value = self.edx_eax();
        let [low, _, _, high] = self.cpuid(0xd, 0);
        let offered = u64::from(high) << 32 | u64::from(low);
        let new = Xcr0::from_bits_truncate(value);
        let whole_avx512 = !new.intersects(Xcr0::AVX512) || new.contains(Xcr0::AVX512 | Xcr0::AVX);
        let valid = self.cpu.gpr[gpr::RCX] as u32 == 0
            && new.bits() == value
            && value & !offered == 0
            && new.contains(Xcr0::X87)
            && (!new.contains(Xcr0::AVX) || new.contains(Xcr0::SSE))
            && whole_avx512;
        if !valid {
            return Err(Exception::gp(0));
        }
        self.cpu.xcr0 = new;
        self.done(insn)
    }

    pub(crate) fn mov_from_debug(&mut self, insn: &Instruction) -> Routed {
        let number = self.debug_register(insn.op1_register())?;
        let value = self.cpu.dr[number] & mask(self.wide());
        write(self.cpu, insn.op0_register(), value);
        self.done(insn)
    }

    pub(crate) fn mov_to_debug(&mut self, insn: &Instruction) -> Routed {
        let number = self.debug_register(insn.op0_register())?;
        let value = read(self.cpu, insn.op1_register()) & mask(self.wide());
        if number >= 6 && value >> 32 != 0 {
            return Err(Exception::gp(0));
        }
        self.cpu.dr[number] = match number {
            6 => (value & 0xe00f) | 0xffff_0ff0,
            7 => (value & 0xffff_2bff) | 0x400,
            _ => value,
        };
        self.done(insn)
    }

    /// The number of a debug register after the checks all accesses share (SDM vol. 3 ch. 18.2).
    fn debug_register(&mut self, register: Register) -> Result<usize, Exception> {
        let number = (register as usize).wrapping_sub(Register::DR0 as usize);
        let number = match number {
            0..=3 | 6 | 7 => number,
            4 | 5 if !self.cpu.cr4.contains(Cr4::DE) => number + 2,
            _ => return Err(Exception::UD),
        };
        self.privileged()?;
        if self.cpu.dr[7] & dr7::GD != 0 {
            return Err(Exception { detail: dr6::BD, ..Exception::new(x86::Vector::Debug) });
        }
        Ok(number)
    }

    /// Width of a physical address as offered.
    pub(crate) fn physical_bits(&self) -> u32 {
        (self.cpuid(0x8000_0008, 0)[0] & 0xff).clamp(32, 52)
    }

    /// Whether CPUID offers SMAP; CR4 having it settles that at less cost.
    pub(crate) fn offers_smap(&self) -> bool {
        self.cpu.cr4.contains(Cr4::SMAP) || self.cpuid(7, 0)[1] & (1 << 20) != 0
    }

    /// Every CR4 bit whose feature CPUID offers.
    fn offered_cr4(&self) -> Cr4 {
        let [_, _, ecx1, edx1] = self.cpuid(1, 0);
        let [_, ebx7, ecx7, _] = self.cpuid(7, 0);
        let mut offered = Cr4::empty();
        for (register, bit, flags) in [
            (edx1, 1, Cr4::VME | Cr4::PVI),
            (edx1, 2, Cr4::DE),
            (edx1, 3, Cr4::PSE),
            (edx1, 4, Cr4::TSD),
            (edx1, 6, Cr4::PAE),
            (edx1, 7, Cr4::MCE),
            (edx1, 13, Cr4::PGE),
            (edx1, 24, Cr4::OSFXSR),
            (edx1, 25, Cr4::OSXMMEXCPT),
            (ecx1, 17, Cr4::PCIDE),
            (ecx1, 26, Cr4::OSXSAVE),
            (ebx7, 0, Cr4::FSGSBASE),
            (ebx7, 7, Cr4::SMEP),
            (ebx7, 20, Cr4::SMAP),
            (ecx7, 2, Cr4::UMIP),
            (ecx7, 3, Cr4::PKE),
            (ecx7, 16, Cr4::LA57),
        ] {
            if register & (1 << bit) != 0 {
                offered |= flags;
            }
        }
        // No CPUID bit stands for PCE; it governs counters of which there are none.
        offered | Cr4::PCE
    }

    /// Whether RDTSC and RDTSCP are privileged now.
    pub(crate) fn tsc_disabled(&self) -> bool {
        self.cpu.cr4.contains(Cr4::TSD) && self.mode() != Mode::Real && self.cpu.cpl() > 0
    }
}
