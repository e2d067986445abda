//! Segments of a local descriptor table: 16-bit code, bases, limits, stacks that grow down.

use iced_x86::code_asm::*;

use super::script::{BUS, Body, CODE, DATA, ILL, SEGV, Script, Start, number};

/// `struct user_desc`'s flags (arch/x86/include/uapi/asm/ldt.h).
const WIDE: u32 = 1;
const CODE_SEGMENT: u32 = 2 << 1;
const EXPAND_DOWN: u32 = 1 << 1;
const NOT_PRESENT: u32 = 1 << 5;

const fn selector(entry: u32) -> u32 {
    entry << 3 | 7
}

/// All of them.
pub fn checks(script: &mut Script) {
    script.check("segments");
    let segments = [
        (0, DATA, 0xfff, WIDE),
        (1, CODE, 0xfff, CODE_SEGMENT),
        (2, DATA + 0x1000, 0x7fff, WIDE | EXPAND_DOWN),
        (3, DATA, 0xfff, WIDE | NOT_PRESENT),
        (4, DATA + 0x4000, 0x3fff, 0),
        (5, CODE, 0xfff, WIDE | CODE_SEGMENT),
    ];
    for (entry, base, limit, flags) in segments {
        let descriptor = [entry, base, limit, flags].map(u32::to_le_bytes).concat();
        script.put(DATA + 0x7000, &descriptor);
        script.call("modify_ldt", number::MODIFY_LDT, &[0x11, DATA + 0x7000, 16]);
    }
    let run = |script: &mut Script, what: &str, code: Body, start, signal, vector| {
        script.code(CODE, 32, code);
        script.run(what, start, signal, vector);
    };
    let start = |entry: u32, at: u32| Start { eax: selector(entry), ebx: at, ..Start::default() };
    let read = |a: &mut CodeAssembler| {
        a.mov(es, eax)?;
        a.mov(ecx, dword_ptr(ebx).es())?;
        a.ud2()
    };
    let write = |a: &mut CodeAssembler| {
        a.mov(fs, eax)?;
        a.add(dword_ptr(ebx).fs(), 3)?;
        a.ud2()
    };
    run(script, "within", read, start(0, 0xffc), ILL, 6);
    run(script, "beyond", read, start(0, 0xffd), SEGV, 13);
    run(script, "wraps around", read, start(0, 0xffff_fffe), SEGV, 13);
    run(script, "written", write, start(0, 0x10), ILL, 6);
    run(script, "downwards, within the limit", read, start(2, 0x7ffc), SEGV, 13);
    run(script, "downwards, above", read, start(2, 0x8000), ILL, 6);
    run(script, "absent", read, start(3, 0), BUS, 11);
    run(script, "code, written", write, start(5, 0), SEGV, 13);
    run(script, "code, read", read, start(5, 4), ILL, 6);
    let stack = |a: &mut CodeAssembler| {
        a.mov(edx, esp)?;
        a.mov(ss, eax)?;
        a.mov(esp, ebx)?;
        a.push(0x1234_5678)?;
        a.call(dword_ptr(ecx))?;
        a.ud2()
    };
    run(script, "a stack at its limit", stack, Start { ecx: DATA + 0x10, ..start(4, 2) }, BUS, 12);
    let ask = |a: &mut CodeAssembler| {
        // What may be asked about selectors; flags say whether there is an answer.
        for what in 0..6 {
            a.mov(eax, selector(what) as i32)?;
            a.xor(ecx, ecx)?;
            a.xor(edx, edx)?;
            a.lar(ecx, eax)?;
            a.lsl(edx, eax)?;
            a.add(esi, ecx)?;
            a.rol(esi, 3)?;
            a.add(edi, edx)?;
            a.rol(edi, 5)?;
            a.verr(ax)?;
            a.sete(bl)?;
            a.verw(ax)?;
            a.sete(bh)?;
            a.rol(ebx, 2)?;
        }
        a.ud2()
    };
    run(script, "lar, lsl, verr, verw", ask, Start::default(), ILL, 6);
    // Far pointers, and a far call to 16-bit code that comes back.
    script.put(DATA, &[&0x100_u32.to_le_bytes()[..], &(selector(1) as u16).to_le_bytes()].concat());
    let far = |a: &mut CodeAssembler| {
        a.les(edx, fword_ptr(ebx))?;
        a.lfs(edx, fword_ptr(ebx))?;
        a.lgs(edx, fword_ptr(ebx))?;
        a.mov(ecx, es)?;
        a.db(&[0xff, 0x1b])?; // call far [ebx]
        a.ud2()
    };
    script.code(CODE + 0x100, 16, |a| {
        a.mov(ax, 0x1234)?;
        a.push(ax)?;
        a.pop(dx)?;
        a.mov(si, word_ptr(bx + 0x100).cs())?;
        a.db(&[0x66, 0xcb]) // a far return of 32 bits
    });
    run(script, "a far call to 16-bit code and back", far, Start { ebx: DATA, ..Start::default() }, ILL, 6);
}
