//! Changing the form of an instruction so that the host's 64-bit mode executes it.

use iced_x86::{Code, Instruction, Register};

/// Turns forms that 64-bit mode lacks into ones it has. Operand sizes need no care: iced-x86 codes name them,
/// and the encoder chooses the prefixes.
pub fn widen(i: &mut Instruction) {
    let code = match i.code() {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Add_rm8_imm8_82 => Code::Add_rm8_imm8,
        Code::Or_rm8_imm8_82 => Code::Or_rm8_imm8,
        Code::Adc_rm8_imm8_82 => Code::Adc_rm8_imm8,
        Code::Sbb_rm8_imm8_82 => Code::Sbb_rm8_imm8,
        Code::And_rm8_imm8_82 => Code::And_rm8_imm8,
        Code::Sub_rm8_imm8_82 => Code::Sub_rm8_imm8,
        Code::Xor_rm8_imm8_82 => Code::Xor_rm8_imm8,
        Code::Cmp_rm8_imm8_82 => Code::Cmp_rm8_imm8,
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_RAX_moffs64 => Code::Mov_r64_rm64,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        Code::Mov_moffs64_RAX => Code::Mov_rm64_r64,
        _ => return,
    };
    i.set_code(code);
}

/// Lets the memory operand be `delta` beyond the address that it names; if that has an index, beyond `base`, which stands
/// for it.
pub fn displace(i: &mut Instruction, base: Register, delta: Register) {
    if i.memory_index() != Register::None {
        rebase(i, base);
    }
    i.set_memory_index(delta);
    i.set_memory_index_scale(1);
    i.set_segment_prefix(Register::None);
}

/// Replaces the memory operand's address by `[base]`.
pub fn rebase(i: &mut Instruction, base: Register) {
    i.set_memory_base(base);
    i.set_memory_index(Register::None);
    i.set_memory_index_scale(1);
    i.set_memory_displacement64(0);
    i.set_memory_displ_size(0);
    i.set_segment_prefix(Register::None);
}
