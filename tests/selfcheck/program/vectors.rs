//! Vector registers, as wide as the processor and the kernel have them, across signals, switches and preemption.

use core::arch::{global_asm, x86_64::__cpuid_count};

use crate::probe::{self, Context};
use crate::report::Outcome;
use crate::sys::{self, SIGUSR1};

/// How wide the registers are that the kernel keeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub enum Level {
    Sse,
    Avx,
    Avx512,
}

pub fn level() -> Level {
    const OSXSAVE_AVX: u32 = 3 << 27;
    const AVX512F_BW: u32 = 1 << 16 | 1 << 30;
    if __cpuid_count(1, 0).ecx & OSXSAVE_AVX != OSXSAVE_AVX {
        return Level::Sse;
    }
    let enabled: u32;
    // SAFETY: the kernel has enabled the instruction.
    unsafe { core::arch::asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _) };
    match enabled {
        _ if enabled & 0xe6 == 0xe6 && __cpuid_count(7, 0).ebx & AVX512F_BW == AVX512F_BW => Level::Avx512,
        _ if enabled & 6 == 6 => Level::Avx,
        _ => Level::Sse,
    }
}

/// 32 registers of 64 bytes, then 7 mask registers.
const WORDS: usize = 32 * 8 + 8;

#[repr(C, align(64))]
#[derive(Clone, PartialEq)]
pub struct Registers([u64; WORDS]);

impl Registers {
    /// Every byte its own, as far as a byte goes, and each seed another set.
    fn pattern(seed: u64) -> Self {
        let mut words = [0; WORDS];
        let mut value = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for word in &mut words {
            value ^= value << 13;
            value ^= value >> 7;
            value ^= value << 17;
            *word = value;
        }
        Self(words)
    }

    const fn zero() -> Self {
        Self([0; WORDS])
    }

    /// Compares what the level has.
    fn compare(&self, expected: &Self, level: Level, what: &str) -> Outcome {
        let (registers, width) = match level {
            Level::Sse => (16, 2),
            Level::Avx => (16, 4),
            Level::Avx512 => (32, 8),
        };
        for register in 0..registers {
            for word in 0..width {
                let at = register * 8 + word;
                same!(self.0[at], expected.0[at], "{what}: vector register {register}, word {word}");
            }
        }
        if level == Level::Avx512 {
            for mask in 1..8 {
                same!(self.0[256 + mask], expected.0[256 + mask], "{what}: mask register {mask}");
            }
        }
        Ok(())
    }
}

unsafe extern "C" {
    // Loads all registers from `load`, makes the system call (or, if the number is negative, counts down from the
    // first argument), and stores all registers to `store`.
    fn selfcheck_vectors_sse(
        load: *const Registers,
        store: *mut Registers,
        number: isize,
        args: *const u64,
    ) -> isize;
    fn selfcheck_vectors_avx(
        load: *const Registers,
        store: *mut Registers,
        number: isize,
        args: *const u64,
    ) -> isize;
    fn selfcheck_vectors_avx512(
        load: *const Registers,
        store: *mut Registers,
        number: isize,
        args: *const u64,
    ) -> isize;
}

macro_rules! around_call {
    ($name:literal, $load:literal, $store:literal) => {
        global_asm!(
            concat!($name, ":"),
            "mov r8, rsi",
            "mov rax, rdx",
            $load,
            "mov rdi, [rcx]",
            "mov rsi, [rcx + 8]",
            "mov rdx, [rcx + 16]",
            "mov r10, [rcx + 24]",
            "test rax, rax",
            "js 2f",
            "syscall",
            "jmp 3f",
            "2: dec rdi",
            "jnz 2b",
            "3:",
            $store,
            "ret",
        );
    };
}

around_call!(
    "selfcheck_vectors_sse",
    ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movaps xmm\\i, [rdi + 64 * \\i]\n .endr",
    ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movaps [r8 + 64 * \\i], xmm\\i\n .endr"
);
around_call!(
    "selfcheck_vectors_avx",
    ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovaps ymm\\i, [rdi + 64 * \\i]\n .endr",
    ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovaps [r8 + 64 * \\i], ymm\\i\n .endr\n vzeroupper"
);
around_call!(
    "selfcheck_vectors_avx512",
    ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n \
     vmovaps zmm\\i, [rdi + 64 * \\i]\n .endr\n \
     .irp i, 1,2,3,4,5,6,7\n kmovq k\\i, [rdi + 2048 + 8 * \\i]\n .endr",
    ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n \
     vmovaps [r8 + 64 * \\i], zmm\\i\n .endr\n \
     .irp i, 1,2,3,4,5,6,7\n kmovq [r8 + 2048 + 8 * \\i], k\\i\n .endr\n vzeroupper"
);

/// Makes a system call with all registers set; what they are after.
fn around(level: Level, load: &Registers, number: isize, args: [u64; 4]) -> (Registers, isize) {
    let mut store = Registers::zero();
    let function = match level {
        Level::Sse => selfcheck_vectors_sse,
        Level::Avx => selfcheck_vectors_avx,
        Level::Avx512 => selfcheck_vectors_avx512,
    };
    // SAFETY: both are aligned and as long as the function expects; all it changes is the caller's by the ABI.
    let result = unsafe { function(load, &mut store, number, args.as_ptr()) };
    (store, result)
}

const KILL: isize = 62;
const READ: isize = 0;
const COUNT: isize = -1;

pub fn across_signals() -> Outcome {
    probe::start();
    probe::take(SIGUSR1);
    fn other(_: &mut Context) {
        // The handler uses the same registers for something else.
        let level = level();
        let _ = around(level, &Registers::pattern(99), COUNT, [1, 0, 0, 0]);
    }
    for round in 1..200 {
        probe::reset();
        probe::hook(other);
        let given = Registers::pattern(round);
        let args = [sys::process_id() as u64, SIGUSR1 as u64, 0, 0];
        let (found, result) = around(level(), &given, KILL, args);
        same!(result, 0, "the signal's sending");
        same!(probe::count(), 1, "signals");
        found.compare(&given, level(), "after a signal")?;
    }
    Ok(())
}

/// Two processes with other registers each, which wake each other through pipes.
pub fn across_switches() -> Outcome {
    const ROUNDS: u64 = 500;
    let (there, back) = (sys::pipe(), sys::pipe());
    let child = sys::fork();
    let (from, to, seed) = if child == 0 { (there.0, back.1, 1000) } else { (back.0, there.1, 5000) };
    let mut byte = [0u8];
    for round in 0..ROUNDS {
        if child != 0 {
            sys::write(to, &byte);
        }
        let given = Registers::pattern(seed + round);
        let (found, result) = around(level(), &given, READ, [from as u64, &raw mut byte as u64, 1, 0]);
        same!(result, 1, "bytes read");
        found.compare(&given, level(), "after a switch")?;
        if child == 0 {
            sys::write(to, &byte);
        }
    }
    ended_well(child)
}

/// Two processes that never give the processor up of themselves.
pub fn across_preemption() -> Outcome {
    let child = sys::fork();
    let seed = if child == 0 { 20_000 } else { 30_000 };
    for round in 0..20 {
        let given = Registers::pattern(seed + round);
        let (found, _) = around(level(), &given, COUNT, [5_000_000, 0, 0, 0]);
        found.compare(&given, level(), "after preemption")?;
    }
    ended_well(child)
}

/// In the child: ends it. In the parent: holds the child's end to be a good one.
fn ended_well(child: isize) -> Outcome {
    if child == 0 {
        sys::exit(0);
    }
    let status = sys::wait(child);
    ensure!(status == Some(0), "the child's status: {status:?}");
    Ok(())
}

/// What a handler changes in the frame's floating-point state is what the program goes on with.
pub fn in_the_frame() -> Outcome {
    probe::start();
    probe::take(SIGUSR1);
    fn change(context: &mut Context) {
        const XMM5: usize = 160 + 5 * 16;
        // SAFETY: the kernel's frame has the FXSAVE image there.
        let xmm5 = unsafe { context.floating.add(XMM5).cast::<[u64; 2]>() };
        // SAFETY: as above.
        unsafe { (*xmm5)[0] = !(*xmm5)[0] };
    }
    probe::hook(change);
    let given = Registers::pattern(7);
    let args = [sys::process_id() as u64, SIGUSR1 as u64, 0, 0];
    let (found, _) = around(level(), &given, KILL, args);
    same!(probe::count(), 1, "signals");
    let mut expected = given;
    expected.0[5 * 8] = !expected.0[5 * 8];
    found.compare(&expected, level(), "after a change in the frame")
}
