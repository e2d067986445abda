//! What tells of the processor or commands its caches: CPUID, time-stamp counter, MSR access, INVD, WBINVD,
//! INVLPG (SDM vol. 2).

use iced_x86::Instruction;
use vcpu::{Environment, Invalidation};
use x86::register::gpr;
use x86::{Exception, Mode};

use crate::operand::{effective_address, memory_segment, write};
use crate::{Context, Routed};

impl<E: Environment + ?Sized> Context<'_, E> {
    pub(crate) fn execute_cpuid(&mut self, insn: &Instruction) -> Routed {
        let leaf = self.cpu.gpr[gpr::RAX] as u32;
        let subleaf = self.cpu.gpr[gpr::RCX] as u32;
        let [eax, ebx, ecx, edx] = self.cpuid(leaf, subleaf);
        for (register, value) in [(gpr::RAX, eax), (gpr::RBX, ebx), (gpr::RCX, ecx), (gpr::RDX, edx)] {
            self.cpu.gpr[register] = value.into();
        }
        self.done(insn)
    }

    /// The time-stamp counter as this vCPU sees it.
    pub(crate) fn tsc(&self) -> u64 {
        self.env.tsc().wrapping_add(self.cpu.tsc_offset)
    }

    /// RDTSC, and RDTSCP (`with_aux`).
    pub(crate) fn rdtsc(&mut self, insn: &Instruction, with_aux: bool) -> Routed {
        if self.tsc_disabled() {
            return Err(Exception::gp(0));
        }
        let tsc = self.tsc();
        self.set_edx_eax(tsc);
        if with_aux {
            self.cpu.gpr[gpr::RCX] = self.cpu.msrs.tsc_aux & 0xffff_ffff;
        }
        self.done(insn)
    }

    pub(crate) fn rdpid(&mut self, insn: &Instruction) -> Routed {
        if self.cpuid(7, 0)[2] & (1 << 22) == 0 {
            return Err(Exception::UD);
        }
        let aux = self.cpu.msrs.tsc_aux & 0xffff_ffff;
        write(self.cpu, insn.op0_register(), aux);
        self.done(insn)
    }

    pub(crate) fn execute_rdmsr(&mut self, insn: &Instruction) -> Routed {
        self.privileged()?;
        let msr = self.cpu.gpr[gpr::RCX] as u32;
        let value = self.read_msr(msr)?;
        self.set_edx_eax(value);
        self.done(insn)
    }

    pub(crate) fn execute_wrmsr(&mut self, insn: &Instruction) -> Routed {
        self.privileged()?;
        let msr = self.cpu.gpr[gpr::RCX] as u32;
        let value = self.edx_eax();
        self.write_msr(msr, value)?;
        self.done(insn)
    }

    /// INVD, WBINVD, WBNOINVD: guest memory is coherent with every cache there is.
    pub(crate) fn flush_caches(&mut self, insn: &Instruction) -> Routed {
        self.privileged()?;
        self.done(insn)
    }

    pub(crate) fn invlpg(&mut self, insn: &Instruction) -> Routed {
        self.privileged()?;
        let (offset, _) = effective_address(self.cpu, insn);
        let segment = self.cpu.segment(memory_segment(insn));
        let linear = if self.mode() != Mode::Long64 {
            segment.base.wrapping_add(offset) & 0xffff_ffff
        } else if memory_segment(insn) as usize >= 4 {
            segment.base.wrapping_add(offset)
        } else {
            offset
        };
        // An address that is not canonical has no translation, and is no fault here.
        if self.canonical(linear) {
            self.effects.invalidate(Invalidation::Page { linear });
        }
        self.done(insn)
    }

    /// RDPMC: there are no counters to name.
    pub(crate) fn rdpmc(&mut self) -> Routed {
        Err(Exception::gp(0))
    }
}
