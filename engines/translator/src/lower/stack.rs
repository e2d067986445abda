//! Push, pop, leave and the stack halves of call and return. The stack pointer moves after the access, so that
//! a fault finds it unchanged.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86::SegmentRegister;

use super::address::segment_of;
use super::page::{Extent, Place};
use super::{Lowering, NoLowering};
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
        match i.op0_kind() {
            OpKind::Register => {
                let reg = number(i.op0_register()).ok_or(NoLowering)?;
                let place = self.push_slot(insn, width)?;
                self.load_operands(insn.operands);
                self.store_sized(width.bytes, reg, place.mem());
            }
            OpKind::Memory => {
                let extent = Extent { size: width.bytes.into(), write: false };
                self.held.clear();
                self.effective_address(i, SPILLED[0])?;
                self.check_segment_and_page(insn, segment_of(i), SPILLED, extent);
                self.load_sized(width.bytes, Reg::R10, Mem::base(SPILLED[0]));
                self.e.op_ctx(Op::Store, true, Reg::R10, F::Carried);
                let place = self.push_slot(insn, width)?;
                let value = self.spare(|reg| place.registers().contains(reg))?;
                self.e.op_ctx(Op::Load, true, value, F::Carried);
                self.store_sized(width.bytes, value, place.mem());
            }
            _ => {
                let place = self.push_slot(insn, width)?;
                self.store_immediate(width, place, i.immediate(0))?;
            }
        }
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
        let place = self.pop_slot(insn, width)?;
        if reg == Reg::RSP {
            // The popped value wins over the increment; 16-bit forms merge into the incremented pointer.
            self.held.lose(Reg::R10);
            self.load_sized(width.bytes, Reg::R10, place.mem());
            self.move_stack_pointer(width, i64::from(width.bytes));
            self.copy_sized(width.bytes, Reg::RSP, Reg::R10);
            return Ok(());
        }
        if is_spilled(reg) && width.bytes == 2 {
            self.load_spilled(reg);
        }
        self.load_sized(width.bytes, reg, place.mem());
        if is_spilled(reg) {
            self.store_spilled(reg);
        }
        self.move_stack_pointer(width, i64::from(width.bytes));
        Ok(())
    }

    /// The destination's address is computed with the stack pointer already raised (SDM, POP).
    fn pop_to_memory(&mut self, insn: &GuestInsn, width: Width) -> Result<(), NoLowering> {
        let i = &insn.instruction;
        let extent = Extent { size: width.bytes.into(), write: true };
        self.held.clear();
        let place = self.pop_slot(insn, width)?;
        self.load_sized(width.bytes, Reg::R10, place.mem());
        self.e.op_ctx(Op::Store, true, Reg::R10, F::Carried);
        let mut raised = *i;
        if matches!(i.memory_base(), Register::RSP | Register::ESP) {
            let disp = i.memory_displacement64().wrapping_add(u64::from(width.bytes));
            raised.set_memory_displacement64(disp);
        }
        self.effective_address(&raised, SPILLED[0])?;
        self.check_segment_and_page(insn, segment_of(i), SPILLED, extent);
        self.held.clear();
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
        let extent = Extent { size: width.bytes.into(), write: false };
        self.held.clear();
        self.stack_address(Mem::base(Reg::RBP), SPILLED[0], width.pointer);
        self.check_segment_and_page(insn, SS, SPILLED, extent);
        self.load_sized(width.bytes, Reg::R10, Mem::base(SPILLED[0]));
        self.set_stack_pointer(width.pointer, Mem::at(Reg::RBP, i32::from(width.bytes)));
        self.copy_sized(width.bytes, Reg::RBP, Reg::R10);
        Ok(())
    }

    /// The checked slot that a push will write.
    pub(super) fn push_slot(&mut self, insn: &GuestInsn, width: Width) -> Result<Place, NoLowering> {
        self.slot(insn, width, -i32::from(width.bytes), true)
    }

    /// The checked slot that a pop will read.
    pub(super) fn pop_slot(&mut self, insn: &GuestInsn, width: Width) -> Result<Place, NoLowering> {
        self.slot(insn, width, 0, false)
    }

    fn slot(&mut self, insn: &GuestInsn, width: Width, disp: i32, write: bool) -> Result<Place, NoLowering> {
        let extent = Extent { size: width.bytes.into(), write };
        let slot = Mem::at(Reg::RSP, disp);
        if self.frame.mode.is_long() {
            return self.place(insn, slot, extent);
        }
        self.held.clear();
        let s = self.scratch(insn.operands)?;
        self.stack_address(slot, s[0], width.pointer);
        self.check_segment_and_page(insn, SS, s, extent);
        Ok(Place::At(s[0]))
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
            self.held.lose(Reg::R11);
            self.e.lea(false, Reg::R11, mem);
            self.e.mov16(Reg::RSP, Reg::R11);
        } else {
            self.e.lea(pointer == 64, Reg::RSP, mem);
        }
    }

    pub(super) fn store_immediate(
        &mut self,
        width: Width,
        place: Place,
        value: u64,
    ) -> Result<(), NoLowering> {
        match width.bytes {
            8 if i32::try_from(value as i64).is_err() => {
                let temp = self.spare(|reg| place.registers().contains(reg))?;
                self.e.mov_imm(temp, value);
                self.e.op_mem(Op::Store, true, temp, place.mem());
            }
            bytes => self.e.store_imm(bytes, place.mem(), value as i32),
        }
        Ok(())
    }

    pub(super) fn store_sized(&mut self, bytes: u8, reg: Reg, mem: Mem) {
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
