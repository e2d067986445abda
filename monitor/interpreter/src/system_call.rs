//! SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM vol. 2; APM vol. 3). Where the makers differ, the guest gets the way
//! of the maker that CPUID names: AMD has SYSCALL in every mode and no SYSENTER in long mode; Intel has
//! SYSCALL in 64-bit mode only.

use iced_x86::Instruction;
use vcpu::{Environment, Width};
use x86::debug::dr6;
use x86::register::gpr;
use x86::{Cr0, Efer, Exception, Mode, Rflags};

use crate::segment_check::long_mode;
use crate::{Context, Routed};

impl<E: Environment + ?Sized> Context<'_, E> {
    pub(crate) fn syscall(&mut self, insn: &Instruction) -> Routed {
        let mode = self.mode();
        let enabled = self.cpu.efer.contains(Efer::SCE) && self.cpu.cr0.contains(Cr0::PE);
        if !enabled || (mode != Mode::Long64 && !self.is_amd()) {
            return Err(Exception::UD);
        }
        let next = self.next_rip(insn);
        let star = self.cpu.msrs.star;
        let cs = (star >> 32) as u16 & !3;
        self.cpu.gpr[gpr::RCX] = next;
        let rip = if long_mode(self.cpu) {
            // The saved image has RF clear.
            self.cpu.gpr[gpr::R11] = (self.cpu.rflags - Rflags::RF).bits();
            let masked = Rflags::from_bits_truncate(self.cpu.msrs.sfmask) | Rflags::RF;
            self.cpu.rflags = (self.cpu.rflags - masked) | Rflags::FIXED;
            self.cpu.load_flat_segments(cs, cs.wrapping_add(8), Width::Long, 0);
            if mode == Mode::Long64 { self.cpu.msrs.lstar } else { self.cpu.msrs.cstar }
        } else {
            self.cpu.rflags.remove(Rflags::VM | Rflags::IF | Rflags::RF);
            self.cpu.load_flat_segments(cs, cs.wrapping_add(8), Width::Protected, 0);
            star & 0xffff_ffff
        };
        self.step_by_new_flags();
        self.go(rip)
    }

    /// Unlike other instructions these two step by the trap flag they leave, not the one they find.
    fn step_by_new_flags(&mut self) {
        self.effects.debug_trap = if self.cpu.rflags.contains(Rflags::TF) { dr6::BS } else { 0 };
    }

    /// SYSRET; `to_long`: with a 64-bit operand size, to 64-bit code.
    pub(crate) fn sysret(&mut self, to_long: bool) -> Routed {
        let mode = self.mode();
        let enabled = self.cpu.efer.contains(Efer::SCE) && self.cpu.cr0.contains(Cr0::PE);
        if !enabled || (mode != Mode::Long64 && !self.is_amd()) {
            return Err(Exception::UD);
        }
        self.privileged()?;
        let rcx = self.cpu.gpr[gpr::RCX];
        // Intel faults here, in ring 0; AMD goes to ring 3 and faults there at the fetch.
        if to_long && !self.canonical(rcx) && !self.is_amd() {
            return Err(Exception::gp(0));
        }
        let base = (self.cpu.msrs.star >> 48) as u16;
        let (cs, width, rip) = if to_long {
            (base.wrapping_add(16), Width::Long, rcx)
        } else {
            (base, Width::Protected, rcx & 0xffff_ffff)
        };
        if long_mode(self.cpu) {
            let image = Rflags::from_bits_truncate(self.cpu.gpr[gpr::R11]);
            self.cpu.rflags = (image - Rflags::RF - Rflags::VM) | Rflags::FIXED;
        } else {
            self.cpu.rflags.insert(Rflags::IF);
        }
        self.cpu.load_flat_segments(cs, base.wrapping_add(8), width, 3);
        self.step_by_new_flags();
        self.go(rip)
    }

    pub(crate) fn sysenter(&mut self) -> Routed {
        let long = long_mode(self.cpu);
        if long && self.is_amd() {
            return Err(Exception::UD);
        }
        let selector = self.cpu.msrs.sysenter_cs as u16 & !3;
        if self.mode() == Mode::Real || selector == 0 {
            return Err(Exception::gp(0));
        }
        let (esp, eip) = (self.cpu.msrs.sysenter_esp, self.cpu.msrs.sysenter_eip);
        let (width, rsp, rip) = if long {
            (Width::Long, esp, eip)
        } else {
            (Width::Protected, esp & 0xffff_ffff, eip & 0xffff_ffff)
        };
        self.cpu.rflags.remove(Rflags::VM | Rflags::IF | Rflags::RF);
        self.cpu.load_flat_segments(selector, selector.wrapping_add(8), width, 0);
        self.cpu.gpr[gpr::RSP] = rsp;
        self.go(rip)
    }

    /// SYSEXIT; `to_long`: with a 64-bit operand size, to 64-bit code.
    pub(crate) fn sysexit(&mut self, to_long: bool) -> Routed {
        if long_mode(self.cpu) && self.is_amd() {
            return Err(Exception::UD);
        }
        let base = self.cpu.msrs.sysenter_cs as u16;
        if self.mode() == Mode::Real || base & !3 == 0 {
            return Err(Exception::gp(0));
        }
        self.privileged()?;
        let (rip, rsp) = (self.cpu.gpr[gpr::RDX], self.cpu.gpr[gpr::RCX]);
        if to_long {
            if !self.canonical(rip) || !self.canonical(rsp) {
                return Err(Exception::gp(0));
            }
            let cs = base.wrapping_add(32);
            self.cpu.load_flat_segments(cs, base.wrapping_add(40), Width::Long, 3);
            self.cpu.gpr[gpr::RSP] = rsp;
            return self.go(rip);
        }
        let cs = base.wrapping_add(16);
        self.cpu.load_flat_segments(cs, base.wrapping_add(24), Width::Protected, 3);
        self.cpu.gpr[gpr::RSP] = rsp & 0xffff_ffff;
        self.go(rip & 0xffff_ffff)
    }
}
