//! Moves, pushes and pops of segment registers, loads of far pointers, FS and GS bases (SDM vol. 2).

use iced_x86::Instruction;
use vcpu::{Environment, Shadow};
use x86::{Cr4, Exception, Mode, SegmentRegister};

use crate::memory::Access;
use crate::operand::{mask, read, segment_register, width, write};
use crate::{Context, Outcome, Routed};

impl<E: Environment + ?Sized> Context<'_, E> {
    /// Finishes an instruction that has loaded a segment register: a load of SS holds interrupts off.
    fn loaded(&mut self, insn: &Instruction, register: SegmentRegister) -> Routed {
        let before = self.cpu.shadow;
        self.done(insn)?;
        // Of several loads in a row only the first is sure to hold them off.
        if register == SegmentRegister::Ss && before != Shadow::MovSs {
            self.cpu.shadow = Shadow::MovSs;
        }
        Ok(Outcome::Done)
    }

    pub(crate) fn mov_to_segment(&mut self, insn: &Instruction) -> Routed {
        let register = segment_register(insn.op0_register()).ok_or(Exception::UD)?;
        if register == SegmentRegister::Cs {
            return Err(Exception::UD);
        }
        let selector = self.read_operand(insn, 1, 2)? as u16;
        let segment = self.data_segment(register, selector)?;
        *self.cpu.segment_mut(register) = segment;
        self.loaded(insn, register)
    }

    pub(crate) fn mov_from_segment(&mut self, insn: &Instruction) -> Routed {
        let register = segment_register(insn.op1_register()).ok_or(Exception::UD)?;
        let selector = self.cpu.segment(register).selector;
        // Memory receives 16 bits whatever the operand size; a wider register is zero-extended.
        self.write_operand(insn, 0, 2, selector.into())?;
        self.done(insn)
    }

    pub(crate) fn push_segment(
        &mut self,
        insn: &Instruction,
        register: SegmentRegister,
        size: usize,
    ) -> Routed {
        let selector = u64::from(self.cpu.segment(register).selector);
        if size == 4 && !self.is_amd() {
            // The upper half of the slot stays as it is (SDM vol. 2, PUSH), and may lie where nothing can be written. AMD's
            // processors extend the selector with zeros.
            let top = self.cpu.gpr[x86::register::gpr::RSP].wrapping_sub(4) & mask(self.stack_size());
            let linear = self.linear(SegmentRegister::Ss, top, 2, Access::Write)?;
            self.write_value(linear, 2, selector, self.level())?;
            self.release(4_u64.wrapping_neg());
        } else {
            self.push(size, selector)?;
        }
        self.done(insn)
    }

    pub(crate) fn pop_segment(
        &mut self,
        insn: &Instruction,
        register: SegmentRegister,
        size: usize,
    ) -> Routed {
        if register == SegmentRegister::Cs {
            return Err(Exception::UD);
        }
        let selector = self.peek(0, size)? as u16;
        // The stack pointer moves by the width that SS had before it was loaded.
        let segment = self.data_segment(register, selector)?;
        self.release(size as u64);
        *self.cpu.segment_mut(register) = segment;
        self.loaded(insn, register)
    }

    /// LDS, LES, LFS, LGS, LSS.
    pub(crate) fn load_far_pointer(&mut self, insn: &Instruction, register: SegmentRegister) -> Routed {
        let destination = insn.op0_register();
        let size = width(destination);
        let (offset, selector) = self.far_pointer(insn, size)?;
        let segment = self.data_segment(register, selector)?;
        *self.cpu.segment_mut(register) = segment;
        write(self.cpu, destination, offset);
        self.loaded(insn, register)
    }

    /// Reads a far pointer from memory: an offset of `size` bytes, then a selector.
    pub(crate) fn far_pointer(&mut self, insn: &Instruction, size: usize) -> Result<(u64, u16), Exception> {
        let linear = self.memory_operand(insn, 0, size + 2, Access::Read)?;
        let mut bytes = [0; 10];
        self.check_alignment(linear, size, self.level())?;
        self.read_bytes(linear, &mut bytes[..size + 2], self.level())?;
        let selector = u16::from_le_bytes([bytes[size], bytes[size + 1]]);
        let mut offset = [0; 8];
        offset[..size].copy_from_slice(&bytes[..size]);
        Ok((u64::from_le_bytes(offset), selector))
    }

    pub(crate) fn swapgs(&mut self, insn: &Instruction) -> Routed {
        if self.mode() != Mode::Long64 {
            return Err(Exception::UD);
        }
        self.privileged()?;
        let gs = &mut self.cpu.segments[SegmentRegister::Gs as usize].base;
        std::mem::swap(gs, &mut self.cpu.msrs.kernel_gs_base);
        self.done(insn)
    }

    fn check_fsgsbase(&self) -> Result<(), Exception> {
        if self.mode() == Mode::Long64 && self.cpu.cr4.contains(Cr4::FSGSBASE) {
            Ok(())
        } else {
            Err(Exception::UD)
        }
    }

    /// RDFSBASE and RDGSBASE.
    pub(crate) fn read_base(&mut self, insn: &Instruction, register: SegmentRegister) -> Routed {
        self.check_fsgsbase()?;
        let base = self.cpu.segment(register).base;
        let destination = insn.op0_register();
        write(self.cpu, destination, base & mask(width(destination)));
        self.done(insn)
    }

    /// WRFSBASE and WRGSBASE.
    pub(crate) fn write_base(&mut self, insn: &Instruction, register: SegmentRegister) -> Routed {
        self.check_fsgsbase()?;
        let base = read(self.cpu, insn.op0_register());
        if !self.canonical_in_register(base) {
            return Err(Exception::gp(0));
        }
        self.cpu.segment_mut(register).base = base;
        self.done(insn)
    }
}
