//! Memory operands: from a guest effective address to a checked host address.

use iced_x86::{Instruction, OpKind, Register};
use x86::SegmentRegister;

use super::encode::rebase;
use super::page::Miss;
use super::{Lowering, NoLowering, SiteKind, SlowStub};
use crate::access::Operands;
use crate::context::ContextField as F;
use crate::decode::GuestInsn;
use crate::emit::{Cond, Fixup, Mem, Op, Reg};
use crate::hint;
use crate::regs::{SPILLED, full, is_high_byte, is_spilled, number};

const CS: u8 = SegmentRegister::Cs as u8;

/// Where the guest's flags and rax are during a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// Nobody reads the flags: they may be lost.
    Dead,
    /// Flags in ax; rax in this register.
    Register(Reg),
    /// Flags in `Context::jump_flags`.
    Context,
}

/// The three scratch registers in the order a check uses them: address, table index, rax.
pub(super) type Scratch = [Reg; 3];

impl Lowering<'_> {
    /// Scratch registers for an instruction, the first of them none of its operands; those first whose guest value is
    /// not there anyway.
    pub(super) fn scratch(&self, operands: Operands) -> Result<Scratch, NoLowering> {
        let mut s = SPILLED;
        s.sort_by_key(|reg| self.held.has(*reg));
        let first = s.iter().position(|reg| !operands.uses(*reg)).ok_or(NoLowering)?;
        s[..=first].rotate_right(1);
        Ok(s)
    }

    /// An instruction with one explicit memory operand of `size` bytes; `form` is what to execute.
    pub(super) fn with_memory(
        &mut self,
        insn: &GuestInsn,
        form: &Instruction,
        size: u32,
    ) -> Result<(), NoLowering> {
        let i = &insn.instruction;
        let operands = insn.operands;
        let s = self.scratch(operands)?;
        let write = insn.direction.writes();
        self.effective_address(i, s[0])?;
        self.check_segment_and_page(insn, segment_of(i), s, size, write);
        self.load_operands(operands);
        self.execute_at(form, s)?;
        self.store_operands(operands);
        Ok(())
    }

    /// `form` with its memory operand at the host address in `s[0]`.
    pub(super) fn execute_at(&mut self, form: &Instruction, s: Scratch) -> Result<(), NoLowering> {
        let mut host = *form;
        super::widen(&mut host);
        let high = (0..host.op_count()).any(|n| is_high_byte(host.op_register(n)));
        if !high {
            rebase(&mut host, full(s[0]));
            return self.encode(&host);
        }
        // ah, ch, dh and bh cannot be named beside r9: lend the address a register that needs no REX.
        let lent = [Reg::RBX, Reg::RSI, Reg::RDI, Reg::RCX, Reg::RDX, Reg::RAX]
            .into_iter()
            .find(|reg| (0..host.op_count()).all(|n| number(host.op_register(n)) != Some(*reg)))
            .ok_or(NoLowering)?;
        self.e.mov(s[1], lent);
        self.e.mov(lent, s[0]);
        rebase(&mut host, full(lent));
        self.encode(&host)?;
        self.e.mov(lent, s[1]);
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
        size: u32,
        write: bool,
    ) {
        self.held.lose(s[0]);
        self.held.lose(s[1]);
        if let Some(buffer) = self.frame.bounce {
            self.e.mov_imm(s[0], buffer);
            return;
        }
        let saved = self.save_flags(insn.live_before, s[2]);
        let limit = self.segment(segment, s, size, write);
        let physical = self.frame.physical.wrapping_add(u64::from(insn.offset));
        let hint = match by_stack_pointer(&insn.instruction) {
            true => Some(hint::of_stack(self.frame.mode.view(), write)),
            false => self.hints.assign(self.frame.mode.view(), write, physical),
        };
        let miss = match hint {
            Some(hint) => self.page_by_hint(hint, s, size, write),
            None => Miss { jump: Some(self.page(s, size, write)), refill: None },
        };
        self.restore_flags(saved);
        let fixups = [limit, miss.jump];
        let (kind, offset) = (SiteKind::Slow, insn.offset);
        self.slow.push(SlowStub { refill: miss.refill, fixups, saved, kind, offset });
    }

    /// Puts the flags by if `live`.
    pub(super) fn save_flags(&mut self, live: u8, rax_in: Reg) -> Saved {
        if live == 0 {
            return Saved::Dead;
        }
        self.held.lose(rax_in);
        self.e.mov(rax_in, Reg::RAX);
        self.e.flags_to_ax();
        Saved::Register(rax_in)
    }

    /// Brings back what [`Self::save_flags`] put by.
    pub(super) fn restore_flags(&mut self, saved: Saved) {
        match saved {
            Saved::Dead => {}
            Saved::Register(rax_in) => {
                self.e.flags_from_ax();
                self.e.mov(Reg::RAX, rax_in);
            }
            Saved::Context => self.flags_from_context(),
        }
    }

    /// Adds the segment's base, after its limit where it has one that matters.
    pub(super) fn segment(&mut self, segment: u8, s: Scratch, size: u32, write: bool) -> Option<Fixup> {
        let mode = self.frame.mode;
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
