//! A vCPU in real mode whose memory is full of HLT, so that it stops wherever a step leads.

use interpreter::{Effects, deliver, execute};
use vcpu::{CpuState, Engine, Entry, Event, Exit, FpuState};
use x86::classify::Routine;
use x86::register::gpr;
use x86::{Exception, Rflags, SegmentRegister, Vector};

use crate::common::Bench;
use crate::differs;
use crate::moo::{Step, register};
use crate::plain::Plain;

const HLT: u8 = 0xf4;
/// Behind all that a segment in real mode reaches.
const MEMORY: u64 = 0x11_0000;
/// Exits that a step takes at most: a repeated instruction has one for each element.
const MOST_EXITS: usize = 1000;
/// The general registers in the files' order.
const GENERAL: [(usize, usize); 8] = [
    (0, gpr::RAX),
    (1, gpr::RBX),
    (2, gpr::RCX),
    (3, gpr::RDX),
    (8, gpr::RSP),
    (9, gpr::RBP),
    (10, gpr::RSI),
    (11, gpr::RDI),
];
const SEGMENTS: [(usize, SegmentRegister); 4] = [
    (register::CS, SegmentRegister::Cs),
    (register::SS, SegmentRegister::Ss),
    (6, SegmentRegister::Ds),
    (7, SegmentRegister::Es),
];
const NAMES: [&str; register::COUNT] =
    ["ax", "bx", "cx", "dx", "cs", "ss", "ds", "es", "sp", "bp", "si", "di", "ip", "flags"];
/// Flags that an 80286 keeps in real mode: neither IOPL nor NT.
const FLAGS: u16 = 0x0fff;

pub struct Machine {
    bench: Bench,
    fpu: FpuState,
}

impl Machine {
    pub fn new() -> Self {
        let bench = Bench::real_mode();
        bench.ram.write(0, &vec![HLT; MEMORY as usize]).expect("in RAM");
        let fpu = bench.cpu.fpu.clone();
        Self { bench, fpu }
    }

    /// Takes a step, and tells what came out otherwise.
    pub fn run(&mut self, step: &Step) -> Vec<String> {
        let ram = self.bench.ram.clone();
        for (address, byte) in &step.before.ram {
            ram.write(u64::from(*address), &[*byte]).expect("in RAM");
        }
        let before = |n: usize| step.before.registers[n].unwrap_or(0);
        let expected = |n: usize| step.after.registers[n].unwrap_or(before(n));
        // HLT was put there on the way, and was not in memory.
        let end = u64::from(expected(register::CS)) * 16 + u64::from(expected(register::IP).wrapping_sub(1));
        ram.write(end, &[HLT]).expect("in RAM");
        self.bench.cpu = state(step, self.fpu.clone());
        let mut wrong = Vec::new();
        if let Err(why) = self.finish() {
            wrong.push(why);
        } else {
            self.compare(step, &mut wrong);
        }
        for (address, _) in step.before.ram.iter().chain(&step.after.ram) {
            ram.write(u64::from(*address), &[HLT]).expect("in RAM");
        }
        wrong
    }

    /// Runs to a HLT.
    fn finish(&mut self) -> Result<(), String> {
        let Bench { ram, cpu, engine, .. } = &mut self.bench;
        let mut machine = Plain(ram.clone());
        let mut effects = Effects::default();
        for _ in 0..MOST_EXITS {
            let fault = match engine.run(cpu, Entry::Resume) {
                Exit::Kicked => None,
                Exit::Sensitive(insn) if insn.routine == Routine::Hlt => return Ok(()),
                Exit::Sensitive(insn) if insn.routine == Routine::Undefined => Some(Exception::UD),
                Exit::Sensitive(insn) => execute(cpu, &insn, &mut machine, &mut effects).err(),
                Exit::Exception(exception) => Some(exception),
                other => return Err(format!("{other:?}")),
            };
            if let Some(mut exception) = fault {
                // An 80286 has one vector for all limits in real mode.
                if exception.vector == Vector::StackSegment {
                    exception.vector = Vector::GeneralProtection;
                }
                deliver(cpu, Event::Exception(exception), &mut machine, &mut effects);
            }
            for what in effects.invalidations.drain() {
                engine.invalidate(what);
            }
        }
        Err("it does not end".into())
    }

    fn compare(&self, step: &Step, wrong: &mut Vec<String>) {
        let cpu = &self.bench.cpu;
        let undefined = differs::undefined(step);
        let mut found = [0; register::COUNT];
        GENERAL.iter().for_each(|(n, register)| found[*n] = cpu.gpr[*register] as u16);
        SEGMENTS.iter().for_each(|(n, register)| found[*n] = cpu.segment(*register).selector);
        // The chip had run the HLT.
        found[register::IP] = (cpu.rip as u16).wrapping_add(1);
        found[register::FLAGS] = cpu.rflags.bits() as u16;
        let expected =
            |n: usize| u32::from(step.after.registers[n].or(step.before.registers[n]).unwrap_or(0));
        for (n, name) in NAMES.into_iter().enumerate() {
            let mask = if n == register::FLAGS { FLAGS & !undefined } else { u16::MAX };
            if (found[n] ^ expected(n) as u16) & mask != 0 {
                wrong.push(format!("{name} {:#x} not {:#x}", found[n], expected(n)));
            }
        }
        // Flags in an exception's frame.
        let frame = expected(register::SS) * 16 + expected(register::SP);
        let image = |address: u32| step.exception.map_or(2, |_| address.wrapping_sub(frame + 4));
        for (address, expected) in &step.after.ram {
            let mut byte = [0];
            self.bench.ram.read(u64::from(*address), &mut byte).expect("in RAM");
            let mask = match image(*address) {
                0 => !undefined as u8,
                1 => (!undefined & FLAGS).to_le_bytes()[1],
                _ => u8::MAX,
            };
            if (byte[0] ^ expected) & mask != 0 {
                wrong.push(format!("{address:#x}: {:#x} not {expected:#x}", byte[0]));
            }
        }
    }
}

fn state(step: &Step, fpu: FpuState) -> CpuState {
    let before = |n: usize| step.before.registers[n].unwrap_or(0);
    let mut cpu = CpuState { fpu, ..CpuState::reset() };
    cpu.gpr = [0; 16];
    GENERAL.iter().for_each(|(n, register)| cpu.gpr[*register] = u64::from(before(*n)));
    for (n, register) in SEGMENTS {
        let segment = cpu.segment_mut(register);
        (segment.selector, segment.base) = (before(n), u64::from(before(n)) * 16);
    }
    cpu.idtr.base = 0;
    cpu.idtr.limit = 0x3ff;
    cpu.rip = u64::from(before(register::IP));
    cpu.rflags = Rflags::from_bits_truncate(u64::from(before(register::FLAGS) & FLAGS)) | Rflags::FIXED;
    cpu
}

/// A general register before a step, by its number in instructions.
pub fn general(step: &Step, number: usize) -> Option<u16> {
    let (n, _) = GENERAL.iter().find(|(_, register)| *register == number)?;
    step.before.registers[*n]
}
