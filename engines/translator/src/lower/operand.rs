//! Operands in memory: from what an instruction names to a place where the host finds it, by itself or in a group.

use iced_x86::{Instruction, Register};
use x86::SegmentRegister;

use super::address::segment_of;
use super::encode::{displace, rebase};
use super::group::{Role, leaves_room};
use super::page::{Extent, Place};
use super::saved::Saved;
use super::{Lowering, NoLowering};
use crate::context::ContextField as F;
use crate::decode::GuestInsn;
use crate::emit::{Mem, Op, Reg};
use crate::regs::{full, names_high_byte, number};

/// A flat one of 64-bit code.
const DS: u8 = SegmentRegister::Ds as u8;

impl Lowering<'_> {
    /// An instruction with one explicit memory operand of `size` bytes; `form` is what to execute.
    pub(super) fn with_memory(
        &mut self,
        insn: &GuestInsn,
        form: &Instruction,
        size: u32,
    ) -> Result<(), NoLowering> {
        let extent = Extent { size, write: insn.direction.writes() };
        let place = match self.plain_operand(&insn.instruction) {
            Some(operand) => self.place(insn, operand, extent)?,
            None => {
                self.held.lose_deltas();
                self.computed(insn, extent)?
            }
        };
        self.load_operands(insn.operands);
        self.execute_at(form, place)?;
        self.store_operands(insn.operands);
        Ok(())
    }

    /// An operand whose address is made of 64-bit registers alone, as host code can name it.
    fn plain_operand(&self, i: &Instruction) -> Option<Mem> {
        let plain = self.frame.bounce.is_none()
            && self.frame.mode.is_long()
            && self.frame.mode.is_flat(usize::from(segment_of(i)))
            && i.memory_base().is_gpr64()
            && (i.memory_index() == Register::None || i.memory_index().is_gpr64());
        let index = number(i.memory_index()).map(|reg| (reg, i.memory_index_scale() as u8));
        let disp = i.memory_displacement64() as i32;
        plain.then_some(Mem { base: number(i.memory_base()), index, disp })
    }

    /// Where the host finds the bytes that `operand` names, now that they have been checked, with others of the same group
    /// if there is one.
    pub(super) fn place(
        &mut self,
        insn: &GuestInsn,
        operand: Mem,
        extent: Extent,
    ) -> Result<Place, NoLowering> {
        let role = self.role();
        let led = match role {
            Role::Follows(group) => self.out.groups[usize::from(group)].hint,
            _ => None,
        };
        let Some(hint) = led else {
            self.held.lose_deltas();
            return self.checked_place(insn, operand, extent, role);
        };
        let (base, disp) = self.simple(insn, operand)?;
        let taken = |reg: &Reg| insn.operands.uses(*reg) || *reg == base;
        let delta = match self.held.delta(hint).filter(|reg| !taken(reg)) {
            Some(reg) => reg,
            None => {
                let reg = self.spare(taken)?;
                self.e.op_ctx(Op::Load, true, reg, F::HintDelta(hint));
                self.held.add_delta(reg, hint);
                reg
            }
        };
        Ok(Place::Beyond { base, disp, delta })
    }

    fn checked_place(
        &mut self,
        insn: &GuestInsn,
        operand: Mem,
        extent: Extent,
        role: Role,
    ) -> Result<Place, NoLowering> {
        let (group, low, extent) = match role {
            Role::Leads(n) => {
                let group = self.plan.group(n);
                (Some(n), group.low, Extent { size: group.span, write: group.write })
            }
            _ => (None, 0, extent),
        };
        let on_stack = operand.index.is_none() && operand.base == Some(Reg::RSP);
        let has_room = leaves_room(operand.base, operand.index.is_some(), insn.operands);
        let Some(hint) = has_room.then(|| self.hint_for(insn, on_stack, extent)).flatten() else {
            return self.by_address(insn, operand, extent);
        };
        let (base, disp) = self.simple(insn, operand)?;
        let delta = self.spare(|reg| insn.operands.uses(*reg) || *reg == base)?;
        match disp.wrapping_add(low) {
            0 => self.e.mov(delta, base),
            first => self.e.lea(true, delta, Mem::at(base, first)),
        }
        let saved = match insn.live_before {
            0 => Saved::Dead,
            live => {
                let rax = self.spare(|reg| [base, delta].contains(reg))?;
                self.save_flags(live, rax)
            }
        };
        let stub = self.look_at_hint(hint, delta, extent, saved, insn.offset).leading(group);
        self.hint_stubs.push(stub);
        self.e.op_ctx(Op::Load, true, delta, F::HintDelta(hint));
        self.restore_flags(saved);
        if let Some(group) = group {
            self.out.groups[usize::from(group)].hint = Some(hint);
            self.held.add_delta(delta, hint);
        }
        Ok(Place::Beyond { base, disp, delta })
    }

    /// An operand's address as a register and a distance from it, with the registers in their places.
    fn simple(&mut self, insn: &GuestInsn, operand: Mem) -> Result<(Reg, i32), NoLowering> {
        self.load_registers(operand);
        if operand.index.is_none() {
            return Ok((operand.base.ok_or(NoLowering)?, operand.disp));
        }
        let to = self.scratch(insn.operands)?[0];
        self.held.lose(to);
        self.e.lea(true, to, operand);
        Ok((to, 0))
    }

    /// The same by computing the address first.
    fn by_address(&mut self, insn: &GuestInsn, operand: Mem, extent: Extent) -> Result<Place, NoLowering> {
        let s = self.scratch(insn.operands)?;
        self.load_registers(operand);
        self.held.lose(s[0]);
        self.e.lea(true, s[0], operand);
        self.check_segment_and_page(insn, DS, s, extent);
        Ok(Place::At(s[0]))
    }

    /// The same for any operand in memory.
    fn computed(&mut self, insn: &GuestInsn, extent: Extent) -> Result<Place, NoLowering> {
        let i = &insn.instruction;
        let s = self.scratch(insn.operands)?;
        self.effective_address(i, s[0])?;
        self.check_segment_and_page(insn, segment_of(i), s, extent);
        Ok(Place::At(s[0]))
    }

    /// `form` with its memory operand at a checked place.
    pub(super) fn execute_at(&mut self, form: &Instruction, place: Place) -> Result<(), NoLowering> {
        let mut host = *form;
        super::widen(&mut host);
        if !names_high_byte(&host) {
            match place {
                Place::At(reg) => rebase(&mut host, full(reg)),
                Place::Beyond { base, delta, .. } => displace(&mut host, full(base), full(delta)),
            }
            return self.encode(&host);
        }
        // ah, ch, dh and bh cannot be named beside r9: lend the address a register that needs no REX.
        let lent = [Reg::RBX, Reg::RSI, Reg::RDI, Reg::RCX, Reg::RDX, Reg::RAX]
            .into_iter()
            .find(|reg| (0..host.op_count()).all(|n| number(host.op_register(n)) != Some(*reg)))
            .ok_or(NoLowering)?;
        let keep = self.spare(|reg| place.registers().contains(reg))?;
        self.e.mov(keep, lent);
        self.e.lea(true, lent, place.mem());
        rebase(&mut host, full(lent));
        self.encode(&host)?;
        self.e.mov(lent, keep);
        Ok(())
    }
}
