//! Two outcomes side by side.

use iced_x86::{Decoder, Instruction};

use crate::case::{Case, Outcome, Width};
use crate::rules::{Forgives, Rule, Seen};
use crate::surround::PADS;
use crate::{encode, fpu};

pub const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
/// Flags that arithmetic sets.
pub const STATUS: u64 = 0x8d5;
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

/// What differs and is forgiven by none of the rules, as names with the native and the translated value; empty if nothing
/// does.
pub fn differences(case: &Case, native: &Outcome, translated: &Outcome, rules: &[Rule]) -> Vec<String> {
    let mut found = Vec::new();
    if equal(case, native, translated) {
        return found;
    }
    let seen = Seen::new(case, native, translated);
    let (mut forgiven, mut registers) = (0, 0);
    for rule in rules {
        match rule.forgives {
            Forgives::Whole(all) if all(&seen) => return found,
            Forgives::Flags(flags) => forgiven |= flags(&seen),
            Forgives::Registers(which) => registers |= which(&seen),
            _ => {}
        }
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
        if registers >> n & 1 != 0 {
            continue;
        }
        if whole {
            differ(name, a, b);
        } else if n < 8 {
            differ(name, a & 0xffff_ffff, b & 0xffff_ffff);
        }
    }
    let mask = STATUS & !forgiven | DIRECTION;
    differ("rflags", native.rflags & mask, translated.rflags & mask);
    // Vector registers from 8 on exist in 64-bit mode only, where translated code always runs.
    let hidden = |at: usize| !whole && fpu::is_upper(at);
    let wrong = (0..native.fpu.len()).find(|at| native.fpu[*at] != translated.fpu[*at] && !hidden(*at));
    if let Some(at) = wrong {
        let from = at & !7;
        let word = |area: &[u8]| u64::from_le_bytes(area[from..from + 8].try_into().expect("8"));
        differ(&fpu::name(at), word(&native.fpu), word(&translated.fpu));
    }
    let (mut a, mut b) = (native.changes().to_vec(), translated.changes().to_vec());
    for rule in rules {
        if let Forgives::Memory(forget) = rule.forgives {
            forget(&seen, &mut a, &mut b);
        }
    }
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

/// Whether nothing differs at all, which is soon seen.
fn equal(case: &Case, native: &Outcome, translated: &Outcome) -> bool {
    let page = |outcome: &Outcome| {
        (outcome.vector == 14).then_some((outcome.address >> 12, outcome.error_code & 0x12))
    };
    let ends = |outcome: &Outcome| {
        (outcome.vector, page(outcome), outcome.rip, outcome.rflags & (STATUS | DIRECTION))
    };
    let whole = case.width == Width::Bits64;
    let registers = native.gpr.iter().zip(&translated.gpr);
    ends(native) == ends(translated)
        && registers
            .take(if whole { 16 } else { 8 })
            .all(|(a, b)| if whole { a == b } else { *a as u32 == *b as u32 })
        && native.fpu == translated.fpu
        && native.changes() == translated.changes()
}

/// Whether an instruction of the program, or a pad, begins here. A jump may lead elsewhere, where anything can
/// stand.
pub fn is_boundary(case: &Case, rip: u64) -> bool {
    let pads = case.start + u64::from(case.code_len) - 2 * PADS;
    let at_pad = rip.checked_sub(pads).is_some_and(|n| n < 2 * PADS && n.is_multiple_of(2));
    at_pad || decode(case).iter().any(|i| i.ip() == rip)
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
