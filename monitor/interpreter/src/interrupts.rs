//! INT n, INT3, INTO, INT1 and HLT (SDM vol. 2; virtual-8086 extensions: vol. 3 ch. 20.3).

use iced_x86::Instruction;
use vcpu::{Activity, Environment};
use x86::debug::dr6;
use x86::{Cr4, Exception, Mode, Rflags, SegmentRegister};

use crate::deliver::Entrance;
use crate::memory::Level;
use crate::stack::Frame;
use crate::{Context, Outcome, Routed};

impl<E: Environment + ?Sized> Context<'_, E> {
    /// Enters a handler from an instruction, with the address after it as the return address.
    fn enter_from(&mut self, insn: &Instruction, vector: u8, software: bool) -> Routed {
        let rip = self.next_rip(insn);
        self.enter(Entrance { vector, error_code: None, software, rip, resume: false })?;
        // The handler starts with TF clear, and no step is reported before its first instruction.
        self.effects.debug_trap &= !dr6::BS;
        Ok(Outcome::Done)
    }

    /// INT n.
    pub(crate) fn int(&mut self, insn: &Instruction) -> Routed {
        let vector = insn.immediate8();
        if self.mode() == Mode::Virtual8086 {
            let extended = self.cpu.cr4.contains(Cr4::VME);
            if extended && !self.is_reflected(vector)? {
                return self.int_virtual(insn, vector);
            }
            if self.cpu.rflags.iopl() < 3 {
                return Err(Exception::gp(0));
            }
        }
        self.enter_from(insn, vector, true)
    }

    /// The bit of the interrupt redirection map: set, the interrupt goes to the protected-mode handler.
    fn is_reflected(&mut self, vector: u8) -> Result<bool, Exception> {
        let tr = self.cpu.tr;
        if tr.kind() & 8 == 0 || tr.limit < 103 {
            return Err(Exception::gp(0));
        }
        let map = self.read_value(self.table_address(tr.base, 102), 2, Level::SYSTEM)?;
        // The redirection map is the 32 bytes before the I/O permission map.
        let at = (map + u64::from(vector / 8)).wrapping_sub(32);
        if at > u64::from(tr.limit) {
            return Err(Exception::gp(0));
        }
        let byte = self.read_value(self.table_address(tr.base, at), 1, Level::SYSTEM)?;
        Ok(byte >> (vector % 8) & 1 != 0)
    }

    /// INT n that stays in virtual-8086 mode, through the program's own vector table at linear 0.
    fn int_virtual(&mut self, insn: &Instruction, vector: u8) -> Routed {
        let target = self.read_value(u64::from(vector) * 4, 4, self.level())?;
        let direct = self.cpu.rflags.iopl() == 3;
        let mut image = self.cpu.rflags;
        if !direct {
            image.set(Rflags::IF, image.contains(Rflags::VIF));
            image.insert(Rflags::IOPL);
        }
        let mut frame = Frame::new();
        frame.push(2, image.bits());
        frame.push(2, self.cpu.segment(SegmentRegister::Cs).selector.into());
        frame.push(2, self.next_rip(insn));
        self.push_frame(&frame)?;
        let flag = if direct { Rflags::IF } else { Rflags::VIF };
        self.cpu.rflags.remove(flag | Rflags::TF);
        let selector = (target >> 16) as u16;
        let cs = self.cpu.segment_mut(SegmentRegister::Cs);
        cs.selector = selector;
        cs.base = u64::from(selector) << 4;
        self.effects.debug_trap = 0;
        self.go(target & 0xffff)
    }

    pub(crate) fn int3(&mut self, insn: &Instruction) -> Routed {
        self.enter_from(insn, 3, true)
    }

    /// INT1 counts as the processor's own doing: the gate's DPL is not checked.
    pub(crate) fn int1(&mut self, insn: &Instruction) -> Routed {
        self.enter_from(insn, 1, false)
    }

    pub(crate) fn into(&mut self, insn: &Instruction) -> Routed {
        if self.mode() == Mode::Long64 {
            return Err(Exception::UD);
        }
        if self.cpu.rflags.contains(Rflags::OF) {
            return self.enter_from(insn, 4, true);
        }
        self.done(insn)
    }

    pub(crate) fn hlt(&mut self, insn: &Instruction) -> Routed {
        self.privileged()?;
        // Ends a shadow, too: in STI; HLT an interrupt that waits is taken here.
        self.done(insn)?;
        self.cpu.activity = Activity::Halted;
        Ok(Outcome::Halt)
    }
}
