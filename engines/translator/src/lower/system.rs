//! Sensitive instructions that are hot enough to be done inline. The interpreter's routine stays the
//! definition; these are its special cases, chosen by the mode word so that nothing of it is tested at run time.

use x86::SegmentRegister;
use x86::classify::Routine;

use super::saved::Saved;
use super::{Lowering, SiteKind, SlowStub};
use crate::context::ContextField as F;
use crate::decode::GuestInsn;
use crate::emit::{Cond, Fixup, Op, Reg};
use crate::inlining::inlines;
use crate::lower::stack::Width;
use crate::regs::{is_spilled, number};

/// IF's place in `Context::interrupt_flag`.
const IF_SET: u32 = 2;
/// DF's place in `Context::direction_flag`.
const DF_SET: u32 = 4;

impl Lowering<'_> {
    /// Lowers a routine's instruction inline; `false` if it has to leave.
    pub(super) fn inline_routine(&mut self, insn: &GuestInsn, routine: Routine) -> bool {
        if !inlines(&insn.instruction, routine, self.frame.mode) {
            return false;
        }
        match routine {
            Routine::Nop => true,
            Routine::Cli => {
                self.set_flag(F::InterruptFlag, 0);
                true
            }
            Routine::Sti => {
                self.sti(insn);
                true
            }
            Routine::Pushf => self.pushf(insn).is_ok(),
            Routine::Xsave | Routine::Xrstor => self.special(insn).is_ok(),
            Routine::Rdtsc | Routine::Rdtscp => {
                self.read_tsc(insn, routine == Routine::Rdtscp);
                true
            }
            Routine::Rdfsbase => self.read_base(insn, SegmentRegister::Fs),
            Routine::Rdgsbase => self.read_base(insn, SegmentRegister::Gs),
            Routine::Wrfsbase => self.write_base(insn, SegmentRegister::Fs),
            Routine::Wrgsbase => self.write_base(insn, SegmentRegister::Gs),
            Routine::MovFromCr => self.read_control(insn),
            Routine::MovFromSegment => self.move_from_segment(insn),
            Routine::Stac | Routine::Clac => {
                self.set_access(insn, routine == Routine::Stac);
                true
            }
            Routine::Swapgs => {
                self.swapgs();
                true
            }
            Routine::Syscall => self.syscall(insn),
            Routine::Sysret => self.sysret(insn),
            Routine::Iret => self.iret(insn),
            _ => false,
        }
    }

    /// CLD and STD, which are innocuous but for this: the host's direction flag belongs to the host.
    pub(super) fn set_direction(&mut self, down: bool) {
        self.set_flag(F::DirectionFlag, if down { DF_SET } else { 0 });
    }

    /// Sets a flag that stands apart, without touching another.
    pub(super) fn set_flag(&mut self, field: F, value: u32) {
        self.e.raw_ctx(&[0x48, 0xc7], 0, field, &value.to_le_bytes());
    }

    /// Sets IF; if an interrupt waits for that, leaves before the next instruction, which the engine lets run
    /// alone in the shadow.
    fn sti(&mut self, insn: &GuestInsn) {
        self.set_flag(F::InterruptFlag, IF_SET);
        let saved = self.save_flags(insn.live_after, Reg::R11);
        self.e.cmp_ctx8(F::Window, 0);
        let waits = self.e.jcc(Cond::NotEqual);
        self.restore_flags(saved);
        let next = insn.offset + insn.instruction.len() as u16;
        self.slow.push(SlowStub::new([Some(waits), None], saved, SiteKind::Window, next));
    }

    /// RDTSC and RDTSCP: the host's counter and the vCPU's offset.
    fn read_tsc(&mut self, insn: &GuestInsn, with_aux: bool) {
        let live = insn.live_before != 0;
        if live {
            self.flags_to_context();
        }
        if with_aux {
            self.e.bytes(&[0x0f, 0x01, 0xf9]); // rdtscp
            self.e.op_ctx(Op::Load, false, Reg::RCX, F::TscAux);
        } else {
            self.e.bytes(&[0x0f, 0x31]); // rdtsc
        }
        self.e.shift(4, true, Reg::RDX, 32);
        self.e.op_reg(Op::Or, true, Reg::RAX, Reg::RDX);
        self.e.op_ctx(Op::Add, true, Reg::RAX, F::TscOffset);
        self.e.mov(Reg::RDX, Reg::RAX);
        self.e.shift(5, true, Reg::RDX, 32);
        self.e.mov32(Reg::RAX, Reg::RAX);
        if live {
            self.flags_from_context();
        }
    }

    /// A field of the context into the first operand, a general register of 4 or 8 bytes; `false` if it is none.
    fn load_result(&mut self, insn: &GuestInsn, field: F) -> bool {
        let register = insn.instruction.op0_register();
        let Some(to) = number(register) else { return false };
        self.e.op_ctx(Op::Load, register.size() == 8, to, field);
        if is_spilled(to) {
            self.e.op_ctx(Op::Store, true, to, F::Gpr(to.0));
        }
        true
    }

    /// MOV from CR0, CR2, CR3 and CR4.
    fn read_control(&mut self, insn: &GuestInsn) -> bool {
        self.load_result(insn, F::Control(insn.instruction.op1_register().number() as u8))
    }

    /// RDFSBASE and RDGSBASE.
    fn read_base(&mut self, insn: &GuestInsn, segment: SegmentRegister) -> bool {
        self.load_result(insn, F::Base(segment as u8))
    }

    /// WRFSBASE and WRGSBASE. An address out of four levels' reach is the routine's.
    fn write_base(&mut self, insn: &GuestInsn, segment: SegmentRegister) -> bool {
        let register = insn.instruction.op0_register();
        let Some(from) = number(register) else { return false };
        let wide = register.size() == 8;
        if is_spilled(from) {
            self.e.op_ctx(Op::Load, wide, Reg::R9, F::Gpr(from.0));
        } else {
            self.e.op_reg(Op::Load, wide, Reg::R9, from);
        }
        if wide {
            let saved = self.save_flags(insn.live_before, Reg::R11);
            let far = self.branch_beyond_four_levels(Reg::R9, Reg::R10);
            self.restore_flags(saved);
            self.slow.push(SlowStub::new([Some(far), None], saved, SiteKind::Callout, insn.offset));
        }
        self.e.op_ctx(Op::Store, true, Reg::R9, F::Base(segment as u8));
        true
    }

    /// A jump taken if an address is not canonical with page tables of four levels. Flags and `temp` are lost.
    pub(super) fn branch_beyond_four_levels(&mut self, address: Reg, temp: Reg) -> Fixup {
        self.e.mov(temp, address);
        self.e.shift(4, true, temp, 16);
        self.e.shift(7, true, temp, 16);
        self.e.op_reg(Op::Cmp, true, temp, address);
        self.e.jcc(Cond::NotEqual)
    }

    /// MOV from a segment register to a general one.
    fn move_from_segment(&mut self, insn: &GuestInsn) -> bool {
        let i = &insn.instruction;
        let selector = F::Selector(i.op1_register().number() as u8);
        let Some(to) = number(i.op0_register()) else { return false };
        if i.op0_register().size() == 2 {
            if is_spilled(to) {
                self.e.op_ctx(Op::Load, true, to, F::Gpr(to.0));
            }
            self.e.op_ctx16(to, selector);
        } else {
            self.e.op_ctx(Op::Load, false, to, selector);
        }
        if is_spilled(to) {
            self.e.op_ctx(Op::Store, true, to, F::Gpr(to.0));
        }
        true
    }

    /// PUSHFQ in ring 0: the host's status flags, the rest from the context.
    fn pushf(&mut self, insn: &GuestInsn) -> Result<(), super::NoLowering> {
        let width = Width::of(&insn.instruction, self.frame.mode)?;
        if width.bytes != 8 {
            return Err(super::NoLowering);
        }
        let place = self.push_slot(insn, width)?;
        let taken = |reg: &Reg| place.registers().contains(reg);
        let rax = self.spare(taken)?;
        let part = self.spare(|reg| taken(reg) || *reg == rax)?;
        self.e.mov(rax, Reg::RAX);
        self.e.flags_to_ax();
        self.e.op_ctx(Op::Store, true, Reg::RAX, F::JumpFlags);
        self.image_of_flags(part);
        self.e.op_mem(Op::Store, true, Reg::RAX, place.mem());
        self.e.op_ctx(Op::Load, false, Reg::RAX, F::JumpFlags);
        self.restore_flags(Saved::Register(rax));
        self.move_stack_pointer(width, -8);
        Ok(())
    }

    /// From the status flags in ax form to the whole of RFLAGS in rax.
    pub(super) fn image_of_flags(&mut self, part: Reg) {
        self.e.movzx8(part, Reg::RAX);
        self.e.bytes(&[0x0f, 0xb6, 0xc4]); // movzx eax, ah
        self.e.shift(4, false, part, 11);
        self.e.op_reg(Op::Or, false, Reg::RAX, part);
        self.e.op_ctx(Op::Or, true, Reg::RAX, F::SystemFlags);
        self.e.op_ctx(Op::Load, false, part, F::InterruptFlag);
        self.e.op_ctx(Op::Or, false, part, F::DirectionFlag);
        self.e.shift(4, false, part, 8);
        self.e.op_reg(Op::Or, false, Reg::RAX, part);
    }
}
