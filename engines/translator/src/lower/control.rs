//! Control transfers: jumps, calls, returns and loops.
//!
//! A direct transfer inside the block's linkable range is a jump that is patched once its target is
//! translated; ring 3's others go through a cell each. Every other transfer goes through the view's jump table by the guest address, with the flags in
//! the context, since the comparison that finds the target there destroys them.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};

use super::address::segment_of;
use super::page::Extent;
use super::stack::Width;
use super::{FarStub, LinkStub, Lowering, NoLowering, SiteKind};
use crate::context::ContextField as F;
use crate::decode::{GuestInsn, is_narrow};
use crate::emit::{Fixup, Mem, Op, Reg};
use crate::mode::VIEW_USER;
use crate::regs::{SPILLED, Scratch, is_spilled, number};
use crate::trampoline::{emit_jump_hash, emit_jump_to_known};

const SCRATCH: Scratch = SPILLED;

/// Where a direct jump leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Guest rip, as it counts in the block.
    pub rip: u64,
    /// Only 16 bits of it count, once it is known where the block is.
    narrow: bool,
}

impl From<u64> for Target {
    fn from(rip: u64) -> Self {
        Self { rip, narrow: false }
    }
}

impl Lowering<'_> {
    /// Lowers a conditional branch behind which the block goes on; `false` if this is none.
    pub(super) fn branch_aside(&mut self, insn: &GuestInsn) -> bool {
        let i = &insn.instruction;
        if i.flow_control() != FlowControl::ConditionalBranch || self.transfer == Some(self.count) {
            return false;
        }
        self.branch(i);
        true
    }

    fn branch(&mut self, i: &Instruction) {
        let jump = self.e.jcc_raw(i.condition_code() as u8 - 1);
        let target = self.direct_target(i);
        self.jump_from(jump, target);
    }

    /// Lowers a control transfer; `false` if this is none.
    pub(super) fn control(&mut self, insn: &GuestInsn) -> Result<bool, NoLowering> {
        let i = &insn.instruction;
        match i.mnemonic() {
            Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => self.loop_(i),
            Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => self.jump_if_rcx_zero(i),
            _ => match i.flow_control() {
                FlowControl::UnconditionalBranch => {
                    let target = self.direct_target(i);
                    self.jump(target);
                }
                FlowControl::ConditionalBranch => {
                    self.branch(i);
                    self.jump(i.next_ip());
                }
                FlowControl::Call => {
                    self.push_return_address(insn)?;
                    let target = self.direct_target(i);
                    self.jump(target);
                }
                FlowControl::IndirectBranch => {
                    self.indirect_target(insn)?;
                    self.jump_indirect(insn);
                }
                FlowControl::IndirectCall => {
                    self.indirect_target(insn)?;
                    self.e.op_ctx(Op::Store, true, Reg::R9, F::Carried);
                    self.push_return_address(insn)?;
                    self.e.op_ctx(Op::Load, true, Reg::R9, F::Carried);
                    self.jump_indirect(insn);
                }
                FlowControl::Return => self.return_(insn)?,
                FlowControl::XbeginXabortXend => self.leave_invalid(insn),
                _ => return Ok(false),
            },
        }
        Ok(true)
    }

    pub(super) fn direct_target(&self, i: &Instruction) -> Target {
        Target { rip: i.near_branch_target(), narrow: self.frame.page.is_some() && is_narrow(i) }
    }

    /// A rip as it counts in the block into a register; no flag is touched.
    pub(super) fn rip_into(&mut self, reg: Reg, rip: u64) {
        match self.frame.page {
            Some(slot) => self.e.load_and_add(reg, F::PageBase(slot), rip),
            None => self.e.mov_imm(reg, rip),
        }
    }

    /// The linear address of a guest rip.
    pub(super) fn linear_of(&self, rip: u64) -> u64 {
        self.frame.linear.wrapping_sub(self.frame.rip).wrapping_add(rip)
    }

    /// Whether a jump to this guest rip may be linked.
    pub(super) fn is_linkable(&self, target: Target) -> bool {
        let linear = self.linear_of(target.rip);
        let reach = self.frame.linkable.0..self.frame.linkable.1;
        !self.frame.mode.steps() && !target.narrow && reach.contains(&linear)
    }

    /// Goes on at a known guest rip.
    pub(super) fn jump(&mut self, target: impl Into<Target>) {
        let target = target.into();
        if self.is_linkable(target) {
            let jump = self.e.jmp();
            self.link_from(jump, target);
        } else {
            self.jump_far(target);
        }
    }

    /// Whether a jump from the instruction that is being lowered leads to itself or backwards: any loop of direct jumps has one such.
    /// Rips may count from the beginning of the page, before which they are negative.
    fn leads_back(&self, target: Target) -> bool {
        target.rip.wrapping_sub(self.rip) as i64 <= 0
    }

    fn link_from(&mut self, jump: Fixup, target: Target) {
        let (mode, backward) = (self.frame.mode, self.leads_back(target));
        self.link_stubs.push(LinkStub {
            jump: Some(jump),
            target,
            mode,
            backward,
            cell: None,
            parked: false,
        });
    }

    /// Goes on at a known guest rip to which no jump may be linked.
    pub(super) fn jump_far(&mut self, target: Target) {
        let mode = self.frame.mode;
        let has_cell = mode.view() == VIEW_USER && !mode.steps() && !target.narrow;
        let Some(cell) = has_cell.then(|| self.cells.assign(self.frame.block.part())).flatten() else {
            self.jump_through_table(target);
            return;
        };
        self.e.jmp_ctx(F::Cell(cell));
        let (cell, parked, backward) = (Some(cell), self.parked, self.leads_back(target));
        self.link_stubs.push(LinkStub { jump: None, target, mode, backward, cell, parked });
    }

    /// Lets a jump that has been emitted go on at a known guest rip.
    fn jump_from(&mut self, jump: Fixup, target: Target) {
        if self.is_linkable(target) {
            self.link_from(jump, target);
        } else {
            self.far_stubs.push(FarStub { jump, target, mode: self.frame.mode });
        }
    }

    /// Goes on at a guest rip that counts in the block by way of the table, whose slot may be known too.
    fn jump_through_table(&mut self, Target { rip, narrow }: Target) {
        self.flags_to_context();
        if self.frame.page.is_none() && !self.frame.mode.steps() {
            self.jump_to_known(rip);
            return;
        }
        self.rip_into(Reg::R9, rip);
        if narrow {
            self.e.movzx16(Reg::R9, Reg::R9);
        }
        self.jump_by_r9();
    }

    /// Goes on at a guest rip known here, with the flags in the context.
    pub(super) fn jump_to_known(&mut self, rip: u64) {
        let view = self.frame.mode.view();
        let other = emit_jump_to_known(self.e, view, rip);
        self.e.fix_to(other, self.frame.second_chance[view]);
    }

    /// Goes on at the guest rip in r9, with the flags in the context.
    pub(super) fn jump_by_r9(&mut self) {
        if self.frame.mode.steps() {
            self.e.jmp_to(self.frame.miss);
            return;
        }
        let view = self.frame.mode.view();
        let other = emit_jump_hash(self.e, view);
        self.e.fix_to(other, self.frame.second_chance[view]);
    }

    /// Goes on at the guest rip in r9. Should nothing be able to be there, this instruction is at fault.
    fn jump_indirect(&mut self, insn: &GuestInsn) {
        self.flags_to_context();
        let source = self.site(SiteKind::Indirect, insn.offset);
        if self.frame.mode.steps() {
            self.e.mov_imm(Reg::R11, source.into());
            self.e.jmp_to(self.frame.miss);
            return;
        }
        let other = emit_jump_hash(self.e, self.frame.mode.view());
        self.elsewhere = Some((other, source));
    }

    /// The target of an indirect jump or call into r9.
    fn indirect_target(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        let i = &insn.instruction;
        self.held.clear();
        if i.op0_kind() == OpKind::Memory {
            let size = i.memory_size().size() as u32;
            self.effective_address(i, SCRATCH[0])?;
            self.check_segment_and_page(insn, segment_of(i), SCRATCH, Extent { size, write: false });
            self.load_zero_extended(size, Reg::R9, Mem::base(SCRATCH[0]))
        } else {
            let register = i.op0_register();
            let reg = number(register).ok_or(NoLowering)?;
            if is_spilled(reg) {
                self.e.op_ctx(Op::Load, true, Reg::R9, F::Gpr(reg.0));
            } else {
                self.e.mov(Reg::R9, reg);
            }
            self.truncate(Reg::R9, register.size() as u32)
        }
    }

    fn truncate(&mut self, reg: Reg, size: u32) -> Result<(), NoLowering> {
        match size {
            2 => self.e.movzx16(reg, reg),
            4 => self.e.mov32(reg, reg),
            8 => {}
            _ => return Err(NoLowering),
        }
        Ok(())
    }

    fn load_zero_extended(&mut self, size: u32, reg: Reg, mem: Mem) -> Result<(), NoLowering> {
        match size {
            2 => self.e.load16(reg, mem),
            4 => self.e.op_mem(Op::Load, false, reg, mem),
            8 => self.e.op_mem(Op::Load, true, reg, mem),
            _ => return Err(NoLowering),
        }
        Ok(())
    }

    fn push_return_address(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        let width = Width::of(&insn.instruction, self.frame.mode)?;
        let place = self.push_slot(insn, width)?;
        let next = insn.instruction.next_ip();
        if self.frame.page.is_some() {
            let temp = self.spare(|reg| place.registers().contains(reg))?;
            self.rip_into(temp, next);
            self.store_sized(width.bytes, temp, place.mem());
        } else {
            self.store_immediate(width, place, next)?;
        }
        self.move_stack_pointer(width, -i64::from(width.bytes));
        Ok(())
    }

    fn return_(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        let i = &insn.instruction;
        let width = Width::of(i, self.frame.mode)?;
        let place = self.pop_slot(insn, width)?;
        self.load_zero_extended(u32::from(width.bytes), Reg::R9, place.mem())?;
        let extra = if i.op_count() == 1 { i.immediate16() } else { 0 };
        self.move_stack_pointer(width, i64::from(width.bytes) + i64::from(extra));
        self.jump_indirect(insn);
        Ok(())
    }

    /// LOOP counts down without touching a flag, so LEA does it.
    fn loop_(&mut self, i: &Instruction) {
        let bits = count_bits(i);
        let less_one = Mem::at(Reg::RCX, -1);
        match bits {
            16 => {
                self.e.lea(false, Reg::R9, less_one);
                self.e.mov16(Reg::RCX, Reg::R9);
            }
            bits => self.e.lea(bits == 64, Reg::RCX, less_one),
        }
        let done = self.branch_if_rcx_zero(bits);
        let again = match i.mnemonic() {
            Mnemonic::Loope => Some(self.e.jcc_raw(4)),
            Mnemonic::Loopne => Some(self.e.jcc_raw(5)),
            _ => None,
        };
        let target = self.direct_target(i);
        if let Some(again) = again {
            self.jump_from(again, target);
        } else {
            self.jump(target);
        }
        self.e.fix_here(done);
        self.jump(i.next_ip());
    }

    fn jump_if_rcx_zero(&mut self, i: &Instruction) {
        let zero = self.branch_if_rcx_zero(count_bits(i));
        self.jump(i.next_ip());
        self.e.fix_here(zero);
        let target = self.direct_target(i);
        self.jump(target);
    }

    /// A jump taken when the counter is zero; the flags stay.
    fn branch_if_rcx_zero(&mut self, bits: u32) -> Fixup {
        if bits == 16 {
            self.e.mov(Reg::R10, Reg::RCX);
            self.e.movzx16(Reg::RCX, Reg::RCX);
        }
        // jrcxz +2 / jmp short +5 / jmp near: only the short form exists, and stubs may be far.
        if bits == 32 {
            self.e.bytes(&[0x67]);
        }
        let restore: &[u8] = if bits == 16 { &[0x4c, 0x89, 0xd1] } else { &[] }; // mov rcx, r10
        self.e.bytes(&[0xe3, 2, 0xeb, 5 + restore.len() as u8]);
        self.e.bytes(restore);
        let zero = self.e.jmp();
        self.e.bytes(restore);
        zero
    }
}

/// LOOP and JCXZ count in the register that the address size names.
fn count_bits(i: &Instruction) -> u32 {
    use iced_x86::Code as C;
    match i.code() {
        C::Loop_rel8_16_CX
        | C::Loop_rel8_32_CX
        | C::Loope_rel8_16_CX
        | C::Loope_rel8_32_CX
        | C::Loopne_rel8_16_CX
        | C::Loopne_rel8_32_CX
        | C::Jcxz_rel8_16
        | C::Jcxz_rel8_32 => 16,
        C::Loop_rel8_64_RCX
        | C::Loope_rel8_64_RCX
        | C::Loopne_rel8_64_RCX
        | C::Loop_rel8_16_RCX
        | C::Loope_rel8_16_RCX
        | C::Loopne_rel8_16_RCX
        | C::Jrcxz_rel8_16
        | C::Jrcxz_rel8_64 => 64,
        _ => 32,
    }
}
