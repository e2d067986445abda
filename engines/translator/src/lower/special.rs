//! Instructions that are not simply copied with "the operand at this address".

use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic, OpKind, Register};
use x86::Exception;

use super::address::segment_of;
use super::page::{Extent, Place};
use super::{Lowering, NoLowering, SiteKind, address_bytes, has_memory};
use crate::context::ContextField as F;
use crate::decode::GuestInsn;
use crate::emit::{Mem, Op, Reg};
use crate::mode::ModeWord;
use crate::regs::{SPILLED, Scratch, full, is_spilled, number, sized};

const SCRATCH: Scratch = SPILLED;

impl Lowering<'_> {
    /// Lowers one of these; `false` if this is none.
    pub(super) fn special(&mut self, insn: &GuestInsn) -> Result<bool, NoLowering> {
        use Mnemonic as M;
        let i = &insn.instruction;
        match i.mnemonic() {
            // Hints: they access nothing, and the addresses are not the host's.
            mnemonic if has_memory(i) && touches_nothing(mnemonic) => {}
            M::Pause if self.frame.pauses => self.leave(SiteKind::Pause, insn.offset),
            M::Cld => self.set_direction(false),
            M::Std => self.set_direction(true),
            M::Xlatb => self.xlat(insn)?,
            M::Bt | M::Bts | M::Btr | M::Btc
                if i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register =>
            {
                self.bit_test(insn)?;
            }
            _ if masks_components(i) => self.xsave(insn)?,
            // Their address is in a register operand; rare enough to be done slowly.
            M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => self.masked_store(insn)?,
            M::Movdir64b | M::Enqcmd | M::Enqcmds | M::Clzero | M::Ptwrite => self.leave_invalid(insn),
            _ if has_memory(i) && i.memory_index().is_vector_register() => self.leave_slow(insn),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// #UD.
    pub(super) fn leave_invalid(&mut self, insn: &GuestInsn) {
        self.leave(SiteKind::Invalid, insn.offset);
    }

    /// LEA computes with the guest's registers, which are the host's: only spilled ones, rip and narrow modes
    /// need work.
    pub(super) fn load_address(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        let i = &insn.instruction;
        let to = number(i.op0_register()).ok_or(NoLowering)?;
        match i.op0_register().size() {
            2 => {
                let [temp, ..] = self.scratch(insn.operands)?;
                self.effective_address(i, temp)?;
                if is_spilled(to) {
                    self.load_spilled(to);
                }
                self.e.mov16(to, temp);
            }
            size => {
                self.effective_address(i, to)?;
                if size == 4 {
                    self.e.mov32(to, to);
                }
            }
        }
        if is_spilled(to) {
            self.store_spilled(to);
        }
        Ok(())
    }

    /// XLAT reads [rbx + al].
    fn xlat(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        let i = &insn.instruction;
        // movzx r10d, al
        self.e.bytes(&[0x44, 0x0f, 0xb6, 0xd0]);
        let address = Mem { base: Some(Reg::RBX), index: Some((Reg::R10, 1)), disp: 0 };
        let wide = i.memory_base() == Register::RBX;
        self.e.lea(wide, SCRATCH[0], address);
        if i.memory_base() == Register::BX {
            self.e.movzx16(SCRATCH[0], SCRATCH[0]);
        }
        self.check_segment_and_page(insn, segment_of(i), SCRATCH, Extent { size: 1, write: false });
        let form = Instruction::with2(
            Code::Mov_r8_rm8,
            Register::AL,
            iced_x86::MemoryOperand::with_base(full(SCRATCH[0])),
        );
        self.encode(&form.map_err(|_| NoLowering)?)
    }

    /// BT and its kin with a register as bit number reach beyond their operand: the number's upper bits, with
    /// its sign, choose the word (SDM, BT).
    fn bit_test(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        let i = &insn.instruction;
        let register = i.op1_register();
        let bits = number(register).ok_or(NoLowering)?;
        let size = register.size() as u32;
        let write = i.mnemonic() != Mnemonic::Bt;
        let [address, number_reg, rax] = SCRATCH;
        self.effective_address(i, address)?;
        if is_spilled(bits) {
            self.e.op_ctx(Op::Load, true, Reg::R10, F::Gpr(bits.0));
        } else {
            self.e.mov(number_reg, bits);
        }
        // The address arithmetic destroys flags before the check would save them.
        let saved = self.save_flags(insn.live_before, rax);
        match size {
            2 => self.e.bytes(&[0x4d, 0x0f, 0xbf, 0xd2]), // movsx r10, r10w
            4 => self.e.bytes(&[0x4d, 0x63, 0xd2]),       // movsxd r10, r10d
            _ => {}
        }
        let log2 = size.trailing_zeros() as u8;
        self.e.shift(7, true, number_reg, log2 + 3);
        let word = Mem { base: Some(address), index: Some((number_reg, size as u8)), disp: 0 };
        let size_of_address = address_bytes(i);
        self.e.lea(size_of_address == 8, address, word);
        if size_of_address == 2 {
            self.e.movzx16(address, address);
        }
        self.restore_flags(saved);
        self.check_segment_and_page(insn, segment_of(i), SCRATCH, Extent { size, write });
        if is_spilled(bits) {
            self.e.op_ctx(Op::Load, true, Reg::R10, F::Gpr(bits.0));
        } else {
            self.e.mov(number_reg, bits);
        }
        // The word is chosen; what is left of the number must not choose another.
        let saved = self.save_flags(insn.live_before, rax);
        self.e.group1(4, false, number_reg, (size * 8 - 1) as i32);
        self.restore_flags(saved);
        let mut form = *i;
        form.set_op1_register(sized(number_reg, register));
        self.execute_at(&form, Place::At(SCRATCH[0]))
    }

    /// XSAVE and XRSTOR act on edx:eax limited to what the guest has enabled. The optimised and the compacted
    /// form would let the processor skip what it believes unchanged, which the engine's own use of the same
    /// instructions disturbs; saving more than needed is always allowed for the optimised one.
    fn xsave(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        use Mnemonic as M;
        let i = &insn.instruction;
        let mut form = *i;
        match i.mnemonic() {
            M::Xsaveopt => form.set_code(Code::Xsave_mem),
            M::Xsaveopt64 => form.set_code(Code::Xsave64_mem),
            _ => {}
        }
        let load = matches!(i.mnemonic(), M::Xrstor | M::Xrstor64);
        self.effective_address(i, SCRATCH[0])?;
        let size = self.frame.xsave_size;
        self.check_segment_and_page(insn, segment_of(i), SCRATCH, Extent { size, write: !load });
        let saved = self.put_flags_aside(insn.live_before);
        // In registers for afterwards, in the context for a fault.
        self.e.mov(Reg::R10, Reg::RAX);
        self.e.mov(Reg::R11, Reg::RDX);
        self.e.op_ctx(Op::Store, true, Reg::RAX, F::Carried);
        self.e.op_ctx(Op::Store, true, Reg::RDX, F::CarriedMore);
        self.e.group1(4, false, Reg::RAX, self.frame.xcr0 as u32 as i32);
        self.e.group1(4, false, Reg::RDX, (self.frame.xcr0 >> 32) as i32);
        self.execute_at(&form, Place::At(SCRATCH[0]))?;
        self.e.mov(Reg::RAX, Reg::R10);
        self.e.mov(Reg::RDX, Reg::R11);
        self.restore_flags(saved);
        Ok(())
    }

    /// MASKMOVQ and MASKMOVDQU store where rdi points.
    fn masked_store(&mut self, insn: &GuestInsn) -> Result<(), NoLowering> {
        let Some(buffer) = self.frame.bounce else {
            self.leave_slow(insn);
            return Ok(());
        };
        self.e.mov(Reg::R10, Reg::RDI);
        self.e.mov_imm(Reg::RDI, buffer);
        let mut form = insn.instruction;
        if form.op0_kind() != OpKind::MemorySegRDI {
            form.set_op0_kind(OpKind::MemorySegRDI);
        }
        form.set_segment_prefix(Register::None);
        self.encode(&form)?;
        self.e.mov(Reg::RDI, Reg::R10);
        Ok(())
    }
}

/// Whether an instruction with a memory operand has a lowering of its own here.
pub fn is_special(i: &Instruction) -> bool {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Xlatb | M::Movdir64b | M::Enqcmd | M::Enqcmds | M::Ptwrite => true,
        M::Bt | M::Bts | M::Btr | M::Btc => i.op1_kind() == OpKind::Register,
        mnemonic => touches_nothing(mnemonic) || masks_components(i) || i.memory_index().is_vector_register(),
    }
}

/// Whether a memory operand is but a hint to the processor.
fn touches_nothing(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Nop
            | M::Reservednop
            | M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Prefetchw
            | M::Prefetch
            | M::Prefetchwt1
            | M::Prefetchit0
            | M::Prefetchit1
            | M::Cldemote
    )
}

/// Whether this runs with edx:eax changed: see [`Lowering::xsave`].
pub fn masks_components(i: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        i.mnemonic(),
        M::Xsave
            | M::Xsave64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsavec
            | M::Xsavec64
            | M::Xrstor
            | M::Xrstor64
    )
}

/// The exception that a floating-point or vector instruction raises in a mode that forbids it.
pub fn fpu_exception(i: &Instruction, mode: ModeWord) -> Option<Exception> {
    use CpuidFeature as C;
    if matches!(i.mnemonic(), Mnemonic::Wait) {
        return mode.fwait_traps().then_some(Exception::NM);
    }
    let uses_vectors = (0..i.op_count())
        .map(|n| i.op_register(n))
        .any(|r| r.is_vector_register() || r.is_mm() || r.is_st() || r.is_k());
    for feature in i.cpuid_features() {
        match feature {
            C::MMX if mode.emulates() => return Some(Exception::UD),
            C::FPU | C::FPU287 | C::FPU387 | C::FPU287XL_ONLY | C::FPU387SL_ONLY | C::MMX | C::FXSR
                if mode.no_x87() =>
            {
                return Some(Exception::NM);
            }
            C::SSE
            | C::SSE2
            | C::SSE3
            | C::SSSE3
            | C::SSE4_1
            | C::SSE4_2
            | C::SSE4A
            | C::AES
            | C::PCLMULQDQ
            | C::SHA
            | C::GFNI
                if uses_vectors && mode.no_sse() =>
            {
                return Some(if mode.task_switched() { Exception::NM } else { Exception::UD });
            }
            C::AVX | C::AVX2 | C::FMA | C::F16C | C::VAES | C::VPCLMULQDQ | C::AVX_VNNI if mode.no_avx() => {
                return Some(if mode.task_switched() { Exception::NM } else { Exception::UD });
            }
            _ => {}
        }
    }
    let evex = matches!(i.code().encoding(), iced_x86::EncodingKind::EVEX);
    if evex && mode.no_avx512() {
        return Some(if mode.task_switched() { Exception::NM } else { Exception::UD });
    }
    None
}
