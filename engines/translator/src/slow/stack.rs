//! Stack instructions whose slot straddles pages or is otherwise awkward, and transfers through memory.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};
use vcpu::CpuState;
use x86::register::gpr;

use super::linear::Access;
use super::{Insn, Slow, access};
use crate::access::Direction;
use crate::engine::Translator;

/// Instructions that use the stack, and jumps through memory, which no bounce can execute.
pub(super) fn is_stack(i: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(i.mnemonic(), M::Push | M::Pop | M::Leave | M::Pushfq)
        || matches!(
            i.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall | FlowControl::IndirectBranch | FlowControl::Return
        )
}

/// Instructions that never pass the software TLB, so that no retry helps.
pub(super) fn always_slow(i: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(i.mnemonic(), M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu)
        || i.memory_index().is_vector_register()
}

impl Translator {
    pub(super) fn slow_stack(&mut self, cpu: &CpuState, insn: Insn) -> Slow {
        self.try_stack(cpu, insn).unwrap_or_else(|slow| slow)
    }

    fn try_stack(&mut self, cpu: &CpuState, insn: Insn) -> Result<Slow, Slow> {
        let i = insn.instruction;
        match i.mnemonic() {
            Mnemonic::Leave => return self.leave_frame(cpu, &i),
            Mnemonic::Pop => return self.pop(cpu, insn),
            _ => {}
        }
        let mut accesses = Vec::with_capacity(2);
        if i.op_count() == 1 && i.op0_kind() == OpKind::Memory {
            let operand = self.operand_access(cpu, insn).map_err(Slow::Fault)?;
            // The operand is read, and its faults come, before the stack is looked at.
            self.pages(operand).map_err(Slow::Fault)?;
            accesses.push(operand);
        }
        let bytes = stack_bytes(&i);
        let sp = self.stack_pointer();
        let pushes = i.stack_pointer_increment() < 0;
        let pops = i.flow_control() == FlowControl::Return;
        let slot = if pushes {
            Some(self.stack_access(cpu, sp.wrapping_sub(u64::from(bytes)), bytes, Direction::Write)?)
        } else if pops {
            Some(self.stack_access(cpu, sp, bytes, Direction::Read)?)
        } else {
            None
        };
        accesses.extend(slot);
        if self.passes(&accesses, i.ip()) {
            return Ok(Slow::Retry);
        }
        let value = if let [operand, ..] = accesses[..]
            && i.op_count() == 1
            && i.op0_kind() == OpKind::Memory
        {
            self.read_linear(operand)?
        } else {
            match i.op_count() {
                1 if i.op0_kind() == OpKind::Register => self.register(i.op0_register()),
                1 if i.mnemonic() == Mnemonic::Push => i.immediate(0),
                0 if i.mnemonic() == Mnemonic::Pushfq => self.rflags().bits(),
                _ => i.near_branch_target(),
            }
        };
        let Some(slot) = slot else {
            self.code_linear(cpu, value).map_err(Slow::Fault)?;
            return Ok(Slow::Done(value));
        };
        if pops {
            let target = self.read_linear(slot)?;
            self.code_linear(cpu, target).map_err(Slow::Fault)?;
            let extra = if i.op_count() == 1 { u64::from(i.immediate16()) } else { 0 };
            self.set_stack_pointer(sp.wrapping_add(u64::from(bytes)).wrapping_add(extra));
            return Ok(Slow::Done(target));
        }
        let (stored, next) = match i.mnemonic() {
            Mnemonic::Push | Mnemonic::Pushfq => (value, i.next_ip()),
            _ => (i.next_ip(), value),
        };
        // A processor looks for the slot before it looks where the call leads.
        self.pages(slot).map_err(Slow::Fault)?;
        self.code_linear(cpu, next).map_err(Slow::Fault)?;
        self.write_linear(slot, stored)?;
        self.set_stack_pointer(sp.wrapping_sub(u64::from(bytes)));
        Ok(Slow::Done(next))
    }

    fn pop(&mut self, cpu: &CpuState, insn: Insn) -> Result<Slow, Slow> {
        let i = insn.instruction;
        let bytes = stack_bytes(&i);
        let sp = self.stack_pointer();
        let slot = self.stack_access(cpu, sp, bytes, Direction::Read)?;
        let raised = sp.wrapping_add(u64::from(bytes));
        if i.op0_kind() != OpKind::Memory {
            if self.passes(&[slot], i.ip()) {
                return Ok(Slow::Retry);
            }
            let value = self.read_linear(slot)?;
            self.set_stack_pointer(raised);
            self.set_register(i.op0_register(), value);
            return Ok(Slow::Done(i.next_ip()));
        }
        self.pages(slot).map_err(Slow::Fault)?;
        // The destination's address counts from the raised stack pointer; a fault must find it as it was.
        self.set_stack_pointer(raised);
        let operand = self.operand_access(cpu, insn);
        self.set_stack_pointer(sp);
        let operand = Access { direction: Direction::Write, ..operand.map_err(Slow::Fault)? };
        if self.passes(&[slot, operand], i.ip()) {
            return Ok(Slow::Retry);
        }
        let value = self.read_linear(slot)?;
        self.write_linear(operand, value)?;
        self.set_stack_pointer(raised);
        Ok(Slow::Done(i.next_ip()))
    }

    fn leave_frame(&mut self, cpu: &CpuState, i: &Instruction) -> Result<Slow, Slow> {
        let (frame, bytes) = match i.code() {
            iced_x86::Code::Leavew => (Register::BP, 2),
            iced_x86::Code::Leaved => (Register::EBP, 4),
            _ => (Register::RBP, 8),
        };
        let base = self.cache.region.context().gpr[gpr::RBP] & self.stack_mask();
        let slot = self.stack_access(cpu, base, bytes, Direction::Read)?;
        if self.passes(&[slot], i.ip()) {
            return Ok(Slow::Retry);
        }
        let value = self.read_linear(slot)?;
        self.set_stack_pointer(base.wrapping_add(u64::from(bytes)));
        self.set_register(frame, value);
        Ok(Slow::Done(i.next_ip()))
    }

    fn stack_access(
        &mut self,
        cpu: &CpuState,
        offset: u64,
        bytes: u32,
        direction: Direction,
    ) -> Result<Access, Slow> {
        let offset = offset & self.stack_mask();
        let linear = self.linear(cpu, Register::SS, offset, bytes, direction.writes());
        Ok(access(linear.map_err(Slow::Fault)?, bytes, direction))
    }

    fn stack_mask(&self) -> u64 {
        u64::MAX >> (64 - self.mode.stack_bits())
    }

    fn stack_pointer(&mut self) -> u64 {
        self.cache.region.context().gpr[gpr::RSP] & self.stack_mask()
    }

    fn set_stack_pointer(&mut self, value: u64) {
        let name = match self.mode.stack_bits() {
            16 => Register::SP,
            32 => Register::ESP,
            _ => Register::RSP,
        };
        self.set_register(name, value);
    }

    /// Takes back what an indirect jump, call or a return did to the stack pointer. What a call has pushed stays below
    /// it, where nobody looks.
    pub(crate) fn take_back(&mut self, i: &Instruction) {
        let moved = i.stack_pointer_increment();
        let pointer = self.stack_pointer().wrapping_sub(moved as i64 as u64);
        self.set_stack_pointer(pointer);
    }

    /// Writes a register by its iced name, as an instruction would.
    pub(super) fn set_register(&mut self, register: Register, value: u64) {
        let Some(reg) = crate::regs::number(register) else {
            return;
        };
        let slot = &mut self.cache.region.context().gpr[usize::from(reg.0)];
        *slot = match register.size() {
            1 => *slot & !0xff | value & 0xff,
            2 => *slot & !0xffff | value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }
}

/// Bytes of one stack slot of a push, pop, call or return.
fn stack_bytes(i: &Instruction) -> u32 {
    let extra = match (i.flow_control(), i.op_count()) {
        (FlowControl::Return, 1) => i32::from(i.immediate16()),
        _ => 0,
    };
    (i.stack_pointer_increment() - extra).unsigned_abs().clamp(1, 8)
}
