//! Exceptions, with the registers and flags that their handlers see.

use iced_x86::code_asm::*;

use super::script::{BUS, BYTES, Body, CODE, DATA, FPE, ILL, READ, SEGV, STACK, Script, Start, TRAP, number};

/// What is not mapped, with pages before and behind it that are.
const HOLE: u32 = DATA + 0xa000;
/// A page that may only be read.
const READ_ONLY: u32 = DATA + 0xc000;

/// Code, what it does to the registers that it is to run with, and in which signal of which vector it ends.
type Case = (&'static str, Body, fn(&mut Start), u32, u32);

#[rustfmt::skip]
const PAGES: &[Case] = &[
    ("read",                  |a| a.mov(eax, dword_ptr(ebx)),        |s| s.ebx = HOLE + 5, SEGV, 14),
    ("write",                 |a| a.mov(dword_ptr(ebx), eax),        |s| s.ebx = HOLE + 5, SEGV, 14),
    ("write to read-only",    |a| a.xchg(dword_ptr(ebx), eax),       |s| s.ebx = READ_ONLY, SEGV, 14),
    ("fetch",                 |a| a.jmp(ebx),                        |s| s.ebx = HOLE, SEGV, 14),
    ("straddling read",       |a| a.mov(eax, dword_ptr(ebx)),        |s| s.ebx = HOLE - 2, SEGV, 14),
    ("straddling write",      |a| a.mov(dword_ptr(ebx), eax),        |s| s.ebx = HOLE - 1, SEGV, 14),
    ("straddling, behind",    |a| a.xchg(dword_ptr(ebx), eax),       |s| s.ebx = HOLE + 0xffe, SEGV, 14),
    ("push",                  |a| a.push(eax),                       |s| s.esp = HOLE + 0x1000, SEGV, 14),
    ("pop",                   |a| a.pop(eax),                        |s| s.esp = HOLE + 0xfff, SEGV, 14),
    ("push from memory",      |a| a.push(dword_ptr(ebx)),            |s| s.ebx = HOLE, SEGV, 14),
    ("pop to memory",         |a| a.pop(dword_ptr(ebx)),             |s| s.ebx = READ_ONLY, SEGV, 14),
    ("pusha",                 |a| a.pushad(),                        |s| s.esp = HOLE + 0x1010, SEGV, 14),
    ("popa",                  |a| a.popad(),                         |s| s.esp = HOLE - 16, SEGV, 14),
    ("call",                  |a| a.call(ebx),                       |s| s.esp = HOLE + 0x1002, SEGV, 14),
    ("return",                |a| a.ret(),                           |s| s.esp = HOLE - 3, SEGV, 14),
    ("enter",                 |a| a.enter(16, 0),                    |s| s.esp = HOLE + 0x1000, SEGV, 14),
    ("leave",                 |a| a.leave(),                         |s| s.ebp = HOLE + 4, SEGV, 14),
    ("movs, source",          |a| a.rep().movsb(),                   |s| (s.esi, s.ecx) = (HOLE - 7, 20), SEGV, 14),
    ("movs, destination",     |a| a.rep().movsd(),                   |s| (s.edi, s.ecx) = (HOLE - 30, 20), SEGV, 14),
    ("stos",                  |a| a.rep().stosw(),                   |s| (s.edi, s.ecx) = (READ_ONLY - 9, 20), SEGV, 14),
    ("stos, backwards",       |a| a.rep().stosd(),                   |s| (s.edi, s.ecx, s.eflags) = (HOLE + 0x1010, 20, 0x602), SEGV, 14),
    ("cmps",                  |a| a.repe().cmpsb(),                  |s| (s.esi, s.edi, s.ecx) = (HOLE - 9, DATA + 0x3000, 20), SEGV, 14),
    ("scas",                  |a| a.repne().scasb(),                 |s| (s.edi, s.ecx, s.eax) = (HOLE - 9, 20, 0xff), SEGV, 14),
    ("lods",                  |a| a.rep().lodsb(),                   |s| (s.esi, s.ecx) = (HOLE - 3, 9), SEGV, 14),
    ("cmpxchg8b",             |a| a.lock().cmpxchg8b(qword_ptr(ebx)),|s| s.ebx = HOLE - 4, SEGV, 14),
    ("bts beyond",            |a| a.bts(dword_ptr(ebx), eax),        |s| (s.ebx, s.eax) = (DATA, (HOLE - DATA) * 8), SEGV, 14),
    ("fld",                   |a| a.fld(tword_ptr(ebx)),             |s| s.ebx = HOLE - 8, SEGV, 14),
    ("movdqu",                |a| a.movdqu(xmm0, xmmword_ptr(ebx)),  |s| s.ebx = HOLE - 8, SEGV, 14),
];

#[rustfmt::skip]
const OTHERS: &[Case] = &[
    ("undefined",             |a| a.ud2(),                           |_| (), ILL, 6),
    ("breakpoint",            |a| a.int3(),                          |_| (), TRAP, 3),
    ("division by zero",      |a| a.div(ebx),                        |s| s.eax = 7, FPE, 0),
    ("quotient too large",    |a| a.idiv(ebx),                       |s| (s.edx, s.ebx) = (5, 3), FPE, 0),
    ("aam by zero",           |a| a.aam(0),                          |s| s.eax = 77, FPE, 0),
    ("into",                  |a| a.into(),                          |s| s.eflags = 0xa02, SEGV, 4),
    ("bound",                 |a| a.bound(eax, dword_ptr(ebx)),      |s| (s.eax, s.ebx) = (1, DATA + 0x6000), SEGV, 5),
    ("a kernel's interrupt",  |a| a.int(0x20),                       |_| (), SEGV, 13),
    ("hlt",                   |a| a.hlt(),                           |_| (), SEGV, 13),
    ("cli",                   |a| a.cli(),                           |_| (), SEGV, 13),
    ("in",                    |a| a.in_(al, dx),                     |s| s.edx = 0x71, SEGV, 13),
    ("outs",                  |a| a.outsb(),                         |s| s.edx = 0x71, SEGV, 13),
    ("mov to cr3",            |a| a.mov(cr3, eax),                   |_| (), SEGV, 13),
    ("rdmsr",                 |a| a.rdmsr(),                         |_| (), SEGV, 13),
    ("no such selector",      |a| a.mov(ds, eax),                    |s| s.eax = 0x4c, SEGV, 13),
    ("a kernel's selector",   |a| a.mov(es, eax),                    |s| s.eax = 0x10, SEGV, 13),
    ("null for ss",           |a| a.mov(ss, eax),                    |_| (), SEGV, 13),
    ("read by null",          |a| { a.mov(es, eax)?; a.mov(eax, dword_ptr(ebx).es()) }, |s| s.ebx = DATA, SEGV, 13),
    ("lock without memory",   |a| a.db(&[0xf0, 0x01, 0xc0]),         |_| (), ILL, 6),
    ("misaligned",            |a| a.mov(eax, dword_ptr(ebx)),        |s| (s.ebx, s.eflags) = (DATA + 2, 0x4_0202), BUS, 17),
    ("movaps, misaligned",    |a| a.movaps(xmm0, xmmword_ptr(ebx)),  |s| s.ebx = DATA + 8, SEGV, 13),
    ("x87",                   |a| { a.fninit()?; a.fldcw(word_ptr(ebx))?; a.fldz()?; a.fld1()?; a.fdivrp(st1, st0)?; a.wait() },
                                                                     |s| s.ebx = DATA + 0x6010, FPE, 16),
    ("sse",                   |a| { a.fninit()?; a.ldmxcsr(dword_ptr(ebx))?; a.xorps(xmm1, xmm1)?; a.divss(xmm1, xmm1) },
                                                                     |s| s.ebx = DATA + 0x6020, FPE, 19),
];

/// All of them.
pub fn checks(script: &mut Script) {
    script.check("faults");
    script.call("munmap", number::MUNMAP, &[HOLE, 0x1000]);
    script.call("mprotect", number::MPROTECT, &[READ_ONLY, 0x1000, READ]);
    // BOUND's limits, a control word that lets #Z through, and an MXCSR that lets all through.
    script.put(DATA + 0x6000, &[5, 0, 0, 0, 9, 0, 0, 0]);
    script.put(DATA + 0x6010, &0x037b_u16.to_le_bytes());
    script.put(DATA + 0x6020, &0x0000_u32.to_le_bytes());
    let marked = Start { eax: 0x1234_5678, ecx: 3, edx: 0x0bad_cafe, ebx: 0x0f0f_0f0f, ..Start::default() };
    each(script, PAGES, marked);
    each(script, OTHERS, Start { ecx: 3, ..Start::default() });
    script.show("what partial writes left", HOLE - 64, 64);
    script.show("and behind", HOLE + 0x1000, 64);
    script.check("single step");
    script.code(CODE, 32, single_steps);
    let start = Start { eflags: 0x302, ecx: 3, ..Start::default() };
    script.run("first", start, TRAP, 1);
    for n in 1..14 {
        script.resume(&format!("step {n}"), TRAP, 1);
    }
    script.show("the flags that it pushed", STACK - 16, 16);
    script.map(HOLE, 0x1000, 3);
    script.call("mprotect", number::MPROTECT, &[DATA, BYTES, 3]);
}

fn each(script: &mut Script, cases: &[Case], usual: Start) {
    for (what, code, change, signal, vector) in cases {
        let mut start = usual;
        change(&mut start);
        // Something before, so that the fault is not the first of its block, and something behind that must not run.
        script.code(CODE, 32, |a| {
            a.lea(ebp, ptr(ebp - 4))?;
            code(a)?;
            a.ud2()
        });
        script.run(what, start, *signal, *vector);
    }
}

/// What a single step goes through: strings, a change of the stack's segment, which puts off the trap, flags pushed and popped.
fn single_steps(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.rep().stosb()?;
    a.push(ss)?;
    a.pop(ss)?;
    a.inc(ebx)?;
    a.pushfd()?;
    a.popfd()?;
    a.add(ebx, ebx)?;
    let mut there = a.create_label();
    a.jmp(there)?;
    a.nop()?;
    a.set_label(&mut there)?;
    // A system call that there is none of: it returns the same everywhere.
    a.mov(eax, -1)?;
    a.int(0x80)?;
    a.xor(eax, eax)?;
    (0..6).try_for_each(|_| a.nop())
}
