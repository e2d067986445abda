//! Random runs of accesses off few registers, against the same one instruction at a time, where nothing is a group.

use iced_x86::code_asm::*;
use vcpu::{Engine, Exit, Invalidation};
use x86::classify::Routine;
use x86::register::gpr::*;
use x86::{Exception, Rflags};

use crate::common::pages::*;
use crate::common::{Bench, CODE, assemble};
use crate::{DEVICE, FIRST, SECOND, USED, random_source::Random, two_pages};

const PROGRAMS: u64 = 400;

/// What a run has come to.
#[derive(Debug, PartialEq, Eq)]
struct End {
    fault: Option<Exception>,
    rip: u64,
    gpr: [u64; 16],
    flags: Rflags,
    memory: Vec<u8>,
    /// The pages' entries, with what has been noted in them.
    entries: [u64; 2],
}

/// An instruction that accesses memory off a base, or moves it.
fn instruction(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    let base = random.pick(&[rsp, rsp, rbx, r10]);
    let value = random.pick(&[rax, rcx, r9, r11]);
    let at = random.below(24) as i64 * 8 - 96;
    let at = if random.chance(5) { at + 3 } else { at };
    let step = random.below(5) as i32 * 8 - 16;
    match random.below(16) {
        0..=2 => a.mov(value, qword_ptr(base + at)),
        3..=4 => a.mov(qword_ptr(base + at), value),
        5 => a.add(qword_ptr(base + at), value),
        6 => a.adc(value, qword_ptr(base + at)),
        7 => a.push(value),
        8 => a.pop(value),
        9 => a.add(base, step),
        10 => a.sub(base, step),
        11 => a.lea(base, ptr(base + step)),
        12 => a.mov(value, qword_ptr(base + rdi * 8 + at)),
        13 => a.mov(qword_ptr(base + rdi * 8 + at), value),
        14 => a.mov(ecx, dword_ptr(esp + (at + random.pick(&[-0x1000, 0, 0x1000])))),
        _ => a.xchg(qword_ptr(rsi + 8), value),
    }
}

/// So many instructions, and branches over the next few among them.
fn program(a: &mut CodeAssembler, random: &mut Random) -> Result<(), IcedError> {
    // Where a branch leads, and how many instructions lie before that.
    let mut ahead: Option<(CodeLabel, u64)> = None;
    for _ in 0..24 {
        ahead = match ahead {
            Some((mut label, 0)) => {
                a.set_label(&mut label)?;
                None
            }
            Some((label, left)) => Some((label, left - 1)),
            None if random.chance(30) => {
                let label = a.create_label();
                match random.below(4) {
                    0 => a.jc(label)?,
                    1 => a.jne(label)?,
                    2 => a.jo(label)?,
                    _ => a.jns(label)?,
                }
                Some((label, random.below(6)))
            }
            None => None,
        };
        instruction(a, random)?;
    }
    if let Some((mut label, _)) = ahead {
        a.set_label(&mut label)?;
    }
    a.hlt()
}

fn prepare(bench: &mut Bench, seed: u64) {
    let mut random = Random::new(seed);
    for page in [FIRST, SECOND] {
        for at in (0..0x1000).step_by(8) {
            bench.ram.write_u64(page + at, random.next() & 0xffff).unwrap();
        }
    }
    // Now and then, one page is absent, cannot be written or has not been.
    let rights = random.pick(&[7 | USED, 7 | USED, 7 | USED, 7, 5 | USED, 0]);
    bench.ram.write_u64(TABLE, FIRST | 7 | USED).unwrap();
    bench.ram.write_u64(TABLE + 8, SECOND | rights).unwrap();
    let gpr = &mut bench.cpu.gpr;
    *gpr = std::array::from_fn(|_| random.next() & 0xfff);
    for reg in [RSP, RBX, R10] {
        gpr[reg] = VIRTUAL + random.pick(&[0x800, 0x1000, 0x1040, 0xfc0, 0x1018, 0x1800]);
    }
    (gpr[RDI], gpr[RSI]) = (random.below(4), random.pick(&[VIRTUAL + 0x40, DEVICE, VIRTUAL + 0x1400]));
    bench.cpu.rip = CODE;
    bench.cpu.rflags = Rflags::from_bits_retain(2) | (Rflags::CF & Rflags::from_bits_retain(random.next()));
}

fn run(bench: &mut Bench, seed: u64) -> End {
    prepare(bench, seed);
    let mut exit = bench.exit();
    let fault = loop {
        exit = match exit {
            Exit::Mmio(mmio) => bench.engine.run(&mut bench.cpu, vcpu::Entry::Complete(mmio.gpa)),
            Exit::Kicked => bench.exit(),
            Exit::Sensitive(insn) if insn.routine == Routine::Hlt => break None,
            Exit::Exception(exception) => break Some(exception),
            other => panic!("{other:?}"),
        }
    };
    let mut memory = vec![0; 0x2000];
    let (first, second) = memory.split_at_mut(0x1000);
    bench.ram.read(FIRST, first).unwrap();
    bench.ram.read(SECOND, second).unwrap();
    // Flags that are overwritten before they are read are not in a fault's image.
    let flags = if fault.is_some() { Rflags::empty() } else { bench.cpu.rflags & Rflags::STATUS };
    let entries = [0, 8].map(|at| bench.ram.read_u64(TABLE + at).unwrap());
    End { fault, rip: bench.cpu.rip, gpr: bench.cpu.gpr, flags, memory, entries }
}

#[test]
fn as_one_by_one() {
    let mut faults = 0;
    for seed in 0..PROGRAMS {
        let mut random = Random::new(seed << 32);
        let code = assemble(64, CODE, |a| program(a, &mut random).unwrap());
        let ring = random.pick(&[0, 3, 3]);
        let (mut whole, mut stepped) = (two_pages(ring), two_pages(ring));
        // A breakpoint that is not met makes the engine look at each instruction.
        (stepped.cpu.dr[0], stepped.cpu.dr[7]) = (VIRTUAL + 0x9000, 1);
        for bench in [&whole, &stepped] {
            bench.ram.write(CODE, &code).unwrap();
        }
        for round in 0..8 {
            let state = seed * 100 + round;
            for bench in [&mut whole, &mut stepped] {
                bench.engine.invalidate(Invalidation::AddressSpace);
            }
            let end = run(&mut whole, state);
            assert_eq!(end, run(&mut stepped, state), "program {seed}, round {round}, ring {ring}");
            faults += u64::from(end.fault.is_some());
        }
    }
    assert!(faults > PROGRAMS && faults < 7 * PROGRAMS, "{faults} faults");
}
