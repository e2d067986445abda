//! Push, pop, leave and the stack halves of call and return. The stack pointer moves after the access, so that
//! a fault finds it unchanged.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86::SegmentRegister;

use super::address::{Scratch, segment_of};
use super::{Lowering, NoLowering};
use crate::access::Operands;
use crate::context::ContextField as F;
use crate::decode::GuestInsn;
use crate::emit::{Mem, Op, Reg};
use crate::mode::ModeWord;
use crate::regs::{SPILLED, is_spilled, number};

const SS: u8 = SegmentRegister::Ss as u8;

/// Widths of one stack operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Width {
    /// Bytes of the operand: 2, 4 or 8.
    pub bytes: u8,
    /// Bits of the stack pointer that count: 16, 32 or 64.
    pub pointer: u32,
}

impl Width {
    /// The width of a push, pop, call or return.
    pub fn of(i: &Instruction, mode: ModeWord) -> Result<Self, NoLowering> {
        let moved = match (i.mnemonic(), i.op0_kind()) {
            (Mnemonic::Ret, OpKind::Immediate16) => i.stack_pointer_increment() - i32::from(i.immediate16()),
            _ => i.stack_pointer_increment(),
        };
        let bytes = u8::try_from(moved.unsigned_abs()).map_err(|_| NoLowering)?;
        if !matches!(bytes, 2 | 4 | 8) {
            return Err(NoLowering);
        }
        Ok(Self { bytes, pointer: mode.stack_bits() })
    }
}

impl Lowering<'_> {
    /// Lowers a stack instruction; `false` if this is none.
    pub(super) fn stack(&mut self, insn: &GuestInsn) -> Result<bool, NoLowering> {
        let i = &insn.instruction;
        match i.mnemonic() {
            Mnemonic::Push => self.push(insn)?,
            Mnemonic::Pop => self.pop(insn)?,
            Mnemonic::Leave => self.leave_frame(insn)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn push(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        let i = &insn.instruction;
        let width = Width::of(i, self.frame.mode)?;
        let slot = match i.op0_kind() {
            OpKind::Register => {
                let reg = number(i.op0_register()).ok_or(NoLowering)?;
                let s = self.push_slot(insn, width, insn.operands)?;
                self.load_operands(insn.operands);
                self.store_sized(width.bytes, reg, Mem::base(s[0]));
                s
            }
            OpKind::Memory => {
                self.effective_address(i, SPILLED[0])?;
                self.check_segment_and_page(insn, segment_of(i), SPILLED, u32::from(width.bytes), false);
                self.load_sized(width.bytes, Reg::R10, Mem::base(SPILLED[0]));
                self.e.op_ctx(Op::Store, true, Reg::R10, F::Carried);
                let s = self.push_slot(insn, width, Operands::NONE)?;
                self.e.op_ctx(Op::Load, true, Reg::R10, F::Carried);
                self.store_sized(width.bytes, Reg::R10, Mem::base(s[0]));
                s
            }
            _ => {
                let s = self.push_slot(insn, width, Operands::NONE)?;
                self.store_immediate(width, s, i.immediate(0));
                s
            }
        };
        debug_assert!(is_spilled(slot[0]));
        self.move_stack_pointer(width, -i64::from(width.bytes));
        Ok(())
    }

    fn pop(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        let i = &insn.instruction;
        let width = Width::of(i, self.frame.mode)?;
        if i.op0_kind() == OpKind::Memory {
            return self.pop_to_memory(insn, width);
        }
        let reg = number(i.op0_register()).ok_or(NoLowering)?;
        let s = self.pop_slot(insn, width, insn.operands)?;
        if reg == Reg::RSP {
            // The popped value wins over the increment; 16-bit forms merge into the incremented pointer.
            self.load_sized(width.bytes, SPILLED[1], Mem::base(s[0]));
            self.move_stack_pointer(width, i64::from(width.bytes));
            self.copy_sized(width.bytes, Reg::RSP, SPILLED[1]);
            return Ok(());
        }
        if is_spilled(reg) && width.bytes == 2 {
            self.e.op_ctx(Op::Load, true, reg, F::Gpr(reg.0));
        }
        self.load_sized(width.bytes, reg, Mem::base(s[0]));
        if is_spilled(reg) {
            self.e.op_ctx(Op::Store, true, reg, F::Gpr(reg.0));
        }
        self.move_stack_pointer(width, i64::from(width.bytes));
        Ok(())
    }

    /// The destination's address is computed with the stack pointer already raised (SDM, POP).
    fn pop_to_memory(&mut self, insn: &GuestInsn, width: Width) -> Result<(), NoLowering> {
        let i = &insn.instruction;
        let s = self.pop_slot(insn, width, Operands::NONE)?;
        self.load_sized(width.bytes, Reg::R10, Mem::base(s[0]));
        self.e.op_ctx(Op::Store, true, Reg::R10, F::Carried);
        let mut raised = *i;
        if matches!(i.memory_base(), Register::RSP | Register::ESP) {
            let disp = i.memory_displacement64().wrapping_add(u64::from(width.bytes));
            raised.set_memory_displacement64(disp);
        }
        self.effective_address(&raised, SPILLED[0])?;
        self.check_segment_and_page(insn, segment_of(i), SPILLED, u32::from(width.bytes), true);
        self.e.op_ctx(Op::Load, true, Reg::R10, F::Carried);
        self.store_sized(width.bytes, Reg::R10, Mem::base(SPILLED[0]));
        self.move_stack_pointer(width, i64::from(width.bytes));
        Ok(())
    }

    fn leave_frame(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        let width = Width {
            bytes: match insn.instruction.code() {
                iced_x86::Code::Leavew => 2,
                iced_x86::Code::Leaved => 4,
                _ => 8,
            },
            pointer: self.frame.mode.stack_bits(),
        };
        self.stack_address(Mem::base(Reg::RBP), SPILLED[0], width.pointer);
        self.check_segment_and_page(insn, SS, SPILLED, u32::from(width.bytes), false);
        self.load_sized(width.bytes, Reg::R10, Mem::base(SPILLED[0]));
        self.set_stack_pointer(width.pointer, Mem::at(Reg::RBP, i32::from(width.bytes)));
        self.copy_sized(width.bytes, Reg::RBP, Reg::R10);
        Ok(())
    }

    /// Checked host address of the slot a push will write.
    pub(super) fn push_slot(
        &mut self,
        insn: &GuestInsn,
        width: Width,
        operands: Operands,
    ) -> Result<Scratch, NoLowering> {
        self.slot(insn, width, operands, -i32::from(width.bytes), true)
    }

    /// Checked host address of the slot a pop will read.
    pub(super) fn pop_slot(
        &mut self,
        insn: &GuestInsn,
        width: Width,
        operands: Operands,
    ) -> Result<Scratch, NoLowering> {
        self.slot(insn, width, operands, 0, false)
    }

    fn slot(
        &mut self,
        insn: &GuestInsn,
        width: Width,
        operands: Operands,
        disp: i32,
        write: bool,
    ) -> Result<Scratch, NoLowering> {
        self.held.clear();
        let s = self.scratch(operands)?;
        self.stack_address(Mem::at(Reg::RSP, disp), s[0], width.pointer);
        self.check_segment_and_page(insn, SS, s, u32::from(width.bytes), write);
        Ok(s)
    }

    fn stack_address(&mut self, mem: Mem, to: Reg, pointer: u32) {
        self.e.lea(pointer == 64, to, mem);
        if pointer == 16 {
            self.e.movzx16(to, to);
        }
    }

    pub(super) fn move_stack_pointer(&mut self, width: Width, by: i64) {
        self.set_stack_pointer(width.pointer, Mem::at(Reg::RSP, by as i32));
    }

    fn set_stack_pointer(&mut self, pointer: u32, mem: Mem) {
        if pointer == 16 {
            self.e.lea(false, Reg::R11, mem);
            self.e.mov16(Reg::RSP, Reg::R11);
        } else {
            self.e.lea(pointer == 64, Reg::RSP, mem);
        }
    }

    pub(super) fn store_immediate(&mut self, width: Width, s: Scratch, value: u64) {
        let mem = Mem::base(s[0]);
        match width.bytes {
            8 if i32::try_from(value as i64).is_err() => {
                self.e.mov_imm(s[1], value);
                self.e.op_mem(Op::Store, true, s[1], mem);
            }
            bytes => self.e.store_imm(bytes, mem, value as i32),
        }
    }

    fn store_sized(&mut self, bytes: u8, reg: Reg, mem: Mem) {
        if bytes == 2 {
            self.e.bytes(&[0x66]);
        }
        self.e.op_mem(Op::Store, bytes == 8, reg, mem);
    }

    fn load_sized(&mut self, bytes: u8, reg: Reg, mem: Mem) {
        if bytes == 2 {
            self.e.bytes(&[0x66]);
        }
        self.e.op_mem(Op::Load, bytes == 8, reg, mem);
    }

    fn copy_sized(&mut self, bytes: u8, to: Reg, from: Reg) {
        match bytes {
            2 => self.e.mov16(to, from),
            4 => self.e.mov32(to, from),
            _ => self.e.mov(to, from),
        }
    }
}
