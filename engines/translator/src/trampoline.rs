//! The two crossings between the engine and guest code, generated once per translation cache.
//!
//! Entering saves the host's callee-saved registers, loads the guest's whole register state and jumps to
//! `Context::enter_target`; exiting is the mirror image. While the guest runs the host's rsp holds the guest's:
//! nothing may push, and host signals run on an alternate stack.

use std::sync::OnceLock;

use crate::context::{
    ContextField as F, JUMP_ENTRIES, JUMP_ENTRY_BYTES, TLB_ENTRIES, TLB_ENTRY_SHIFT, VICTIM_ENTRIES,
};
use crate::emit::{Cond, Emitter, Fixup, Mem, Op, Reg};
use crate::regs::SPILLED;
use crate::vectors;
use crate::xsave::XsaveFeatures;

/// Addresses of the crossings.
#[derive(Clone, Copy, Debug)]
pub struct Crossings {
    /// `extern "sysv64" fn()`.
    pub enter: u64,
    /// The same for when the x87 registers are known to hold the guest's; this host may have none.
    pub enter_warm: Option<u64>,
    /// Target of every exit.
    pub exit: u64,
    /// Where guest code is entered that a signal stopped in the middle of an instruction's code, to go on there:
    /// `Context::put` has what was in the spilled registers, `Context::onward` where.
    pub again: u64,
}

/// Emits both crossings.
pub fn emit(e: &mut Emitter, xsave: XsaveFeatures) -> Crossings {
    e.align(64);
    let enter = e.here();
    emit_enter(e, |e| {
        load_mask(e, xsave.mask);
        e.bytes(&[0x49, 0x0f, 0xae, 0x29]); // xrstor64 [r9]
    });
    e.align(64);
    let enter_warm = xsave.can_load().then(|| e.here());
    if enter_warm.is_some() {
        emit_enter(e, |e| vectors::emit_load(e, xsave));
    }
    e.align(64);
    let exit = e.here();
    emit_exit(e, xsave);
    e.align(64);
    let again = e.here();
    for reg in SPILLED {
        e.op_ctx(Op::Load, true, reg, F::Put(reg.0));
    }
    e.jmp_ctx(F::Onward);
    Crossings { enter, enter_warm, exit, again }
}

const CALLEE_SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

fn push_pop(e: &mut Emitter, opcode: u8, reg: u8) {
    if reg >= 8 {
        e.bytes(&[0x41]);
    }
    e.bytes(&[opcode + (reg & 7)]);
}

fn load_mask(e: &mut Emitter, mask: u64) {
    e.mov_imm(Reg::RAX, mask & 0xffff_ffff);
    e.mov_imm(Reg::RDX, mask >> 32);
}

/// `restore` loads what XSAVE manages from the area at r9; it may clobber rax, rdx and flags.
fn emit_enter(e: &mut Emitter, restore: impl FnOnce(&mut Emitter)) {
    for reg in CALLEE_SAVED {
        push_pop(e, 0x50, reg);
    }
    e.op_ctx(Op::Store, true, Reg::RSP, F::HostRsp);
    e.op_ctx(Op::Load, true, Reg::R9, F::Fpu);
    restore(e);
    e.op_ctx(Op::Load, false, Reg::RAX, F::Flags);
    e.flags_from_ax();
    // The spilled ones too: code in the middle of a block may know that they are there.
    for reg in 0..16 {
        e.op_ctx(Op::Load, true, Reg(reg), F::Gpr(reg));
    }
    e.jmp_ctx(F::EnterTarget);
}

fn emit_exit(e: &mut Emitter, xsave: XsaveFeatures) {
    for reg in (0..16).filter(|reg| !SPILLED.contains(&Reg(*reg))) {
        e.op_ctx(Op::Store, true, Reg(reg), F::Gpr(reg));
    }
    e.flags_to_ax();
    e.op_ctx(Op::Store, true, Reg::RAX, F::Flags);
    e.op_ctx(Op::Store, true, Reg::R9, F::ExitIndex);
    e.op_ctx(Op::Store, true, Reg::R10, F::ExitValue);
    e.op_ctx(Op::Load, true, Reg::R9, F::Fpu);
    load_mask(e, xsave.mask);
    // Not XSAVEOPT: a Zen 4 whose system has switched tasks since XRSTOR may say that the area holds the AVX component, and leave
    // there what was there, where AVX was in its initial state and the upper halves of AVX-512 were not.
    e.bytes(&[0x49, 0x0f, 0xae, 0x21]); // xsave64 [r9]
    e.raw_ctx(&[0x0f, 0xae], 2, F::HostMxcsr, &[]); // ldmxcsr
    e.op_ctx(Op::Load, true, Reg::RSP, F::HostRsp);
    for reg in CALLEE_SAVED.iter().rev() {
        push_pop(e, 0x58, *reg);
    }
    e.bytes(&[0xc3]);
}

/// Leaves guest code with `index`; guest registers and flags must be in place.
pub fn emit_leave(e: &mut Emitter, index: u32) {
    e.mov_imm(Reg::R9, u64::from(index));
    let exit = e.layout().exit;
    e.jmp_to(exit);
}

/// What a guest address is multiplied with to get its slot in a jump table or a victim table: odd, with bits all over, and
/// unlike each other, so that those who meet in one part in the other.
const JUMP_HASH: u32 = 0x9e37_79b1;
const VICTIM_HASH: u32 = 0x85eb_ca6b;

/// The upper bits of the product, of which there are as many as it takes; the engine's mirror of [`emit_slot`].
fn slot(pc: u64, factor: u32, entries: usize) -> usize {
    ((pc as u32).wrapping_mul(factor) >> (32 - entries.trailing_zeros())) as usize
}

/// Slot of a jump table that `pc` hashes to; the engine's mirror of [`emit_jump_hash`].
pub fn jump_slot(pc: u64) -> usize {
    slot(pc, JUMP_HASH, JUMP_ENTRIES)
}

/// Slot of a victim table that `pc` hashes to; the engine's mirror of [`emit_second_chance`].
pub fn victim_slot(pc: u64) -> usize {
    slot(pc, VICTIM_HASH, VICTIM_ENTRIES)
}

/// Where a jump goes whose slot of the jump table holds another block: tries the victim table for the guest address
/// in r9, and else goes to `miss`.
pub fn emit_second_chance(e: &mut Emitter, view: usize, miss: u64) -> u64 {
    e.align(64);
    let entry = e.here();
    let table = e.layout().victim_table(view);
    emit_slot(e, VICTIM_HASH, VICTIM_ENTRIES);
    let other = emit_jump_by_entry(e, Mem::at(Reg::R10, table as i32));
    e.fix_to(other, miss);
    entry
}

/// Jumps through a view's table to the block for the guest address in r9. Gives the jump for where it is not there, which
/// ought to lead to the view's second chance. Clobbers r10 and flags.
pub fn emit_jump_hash(e: &mut Emitter, view: usize) -> Fixup {
    let table = e.layout().jump_table(view);
    emit_slot(e, JUMP_HASH, JUMP_ENTRIES);
    emit_jump_by_entry(e, Mem::at(Reg::R10, table as i32))
}

/// The offset in a table of the entry for the guest address in r9 into r10.
fn emit_slot(e: &mut Emitter, factor: u32, entries: usize) {
    e.imul32(Reg::R10, Reg::R9, factor);
    let bytes = entries * JUMP_ENTRY_BYTES;
    e.shift(5, false, Reg::R10, 32 - bytes.trailing_zeros() as u8);
    e.group1(4, false, Reg::R10, (bytes - JUMP_ENTRY_BYTES) as i32);
}

/// Jumps where an entry says if it is that of the guest address in r9; gives the jump for where it is not.
fn emit_jump_by_entry(e: &mut Emitter, entry: Mem) -> Fixup {
    e.op_mem(Op::Cmp, true, Reg::R9, entry);
    let other = e.jcc(Cond::NotEqual);
    e.jmp_mem(Mem { disp: entry.disp + 8, ..entry });
    other
}

fn has_bmi2() -> bool {
    static BMI2: OnceLock<bool> = OnceLock::new();
    *BMI2.get_or_init(|| host::cpu::cpuid_checked(7, 0).ebx & 1 << 8 != 0)
}

/// From a linear address to the offset of its page's entry in a software TLB. Clobbers flags.
pub fn emit_tlb_place(e: &mut Emitter, place: Reg, address: Reg) {
    const DOWN: u8 = 12 - TLB_ENTRY_SHIFT as u8;
    if has_bmi2() {
        e.rorx32(place, address, DOWN);
    } else {
        e.mov32(place, address);
        e.shift(5, false, place, DOWN); // shr
    }
    e.group1(4, false, place, ((TLB_ENTRIES - 1) << TLB_ENTRY_SHIFT) as i32);
}

/// The status flags into `Context::jump_flags`. Clobbers r11.
pub fn emit_flags_to_context(e: &mut Emitter) {
    e.mov(Reg::R11, Reg::RAX);
    e.flags_to_ax();
    e.op_ctx(Op::Store, true, Reg::RAX, F::JumpFlags);
    e.mov(Reg::RAX, Reg::R11);
}

/// The status flags from `Context::jump_flags`. Clobbers r11.
pub fn emit_flags_from_context(e: &mut Emitter) {
    e.mov(Reg::R11, Reg::RAX);
    e.op_ctx(Op::Load, false, Reg::RAX, F::JumpFlags);
    e.flags_from_ax();
    e.mov(Reg::RAX, Reg::R11);
}

/// Jumps through a view's table to the block for a known guest address, with the flags in the context. Gives what
/// [`emit_jump_hash`] gives.
pub fn emit_jump_to_known(e: &mut Emitter, view: usize, target: u64) -> Fixup {
    e.mov_imm(Reg::R9, target);
    let slot = e.layout().jump_table(view) + (jump_slot(target) * JUMP_ENTRY_BYTES) as u64;
    emit_jump_by_entry(e, Mem::absolute(slot))
}
