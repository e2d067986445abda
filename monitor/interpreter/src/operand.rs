//! Operands of an instruction: general registers of every width, and the effective address of its memory
//! operand (SDM vol. 1 ch. 3.7).

use iced_x86::{Instruction, OpKind, Register};
use vcpu::{CpuState, Environment};
use x86::{Exception, Mode, SegmentRegister};

use crate::Context;
use crate::memory::Access;

/// The bits that a value of `size` bytes has.
pub(crate) const fn mask(size: usize) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (size * 8)) - 1 }
}

/// The index in [`CpuState::gpr`], the width in bytes and the shift of a general register.
fn place(register: Register) -> Option<(usize, usize, u32)> {
    let n = register as usize;
    let from = |first: Register| n - first as usize;
    if n >= Register::RAX as usize && n <= Register::R15 as usize {
        Some((from(Register::RAX), 8, 0))
    } else if n >= Register::EAX as usize && n <= Register::R15D as usize {
        Some((from(Register::EAX), 4, 0))
    } else if n >= Register::AX as usize && n <= Register::R15W as usize {
        Some((from(Register::AX), 2, 0))
    } else if n >= Register::SPL as usize && n <= Register::R15L as usize {
        Some((from(Register::SPL) + 4, 1, 0))
    } else if n >= Register::AH as usize && n <= Register::BH as usize {
        Some((from(Register::AH), 1, 8))
    } else if n >= Register::AL as usize && n <= Register::BL as usize {
        Some((from(Register::AL), 1, 0))
    } else {
        None
    }
}

/// Width of a general register in bytes; 0 for any other register.
pub(crate) fn width(register: Register) -> usize {
    place(register).map_or(0, |(_, width, _)| width)
}

/// Reads a general register; any other reads as zero.
pub(crate) fn read(cpu: &CpuState, register: Register) -> u64 {
    place(register).map_or(0, |(index, width, shift)| (cpu.gpr[index] >> shift) & mask(width))
}

/// Writes a general register as an instruction with this operand does: 32 bits clear the upper half, 8 and 16
/// bits leave the rest.
pub(crate) fn write(cpu: &mut CpuState, register: Register, value: u64) {
    if let Some((index, width, shift)) = place(register) {
        write_index(cpu, index, width, shift, value);
    }
}

/// Writes `width` bytes of a register given by number.
pub(crate) fn write_gpr(cpu: &mut CpuState, index: usize, width: usize, value: u64) {
    write_index(cpu, index, width, 0, value);
}

fn write_index(cpu: &mut CpuState, index: usize, width: usize, shift: u32, value: u64) {
    cpu.gpr[index] = match width {
        8 => value,
        4 => value & mask(4),
        _ => (cpu.gpr[index] & !(mask(width) << shift)) | ((value & mask(width)) << shift),
    };
}

/// The segment register that an operand names.
pub(crate) fn segment_register(register: Register) -> Option<SegmentRegister> {
    Some(match register {
        Register::ES => SegmentRegister::Es,
        Register::CS => SegmentRegister::Cs,
        Register::SS => SegmentRegister::Ss,
        Register::DS => SegmentRegister::Ds,
        Register::FS => SegmentRegister::Fs,
        Register::GS => SegmentRegister::Gs,
        _ => return None,
    })
}

/// The segment of an instruction's memory operand, override included.
pub(crate) fn memory_segment(insn: &Instruction) -> SegmentRegister {
    segment_register(insn.memory_segment()).unwrap_or(SegmentRegister::Ds)
}

/// The offset of a memory operand inside its segment, and its address size in bytes.
pub(crate) fn effective_address(cpu: &CpuState, insn: &Instruction) -> (u64, usize) {
    let base = insn.memory_base();
    let index = insn.memory_index();
    let displacement = insn.memory_displacement64();
    // The decoder has already added the instruction pointer.
    if base == Register::RIP {
        return (displacement, 8);
    }
    if base == Register::EIP {
        return (displacement & mask(4), 4);
    }
    let size = match (width(base), width(index)) {
        (0, 0) => match insn.memory_displ_size() {
            2 => 2,
            4 => 4,
            _ => 8,
        },
        (0, size) | (size, _) => size,
    };
    let offset = read(cpu, base)
        .wrapping_add(read(cpu, index).wrapping_mul(u64::from(insn.memory_index_scale())))
        .wrapping_add(displacement);
    (offset & mask(size), size)
}

impl<E: Environment + ?Sized> Context<'_, E> {
    /// The linear address of the memory operand, `size` bytes from `skip` bytes into it, checked against its
    /// segment.
    pub(crate) fn memory_operand(
        &self,
        insn: &Instruction,
        skip: u64,
        size: usize,
        access: Access,
    ) -> Result<u64, Exception> {
        let (offset, address_size) = effective_address(self.cpu, insn);
        let offset = offset.wrapping_add(skip) & mask(address_size);
        self.linear(memory_segment(insn), offset, size, access)
    }

    /// Reads an operand of `size` bytes that is a register, memory or an immediate.
    pub(crate) fn read_operand(
        &mut self,
        insn: &Instruction,
        operand: u32,
        size: usize,
    ) -> Result<u64, Exception> {
        match insn.op_kind(operand) {
            OpKind::Register => Ok(read(self.cpu, insn.op_register(operand)) & mask(size)),
            OpKind::Memory => {
                let linear = self.memory_operand(insn, 0, size, Access::Read)?;
                self.read_value(linear, size, self.level())
            }
            _ => Ok(insn.try_immediate(operand).unwrap_or(0) & mask(size)),
        }
    }

    /// Writes an operand that is memory of `size` bytes, or a register of whatever width it has.
    pub(crate) fn write_operand(
        &mut self,
        insn: &Instruction,
        operand: u32,
        size: usize,
        value: u64,
    ) -> Result<(), Exception> {
        if insn.op_kind(operand) == OpKind::Register {
            write(self.cpu, insn.op_register(operand), value);
            return Ok(());
        }
        let linear = self.memory_operand(insn, 0, size, Access::Write)?;
        self.write_value(linear, size, value, self.level())
    }

    /// Bytes of a general register that is the operand of MOV to or from a control or debug register.
    pub(crate) fn wide(&self) -> usize {
        if self.mode() == Mode::Long64 { 8 } else { 4 }
    }
}
