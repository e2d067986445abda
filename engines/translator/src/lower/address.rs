//! Memory operands: from a guest effective address to a checked host address.

use iced_x86::{Instruction, OpKind, Register};
use x86::SegmentRegister;

use super::encode::{displace, rebase};
use super::group::Role;
use super::page::Extent;
use super::saved::Saved;
use super::{Lowering, NoLowering};
use crate::access::Operands;
use crate::context::ContextField as F;
use crate::decode::GuestInsn;
use crate::emit::{Cond, Fixup, Mem, Op, Reg};
use crate::hint;
use crate::regs::{SPILLED, full, is_high_byte, is_spilled, number};

const CS: u8 = SegmentRegister::Cs as u8;
const DS: u8 = SegmentRegister::Ds as u8;

/// Where host code finds bytes that have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At the address in this register.
    At(Reg),
    /// At the guest's address, which has no index, and the delta in this register beyond.
    Beyond { guest: Mem, delta: Reg },
}

impl Place {
    pub(super) fn mem(self) -> Mem {
        match self {
            Self::At(reg) => Mem::base(reg),
            Self::Beyond { guest, delta } => Mem { index: Some((delta, 1)), ..guest },
        }
    }

    /// The registers that it is made of.
    pub(super) fn registers(self) -> Vec<Reg> {
        let mem = self.mem();
        mem.base.into_iter().chain(mem.index.map(|(reg, _)| reg)).collect()
    }
}

/// The three scratch registers in the order a check uses them: address, table index, rax.
pub(super) type Scratch = [Reg; 3];

impl Lowering<'_> {
    /// Scratch registers for an instruction, the first of them none of its operands; those first that hold nothing.
    pub(super) fn scratch(&self, operands: Operands) -> Result<Scratch, NoLowering> {
        let mut s = SPILLED;
        s.sort_by_key(|reg| self.held.is_used(*reg));
        let first = s.iter().position(|reg| !operands.uses(*reg)).ok_or(NoLowering)?;
        s[..=first].rotate_right(1);
        Ok(s)
    }

    /// A scratch register that none of these is, preferably one that holds nothing. It does not any more.
    pub(super) fn spare(&mut self, taken: &[Reg]) -> Result<Reg, NoLowering> {
        let free = || SPILLED.into_iter().filter(|reg| !taken.contains(reg));
        let unused = free().find(|reg| !self.held.is_used(*reg));
        let reg = unused.or_else(|| free().next()).ok_or(NoLowering)?;
        self.held.lose(reg);
        Ok(reg)
    }

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
        let guest = self.simple(insn, operand)?;
        let taken = self.taken(insn, guest);
        let delta = match self.held.delta(hint).filter(|reg| !taken.contains(reg)) {
            Some(reg) => reg,
            None => {
                let reg = self.spare(&taken)?;
                self.e.op_ctx(Op::Load, true, reg, F::HintDelta(hint));
                self.held.add_delta(reg, hint);
                reg
            }
        };
        Ok(Place::Beyond { guest, delta })
    }

    fn checked_place(
        &mut self,
        insn: &GuestInsn,
        operand: Mem,
        extent: Extent,
        role: Role,
    ) -> Result<Place, NoLowering> {
        let view = self.frame.mode.view();
        let (group, low, extent) = match role {
            Role::Leads(n) => {
                let group = self.plan.group(n);
                (Some(n), group.low, Extent { size: group.span, write: group.write })
            }
            _ => (None, 0, extent),
        };
        let physical = self.frame.physical.wrapping_add(u64::from(insn.offset));
        let hint = match operand.index.is_none() && operand.base == Some(Reg::RSP) {
            true => Some(hint::of_stack(view, extent.write)),
            false => self.hints.assign(view, extent.write, physical),
        };
        let crowded = match operand.index {
            Some(_) => insn.operands.spilled() > 1,
            None => self.taken(insn, operand).len() > 2,
        };
        let Some(hint) = hint.filter(|_| !crowded) else {
            return self.by_address(insn, operand, extent);
        };
        let guest = self.simple(insn, operand)?;
        let delta = self.spare(&self.taken(insn, guest))?;
        let first = Mem { disp: guest.disp.wrapping_add(low), ..guest };
        match first.disp {
            0 => self.e.mov(delta, guest.base.unwrap_or(delta)),
            _ => self.e.lea(true, delta, first),
        }
        let saved = match insn.live_before {
            0 => Saved::Dead,
            live => {
                let taken: Vec<_> = guest.base.into_iter().chain([delta]).collect();
                let rax = self.spare(&taken)?;
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
        Ok(Place::Beyond { guest, delta })
    }

    /// An operand without index, whose registers are in their places: the same, or its address in a scratch register.
    fn simple(&mut self, insn: &GuestInsn, operand: Mem) -> Result<Mem, NoLowering> {
        let index = operand.index.map(|(reg, _)| reg);
        for reg in [operand.base, index].into_iter().flatten().filter(|reg| is_spilled(*reg)) {
            self.load_spilled(reg);
        }
        if index.is_none() {
            return Ok(operand);
        }
        let to = self.scratch(insn.operands)?[0];
        self.held.lose(to);
        self.e.lea(true, to, operand);
        Ok(Mem::base(to))
    }

    /// Scratch registers that an instruction needs itself.
    fn taken(&self, insn: &GuestInsn, operand: Mem) -> Vec<Reg> {
        let index = operand.index.map(|(reg, _)| reg);
        let uses = |reg: &Reg| insn.operands.uses(*reg) || operand.base == Some(*reg) || index == Some(*reg);
        SPILLED.into_iter().filter(uses).collect()
    }

    /// The same by computing the address first.
    fn by_address(&mut self, insn: &GuestInsn, operand: Mem, extent: Extent) -> Result<Place, NoLowering> {
        let s = self.scratch(insn.operands)?;
        let index = operand.index.map(|(reg, _)| reg);
        for reg in [operand.base, index].into_iter().flatten().filter(|reg| is_spilled(*reg)) {
            self.load_spilled(reg);
        }
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
        let high = (0..host.op_count()).any(|n| is_high_byte(host.op_register(n)));
        if !high {
            match place {
                Place::At(reg) => rebase(&mut host, full(reg)),
                Place::Beyond { guest, delta } => displace(&mut host, guest, full(delta)),
            }
            return self.encode(&host);
        }
        // ah, ch, dh and bh cannot be named beside r9: lend the address a register that needs no REX.
        let lent = [Reg::RBX, Reg::RSI, Reg::RDI, Reg::RCX, Reg::RDX, Reg::RAX]
            .into_iter()
            .find(|reg| (0..host.op_count()).all(|n| number(host.op_register(n)) != Some(*reg)))
            .ok_or(NoLowering)?;
        let keep = self.spare(&place.registers())?;
        self.e.mov(keep, lent);
        self.e.lea(true, lent, place.mem());
        rebase(&mut host, full(lent));
        self.encode(&host)?;
        self.e.mov(lent, keep);
        Ok(())
    }

    /// The effective address (before segmentation) of an explicit memory operand into `to`.
    pub(super) fn effective_address(&mut self, i: &Instruction, to: Reg) -> Result<(), NoLowering> {
        let (base, index) = (i.memory_base(), i.memory_index());
        let disp = i.memory_displacement64();
        if index.is_vector_register() {
            return Err(NoLowering);
        }
        let by_rip = matches!(base, Register::RIP | Register::EIP);
        if by_rip && self.frame.page.is_some() {
            self.held.lose(to);
            self.rip_into(to, disp);
            if base == Register::EIP {
                self.e.mov32(to, to);
            }
            return Ok(());
        }
        if by_rip || base == Register::None && index == Register::None {
            let disp = if base == Register::EIP { disp & 0xffff_ffff } else { disp };
            self.held.lose(to);
            self.e.mov_imm(to, disp);
            return Ok(());
        }
        let base_reg = number(base);
        let index_reg = number(index);
        for reg in [base_reg, index_reg].into_iter().flatten() {
            if is_spilled(reg) {
                self.load_spilled(reg);
            }
        }
        self.held.lose(to);
        let size = base.size().max(index.size());
        let mem = Mem {
            base: base_reg,
            index: index_reg.map(|reg| (reg, i.memory_index_scale() as u8)),
            disp: disp as i32,
        };
        self.e.lea(size == 8, to, mem);
        if size == 2 {
            self.e.movzx16(to, to);
        }
        Ok(())
    }

    /// From the effective address in `s[0]` to a host address there, or out to the slow path.
    pub(super) fn check_segment_and_page(
        &mut self,
        insn: &GuestInsn,
        segment: u8,
        s: Scratch,
        extent: Extent,
    ) {
        self.held.lose(s[0]);
        self.held.lose(s[1]);
        if let Some(buffer) = self.frame.bounce {
            self.e.mov_imm(s[0], buffer);
            return;
        }
        let saved = self.save_flags(insn.live_before, s[2]);
        let limit = self.segment(segment, s, extent);
        let physical = self.frame.physical.wrapping_add(u64::from(insn.offset));
        let view = self.frame.mode.view();
        let hint = match by_stack_pointer(&insn.instruction) {
            true => Some(hint::of_stack(view, extent.write)),
            false => self.hints.assign(view, extent.write, physical),
        };
        let miss = match hint {
            Some(hint) => {
                self.e.mov(s[1], s[0]);
                let stub = self.look_at_hint(hint, s[1], extent, saved, insn.offset);
                self.hint_stubs.push(stub);
                self.e.op_ctx(Op::Add, true, s[0], F::HintDelta(hint));
                None
            }
            None => Some(self.page(s, extent)),
        };
        self.restore_flags(saved);
        if limit.is_some() || miss.is_some() {
            self.slow_from([limit, miss], saved, insn.offset);
        }
    }

    /// Adds the segment's base, after its limit where it has one that matters.
    pub(super) fn segment(&mut self, segment: u8, s: Scratch, extent: Extent) -> Option<Fixup> {
        let mode = self.frame.mode;
        let Extent { size, write } = extent;
        // A flat CS may be read, but is never written.
        let read_only = segment == CS && write && !mode.is_long();
        if mode.is_flat(usize::from(segment)) && !read_only {
            return None;
        }
        let mut beyond = None;
        if !mode.is_long() {
            let end = if write { F::Writable(segment) } else { F::Readable(segment) };
            self.e.lea(true, s[1], Mem::at(s[0], size as i32));
            self.e.op_ctx(Op::Cmp, true, s[1], end);
            beyond = Some(self.e.jcc(Cond::Above));
        }
        self.e.op_ctx(Op::Load, true, s[1], F::Base(segment));
        self.e.lea(mode.is_long(), s[0], Mem { base: Some(s[0]), index: Some((s[1], 1)), disp: 0 });
        beyond
    }
}

/// The number of the segment register an explicit memory operand uses.
pub(super) fn segment_of(i: &Instruction) -> u8 {
    i.memory_segment().number() as u8
}

/// Whether this is a stack instruction, or its operand is addressed by the stack pointer alone.
fn by_stack_pointer(i: &Instruction) -> bool {
    let memory = i.op_kinds().any(|kind| kind == OpKind::Memory);
    match memory {
        true => {
            i.memory_index() == Register::None && matches!(i.memory_base(), Register::RSP | Register::ESP)
        }
        false => true,
    }
}
