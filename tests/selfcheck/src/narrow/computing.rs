//! What code computes: decimal arithmetic, strings, atomic operations, and random programs of integers, x87 and SSE.

use iced_x86::code_asm::*;

use super::script::{Body, CODE, DATA, ILL, Script, Start};
use crate::Generator;

/// Random programs, and instructions in each.
const PROGRAMS: u32 = 150;
const LENGTH: u32 = 40;

/// All of them.
pub fn checks(script: &mut Script) {
    let mut generator = Generator::default();
    let mut data = [0; 0x1000];
    generator.fill(&mut data);
    decimal(script);
    strings(script, &data);
    atomics(script);
    script.check("random programs");
    for n in 0..PROGRAMS {
        script.put(DATA, &data);
        script.code(CODE, 32, |a| random(a, &mut generator));
        let start = Start {
            eax: generator.word() as u32,
            ebx: generator.word() as u32,
            ecx: generator.word() as u32,
            edx: generator.word() as u32,
            ..Start::default()
        };
        script.run(&format!("program {n}"), start, ILL, 6);
        script.show("its memory", DATA, 0x200);
    }
}

fn decimal(script: &mut Script) {
    script.check("decimal");
    let cases: [(&str, Body); 6] = [
        ("daa", |a| a.daa()),
        ("das", |a| a.das()),
        ("aaa", |a| a.aaa()),
        ("aas", |a| a.aas()),
        ("aam", |a| a.aam(10)),
        ("aad", |a| a.aad(10)),
    ];
    for (what, code) in cases {
        script.code(CODE, 32, |a| {
            code(a)?;
            // The others are undefined behind each.
            let defined = match what {
                "daa" | "das" => 0xd5,
                "aaa" | "aas" => 0x11,
                _ => 0xc4,
            };
            a.pushfd()?;
            a.and(dword_ptr(esp), defined)?;
            a.pop(edx)?;
            a.xor(ecx, ecx)?;
            a.ud2()
        });
        for value in [0x0000_u32, 0x00ff, 0x1299, 0x0a9b, 0x003c, 0x0f0f, 0x9966] {
            for eflags in [0x202, 0x203, 0x212] {
                script.run(what, Start { eax: value, eflags, ..Start::default() }, ILL, 6);
            }
        }
    }
}

fn strings(script: &mut Script, data: &[u8]) {
    script.check("strings");
    let cases: [(&str, Body); 6] = [
        ("movsb", |a| a.rep().movsb()),
        ("movsw", |a| a.rep().movsw()),
        ("movsd", |a| a.rep().movsd()),
        ("stosd", |a| a.rep().stosd()),
        ("cmpsb", |a| a.repe().cmpsb()),
        ("scasw", |a| a.repne().scasw()),
    ];
    for (what, code) in cases {
        script.code(CODE, 32, |a| {
            code(a)?;
            a.ud2()
        });
        for (from, to) in [(0x100, 0x900), (0x100, 0x103), (0x103, 0x100), (0xff0, 0x2ff0), (0x400, 0x400)] {
            for (backwards, count) in [(0, 0), (0, 77), (0x400, 77), (0, 0x321), (0x400, 1)] {
                let (from, to) = (DATA + 0x1000 + from, DATA + 0x1000 + to);
                script.put(DATA + 0x1000, data);
                let eflags = 0x202 | backwards;
                let start = Start { esi: from, edi: to, ecx: count, eax: 0x3332, eflags, ..Start::default() };
                script.run(what, start, ILL, 6);
                script.show(what, DATA + 0xe00, 0x400);
                script.show(what, to & !3, 0x80);
            }
        }
    }
}

fn atomics(script: &mut Script) {
    script.check("atomics");
    script.code(CODE, 32, |a| {
        a.lock().xadd(dword_ptr(esi), eax)?;
        a.lock().xadd(dword_ptr(esi), eax)?;
        a.lock().inc(dword_ptr(esi + 4))?;
        a.lock().cmpxchg(dword_ptr(esi), ebx)?;
        a.mov(edx, eax)?;
        a.lock().cmpxchg8b(qword_ptr(esi))?;
        a.lock().cmpxchg8b(qword_ptr(esi))?;
        a.lock().bts(dword_ptr(esi - 8), ecx)?;
        a.xchg(dword_ptr(esi), ecx)?;
        a.ud2()
    });
    for at in [0x1000, 0xffe, 0xffd, 0xffc, 0xfff] {
        let start = Start { esi: DATA + at, eax: 7, ebx: 0x1_0001, ecx: 77, ..Start::default() };
        script.run(&format!("at {at:x}"), start, ILL, 6);
        script.show("memory", DATA + 0xff0, 0x20);
    }
}

fn random(a: &mut CodeAssembler, generator: &mut Generator) -> Result<(), IcedError> {
    a.fninit()?;
    a.push(0x1f80)?;
    a.ldmxcsr(dword_ptr(esp))?;
    a.fild(dword_ptr(DATA + 0x10))?;
    a.fild(dword_ptr(DATA + 0x24))?;
    for (n, register) in (0..).zip([xmm0, xmm1, xmm2, xmm3]) {
        a.movdqu(register, xmmword_ptr(DATA + 0x40 + 16 * n))?;
    }
    for _ in 0..LENGTH {
        instruction(a, generator)?;
    }
    // Flags that some of these leave undefined.
    a.test(eax, eax)?;
    a.ud2()
}

/// One whose results the manual defines. Behind those that leave flags undefined, which may depend on flags before, these are
/// set.
fn instruction(a: &mut CodeAssembler, generator: &mut Generator) -> Result<(), IcedError> {
    const REGISTERS: [AsmRegister32; 6] = [eax, ebx, ecx, edx, esi, ebp];
    const BYTES: [AsmRegister8; 8] = [al, bl, cl, dl, ah, bh, ch, dh];
    const VECTORS: [AsmRegisterXmm; 4] = [xmm0, xmm1, xmm2, xmm3];
    let mut roll = |sides: u64| (generator.word() >> 20) % sides;
    let (one, other) = (REGISTERS[roll(6) as usize], REGISTERS[roll(6) as usize]);
    let (byte, number) = (BYTES[roll(8) as usize], roll(1 << 31) as i32);
    let (vector, more) = (VECTORS[roll(4) as usize], VECTORS[roll(4) as usize]);
    let at = DATA + roll(0x1f0) as u32;
    match roll(39) {
        0 => a.add(one, other),
        1 => a.adc(one, dword_ptr(at)),
        2 => a.sbb(dword_ptr(at), one),
        3 => a.xor(one, number),
        4 => {
            a.imul_3(one, other, number)?;
            a.test(one, one)
        }
        5 => {
            a.mul(other)?;
            a.test(eax, eax)
        }
        6 => a.lea(one, ptr(other + one * 4 + number)),
        7 => a.movzx(one, byte),
        8 => a.movsx(one, word_ptr(at)),
        9 => a.mov(byte_ptr(at), byte),
        10 => a.bswap(one),
        11 => a.rol(one, 1),
        12 => {
            a.shld(one, other, 7)?;
            a.test(one, one)
        }
        13 => a.cmovg(one, other),
        14 => a.setb(byte),
        15 => a.push(one),
        16 => a.lea(esp, ptr(esp - 4)),
        17 => a.xchg(byte_ptr(at), byte),
        18 => a.cmc(),
        19 => a.cwde(),
        20 => a.cdq(),
        21 => a.sahf(),
        22 => a.lahf(),
        23 => a.neg(dword_ptr(at)),
        24 => a.fadd(dword_ptr(DATA + 0x20 + (at & 0x3c))),
        25 => a.fmul_2(st0, st1),
        26 => a.fxch(st0, st1),
        27 => a.fst(qword_ptr(at)),
        28 => a.fsqrt(),
        29 => a.fchs(),
        30 => a.paddd(vector, more),
        31 => a.pshufd(vector, more, number & 0xff),
        32 => a.addps(vector, more),
        33 => a.movdqu(xmmword_ptr(at), vector),
        34 => a.cvtdq2ps(vector, more),
        35 => a.bt(dword_ptr(at), 3),
        36 => {
            // A bit of another word than the operand's.
            a.and(other, 0x7f)?;
            a.btc(dword_ptr(DATA + 0x80), other)
        }
        37 => {
            a.movd(mm1, dword_ptr(at))?;
            a.paddb(mm1, mm1)?;
            a.movd(one, mm1)?;
            a.emms()?;
            a.fninit()
        }
        _ => a.punpcklbw(vector, more),
    }
}
