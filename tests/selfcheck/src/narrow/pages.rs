//! Pages that come, go, change their rights and are shared, and code that changes itself in them.

use iced_x86::code_asm::*;

use super::script::{ALL, BUS, CODE, DATA, ILL, NONE, READ, READ_WRITE, SEGV, Script, Start, number};

const SHARED: u32 = 1;
const FIXED: u32 = 0x10;
/// Two mappings of one page, the first of which code runs in, and a page that they are moved to.
const FIRST: u32 = 0x2200_0000;
const SECOND: u32 = 0x2300_0000;
const ELSEWHERE: u32 = 0x2400_0000;

/// All of them.
pub fn checks(script: &mut Script) {
    rights(script);
    copy_on_write(script);
    changing_code(script);
}

fn rights(script: &mut Script) {
    script.check("pages");
    let page = DATA + 0xd000;
    script.code(CODE, 32, |a| {
        a.inc(dword_ptr(ebx))?;
        a.mov(eax, dword_ptr(ebx))?;
        a.ud2()
    });
    let start = Start { ebx: page, ..Start::default() };
    for (rights, signal, vector) in
        [(READ_WRITE, ILL, 6), (READ, SEGV, 14), (NONE, SEGV, 14), (READ_WRITE, ILL, 6), (READ, SEGV, 14)]
    {
        script.call("mprotect", number::MPROTECT, &[page, 0x1000, rights]);
        script.run(&format!("with rights {rights}"), start, signal, vector);
    }
    script.call("mprotect", number::MPROTECT, &[page, 0x1000, READ_WRITE]);
    script.run("once more", start, ILL, 6);
    script.call("madvise", number::MADVISE, &[page, 0x1000, 4]);
    script.run("given up", start, ILL, 6);
    script.call("mremap", number::MREMAP, &[page, 0x1000, 0x1000, 3, ELSEWHERE]);
    script.run("moved away", start, SEGV, 14);
    script.run("moved there", Start { ebx: ELSEWHERE, ..start }, ILL, 6);
    script.map(page, 0x1000, READ_WRITE);
    script.run("replaced", start, ILL, 6);
    // A file of one page, mapped as two.
    script.put(DATA, b"checks\0");
    script.call("memfd_create", number::MEMFD_CREATE, &[DATA, 0]);
    script.call("ftruncate", number::FTRUNCATE, &[3, 0x1000]);
    for at in [FIRST, SECOND] {
        script.call("mmap", number::MMAP2, &[at, 0x2000, ALL, SHARED | FIXED, 3, 0]);
    }
    script.run("one mapping", Start { ebx: FIRST + 0x800, ..start }, ILL, 6);
    script.run("the other", Start { ebx: SECOND + 0x800, ..start }, ILL, 6);
    script.run("behind the file's end", Start { ebx: FIRST + 0x1000, ..start }, BUS, 14);
}

/// A child writes what its parent has, and ends; neither sees the other's.
fn copy_on_write(script: &mut Script) {
    script.check("copy on write");
    script.put(DATA, &[1, 0, 0, 0]);
    script.put(DATA + 0x20, b"held across both");
    script.code(CODE, 32, |a| {
        let mut parent = a.create_label();
        a.fninit()?;
        a.fild(dword_ptr(DATA + 0x24))?;
        a.movdqu(xmm1, xmmword_ptr(DATA + 0x20))?;
        a.mov(eax, number::FORK)?;
        a.int(0x80)?;
        a.test(eax, eax)?;
        a.jne(parent)?;
        // The child: other registers, more to the word, and exit with it.
        a.fldz()?;
        a.pxor(xmm1, xmm1)?;
        a.add(dword_ptr(DATA), 41)?;
        a.mov(ebx, dword_ptr(DATA))?;
        a.mov(eax, 1)?;
        a.int(0x80)?;
        a.set_label(&mut parent)?;
        a.add(dword_ptr(DATA), 2)?;
        // wait4 for any; the status goes to memory.
        a.mov(eax, 114)?;
        a.mov(ebx, -1)?;
        a.mov(ecx, DATA + 8)?;
        a.xor(edx, edx)?;
        a.xor(esi, esi)?;
        a.int(0x80)?;
        a.sar(eax, 31)?;
        a.mov(ebx, dword_ptr(DATA))?;
        a.mov(ecx, dword_ptr(DATA + 8))?;
        a.ud2()
    });
    for round in 0..20 {
        script.run(&format!("round {round}"), Start::default(), ILL, 6);
    }
}

fn changing_code(script: &mut Script) {
    script.check("changing code");
    // The immediate of the next instruction, of one in another block, and across a page's end.
    for (what, at) in
        [("in the page", CODE), ("across pages", CODE + 0xff4), ("by another mapping", FIRST + 0x100)]
    {
        let data_at = if at >= FIRST { at - FIRST + SECOND } else { at };
        script.code(at, 32, |a| {
            let mut again = a.create_label();
            a.mov(ecx, 5)?;
            a.set_label(&mut again)?;
            a.mov(dword_ptr(edi + 10), ecx)?;
            a.nop()?;
            // Its operand is ten bytes on.
            a.mov(eax, 0x7777_7777)?;
            a.add(ebx, eax)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.ud2()
        });
        script.show(what, at, 32);
        script.run(what, Start { eip: at, edi: data_at, ..Start::default() }, ILL, 6);
    }
    // Read from a file: here from standard input, between two runs and in the middle of the same block.
    for value in [1_u32, 2, 3] {
        script.put(CODE + 0x2000, &[&[0xb8][..], &value.to_le_bytes(), &[0x0f, 0x0b]].concat());
        script.run("read in", Start { eip: CODE + 0x2000, ..Start::default() }, ILL, 6);
    }
    // Mapped anew.
    script.map(CODE + 0x2000, 0x1000, ALL);
    script.put(CODE + 0x2000, &[0x43, 0x0f, 0x0b]);
    script.run("mapped anew", Start { eip: CODE + 0x2000, ..Start::default() }, ILL, 6);
}
