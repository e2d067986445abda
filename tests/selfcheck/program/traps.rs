//! Exceptions other than page faults.

use crate::faults::{peek, poke};
use crate::probe::{self, Fault, Rip, SI_KERNEL, expect};
use crate::report::Outcome;
use crate::sys::{self, PAGE, READ, SIGBUS, SIGFPE, SIGILL, SIGTRAP, WRITE};

pub fn protection() -> Outcome {
    probe::start();
    let plain = Fault::protection(0);
    let noncanonical = 0x8000_0000_0000_0000u64;
    probe!("mov rax, [rdx]", in("rdx") noncanonical, out("rax") _);
    expect("load from no canonical address", plain)?;
    probe!("mov [rdx], rax", in("rdx") 1u64 << 56, in("rax") 0);
    expect("store to the first of them, of five levels", plain)?;
    probe!("hlt");
    expect("hlt", plain)?;
    probe!("cli");
    expect("cli", plain)?;
    probe!("sti");
    expect("sti", plain)?;
    probe!("in al, dx", in("dx") 0x70u16, out("al") _);
    expect("in", plain)?;
    probe!("out 0x80, al", in("al") 0u8);
    expect("out", plain)?;
    probe!("mov rax, cr0", out("rax") _);
    expect("mov from cr0", plain)?;
    probe!("mov cr3, rax", in("rax") 0u64);
    expect("mov to cr3", plain)?;
    probe!("rdmsr", out("rax") _, out("rdx") _);
    expect("rdmsr", plain)?;
    probe!("wbinvd");
    expect("wbinvd", plain)?;
    probe!("invlpg [rdx]", in("rdx") 0u64);
    expect("invlpg", plain)?;
    probe!("clts");
    expect("clts", plain)?;
    probe!("lgdt [rdx]", in("rdx") &raw const ZERO);
    expect("lgdt", plain)?;
    probe!("ltr ax", in("ax") 0x40u16);
    expect("ltr", plain)?;
    probe!("int 0x20");
    expect("int to a gate of the kernel's", Fault::protection(0x20 << 3 | 2))?;
    probe!("mov ds, ax", in("ax") 0x7ff8u16);
    expect("selector beyond the table", Fault::protection(0x7ff8))?;
    probe!("mov ss, ax", in("ax") 0u16);
    expect("null selector for ss", plain)?;
    probe!("mov fs, ax", in("ax") 0x10u16);
    expect("the kernel's selector", Fault::protection(0x10))?;
    let memory = [0u64; 4];
    probe!("movaps xmm0, [rdx + 8]", in("rdx") (memory.as_ptr() as u64).next_multiple_of(16), out("xmm0") _);
    expect("unaligned movaps", plain)?;
    // Changes of the flags that are not for a program are ignored.
    let (before, after): (u64, u64);
    // SAFETY: the flags are put back.
    unsafe {
        core::arch::asm!(
            "pushfq", "pop {b}", "mov {t}, {b}", "xor {t}, 0x3200", "push {t}", "popfq", "pushfq", "pop {a}",
            b = out(reg) before, a = out(reg) after, t = out(reg) _,
        );
    }
    same!(after, before, "flags after a popf with IF and IOPL changed");
    Ok(())
}

pub fn divide() -> Outcome {
    probe::start();
    let fault = Fault { signal: SIGFPE, code: 1, trap: 0, error: 0, address: None, rip: Rip::At };
    let (mut rax, mut rdx) = (10u64, 20u64);
    probe!("div r8", in("r8") 0u64, inout("rax") rax, inout("rdx") rdx);
    expect("div by 0", fault)?;
    same!(rax << 8 | rdx, 10 << 8 | 20, "the dividend");
    probe!("div r8d", in("r8") 0u64, inout("rax") rax => _, inout("rdx") rdx => _);
    expect("32-bit div by 0", fault)?;
    probe!("div r8b", in("r8") 0u64, inout("rax") rax => _);
    expect("8-bit div by 0", fault)?;
    probe!("div r8", in("r8") 2u64, inout("rax") 0u64 => _, inout("rdx") 2u64 => _);
    expect("quotient that does not fit", fault)?;
    probe!("idiv r8", in("r8") -1i64, inout("rax") i64::MIN => _, inout("rdx") -1i64 => _);
    expect("idiv of the least by -1", fault)?;
    probe!("idiv dword ptr [r8]", in("r8") &raw const ZERO, inout("rax") 1u64 => _, inout("rdx") 0u64 => _);
    expect("idiv by 0 in memory", fault)
}

static ZERO: u64 = 0;

pub fn invalid_opcode() -> Outcome {
    probe::start();
    let fault = Fault { signal: SIGILL, code: 2, trap: 6, error: 0, address: None, rip: Rip::At };
    probe!("ud2");
    expect("ud2", fault)?;
    probe!(".byte 0x06");
    expect("push es in 64-bit code", fault)?;
    probe!(".byte 0xf0, 0x01, 0xd0");
    expect("lock with a register", fault)?;
    probe!(".byte 0x0f, 0xff, 0xc0");
    expect("ud0", fault)?;
    probe!(".byte 0x8d, 0xc0");
    expect("lea of a register", fault)?;
    probe!(".byte 0x8e, 0xc8");
    expect("mov to cs", fault)?;
    probe!(".byte 0xc4, 0xe2, 0x7d, 0xff, 0xc0");
    expect("VEX code without meaning", fault)
}

pub fn float() -> Outcome {
    probe::start();
    let simd = |code| Fault { signal: SIGFPE, code, trap: 19, error: 0, address: None, rip: Rip::At };
    let x87 = |code| Fault { signal: SIGFPE, code, trap: 16, error: 0, address: None, rip: Rip::At };
    // Masks all cleared but the precision's. A handler starts with the usual word, so it may compute.
    let mxcsr = 0x1000u32;
    // Loading the word also clears the flags of exceptions past.
    // SAFETY: the word is valid, and put back below.
    let clear = || unsafe { core::arch::asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr) };
    clear();
    probe!("divsd xmm1, xmm0", inout("xmm1") 1.0f64 => _, in("xmm0") 0.0f64);
    expect("division by zero", simd(3))?;
    clear();
    probe!("mulsd xmm1, xmm1", inout("xmm1") f64::MAX => _);
    expect("overflow", simd(4))?;
    clear();
    probe!("sqrtsd xmm1, xmm1", inout("xmm1") -1.0f64 => _);
    expect("root of a negative", simd(7))?;
    let mxcsr = 0x1f80u32;
    // SAFETY: what it was.
    unsafe { core::arch::asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr) };
    let control = 0x0360u16;
    // The exception waits for the next floating-point instruction.
    probe!("fninit\n fldcw [rdx]\n fld1\n fldz\n fdivp st(1), st", in("rdx") &raw const control);
    same!(probe::count(), 0, "signals of the division itself");
    probe!("fwait");
    expect("x87 division by zero", x87(3))?;
    probe!("fninit");
    probe!("fldcw [rdx]", in("rdx") &raw const control);
    probe!("fstp st(0)");
    same!(probe::count(), 0, "signals of a pop from an empty stack");
    probe!("fwait");
    expect("x87 stack fault", x87(7))?;
    probe!("fninit");
    same!(probe::count(), 0, "signals of fninit");
    Ok(())
}

pub fn breakpoints() -> Outcome {
    probe::start();
    let breakpoint =
        Fault { signal: SIGTRAP, code: SI_KERNEL, trap: 3, error: 0, address: Some(0), rip: Rip::Behind };
    probe!("int3");
    expect("int3", breakpoint)?;
    probe!(".byte 0xcd, 3");
    expect("int 3", breakpoint)
}

pub fn bus() -> Outcome {
    probe::start();
    let file = sys::memory_file(1);
    let beyond = sys::map_file(file, 0, 2, READ | WRITE);
    poke(beyond, 1);
    let error = |error| Fault {
        signal: SIGBUS,
        code: 2,
        trap: 14,
        error,
        address: Some(beyond + PAGE),
        rip: Rip::At,
    };
    probe!("mov rax, [rdx]", in("rdx") beyond + PAGE, out("rax") _);
    expect("load beyond a file", error(probe::USER))?;
    probe!("mov [rdx], rax", in("rdx") beyond + PAGE, in("rax") 1);
    expect("store beyond a file", error(probe::USER | probe::WRITING))?;
    same!(peek(beyond), 1, "the file's content");
    let stack = Fault { signal: SIGBUS, code: SI_KERNEL, trap: 12, error: 0, address: Some(0), rip: Rip::At };
    probe!("mov rax, [rsp + rdx]", in("rdx") 1u64 << 62, out("rax") _);
    expect("load from no canonical stack address", stack)
}

pub fn alignment() -> Outcome {
    probe::start();
    let fault = Fault { signal: SIGBUS, code: 1, trap: 17, error: 0, address: Some(0), rip: Rip::At };
    let memory = [0u64; 2];
    probe::reset();
    // SAFETY: a load within `memory`; the flag is cleared again, and every access between is aligned.
    unsafe {
        core::arch::asm!(
            "lea rcx, [rip + 3f]", "mov [rip + {resume}], rcx", "lea rcx, [rip + 2f]", "mov [rip + {at}], rcx",
            "pushfq", "or qword ptr [rsp], 0x40000", "popfq",
            "2: mov rax, [rdx + 1]",
            "3: pushfq", "and qword ptr [rsp], ~0x40000", "popfq",
            resume = sym probe::RESUME, at = sym probe::AT, in("rdx") memory.as_ptr(), out("rax") _, out("rcx") _,
        );
    }
    expect("unaligned load with AC set", fault)
}
