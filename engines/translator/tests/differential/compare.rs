//! Two outcomes side by side.

use iced_x86::{Decoder, FlowControl, Instruction, Mnemonic, RflagsBits};

use crate::case::{ALIAS, Case, NO_EXCEPTION, Outcome, WINDOW, Width};
use crate::surround::PADS;
use crate::{encode, fpu};

pub const GPR: [&str; 16] = [
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
    if equal(case, native, translated) || known(case, native, translated) {
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
    let undefined = decode(case).iter().map(undefined_flags).fold(0, |sum, bits| sum | rflags(bits));
    let mask = STATUS & !dead_flags(case, native) & !undefined | DIRECTION;
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
    forget_pointers(case, &mut a, &mut b);
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

/// Leaves out what FXSAVE stored of the last x87 instruction's address and operand, if both stored one: the
/// translated is the host's (see the module's documentation).
fn forget_pointers(case: &Case, native: &mut Vec<(u32, u64)>, translated: &mut Vec<(u32, u64)>) {
    let list = decode(case);
    if !list.iter().any(|i| matches!(i.mnemonic(), Mnemonic::Fxsave | Mnemonic::Fxsave64)) {
        return;
    }
    let is_pointer = |value: u64| list.iter().any(|i| i.ip() as u32 == value as u32);
    let at: Vec<u32> = native.iter().filter(|change| is_pointer(change.1)).map(|change| change.0).collect();
    for list in [native, translated] {
        list.retain(|(offset, _)| !at.iter().any(|at| *offset == *at || *offset == at + 8));
    }
}

/// Differences that are known and accepted.
fn known(case: &Case, native: &Outcome, translated: &Outcome) -> bool {
    faults_in_other_order(native, translated)
        || free_order(case, native, translated)
        || jumps_nowhere(case, native, translated)
        || masked_beyond_limit(case, native, translated)
        || wraps_around(case, native, translated)
        || leaves_a_part(case, native, translated)
        || moves_in_strides(case, native, translated)
        || reads_undefined(&decode(case))
}

/// Of several faults that are due, the processor raises #UD for what it does not have, then #MF, then #GP for a
/// misaligned operand, before it looks at pages and segments; translated code has found the page first.
fn faults_in_other_order(native: &Outcome, translated: &Outcome) -> bool {
    let order = |vector: u64| [6, 16, 13, 12, 14].iter().position(|v| *v == vector);
    let (Some(a), Some(b)) = (order(native.vector), order(translated.vector)) else {
        return false;
    };
    native.rip == translated.rip && native.vector != 14 && a < b
}

/// Which part of an operand of many words is touched first, and which operand of a comparison, is the
/// processor's affair.
fn free_order(case: &Case, native: &Outcome, translated: &Outcome) -> bool {
    use Mnemonic as M;
    let fault = |vector: u64| matches!(vector, 12..=14);
    let by_element = |i: &Instruction| {
        let compares = matches!(i.mnemonic(), M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq);
        let compresses = matches!(
            i.mnemonic(),
            M::Vcompressps
                | M::Vcompresspd
                | M::Vpcompressb
                | M::Vpcompressw
                | M::Vpcompressd
                | M::Vpcompressq
        );
        let environments = matches!(i.mnemonic(), M::Fldenv | M::Frstor);
        compares || moves_masked(i) || compresses || environments
    };
    let free = |i: &Instruction| i.memory_size().size() >= 32 || is_extended(i) || by_element(i);
    fault(native.vector)
        && fault(translated.vector)
        && native.rip == translated.rip
        && decode(case).iter().any(|i| i.ip() == native.rip && free(i))
}

/// Whether a vector register tells which elements are moved.
fn moves_masked(i: &Instruction) -> bool {
    use Mnemonic as M;
    let bytes = matches!(i.mnemonic(), M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu);
    bytes || matches!(i.mnemonic(), M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq)
}

/// Whether an operand in memory is of ten bytes, which are eight and two.
fn is_extended(i: &Instruction) -> bool {
    i.memory_size().size() == 10
}

/// A jump to a non-canonical address faults at the jump; translated code has jumped.
fn jumps_nowhere(case: &Case, native: &Outcome, translated: &Outcome) -> bool {
    native.vector == 13
        && translated.vector == 13
        && decode(case).iter().any(|i| i.ip() == native.rip && i.flow_control() != FlowControl::Next)
}

/// Elements that a mask leaves out may lie beyond a segment's limit; translated code takes the operand whole.
fn masked_beyond_limit(case: &Case, native: &Outcome, translated: &Outcome) -> bool {
    let masked = |i: &Instruction| i.has_op_mask() || moves_masked(i);
    case.width != Width::Bits64
        && matches!(translated.vector, 12 | 13)
        && (native.vector, native.rip) != (translated.vector, translated.rip)
        && decode(case).iter().any(|i| i.ip() == translated.rip && masked(i))
}

/// Whether an operand that begins below 4 GiB and ends above is inside of a segment without a limit is the
/// processor's affair (SDM vol. 3 ch. 5.3). In 64-bit mode AMD's processors wrap around the address of each element of a
/// masked store by 32-bit addresses.
fn wraps_around(case: &Case, native: &Outcome, translated: &Outcome) -> bool {
    let narrow =
        |i: &Instruction| moves_masked(i) && i.memory_base().size().max(i.memory_index().size()) == 4;
    if case.width == Width::Bits64 {
        return host::cpu::vendor() == "AuthenticAMD"
            && translated.vector == 14
            && native.rip != translated.rip
            && decode(case).iter().any(|i| i.ip() == translated.rip && narrow(i));
    }
    native.vector == 14
        && matches!(translated.vector, 12 | 13)
        && native.rip == translated.rip
        && matches!(native.address >> 12, 0xf_ffff | 0)
}

/// What of a frame an instruction has pushed or popped that faults on another part of it is the processor's affair, and
/// so it is with stores of ten bytes; the routines and translated code leave nothing.
fn leaves_a_part(case: &Case, native: &Outcome, translated: &Outcome) -> bool {
    use Mnemonic as M;
    let frames = [M::Enter, M::Pusha, M::Pushad, M::Popa, M::Popad];
    let fault = |outcome: &Outcome| matches!(outcome.vector, 12..=14);
    fault(native)
        && fault(translated)
        && native.rip == translated.rip
        && decode(case)
            .iter()
            .any(|i| i.ip() == native.rip && (frames.contains(&i.mnemonic()) || is_extended(i)))
}

/// A fast string operation whose source and destination overlap in memory but not by their addresses moves more than
/// an element at a time; translated code moves one after the other.
fn moves_in_strides(case: &Case, native: &Outcome, translated: &Outcome) -> bool {
    use Mnemonic as M;
    let moves = |i: &Instruction| {
        let string = matches!(i.mnemonic(), M::Movsb | M::Movsw | M::Movsd | M::Movsq);
        string && (i.has_rep_prefix() || i.has_repne_prefix())
    };
    let aliased = [case.gpr[6], case.gpr[7], case.fs_base, case.gs_base];
    case.width == Width::Bits64
        && aliased.iter().any(|address| *address >= ALIAS - WINDOW)
        && decode(case).iter().any(moves)
        && (native.vector, native.rip, native.gpr) == (translated.vector, translated.rip, translated.gpr)
}

/// What multiplications leave in the flags that the manuals call undefined depends on the flags before, which
/// are not kept for that.
fn undefined_flags(i: &Instruction) -> u32 {
    match i.mnemonic() {
        Mnemonic::Mul | Mnemonic::Imul | Mnemonic::Lzcnt | Mnemonic::Tzcnt => i.rflags_undefined(),
        // Routines leave there what one kind of processor does.
        Mnemonic::Aaa | Mnemonic::Aas | Mnemonic::Aam | Mnemonic::Aad | Mnemonic::Daa | Mnemonic::Das => {
            i.rflags_undefined()
        }
        _ => 0,
    }
}

fn reads_undefined(list: &[Instruction]) -> bool {
    let mut undefined = 0;
    list.iter().any(|i| {
        let reads = i.rflags_read() & undefined != 0;
        // They stay so: what writes them next may be a shift by nothing.
        undefined |= undefined_flags(i);
        reads
    })
}

/// Whether an instruction of the program, or a pad, begins here. A jump may lead elsewhere, where anything can
/// stand.
pub fn is_boundary(case: &Case, rip: u64) -> bool {
    let pads = case.start + u64::from(case.code_len) - 2 * PADS;
    let at_pad = rip.checked_sub(pads).is_some_and(|n| n < 2 * PADS && n.is_multiple_of(2));
    at_pad || decode(case).iter().any(|i| i.ip() == rip)
}

/// Flags that the rest of the program would have overwritten, where a fault ended it.
fn dead_flags(case: &Case, native: &Outcome) -> u64 {
    if native.vector == NO_EXCEPTION {
        return 0;
    }
    let list = decode(case);
    if list.iter().all(|i| i.ip() != native.rip) {
        return if is_boundary(case, native.rip) { 0 } else { STATUS };
    }
    list.iter()
        .filter(|i| i.ip() >= native.rip)
        .map(|i| i.rflags_modified())
        .fold(0, |dead, bits| dead | rflags(bits))
}

/// iced-x86's bit numbers to the processor's.
pub fn rflags(bits: u32) -> u64 {
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
