//! Guests are hostile: instructions, registers, tables and gates without sense must end in an outcome or a
//! fault, never in a panic, and a fault must leave the registers alone.

use iced_x86::{Decoder, DecoderOptions};
use vcpu::{Activity, CpuState, Event, Insn};
use x86::classify::{Routine, routine};
use x86::register::gpr;
use x86::{Cr4, Exception, Rflags, Vector};

use super::{Bench, layout as l};
use crate::{Effects, Outcome, deliver, execute};

/// Marsaglia's xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// A number such as breaks things.
    fn awkward(&mut self) -> u64 {
        let near = self.next() & 0x1f;
        match self.below(8) {
            0 => self.next(),
            1 => near.wrapping_sub(16),
            2 => (1 << self.below(64)) + near - 16_u64.min(near),
            3 => l::DATA + (self.next() & 0xfff),
            4 => l::STACK.wrapping_add(near),
            5 => self.pick(&[l::GDT, l::IDT, l::TSS, l::LDT]) + near,
            6 => 0xffff_ffff - near,
            _ => u64::from(self.next() as u16),
        }
    }
}

const PREFIXES: [u8; 14] =
    [0x66, 0x67, 0xf3, 0xf2, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf0, 0x48, 0x4c, 0x41];

/// First bytes after which a sensitive instruction may follow.
const ONE_BYTE: [u8; 52] = [
    0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x62, 0x63, 0x6c, 0x6d,
    0x6e, 0x6f, 0x8c, 0x8e, 0x9a, 0x9c, 0x9d, 0xc4, 0xc5, 0xc8, 0xca, 0xcb, 0xcc, 0xcd, 0xce, 0xcf, 0xd4,
    0xd5, 0xd6, 0xe4, 0xe5, 0xe6, 0xe7, 0xea, 0xec, 0xed, 0xee, 0xef, 0xf1, 0xf4, 0xfa, 0xfb, 0xff, 0xff,
    0xff,
];
/// The same after 0Fh.
const TWO_BYTE: [u8; 38] = [
    0x00, 0x00, 0x01, 0x01, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x09, 0x20, 0x21, 0x22, 0x22, 0x23,
    0x30, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0xa0, 0xa1, 0xa2, 0xa8, 0xa9, 0xaa, 0xae, 0xae, 0xae, 0xb2,
    0xb4, 0xb5, 0xc7, 0xc7,
];

fn bytes(random: &mut Random) -> [u8; 15] {
    let mut code = [0; 15];
    for byte in &mut code {
        *byte = random.next() as u8;
    }
    let mut at = 0;
    while at < 3 && random.below(2) == 0 {
        code[at] = random.pick(&PREFIXES);
        at += 1;
    }
    if random.below(2) == 0 {
        code[at] = random.pick(&ONE_BYTE);
    } else {
        code[at] = 0x0f;
        code[at + 1] = random.pick(&TWO_BYTE);
    }
    code
}

/// Machines of every mode; memory is theirs and decays as the test runs.
fn benches() -> Vec<Bench> {
    vec![
        Bench::real(),
        Bench::virtual_8086(0),
        Bench::virtual_8086(3),
        Bench::protected(0),
        Bench::protected(3),
        Bench::compatibility(),
        Bench::long(0),
        Bench::long(3),
    ]
}

fn shake(random: &mut Random, bench: &mut Bench, origin: &CpuState) {
    bench.cpu = origin.clone();
    bench.machine.amd = random.below(2) == 0;
    for index in 0..16 {
        if random.below(2) == 0 {
            bench.cpu.gpr[index] = random.awkward();
        }
    }
    if random.below(4) > 0 {
        bench.cpu.gpr[gpr::RSP] = l::STACK;
    }
    if random.below(4) == 0 {
        bench.cpu.gpr[gpr::RCX] = random
            .pick(&[0, 1, 0x10, 0x1b, 0x3b, 0x48, 0x174, 0x176, 0x200, 0x20f, 0x277, 0x2ff, 0x6e0, 0x80b])
            | random.pick(&[0, 0xc000_0080, 0xc000_0100, 0xc001_0000, 0xc001_1000]);
    }
    bench.cpu.cr4 |= Cr4::from_bits_truncate(random.next() & (1 << 18 | 1 << 16 | 1 << 11 | 3 | 4 | 8));
    bench.cpu.rflags ^=
        Rflags::from_bits_truncate(random.next()) & (Rflags::STATUS | Rflags::DF | Rflags::TF);
    if random.below(4) == 0 {
        bench.cpu.rflags ^=
            Rflags::from_bits_truncate(random.next()) & (Rflags::IOPL | Rflags::NT | Rflags::VIP);
    }
    for _ in 0..random.below(3) {
        let which = random.below(6);
        bench.cpu.segments[which].limit = random.awkward() as u32;
        bench.cpu.segments[which].base = random.awkward() & 0xffff_ffff;
    }
    if random.below(8) == 0 {
        bench.cpu.tr.limit = random.awkward() as u32;
        bench.cpu.gdtr.limit = random.next() as u16;
        bench.cpu.idtr.limit = random.next() as u16;
        bench.cpu.ldtr.base = random.awkward();
        bench.cpu.ldtr.attributes = 0x82;
        bench.cpu.ldtr.limit = 0xffff;
    }
    // Descriptors, gates, frames, the TSS.
    for _ in 0..8 {
        let table = random.pick(&[l::GDT, l::IDT, l::TSS, l::LDT, l::STACK, l::DATA]);
        let at = table + (random.next() & 0xf8);
        let value = random.awkward();
        let valid = bench.machine.peek(l::GDT + (random.next() & 0x78), 8);
        let choices = [value, valid ^ 1 << random.below(64), valid, random.next() & 0x7b];
        let value = random.pick(&choices);
        bench.machine.poke(at, 8, value);
    }
}

/// Whether an instruction may lead to another task.
fn switches(routine: Routine) -> bool {
    use Routine as R;
    matches!(routine, R::JmpFar | R::CallFar | R::Iret | R::Int | R::Int3 | R::Int1 | R::Into)
}

#[test]
fn instructions_without_sense() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut benches = benches();
    let origins: Vec<CpuState> = benches.iter().map(|bench| bench.cpu.clone()).collect();
    let mut met = std::collections::HashSet::new();
    for _ in 0..150_000 {
        let which = random.below(benches.len());
        let bench = &mut benches[which];
        shake(&mut random, bench, &origins[which]);
        let code = bytes(&mut random);
        let mode = bench.cpu.mode();
        let mut decoder = Decoder::with_ip(mode.code_bits(), &code, bench.cpu.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let Some(routine) = routine(instruction.code(), mode) else { continue };
        let insn = Insn { instruction, routine };
        let before = bench.cpu.clone();
        let mut effects = Effects::default();
        match execute(&mut bench.cpu, &insn, &mut bench.machine, &mut effects) {
            Ok(Outcome::Done) => {
                met.insert(routine);
            }
            Ok(Outcome::Repeat) => assert!(matches!(routine, Routine::Ins | Routine::Outs)),
            Ok(Outcome::Halt) => assert_eq!(bench.cpu.activity, Activity::Halted),
            // A fault of a new task.
            Err(_) if bench.cpu.tr != before.tr => assert!(switches(routine), "{instruction}"),
            // Iterations done stay done.
            Err(_) if matches!(routine, Routine::Ins | Routine::Outs) => {}
            Err(_) => assert_eq!(bench.cpu, before, "{instruction}"),
        }
        assert!(bench.cpu.rflags.contains(Rflags::FIXED));
        assert_eq!(
            bench.cpu.efer.contains(x86::Efer::LMA),
            bench.cpu.efer.contains(x86::Efer::LME) && bench.cpu.cr0.contains(x86::Cr0::PG),
        );
        assert!(!bench.cpu.efer.contains(x86::Efer::LMA) || bench.cpu.cr4.contains(Cr4::PAE));
    }
    // The test is worth something only if most instructions get through.
    assert!(met.len() > 65, "only {} routines were carried out: {met:?}", met.len());
}

#[test]
fn events_into_tables_without_sense() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut benches = benches();
    let origins: Vec<CpuState> = benches.iter().map(|bench| bench.cpu.clone()).collect();
    let (mut delivered, mut tasks) = (0, 0);
    for _ in 0..50_000 {
        let which = random.below(benches.len());
        let bench = &mut benches[which];
        shake(&mut random, bench, &origins[which]);
        let vector = (random.next() & 31) as u8;
        // A sound gate now and then.
        if bench.cpu.efer.contains(x86::Efer::LMA) {
            bench.long_gate(vector, random.pick(&[0x8e, 0xef]), l::CODE64_0, l::CODE, random.pick(&[0, 1]));
        } else {
            let kind = random.pick(&[0x8e, 0xef, 0x86, 0x85]);
            let selector = if kind == 0x85 { l::TSS_SELECTOR } else { l::CODE32_0 };
            bench.gate(vector, kind, selector, l::CODE);
            // To itself, but for a limit by which it is told.
            bench.machine.set_descriptor(l::TSS_SELECTOR, 0x0000_8900_0000_0068 | l::TSS << 16);
        }
        let event = match random.below(4) {
            0 => Event::Nmi,
            1 => Event::Interrupt(vector),
            2 => Event::Software { vector, next_rip: random.awkward() },
            _ => Event::Exception(random.pick(&[
                Exception::UD,
                Exception::gp(8),
                Exception::page_fault(0x1234, 2),
                Exception::with_code(Vector::DoubleFault, 0),
                Exception::new(Vector::Debug),
            ])),
        };
        let (rip, tr) = (bench.cpu.rip, bench.cpu.tr);
        deliver(&mut bench.cpu, event, &mut bench.machine, &mut Effects::default());
        match bench.cpu.activity {
            // A new task has its own flags, and its own address to die at.
            _ if bench.cpu.tr != tr => tasks += 1,
            Activity::Shutdown => assert_eq!(bench.cpu.rip, rip),
            activity => {
                assert_eq!(activity, Activity::Running);
                assert!(!bench.cpu.rflags.intersects(Rflags::TF | Rflags::VM | Rflags::RF));
                delivered += 1;
            }
        }
    }
    assert!(delivered > 5_000, "only {delivered} were delivered");
    assert!(tasks > 0, "no task gate led anywhere");
}
