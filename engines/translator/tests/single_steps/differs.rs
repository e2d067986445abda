//! Where an 80286 is known to do otherwise than later processors.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::flags::rflags;
use crate::machine;
use crate::moo::{Step, register};

/// Bytes that an instruction of an 80286 has at most.
const LONGEST: usize = 10;

/// Why a step is not to be compared.
pub fn why(step: &Step) -> Option<&'static str> {
    use Mnemonic as M;
    let i = instruction(step);
    let faults = step.exception.is_some();
    if step.code.iter().take_while(|byte| is_prefix(**byte)).any(|byte| *byte == 0xf0) {
        return Some("LOCK before any instruction");
    }
    if faults && i.len() > LONGEST || step.exception == Some(13) && i.is_invalid() {
        return Some("no instruction of more than ten bytes");
    }
    if i.op_kinds().any(|kind| kind == OpKind::Register)
        && (0..i.op_count()).any(|n| matches!(i.op_register(n), Register::FS | Register::GS))
    {
        return Some("no FS and GS");
    }
    if faults && i.is_string_instruction() {
        return Some("a string instruction that faults has moved its pointers");
    }
    if faults && i.mnemonic() == M::Pop {
        return Some("a POP that faults has moved the stack pointer");
    }
    if faults && i.mnemonic() == M::Call {
        return Some("a far call that faults has pushed its first word");
    }
    if reaches_beyond(&i, step) && !faults {
        return Some("a far pointer, or a coprocessor's operand, may reach beyond the segment");
    }
    if i.mnemonic() == M::Idiv && step.after.registers[register::AX].is_some_and(|ax| ax as u8 == 0x80) {
        return Some("a quotient of -128 that ought to be another");
    }
    if faults && pushed_ss(step) {
        return Some("SS was written down as pushed, not CS");
    }
    None
}

fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0 | 0xf2 | 0xf3)
}

/// Whether the operand ends beyond 64 KiB.
fn reaches_beyond(i: &Instruction, step: &Step) -> bool {
    let Some(operand) = i.op_kinds().position(|kind| kind == OpKind::Memory) else { return false };
    let offset = i.virtual_address(operand as u32, 0, |register, _, _| match register {
        segment if segment.is_segment_register() => Some(0),
        general => machine::general(step, general.full_register().number()).map(u64::from),
    });
    offset.is_some_and(|offset| offset + i.memory_size().size() as u64 > 0x1_0000)
}

/// Three steps of the set, which a chip cannot have done.
fn pushed_ss(step: &Step) -> bool {
    let before = |n: usize| step.before.registers[n].unwrap_or(0);
    let frame = u32::from(before(register::SS)) * 16 + u32::from(before(register::SP)).wrapping_sub(4);
    let byte = |at: u32| step.after.ram.iter().find(|(address, _)| *address == at).map(|(_, byte)| *byte);
    let pushed = byte(frame).zip(byte(frame + 1)).map(|(low, high)| u16::from_le_bytes([low, high]));
    pushed == Some(before(register::SS)) && pushed != Some(before(register::CS))
}

/// What the step is of.
pub fn instruction(step: &Step) -> Instruction {
    Decoder::new(16, &step.code, DecoderOptions::NONE).decode()
}

/// Flags that the manual leaves open after the instruction; if it has faulted, those that it would have written, which
/// the check before its access may use (docs/equivalence.md).
pub fn undefined(step: &Step) -> u16 {
    let i = instruction(step);
    let faulted = if step.exception.is_some() { i.rflags_modified() } else { 0 };
    rflags(i.rflags_undefined() | faulted) as u16
}
