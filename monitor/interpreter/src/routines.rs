//! From an instruction to its routine: the one exhaustive match over [`Routine`](x86::classify::Routine), so
//! that an instruction without a routine does not compile.

use iced_x86::{Code, Instruction, Register};
use vcpu::{Environment, Insn};
use x86::classify::Routine as R;
use x86::{Exception, SegmentRegister as S};

use crate::operand::segment_register;
use crate::tables::{SystemSegment, Table};
use crate::{Context, Routed};

impl<E: Environment + ?Sized> Context<'_, E> {
    #[inline]
    pub(crate) fn route(&mut self, insn: &Insn) -> Routed {
        let i = &insn.instruction;
        match insn.routine {
            R::In => self.input(i),
            R::Out => self.output(i),
            R::Ins => self.string_io(i, true),
            R::Outs => self.string_io(i, false),
            R::Cli => self.cli(i),
            R::Sti => self.sti(i),
            R::Pushf => self.pushf(i, size(i)),
            R::Popf => self.popf(i, size(i)),
            R::Hlt => self.hlt(i),
            R::Int => self.int(i),
            R::Int3 => self.int3(i),
            R::Into => self.into(i),
            R::Int1 => self.int1(i),
            R::Iret => self.iret(i, size(i)),
            R::Syscall => self.syscall(i),
            R::Sysret => self.sysret(i.code() == Code::Sysretq),
            R::Sysenter => self.sysenter(),
            R::Sysexit => self.sysexit(i.code() == Code::Sysexitq),
            R::Hypercall => Err(Exception::UD),
            R::Lgdt => self.load_table(i, Table::Global, i.code() == Code::Lgdt_m1632_16),
            R::Lidt => self.load_table(i, Table::Interrupt, i.code() == Code::Lidt_m1632_16),
            R::Sgdt => self.store_table(i, Table::Global),
            R::Sidt => self.store_table(i, Table::Interrupt),
            R::Lldt => self.load_system_segment(i, SystemSegment::Local),
            R::Sldt => self.store_system_segment(i, SystemSegment::Local),
            R::Ltr => self.load_system_segment(i, SystemSegment::Task),
            R::Str => self.store_system_segment(i, SystemSegment::Task),
            R::Lar => self.look(i, true),
            R::Lsl => self.look(i, false),
            R::Verr => self.verify(i, false),
            R::Verw => self.verify(i, true),
            R::MovFromSegment => self.mov_from_segment(i),
            R::MovToSegment => self.mov_to_segment(i),
            R::PushSegment => self.push_segment(i, named_segment(i.op0_register())?, size(i)),
            R::PopSegment => self.pop_segment(i, named_segment(i.op0_register())?, size(i)),
            R::LoadFarPointer => self.load_far_pointer(i, far_pointer_segment(i)),
            R::CallFar => self.far_call(i),
            R::JmpFar => self.far_jump(i),
            R::RetFar => self.far_return(size(i), parameters(i)),
            R::Swapgs => self.swapgs(i),
            R::Rdfsbase => self.read_base(i, S::Fs),
            R::Rdgsbase => self.read_base(i, S::Gs),
            R::Wrfsbase => self.write_base(i, S::Fs),
            R::Wrgsbase => self.write_base(i, S::Gs),
            R::Smsw => self.smsw(i),
            R::Lmsw => self.lmsw(i),
            R::Clts => self.clts(i),
            R::MovFromCr => self.mov_from_control(i),
            R::MovToCr => self.mov_to_control(i),
            R::MovFromDr => self.mov_from_debug(i),
            R::MovToDr => self.mov_to_debug(i),
            R::Invlpg => self.invlpg(i),
            R::Invd | R::Wbinvd => self.flush_caches(i),
            R::Rdmsr => self.execute_rdmsr(i),
            R::Wrmsr => self.execute_wrmsr(i),
            R::Rdtsc => self.rdtsc(i, false),
            R::Rdtscp => self.rdtsc(i, true),
            R::Rdpid => self.rdpid(i),
            R::Rdpmc => self.rdpmc(),
            R::Cpuid => self.execute_cpuid(i),
            R::Xgetbv => self.xgetbv(i),
            R::Xsetbv => self.xsetbv(i),
            R::Xsave => self.xsave(i),
            R::Xrstor => self.xrstor(i),
            R::Clac => self.set_ac(i, false),
            R::Stac => self.set_ac(i, true),
            R::NotOffered | R::Undefined => Err(Exception::UD),
            R::Nop => self.done(i),
            R::Aaa => self.ascii_adjust(i, false),
            R::Aas => self.ascii_adjust(i, true),
            R::Aam => self.aam(i),
            R::Aad => self.aad(i),
            R::Daa => self.decimal_adjust(i, false),
            R::Das => self.decimal_adjust(i, true),
            R::Salc => self.salc(i),
            R::Pusha => self.pusha(i, size(i)),
            R::Popa => self.popa(i, size(i)),
            R::Bound => self.bound(i),
            R::Arpl => self.arpl(i),
            R::Enter => self.enter_frame(i, size(i)),
            R::Clzero => self.clzero(i),
        }
    }
}

/// Operand size in bytes of an instruction whose operands do not show it.
fn size(insn: &Instruction) -> usize {
    use Code as C;
    match insn.code() {
        C::Pushfw | C::Popfw | C::Iretw | C::Retfw | C::Retfw_imm16 | C::Pushaw | C::Popaw => 2,
        C::Pushfd | C::Popfd | C::Iretd | C::Retfd | C::Retfd_imm16 | C::Pushad | C::Popad => 4,
        C::Enterw_imm16_imm8 => 2,
        C::Enterd_imm16_imm8 => 4,
        C::Pushw_ES | C::Pushw_CS | C::Pushw_SS | C::Pushw_DS | C::Pushw_FS | C::Pushw_GS => 2,
        C::Pushd_ES | C::Pushd_CS | C::Pushd_SS | C::Pushd_DS | C::Pushd_FS | C::Pushd_GS => 4,
        C::Popw_ES | C::Popw_CS | C::Popw_SS | C::Popw_DS | C::Popw_FS | C::Popw_GS => 2,
        C::Popd_ES | C::Popd_SS | C::Popd_DS | C::Popd_FS | C::Popd_GS => 4,
        _ => 8,
    }
}

/// Bytes of parameters that a far return drops.
fn parameters(insn: &Instruction) -> u64 {
    match insn.code() {
        Code::Retfw_imm16 | Code::Retfd_imm16 | Code::Retfq_imm16 => insn.immediate16().into(),
        _ => 0,
    }
}

fn named_segment(register: Register) -> Result<S, Exception> {
    segment_register(register).ok_or(Exception::UD)
}

/// The segment register that LDS and the like load.
fn far_pointer_segment(insn: &Instruction) -> S {
    use Code as C;
    match insn.code() {
        C::Lds_r16_m1616 | C::Lds_r32_m1632 => S::Ds,
        C::Les_r16_m1616 | C::Les_r32_m1632 => S::Es,
        C::Lfs_r16_m1616 | C::Lfs_r32_m1632 | C::Lfs_r64_m1664 => S::Fs,
        C::Lgs_r16_m1616 | C::Lgs_r32_m1632 | C::Lgs_r64_m1664 => S::Gs,
        _ => S::Ss,
    }
}
