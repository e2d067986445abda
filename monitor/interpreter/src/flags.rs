//! CLI, STI, PUSHF, POPF, CLAC and STAC (SDM vol. 2; virtual interrupts: vol. 3 ch. 20.3 and 20.4).

use iced_x86::Instruction;
use vcpu::{Environment, Shadow};
use x86::{Cr4, Exception, Mode, Rflags};

use crate::Outcome::Done;
use crate::{Context, Routed};

/// What POPF may write at most; VM, VIF and VIP are never among it, RF is cleared.
pub(crate) const POPPED: Rflags = Rflags::STATUS
    .union(Rflags::TF)
    .union(Rflags::IF)
    .union(Rflags::DF)
    .union(Rflags::IOPL)
    .union(Rflags::NT)
    .union(Rflags::AC)
    .union(Rflags::ID);

/// The flags in the low 16 bits.
pub(crate) const LOW_WORD: Rflags = Rflags::from_bits_truncate(0xffff);

/// Which flag CLI and STI change.
enum InterruptFlag {
    Real,
    Virtual,
}

impl<E: Environment + ?Sized> Context<'_, E> {
    fn interrupt_flag(&self) -> Result<InterruptFlag, Exception> {
        let iopl = self.cpu.rflags.iopl();
        match self.mode() {
            Mode::Real => Ok(InterruptFlag::Real),
            Mode::Virtual8086 if iopl == 3 => Ok(InterruptFlag::Real),
            Mode::Virtual8086 if self.cpu.cr4.contains(Cr4::VME) => Ok(InterruptFlag::Virtual),
            Mode::Virtual8086 => Err(Exception::gp(0)),
            _ => match self.cpu.cpl() {
                cpl if cpl <= iopl => Ok(InterruptFlag::Real),
                3 if self.cpu.cr4.contains(Cr4::PVI) => Ok(InterruptFlag::Virtual),
                _ => Err(Exception::gp(0)),
            },
        }
    }

    pub(crate) fn cli(&mut self, insn: &Instruction) -> Routed {
        let flag = match self.interrupt_flag()? {
            InterruptFlag::Real => Rflags::IF,
            InterruptFlag::Virtual => Rflags::VIF,
        };
        self.cpu.rflags.remove(flag);
        self.done(insn)
    }

    pub(crate) fn sti(&mut self, insn: &Instruction) -> Routed {
        match self.interrupt_flag()? {
            InterruptFlag::Real => {
                self.done(insn)?;
                if !self.cpu.rflags.contains(Rflags::IF) {
                    self.cpu.rflags.insert(Rflags::IF);
                    self.cpu.shadow = Shadow::Sti;
                }
                Ok(Done)
            }
            InterruptFlag::Virtual if self.cpu.rflags.contains(Rflags::VIP) => Err(Exception::gp(0)),
            InterruptFlag::Virtual => {
                self.cpu.rflags.insert(Rflags::VIF);
                self.done(insn)
            }
        }
    }

    /// Whether virtual-8086 code uses its virtual interrupt flag; #GP if it may do neither.
    fn virtual_flags(&self, size: usize) -> Result<bool, Exception> {
        if self.mode() != Mode::Virtual8086 || self.cpu.rflags.iopl() == 3 {
            Ok(false)
        } else if size == 2 && self.cpu.cr4.contains(Cr4::VME) {
            Ok(true)
        } else {
            Err(Exception::gp(0))
        }
    }

    pub(crate) fn pushf(&mut self, insn: &Instruction, size: usize) -> Routed {
        let mut image = self.cpu.rflags - Rflags::VM - Rflags::RF;
        if self.virtual_flags(size)? {
            image.set(Rflags::IF, self.cpu.rflags.contains(Rflags::VIF));
            image.insert(Rflags::IOPL);
        }
        self.push(size, image.bits())?;
        self.done(insn)
    }

    pub(crate) fn popf(&mut self, insn: &Instruction, size: usize) -> Routed {
        let with_virtual = self.virtual_flags(size)?;
        let image = Rflags::from_bits_truncate(self.peek(0, size)?);
        if with_virtual {
            self.set_virtual_flags(image)?;
        } else {
            let writable = self.writable_flags(size);
            self.cpu.rflags = (self.cpu.rflags - writable) | (image & writable);
        }
        self.cpu.rflags.remove(Rflags::RF);
        self.release(size as u64);
        self.done(insn)
    }

    /// The flags that POPF and IRET may change at the present level.
    pub(crate) fn writable_flags(&self, size: usize) -> Rflags {
        let mut writable = if size == 2 { POPPED & LOW_WORD } else { POPPED };
        let (cpl, iopl) = (self.cpu.cpl(), self.cpu.rflags.iopl());
        if cpl > 0 {
            writable.remove(Rflags::IOPL);
        }
        if cpl > iopl {
            writable.remove(Rflags::IF);
        }
        writable
    }

    /// Loads 16 bits of flags in virtual-8086 mode with VME: IF goes to VIF.
    pub(crate) fn set_virtual_flags(&mut self, image: Rflags) -> Result<(), Exception> {
        let pending = self.cpu.rflags.contains(Rflags::VIP);
        if image.contains(Rflags::TF) || (pending && image.contains(Rflags::IF)) {
            return Err(Exception::gp(0));
        }
        let writable = (POPPED & LOW_WORD) - Rflags::IOPL - Rflags::IF;
        self.cpu.rflags = (self.cpu.rflags - writable) | (image & writable);
        self.cpu.rflags.set(Rflags::VIF, image.contains(Rflags::IF));
        Ok(())
    }

    /// CLAC (`set` false) and STAC.
    pub(crate) fn set_ac(&mut self, insn: &Instruction, set: bool) -> Routed {
        let offered = self.offers_smap();
        if self.mode() == Mode::Virtual8086 || self.cpu.cpl() != 0 || !offered {
            return Err(Exception::UD);
        }
        self.cpu.rflags.set(Rflags::AC, set);
        self.done(insn)
    }
}
