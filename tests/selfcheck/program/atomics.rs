//! Locked instructions on every alignment, over the edge of cache lines and pages.

use core::arch::asm;

use crate::faults::{peek, poke};
use crate::probe::{self, Fault, expect};
use crate::report::Outcome;
use crate::sys::{self, PAGE, READ, WRITE};

const OLD: u64 = 0x1122_3344_5566_7788;
const OPERAND: u64 = 0x0f0f_1234_8765_4321;

macro_rules! locked {
    ($at:expr, $expected:expr, $instruction:literal) => {{
        poke($at, OLD);
        // SAFETY: eight bytes that the check has mapped.
        unsafe { asm!($instruction, in("r8") $at, in("r9") OPERAND) };
        same!(peek($at), $expected, "{} at offset {:#x}", $instruction, $at & 0xfff);
    }};
}

pub fn straddling() -> Outcome {
    let base = sys::map(2, READ | WRITE);
    // Around the edge of the page, and of a line within it. Processors are slow there, so not everywhere.
    for edge in [base + PAGE, base + 1024] {
        for before in 0..9 {
            let at = edge - before;
            locked!(at, OLD.wrapping_add(OPERAND), "lock add [r8], r9");
            locked!(at, OLD.wrapping_sub(OPERAND), "lock sub [r8], r9");
            locked!(at, OLD & OPERAND, "lock and [r8], r9");
            locked!(at, OLD | OPERAND, "lock or [r8], r9");
            locked!(at, OLD ^ OPERAND, "lock xor [r8], r9");
            locked!(at, OLD + 1, "lock inc qword ptr [r8]");
            locked!(at, OLD - 1, "lock dec qword ptr [r8]");
            locked!(at, !OLD, "lock not qword ptr [r8]");
            locked!(at, OLD.wrapping_neg(), "lock neg qword ptr [r8]");
            locked!(at, OLD | 1 << 40, "lock bts qword ptr [r8], 40");
            locked!(at, OLD & !(1 << 3), "lock btr qword ptr [r8], 3");
            locked!(
                at,
                OLD & !0xffff_ffff | u64::from((OLD as u32).wrapping_add(OPERAND as u32)),
                "lock add [r8], r9d"
            );
            exchanges(at)?;
        }
    }
    Ok(())
}

fn exchanges(at: u64) -> Outcome {
    let (mut found, mut flags): (u64, u64) = (OPERAND, 0);
    poke(at, OLD);
    // SAFETY: eight bytes that the check has mapped, here and below.
    unsafe { asm!("xchg [{}], {}", in(reg) at, inout(reg) found) };
    same!(found, OLD, "xchg: the register");
    same!(peek(at), OPERAND, "xchg: memory");
    // SAFETY: as above.
    unsafe { asm!("lock xadd [{}], {}", in(reg) at, inout(reg) found) };
    same!(found, OPERAND, "xadd: the register");
    same!(peek(at), OLD.wrapping_add(OPERAND), "xadd: memory");
    for (expected, succeeds) in [(OLD, true), (OLD + 1, false)] {
        poke(at, OLD);
        let mut rax = expected;
        // SAFETY: as above.
        unsafe {
            asm!("lock cmpxchg [{}], {}", "pushfq", "pop {}", in(reg) at, in(reg) OPERAND, out(reg) flags, inout("rax") rax);
        }
        same!(flags >> 6 & 1, succeeds as u64, "cmpxchg: ZF");
        same!(rax, OLD, "cmpxchg: rax");
        same!(peek(at), if succeeds { OPERAND } else { OLD }, "cmpxchg: memory");
        poke(at, OLD);
        let (mut low, mut high) = (expected & 0xffff_ffff, expected >> 32);
        // SAFETY: as above; rbx, which the compiler keeps for itself, is put back.
        unsafe {
            asm!(
                "xchg rbx, {b}", "lock cmpxchg8b [{m}]", "pushfq", "xchg rbx, {b}", "pop {f}",
                m = in(reg) at, b = inout(reg) OPERAND & 0xffff_ffff => _, f = lateout(reg) flags,
                inout("rax") low, inout("rdx") high, in("rcx") OPERAND >> 32,
            );
        }
        same!(flags >> 6 & 1, succeeds as u64, "cmpxchg8b: ZF");
        same!(high << 32 | low, OLD, "cmpxchg8b: edx:eax");
        same!(peek(at), if succeeds { OPERAND } else { OLD }, "cmpxchg8b: memory");
    }
    Ok(())
}

pub fn sixteen_bytes() -> Outcome {
    probe::start();
    let page = sys::map(1, READ | WRITE);
    for (expected, succeeds) in [(OLD, true), (OLD + 1, false)] {
        poke(page, OLD);
        poke(page + 8, 5);
        let (mut low, mut high) = (expected, 5u64);
        let flags: u64;
        // SAFETY: 16 bytes of the page; rbx is put back.
        unsafe {
            asm!(
                "xchg rbx, {b}", "lock cmpxchg16b [{m}]", "pushfq", "xchg rbx, {b}", "pop {f}",
                m = in(reg) page, b = inout(reg) OPERAND => _, f = lateout(reg) flags,
                inout("rax") low, inout("rdx") high, in("rcx") 9u64,
            );
        }
        same!(flags >> 6 & 1, succeeds as u64, "cmpxchg16b: ZF");
        same!(low, OLD, "cmpxchg16b: rax");
        same!(high, 5, "cmpxchg16b: rdx");
        same!(peek(page), if succeeds { OPERAND } else { OLD }, "cmpxchg16b: low half");
        same!(peek(page + 8), if succeeds { 9 } else { 5 }, "cmpxchg16b: high half");
    }
    probe!("lock cmpxchg16b [r8]", in("r8") page + 8, inout("rax") 0u64 => _, inout("rdx") 0u64 => _);
    expect("unaligned cmpxchg16b", Fault::protection(0))
}

/// A bit's number in a register reaches beyond the operand, to both sides.
pub fn bit_strings() -> Outcome {
    let base = sys::map(3, READ | WRITE);
    let middle = base + PAGE;
    for bit in [-32768i64, -4097, -65, -64, -1, 0, 63, 64, 4095, 32767, 32768, 60000] {
        let (word, mask) = (middle.wrapping_add_signed(bit.div_euclid(64) * 8), 1u64 << bit.rem_euclid(64));
        let carry: u8;
        // SAFETY: within the three pages.
        unsafe { asm!("bts [{}], {}", "setc {}", in(reg) middle, in(reg) bit, out(reg_byte) carry) };
        same!(carry, 0, "bit {bit} before");
        same!(peek(word), mask, "the word of bit {bit}");
        let carry: u8;
        // SAFETY: as above.
        unsafe { asm!("lock btr [{}], {}", "setc {}", in(reg) middle, in(reg) bit, out(reg_byte) carry) };
        same!(carry, 1, "bit {bit} after");
        same!(peek(word), 0, "the word of bit {bit}, reset");
    }
    Ok(())
}
