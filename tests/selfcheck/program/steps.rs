//! The trap flag: one signal behind every instruction, at the right address.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::probe::{self, Context, RCX, RIP, TRAP};
use crate::report::Outcome;

static SEEN: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
static COUNT: AtomicU64 = AtomicU64::new(0);

fn note(context: &mut Context) {
    let count = COUNT.fetch_add(1, SeqCst) as usize;
    if let Some(seen) = SEEN.get(count) {
        let value = if context.registers[TRAP] == 1 { context.registers[RIP] } else { 0 };
        seen.store(value, SeqCst);
    }
}

unsafe extern "C" {
    fn selfcheck_stepped();
    static selfcheck_steps: [u64; 15];
    fn selfcheck_stepped_string(from: *const u8, to: *mut u8);
}

global_asm!(
    "selfcheck_stepped:",
    "pushfq",
    "or qword ptr [rsp], 0x100",
    "popfq",
    // The instruction behind the one that sets the flag is the first to be followed by a trap.
    "nop",
    "20: lea rdx, [rsp - 64]",
    "21: mov eax, 39",
    "22: push rax",
    "23: pop [rdx]",
    "24: call 27f",
    "25: jmp 28f",
    "26: ud2",
    "27: ret",
    "28: cmp eax, 39",
    "29: jne 26b",
    "30: pushfq",
    "31: and qword ptr [rsp], ~0x100",
    "32: popfq",
    // The flag was set when the instruction that clears it began.
    "33: nop",
    "ret",
    ".pushsection .rodata.selfcheck, \"a\"",
    ".balign 8",
    "selfcheck_steps:",
    ".quad 20b, 21b, 22b, 23b, 24b, 27b, 25b, 28b, 29b, 30b, 31b, 32b, 33b, 0, 0",
    ".popsection",
    "selfcheck_stepped_string:",
    "mov ecx, 5",
    "xchg rdi, rsi",
    "pushfq",
    "or qword ptr [rsp], 0x100",
    "popfq",
    "rep movsb",
    "nop",
    "pushfq",
    "and qword ptr [rsp], ~0x100",
    "popfq",
    "ret",
);

pub fn single_step() -> Outcome {
    probe::start();
    probe::hook(note);
    COUNT.store(0, SeqCst);
    // SAFETY: it keeps the ABI, and clears the flag before it returns.
    unsafe { selfcheck_stepped() };
    probe::reset();
    // SAFETY: a table without a writer.
    let steps = unsafe { &*&raw const selfcheck_steps };
    for (number, step) in steps.iter().take_while(|step| **step != 0).enumerate() {
        same!(SEEN[number].load(SeqCst), *step, "trap {number}");
    }
    same!(COUNT.load(SeqCst), 13, "traps");
    Ok(())
}

/// A repeated string instruction traps behind every repetition.
pub fn strings() -> Outcome {
    probe::start();
    fn left(context: &mut Context) {
        let count = COUNT.fetch_add(1, SeqCst) as usize;
        if let Some(seen) = SEEN.get(count) {
            seen.store(context.registers[RCX], SeqCst);
        }
    }
    probe::hook(left);
    COUNT.store(0, SeqCst);
    let mut to = [0u8; 5];
    // SAFETY: copies five bytes.
    unsafe { selfcheck_stepped_string(b"steps".as_ptr(), to.as_mut_ptr()) };
    probe::reset();
    for (number, left) in [4, 3, 2, 1, 0].into_iter().enumerate() {
        same!(SEEN[number].load(SeqCst), left, "rcx at trap {number}");
    }
    // nop, pushfq, and, popfq.
    same!(COUNT.load(SeqCst), 9, "traps");
    ensure!(&to == b"steps", "copied {to:?}");
    Ok(())
}
