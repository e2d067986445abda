//! Every register, as the signal's handler finds it and as the program finds it after.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::probe::{self, Context, FLAGS, R8, RAX, RCX, RDX, REGISTERS, RIP, RSP};
use crate::report::Outcome;
use crate::sys;

/// What the registers are set to, in the order of the frame (r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp),
/// and what they are after.
static GIVEN: [AtomicU64; 18] = [const { AtomicU64::new(0) }; 18];
static FOUND: [AtomicU64; 18] = [const { AtomicU64::new(0) }; 18];
static STACK: AtomicU64 = AtomicU64::new(0);

/// A function that sets every register, runs one instruction, and stores every register.
macro_rules! every_register_around {
    ($name:ident, $instruction:literal) => {
        unsafe extern "C" {
            fn $name();
        }
        global_asm!(
            concat!(stringify!($name), ":"),
            "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
            "mov [rip + {stack}], rsp",
            "lea rax, [rip + 2f]", "mov [rip + {at}], rax", "lea rax, [rip + 3f]", "mov [rip + {resume}], rax",
            "push qword ptr [rip + {given} + 17 * 8]", "popfq",
            "mov r8, [rip + {given}]", "mov r9, [rip + {given} + 8]", "mov r10, [rip + {given} + 16]",
            "mov r11, [rip + {given} + 24]", "mov r12, [rip + {given} + 32]", "mov r13, [rip + {given} + 40]",
            "mov r14, [rip + {given} + 48]", "mov r15, [rip + {given} + 56]", "mov rdi, [rip + {given} + 64]",
            "mov rsi, [rip + {given} + 72]", "mov rbp, [rip + {given} + 80]", "mov rbx, [rip + {given} + 88]",
            "mov rdx, [rip + {given} + 96]", "mov rax, [rip + {given} + 104]", "mov rcx, [rip + {given} + 112]",
            "mov rsp, [rip + {given} + 120]",
            concat!("2: ", $instruction),
            "3:",
            "mov [rip + {found}], r8", "mov [rip + {found} + 8], r9", "mov [rip + {found} + 16], r10",
            "mov [rip + {found} + 24], r11", "mov [rip + {found} + 32], r12", "mov [rip + {found} + 40], r13",
            "mov [rip + {found} + 48], r14", "mov [rip + {found} + 56], r15", "mov [rip + {found} + 64], rdi",
            "mov [rip + {found} + 72], rsi", "mov [rip + {found} + 80], rbp", "mov [rip + {found} + 88], rbx",
            "mov [rip + {found} + 96], rdx", "mov [rip + {found} + 104], rax", "mov [rip + {found} + 112], rcx",
            "mov [rip + {found} + 120], rsp",
            "mov rsp, [rip + {stack}]",
            "pushfq", "pop qword ptr [rip + {found} + 17 * 8]",
            "cld",
            "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
            "ret",
            given = sym GIVEN, found = sym FOUND, stack = sym STACK, at = sym probe::AT, resume = sym probe::RESUME,
        );
    };
}

every_register_around!(selfcheck_around_store, "mov [0x10], rax");
every_register_around!(selfcheck_around_load, "mov rax, [0x10]");
every_register_around!(selfcheck_around_addition, "add rax, [0x10]");
every_register_around!(selfcheck_around_push, "push rax");
every_register_around!(selfcheck_around_ud2, "ud2");
every_register_around!(selfcheck_around_int3, "int3");
every_register_around!(selfcheck_around_hlt, "hlt");

/// Status flags, the direction flag and the two that are always so in a program: IF and bit 1.
const FLAG_SETS: [u64; 4] = [0x202, 0x202 | 0x8d5, 0x202 | 0x400 | 0x41, 0x202 | 0x894];
const STATUS: u64 = 0xcd5;

/// A function of `every_register_around`, and what it runs.
type Around = (&'static str, unsafe extern "C" fn());

pub fn every_register() -> Outcome {
    around(&[
        ("store", selfcheck_around_store),
        ("push", selfcheck_around_push),
        ("ud2", selfcheck_around_ud2),
        ("int3", selfcheck_around_int3),
        ("hlt", selfcheck_around_hlt),
        ("load", selfcheck_around_load),
    ])
}

/// Flags that the instruction would have overwritten, had it not faulted.
pub fn dying_flags() -> Outcome {
    around(&[("addition", selfcheck_around_addition)])
}

fn around(functions: &[Around]) -> Outcome {
    probe::start();
    for (round, flags) in FLAG_SETS.into_iter().enumerate() {
        for &(what, function) in functions {
            for (number, given) in GIVEN.iter().enumerate() {
                given.store(0x0101_0101_0101_0101 * (number as u64 + 16 * round as u64 + 1), SeqCst);
            }
            // Not canonical, so that a push faults; and a handler without a stack of its own would not start.
            GIVEN[RSP].store(0x0bad_0000_0000_0000 + round as u64 * 8, SeqCst);
            GIVEN[FLAGS].store(flags, SeqCst);
            probe::reset();
            // SAFETY: it keeps the ABI; the instruction faults and is left behind.
            unsafe { function() };
            same!(probe::count(), 1, "{what}: signals");
            for number in R8..=RSP {
                let given = GIVEN[number].load(SeqCst);
                same!(probe::register(number), given, "{what}: register {number} in the frame");
                same!(FOUND[number].load(SeqCst), given, "{what}: register {number} after");
            }
            let segments = probe::register(probe::SEGMENTS);
            same!(segments & 0xffff, 0x33, "{what}: cs in the frame");
            same!(segments >> 48, 0x2b, "{what}: ss in the frame");
            same!(probe::register(FLAGS) & STATUS, flags & STATUS, "{what}: flags in the frame");
            same!(FOUND[FLAGS].load(SeqCst) & STATUS, flags & STATUS, "{what}: flags after");
            // A fault's frame has RF set, so that a breakpoint on the instruction does not hit twice; a trap's not.
            let resume = u64::from(what != "int3") << 16;
            same!(probe::register(FLAGS) & 0x1_0000, resume, "{what}: RF in the frame");
        }
    }
    probe::reset();
    Ok(())
}

/// What the handler changes in the frame is what the program goes on with, at the instruction that faulted.
pub fn fixed_up() -> Outcome {
    probe::start();
    fn divisor(context: &mut Context) {
        context.registers[RCX] = 7;
    }
    let (quotient, remainder): (u64, u64);
    probe::hook(divisor);
    // SAFETY: the handler mends the divisor.
    unsafe {
        core::arch::asm!("div rcx", inout("rcx") 0u64 => _, inout("rax") 100u64 => quotient, inout("rdx") 0u64 => remainder);
    }
    same!(probe::count(), 1, "signals of the division");
    same!(quotient, 14, "quotient");
    same!(remainder, 2, "remainder");
    static WORD: AtomicU64 = AtomicU64::new(0x55);
    fn pointer(context: &mut Context) {
        context.registers[RDX] = &raw const WORD as u64;
    }
    probe::reset();
    probe::hook(pointer);
    let loaded: u64;
    // SAFETY: the handler mends the pointer.
    unsafe { core::arch::asm!("mov rax, [rdx]", inout("rdx") 0u64 => _, out("rax") loaded) };
    same!(probe::count(), 1, "signals of the load");
    same!(loaded, 0x55, "what was loaded");
    // The same 2,000 times: the program's working set of faults.
    for round in 0..2000u64 {
        WORD.store(round, SeqCst);
        probe::reset();
        probe::hook(pointer);
        let loaded: u64;
        // SAFETY: the handler mends the pointer.
        unsafe { core::arch::asm!("mov rax, [rdx]", inout("rdx") 16u64 => _, out("rax") loaded) };
        same!(loaded, round, "what was loaded in round {round}");
    }
    fn flags(context: &mut Context) {
        // Carry and the direction flag; over `ud2`, which has two bytes.
        context.registers[FLAGS] |= 0x401;
        context.registers[RIP] += 2;
        context.registers[RAX] = !0;
    }
    probe::reset();
    probe::hook(flags);
    let (after, rax): (u64, u64);
    // SAFETY: the handler steps over the instruction; the direction flag is cleared again.
    unsafe {
        core::arch::asm!("clc", "ud2", "pushfq", "pop rdx", "cld", out("rdx") after, inout("rax") 0u64 => rax)
    };
    same!(after & 0x401, 0x401, "flags that the handler set");
    same!(rax, u64::MAX, "a register that the handler set");
    probe::reset();
    ensure!(REGISTERS == 23, "a frame has 23 words");
    Ok(())
}

/// By the manual, `syscall` leaves the next instruction's address in rcx and the flags in r11.
pub fn syscall_registers() -> Outcome {
    let (rcx, r11, next, flags, number): (u64, u64, u64, u64, u64);
    // SAFETY: getpid, with the carry flag set.
    unsafe {
        core::arch::asm!(
            "lea {next}, [rip + 2f]", "stc", "pushfq", "pop {flags}", "syscall", "2:",
            next = out(reg) next, flags = out(reg) flags, inout("rax") 39u64 => number, out("rcx") rcx, out("r11") r11,
        );
    }
    same!(rcx, next, "rcx after a system call");
    same!(r11, flags, "r11 after a system call");
    same!(number, sys::process_id() as u64, "the process's number");
    let unknown: i64;
    // SAFETY: there is no such call.
    unsafe { core::arch::asm!("syscall", inout("rax") 5000i64 => unknown, out("rcx") _, out("r11") _) };
    same!(unknown, -38, "an unknown system call's result");
    Ok(())
}
