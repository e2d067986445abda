//! Which host register holds what while guest code runs.

use iced_x86::{Instruction, Register};

use crate::emit::Reg;

/// Guest registers that live in the context; the host registers of these names are the translator's scratch.
/// They are the least used: r10 and r11 appear in about one instruction in a hundred, r9 in two.
pub const SPILLED: [Reg; 3] = [Reg::R9, Reg::R10, Reg::R11];

/// The three scratch registers in the order a check uses them: address, table index, rax.
pub type Scratch = [Reg; 3];

/// The number of a general register, or of the one an 8-, 16- or 32-bit name is part of.
pub fn number(register: Register) -> Option<Reg> {
    register.is_gpr().then(|| Reg(register.full_register().number() as u8))
}

/// Whether this general register lives in the context.
pub fn is_spilled(reg: Reg) -> bool {
    SPILLED.contains(&reg)
}

/// Whether this is ah, ch, dh or bh, which no instruction with a REX prefix can name.
pub fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// Whether an instruction names ah, ch, dh or bh, which cannot be named beside r8 to r15.
pub fn names_high_byte(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| is_high_byte(i.op_register(n)))
}

/// The iced name of a host register.
pub fn full(reg: Reg) -> Register {
    Register::RAX + u32::from(reg.0)
}

/// The iced name of the low bytes of a host register, in the size of `like`.
pub fn sized(reg: Reg, like: Register) -> Register {
    let base = match like.size() {
        1 => return low_byte(reg),
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    base + u32::from(reg.0)
}

fn low_byte(reg: Reg) -> Register {
    // AL..BL, then SPL..DIL and R8L.. stand behind AH..BH.
    match reg.0 {
        0..=3 => Register::AL + u32::from(reg.0),
        n => Register::SPL + u32::from(n - 4),
    }
}
