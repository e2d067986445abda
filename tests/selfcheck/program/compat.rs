//! 32-bit and 16-bit code in a 64-bit process: compatibility mode, entered and left by far transfers.

use core::arch::asm;

use crate::probe::{self, Fault, Rip, expect};
use crate::report::Outcome;
use crate::sys::{self, EXECUTE, PAGE, READ, SIGILL, WRITE};

/// Linux's selectors of a program's code segments.
const CODE_32: u16 = 0x23;

/// A page of code below 4 GiB, and a stack behind it.
struct Compat {
    page: u64,
    /// Of the code's segment, and where in it the page begins.
    selector: u16,
    offset: u32,
}

impl Compat {
    fn new() -> Self {
        let page = sys::map_low(2, READ | WRITE | EXECUTE);
        Self { page, selector: CODE_32, offset: page as u32 }
    }

    /// The same in a 16-bit segment of its own, which begins and ends with the page; `None` if the kernel has no
    /// local descriptor tables.
    fn new_16() -> Option<Self> {
        let page = sys::map_low(2, READ | WRITE | EXECUTE);
        let selector = sys::code_segment_16(page as u32, PAGE as u32 - 1)?;
        Some(Self { page, selector, offset: 0 })
    }

    fn stack(&self) -> u64 {
        self.page + 2 * PAGE - 256
    }

    /// Calls 32-bit code with eax and ecx given; eax, edx and ecx after, and esp's change.
    fn call(&self, code: &[u8], eax: u32, ecx: u32) -> (u32, u32, u32, i64) {
        for (at, byte) in code.iter().chain(&[0xcb]).enumerate() {
            // SAFETY: within the page.
            unsafe { ((self.page + at as u64) as *mut u8).write(*byte) };
        }
        #[repr(C, packed)]
        struct Pointer {
            offset: u32,
            selector: u16,
        }
        let target = Pointer { offset: self.offset, selector: self.selector };
        let (rax, rdx, rcx): (u64, u64, u64);
        let rsp: u64;
        // SAFETY: the code ends with a far return, and keeps ebx and ebp; r8 to r15 do not survive the visit by
        // the manual, so all are declared changed; the stack pointer waits in memory that rbx points at.
        unsafe {
            asm!(
                "push rbx", "push rbp",
                "mov [r8 + 64], rsp",
                "mov rbx, r8",
                "mov rsp, rbx",
                "call fword ptr [r9]",
                "mov rsi, rsp",
                "mov rsp, [rbx + 64]",
                "pop rbp",
                "pop rbx",
                inout("r8") self.stack() => _, inout("r9") &raw const target => _,
                inout("rax") u64::from(eax) => rax, inout("rcx") u64::from(ecx) => rcx, out("rdx") rdx, out("rsi") rsp,
                out("rdi") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _,
                out("r14") _, out("r15") _,
            );
        }
        (rax as u32, rdx as u32, rcx as u32, rsp as i64 - self.stack() as i64)
    }
}

pub fn instructions() -> Outcome {
    let compat = Compat::new();
    let run = |what: &str, code: &[u8], (eax, ecx): (u32, u32), (after, edx): (u32, u32)| -> Outcome {
        let (found, found_edx, _, moved) = compat.call(code, eax, ecx);
        same!(found, after, "{what}: eax");
        same!(found_edx, edx, "{what}: edx");
        same!(moved, 0, "{what}: the stack pointer's change");
        Ok(())
    };
    // Each clears edx first where it does not set it.
    run("push and pop", &[0x50, 0x51, 0x58, 0x5a], (11, 22), (22, 11))?;
    run("pusha and popa", &[0x31, 0xd2, 0x60, 0x31, 0xc0, 0x61], (11, 22), (11, 0))?;
    run(
        "stores in pusha's frame",
        &[0x31, 0xd2, 0x60, 0x8b, 0x54, 0x24, 0x18, 0x89, 0x54, 0x24, 0x1c, 0x61],
        (1, 33),
        (33, 0),
    )?;
    run("inc and dec of one byte", &[0x31, 0xd2, 0x40, 0x4a], (7, 0), (8, u32::MAX))?;
    run("wrap-around at 4 GiB", &[0x31, 0xd2, 0x83, 0xc0, 2], (u32::MAX, 0), (1, 0))?;
    run("call and pop", &[0x31, 0xd2, 0xe8, 0, 0, 0, 0, 0x58, 0x25, 0xff, 0x0f, 0, 0], (0, 0), (7, 0))?;
    run("daa", &[0x31, 0xd2, 0x04, 0x28, 0x27], (0x35, 0), (0x63, 0))?;
    run("aam", &[0x31, 0xd2, 0xd4, 0x0a], (73, 0), (0x0703, 0))?;
    run("aad", &[0x31, 0xd2, 0xd5, 0x0a], (0x0703, 0), (73, 0))?;
    run("salc", &[0x31, 0xd2, 0xf9, 0xd6], (0, 0), (0xff, 0))?;
    // Some processors leave the slot's upper half as it was, so it is cleared first.
    run("push of a segment", &[0x6a, 0, 0x58, 0x0e, 0x58, 0x6a, 0, 0x5a, 0x16, 0x5a], (0, 0), (0x23, 0x2b))?;
    run("16-bit push", &[0x31, 0xd2, 0x66, 0x50, 0x66, 0x51, 0x5a], (0x1234, 0x5678), (0x1234, 0x1234_5678))?;
    run(
        "enter and leave",
        &[0x31, 0xd2, 0x55, 0xc8, 16, 0, 0, 0x89, 0x45, 0xfc, 0x8b, 0x55, 0xfc, 0xc9, 0x5d],
        (5, 0),
        (5, 5),
    )?;
    run("loop", &[0x31, 0xd2, 0x42, 0xe2, 0xfd], (0, 9), (0, 9))?;
    run("jecxz", &[0x31, 0xd2, 0xe3, 1, 0x42], (0, 0), (0, 0))?;
    run("lahf", &[0x31, 0xd2, 0xf9, 0x9f, 0xc1, 0xe8, 8], (0, 0), (0x47, 0))?;
    run("pushf and popf", &[0x31, 0xd2, 0x9c, 0x83, 0x0c, 0x24, 1, 0x9d, 0x83, 0xd2, 0], (0, 0), (0, 1))?;
    run("64-bit product", &[0xf7, 0xe1], (0xffff_ffff, 0xffff_ffff), (1, 0xffff_fffe))?;
    // lea with a 16-bit address: bx + si wraps at 64 KiB.
    run(
        "16-bit address",
        &[0x53, 0x56, 0xbb, 0xff, 0xff, 0, 0, 0xbe, 3, 0, 0, 0, 0x67, 0x8d, 0x00, 0x5e, 0x5b, 0x31, 0xd2],
        (0, 0),
        (2, 0),
    )?;
    // xmm registers are the same eight.
    run(
        "SSE",
        &[0x31, 0xd2, 0x66, 0x0f, 0x6e, 0xc0, 0x66, 0x0f, 0xfe, 0xc0, 0x66, 0x0f, 0x7e, 0xc0],
        (21, 0),
        (42, 0),
    )?;
    Ok(())
}

pub fn system_calls() -> Outcome {
    probe::start();
    let compat = Compat::new();
    // Whether the kernel has them shows in the 64-bit program as well: getpid by its 32-bit number.
    let mut process = 0u64;
    probe!("mov eax, 20\n int 0x80", out("rax") process, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    if probe::count() != 0 {
        skip!("the kernel has no 32-bit system calls");
    }
    same!(process, sys::process_id() as u64, "int 0x80 from 64-bit code");
    probe::reset();
    for round in 0..500 {
        let (eax, edx, ..) = compat.call(&[0xba, 7, 0, 0, 0, 0xcd, 0x80], 20, 0);
        same!(eax, sys::process_id() as u32, "int 0x80 from 32-bit code, round {round}");
        same!(edx, 7, "edx after int 0x80, round {round}");
    }
    Ok(())
}

/// Signals in 32-bit code: the frame's cs tells, and the return goes back to it.
pub fn faults() -> Outcome {
    probe::start();
    let compat = Compat::new();
    let ill = Fault { signal: SIGILL, code: 2, trap: 6, error: 0, address: None, rip: Rip::At };
    for round in 0..100 {
        probe::reset();
        let at = compat.page + 2;
        probe::AT.store(at, core::sync::atomic::Ordering::SeqCst);
        probe::RESUME.store(at + 2, core::sync::atomic::Ordering::SeqCst);
        // xor edx, edx; ud2; inc edx
        let (_, edx, ..) = compat.call(&[0x31, 0xd2, 0x0f, 0x0b, 0x42], 0, 0);
        same!(edx, 1, "edx after the instruction was left out, round {round}");
        expect("ud2 in 32-bit code", ill)?;
        same!(probe::register(probe::SEGMENTS) & 0xffff, u64::from(CODE_32), "cs in the frame");
    }
    // A 64-bit process starts with a null ds, which 32-bit code cannot read through: mov eax, [ecx]
    let at = compat.page + 2;
    probe::reset();
    probe::AT.store(at, core::sync::atomic::Ordering::SeqCst);
    probe::RESUME.store(at + 2, core::sync::atomic::Ordering::SeqCst);
    compat.call(&[0x31, 0xd2, 0x8b, 0x01], 0, 0);
    expect("load through a null selector", Fault::protection(0))?;
    // mov edx, ss; mov ds, edx; mov eax, [ecx]
    let at = compat.page + 4;
    for address in [0u32, 0xffff_fff0] {
        probe::reset();
        probe::AT.store(at, core::sync::atomic::Ordering::SeqCst);
        probe::RESUME.store(at + 2, core::sync::atomic::Ordering::SeqCst);
        compat.call(&[0x8c, 0xd2, 0x8e, 0xda, 0x8b, 0x01], 0, address);
        expect("load in 32-bit code", Fault::page(probe::MAPERR, probe::USER, u64::from(address)))?;
    }
    // into with the overflow flag: vector 4, which 64-bit code cannot raise.
    probe::reset();
    let at = compat.page + 6;
    probe::AT.store(at - 1, core::sync::atomic::Ordering::SeqCst);
    probe::RESUME.store(at, core::sync::atomic::Ordering::SeqCst);
    // add eax, eax of the greatest number overflows.
    compat.call(&[0x31, 0xd2, 0x01, 0xc0, 0x90, 0xce, 0x90], 0x7fff_ffff, 0);
    same!(probe::count(), 1, "signals of into");
    same!(probe::register(probe::TRAP), 4, "trap number of into");
    probe::reset();
    Ok(())
}

/// Code of a 16-bit segment with a base and a limit; the stack's segment stays the flat one.
pub fn sixteen_bits() -> Outcome {
    probe::start();
    let Some(compat) = Compat::new_16() else {
        skip!("the kernel has no local descriptor tables");
    };
    // Each ends with the prefix that makes the far return behind it a 32-bit one.
    let run = |what: &str, code: &[u8], (eax, ecx): (u32, u32), (after, edx): (u32, u32)| -> Outcome {
        let (found, found_edx, _, moved) = compat.call(code, eax, ecx);
        same!(found, after, "{what}: eax");
        same!(found_edx, edx, "{what}: edx");
        same!(moved, 0, "{what}: the stack pointer's change");
        Ok(())
    };
    run("16-bit move", &[0x66, 0x31, 0xd2, 0xb8, 0x34, 0x12, 0x66], (0xaaaa_5555, 0), (0xaaaa_1234, 0))?;
    run("32-bit move", &[0x66, 0x31, 0xd2, 0x66, 0xb8, 1, 2, 3, 4, 0x66], (0, 0), (0x0403_0201, 0))?;
    run("load by cs", &[0x66, 0x31, 0xd2, 0x2e, 0xa1, 0, 0, 0x66], (0, 0), (0x3166, 0))?;
    run("call and pop", &[0x66, 0x31, 0xd2, 0xe8, 0, 0, 0x58, 0x66], (0, 0), (6, 0))?;
    run("16-bit stack operands", &[0x66, 0x31, 0xd2, 0x50, 0x51, 0x58, 0x5a, 0x66], (11, 22), (22, 11))?;
    run("loop by cx", &[0x66, 0x31, 0xd2, 0x42, 0xe2, 0xfd, 0x66], (0, 0x5_0003), (0, 3))?;
    // mov ax, cs:[0x1000], behind the limit.
    probe::reset();
    probe::AT.store(3, core::sync::atomic::Ordering::SeqCst);
    probe::RESUME.store(7, core::sync::atomic::Ordering::SeqCst);
    compat.call(&[0x66, 0x31, 0xd2, 0x2e, 0xa1, 0, 0x10, 0x66], 0, 0);
    same!(probe::register(probe::SEGMENTS) & 0xffff, u64::from(compat.selector), "cs in the frame");
    expect("load behind the limit", Fault::protection(0))
}
