//! Two outcomes side by side.

use iced_x86::{Decoder, Instruction, RflagsBits};

use crate::case::{Case, NO_EXCEPTION, Outcome, Width};
use crate::{encode, fpu};

const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const STATUS: u64 = 0x8d5;
const DIRECTION: u64 = 0x400;

/// The instructions of a case.
pub fn decode(case: &Case) -> Vec<Instruction> {
    let mut decoder = Decoder::with_ip(case.width as u32, case.bytes(), case.start, encode::options());
    let mut list: Vec<_> = decoder.iter().collect();
    // The pads.
    while list.last().is_some_and(|i| i.code() == iced_x86::Code::Ud2) && list.len() > 1 {
        list.pop();
    }
    list
}

/// What differs, as names with the native and the translated value; empty if nothing does.
pub fn differences(case: &Case, native: &Outcome, translated: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    if known(native, translated) {
        return found;
    }
    let mut differ = |name: &str, a: u64, b: u64| {
        if a != b {
            found.push(format!("{name} {a:#x} / {b:#x}"));
        }
    };
    differ("vector", native.vector, translated.vector);
    differ("rip", native.rip, translated.rip);
    if native.vector == translated.vector && native.vector == 14 {
        differ("cr2 page", native.address >> 12, translated.address >> 12);
        // Write and instruction fetch; the others depend on ring and on what the kernel tells.
        differ("error code", native.error_code & 0x12, translated.error_code & 0x12);
    }
    let whole = case.width == Width::Bits64;
    for (n, name) in GPR.iter().enumerate() {
        let (a, b) = (native.gpr[n], translated.gpr[n]);
        if whole {
            differ(name, a, b);
        } else if n < 8 {
            differ(name, a & 0xffff_ffff, b & 0xffff_ffff);
        }
    }
    let mask = STATUS & !dead_flags(case, native) | DIRECTION;
    differ("rflags", native.rflags & mask, translated.rflags & mask);
    let wrong = (0..native.fpu.len()).find(|at| native.fpu[*at] != translated.fpu[*at]);
    if let Some(at) = wrong {
        let from = at & !7;
        let word = |area: &[u8]| u64::from_le_bytes(area[from..from + 8].try_into().expect("8"));
        differ(&fpu::name(at), word(&native.fpu), word(&translated.fpu));
    }
    let changes = |outcome: &Outcome| outcome.changes[..outcome.change_count as usize].to_vec();
    let (a, b) = (changes(native), changes(translated));
    if a != b {
        let only = |x: &[(u32, u64)], y: &[(u32, u64)]| {
            let list: Vec<_> = x
                .iter()
                .filter(|change| !y.contains(change))
                .take(3)
                .map(|(at, value)| format!("+{at:#x}={value:#x}"))
                .collect();
            list.join(",")
        };
        found.push(format!("memory {} / {}", only(&a, &b), only(&b, &a)));
    }
    found
}

/// Faults of one instruction in the other order: of several that are due, the processor raises #UD for what it
/// does not have, then #GP for a misaligned operand, before it looks at pages and segments; translated code has
/// found the page first.
fn known(native: &Outcome, translated: &Outcome) -> bool {
    let order = |vector: u64| [6, 13, 12, 14].iter().position(|v| *v == vector);
    let (Some(a), Some(b)) = (order(native.vector), order(translated.vector)) else {
        return false;
    };
    native.rip == translated.rip && native.vector != 14 && a < b
}

/// Flags that the rest of the program would have overwritten, where a fault ended it.
fn dead_flags(case: &Case, native: &Outcome) -> u64 {
    if native.vector == NO_EXCEPTION {
        return 0;
    }
    let list = decode(case);
    if list.iter().all(|i| i.ip() != native.rip) {
        // Behind the program, among whatever stands there.
        return if native.rip.wrapping_sub(case.start) < u64::from(case.code_len) { 0 } else { STATUS };
    }
    list.iter()
        .filter(|i| i.ip() >= native.rip)
        .map(|i| i.rflags_modified())
        .fold(0, |dead, bits| dead | rflags(bits))
}

/// iced-x86's bit numbers to the processor's.
fn rflags(bits: u32) -> u64 {
    [
        (RflagsBits::OF, 0x800),
        (RflagsBits::SF, 0x80),
        (RflagsBits::ZF, 0x40),
        (RflagsBits::AF, 0x10),
        (RflagsBits::CF, 1),
        (RflagsBits::PF, 4),
    ]
    .into_iter()
    .filter(|(from, _)| bits & from != 0)
    .fold(0, |sum, (_, to)| sum | to)
}

/// A case in one line.
pub fn describe(case: &Case) -> String {
    let list = decode(case);
    let text: Vec<_> = list.iter().map(|i| format!("{i}")).collect();
    let hex: String = case.code[..(case.code_len as usize).saturating_sub(8)]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut used: Vec<_> = list
        .iter()
        .flat_map(|i| {
            let operands = (0..i.op_count()).map(|n| i.op_register(n));
            operands
                .chain([i.memory_base(), i.memory_index()])
                .filter(|r| r.is_gpr())
                .map(|r| r.full_register().number())
                .collect::<Vec<_>>()
        })
        .collect();
    if list.iter().any(Instruction::is_string_instruction) {
        used.extend([1, 6, 7]);
    }
    if list.iter().any(|i| i.stack_pointer_increment() != 0) {
        used.extend([4, 5]);
    }
    used.sort_unstable();
    used.dedup();
    let registers: Vec<_> = used.iter().map(|n| format!("{}={:#x}", GPR[*n], case.gpr[*n])).collect();
    format!(
        "{:?} at {:#x} {hex} [{}] {} flags={:#x}{}",
        case.width,
        case.start,
        text.join("; "),
        registers.join(" "),
        case.rflags,
        if case.width == Width::Bits64 { String::new() } else { format!(" segments={:?}", case.segments) }
    )
}
