//! Which sensitive instructions are done in generated code: the policy, which decoding and lowering share. How
//! they are done is in [`crate::lower`].

use iced_x86::{Code, Instruction, OpKind, Register};
use x86::classify::Routine;

use crate::mode::{ModeWord, VIEW_USER};

/// Whether this routine's instruction may be done inside a block in this mode. Some of its forms may still
/// leave.
pub fn inlines(i: &Instruction, routine: Routine, mode: ModeWord) -> bool {
    if mode.steps() {
        return false;
    }
    match routine {
        Routine::Nop => true,
        // IOPL does not matter to ring 0.
        Routine::Cli | Routine::Sti => mode.is_ring0(),
        Routine::Pushf => mode.is_ring0() && mode.is_long(),
        Routine::Xsave | Routine::Xrstor => !mode.no_avx(),
        Routine::Rdtsc | Routine::Rdtscp => !mode.traps_tsc(),
        Routine::Rdfsbase | Routine::Rdgsbase | Routine::Wrfsbase | Routine::Wrgsbase => mode.reaches_bases(),
        Routine::MovFromCr => {
            let kept =
                matches!(i.op1_register(), Register::CR0 | Register::CR2 | Register::CR3 | Register::CR4);
            mode.is_ring0() && mode.is_long() && kept
        }
        Routine::MovFromSegment => i.op0_kind() == OpKind::Register,
        Routine::Stac | Routine::Clac | Routine::Swapgs => mode.is_ring0() && mode.is_long(),
        Routine::Syscall => mode.is_long() && !mode.is_ring0() && mode.view() == VIEW_USER,
        Routine::Sysret => mode.is_long() && mode.is_ring0() && i.code() == Code::Sysretq,
        Routine::Iret => mode.is_long() && mode.is_ring0() && i.code() == Code::Iretq,
        _ => false,
    }
}

/// Whether it is done inside the block and neither reads nor writes a status flag.
pub fn keeps_flags(i: &Instruction, routine: Routine, mode: ModeWord) -> bool {
    inlines(i, routine, mode)
        && !matches!(routine, Routine::Pushf | Routine::Syscall | Routine::Sysret | Routine::Iret)
}
