//! Memory operands: from a guest effective address to a checked host address.

use iced_x86::{Instruction, OpKind, Register};
use x86::SegmentRegister;

use super::page::Extent;
use super::{Lowering, NoLowering};
use crate::access::Operands;
use crate::context::ContextField as F;
use crate::decode::GuestInsn;
use crate::emit::{Cond, Fixup, Mem, Op, Reg};
use crate::hint::{self, Reach, Roaming, Stack};
use crate::hint_table::HintId;
use crate::mode::VIEW_USER;
use crate::regs::{SPILLED, Scratch, is_spilled, names_high_byte, number};

const CS: u8 = SegmentRegister::Cs as u8;

impl Lowering<'_> {
    /// Scratch registers for an instruction, the first of them none of its operands; those first that hold nothing.
    pub(super) fn scratch(&self, operands: Operands) -> Result<Scratch, NoLowering> {
        let mut s = SPILLED;
        s.sort_by_key(|reg| self.held.is_used(*reg));
        let first = s.iter().position(|reg| !operands.uses(*reg)).ok_or(NoLowering)?;
        s[..=first].rotate_right(1);
        Ok(s)
    }

    /// A scratch register that is not taken, preferably one that holds nothing. It does not any more.
    pub(super) fn spare(&mut self, taken: impl Fn(&Reg) -> bool) -> Result<Reg, NoLowering> {
        let free = || SPILLED.into_iter().filter(|reg| !taken(reg));
        let unused = free().find(|reg| !self.held.is_used(*reg));
        let reg = unused.or_else(|| free().next()).ok_or(NoLowering)?;
        self.held.lose(reg);
        Ok(reg)
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
        let size = base.size().max(index.size());
        let mem = Mem {
            base: number(base),
            index: number(index).map(|reg| (reg, i.memory_index_scale() as u8)),
            disp: disp as i32,
        };
        self.load_registers(mem);
        self.held.lose(to);
        self.e.lea(size == 8, to, mem);
        if size == 2 {
            self.e.movzx16(to, to);
        }
        Ok(())
    }

    /// The registers of an address that live in the context into their places.
    pub(super) fn load_registers(&mut self, mem: Mem) {
        let index = mem.index.map(|(reg, _)| reg);
        for reg in [mem.base, index].into_iter().flatten().filter(|reg| is_spilled(*reg)) {
            self.load_spilled(reg);
        }
    }

    /// The hint that an instruction's access goes by, if any.
    pub(super) fn hint_for(&mut self, insn: &GuestInsn, on_stack: bool, extent: Extent) -> Option<HintId> {
        let view = self.frame.mode.view();
        let physical = self.frame.physical.wrapping_add(u64::from(insn.offset));
        // A window may be found to have no page there in the middle of the instruction's code, which must not have lent a
        // register of the guest's then.
        let reach = Reach::of(extent.size).filter(|_| !names_high_byte(&insn.instruction))?;
        match on_stack {
            true => {
                let stack = self.loaded_stack.map_or(Stack::Callers(physical), Stack::Loaded);
                Some(hint::of_stack(view, extent.write, reach, stack))
            }
            false => self.hints.assign(view, extent.write, reach, physical),
        }
    }

    /// Whether an access that has no hint asks the table of windows.
    fn goes_by_windows(&self, insn: &GuestInsn, extent: Extent) -> bool {
        let physical = self.frame.physical.wrapping_add(u64::from(insn.offset));
        self.frame.mode.view() == VIEW_USER
            && Reach::of(extent.size).is_some()
            && !names_high_byte(&insn.instruction)
            && self.hints.roaming(physical) == Some(Roaming::Windows)
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
        let (miss, detour) = match self.hint_for(insn, by_stack_pointer(&insn.instruction), extent) {
            Some(hint) => {
                self.e.mov(s[1], s[0]);
                let stub = self.look_at_hint(hint, s[1], extent, saved, insn.offset);
                self.hint_stubs.push(stub);
                self.e.op_ctx(Op::Add, true, s[0], F::HintDelta(hint));
                (None, None)
            }
            None if self.goes_by_windows(insn, extent) => {
                let stub = self.window(s, extent, saved, insn.offset);
                self.window_stubs.push(stub);
                (None, None)
            }
            None => self.page_or_walk(s, extent),
        };
        self.restore_flags(saved);
        if limit.is_some() || miss.is_some() || detour.is_some() {
            self.slow_behind(detour, [limit, miss], saved, insn.offset);
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
