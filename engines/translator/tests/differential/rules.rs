//! Differences that are known and accepted: the first table of `docs/equivalence.md`, a function each. Each has lines
//! in `tests/equivalence/exceptions.txt` that it alone accepts.

mod seen;

use iced_x86::{FlowControl, Instruction, Mnemonic, Register};

use crate::case::{ALIAS, DATA, NO_EXCEPTION, Outcome, WINDOW, Width};
use crate::compare::{self, STATUS};
use crate::flags::rflags;
use crate::processor;
pub use seen::Seen;

/// Words of memory that changed, and to what.
type Changes = Vec<(u32, u64)>;

/// What a rule forgives.
pub enum Forgives {
    /// Everything, where the function says so.
    Whole(fn(&Seen) -> bool),
    /// Flags.
    Flags(fn(&Seen) -> u64),
    /// General registers, a bit each.
    Registers(fn(&Seen) -> u64),
    /// Words of memory, which the function takes out of both lists.
    Memory(fn(&Seen, &mut Changes, &mut Changes)),
}

/// One of them.
pub struct Rule {
    pub name: &'static str,
    pub forgives: Forgives,
}

macro_rules! rules {
    ($($kind:ident $function:ident,)*) => {
        &[$(Rule { name: stringify!($function), forgives: Forgives::$kind($function) }),*]
    };
}

/// All of them.
pub const RULES: &[Rule] = rules![
    Whole faults_in_other_order,
    Whole free_order,
    Whole masked_beyond_limit,
    Whole across_4_gib,
    Whole masked_around_4_gib,
    Whole last_element_untouched,
    Whole leaves_a_part,
    Whole moves_in_strides,
    Whole reads_strides,
    Whole reads_undefined_flags,
    Whole reads_pointers,
    Flags undefined_flags,
    Flags dead_flags,
    Registers stack_moves_lost,
    Memory pushed_return,
    Memory x87_pointers,
];

fn is_memory_fault(outcome: &Outcome) -> bool {
    matches!(outcome.vector, 12..=14)
}

/// Of several faults that are due, the processor raises #UD for what it does not have, then #MF, then #GP for a
/// misaligned operand, before it looks at pages and segments; translated code has found the page first.
fn faults_in_other_order(seen: &Seen) -> bool {
    let order = |vector: u64| [6, 16, 13, 12, 14].iter().position(|v| *v == vector);
    let (native, translated) = (seen.native, seen.translated);
    let (Some(a), Some(b)) = (order(native.vector), order(translated.vector)) else {
        return false;
    };
    native.rip == translated.rip && native.vector != 14 && a < b
}

/// Which part of an operand of many words is touched first, and which operand of a comparison, is the
/// processor's affair.
fn free_order(seen: &Seen) -> bool {
    use Mnemonic as M;
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
    is_memory_fault(seen.native)
        && is_memory_fault(seen.translated)
        && seen.native.rip == seen.translated.rip
        && seen.stopped().is_some_and(free)
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

/// A call to where no code can be is taken back, but for what it has pushed.
fn pushed_return(seen: &Seen, native: &mut Changes, translated: &mut Changes) {
    let calls = [FlowControl::Call, FlowControl::IndirectCall];
    let Some(call) = seen.stopped().filter(|i| calls.contains(&i.flow_control())) else { return };
    if (seen.native.vector, seen.translated.vector, seen.native.rip) != (13, 13, seen.translated.rip) {
        return;
    }
    let pushed = i64::from(call.stack_pointer_increment());
    let slot = (seen.native.gpr[4] & seen.mask()).wrapping_add_signed(pushed) & seen.mask();
    let slot = slot.wrapping_add(seen.base(Register::SS));
    // It may stand in two words, of either mapping.
    let last = slot.wrapping_sub(1).wrapping_add_signed(-pushed);
    let words = [slot, last].map(|linear| (linear & !7).wrapping_sub(DATA) as u32);
    for list in [native, translated] {
        list.retain(|(offset, _)| !words.contains(offset));
    }
}

/// Elements that a mask leaves out may lie beyond a segment's limit; translated code takes the operand whole.
fn masked_beyond_limit(seen: &Seen) -> bool {
    let (native, translated) = (seen.native, seen.translated);
    seen.case.width != Width::Bits64
        && matches!(translated.vector, 12 | 13)
        && (native.vector, native.rip) != (translated.vector, translated.rip)
        && seen.stopped_translated().is_some_and(|i| i.has_op_mask() || moves_masked(i))
}

/// Whether an operand that begins below 4 GiB and ends above is inside of a segment without a limit is the
/// processor's affair (SDM vol. 3 ch. 5.3). AMD's processors look at each part by itself.
fn across_4_gib(seen: &Seen) -> bool {
    let (native, translated) = (seen.native, seen.translated);
    let at_the_edge =
        native.vector == 14 && native.rip == translated.rip && matches!(native.address >> 12, 0xf_ffff | 0);
    let reaches_across = |i: &Instruction| {
        let last = i.memory_size().size().saturating_sub(1) as u64;
        seen.address(i, |_| 0).is_some_and(|from| from + last > u64::from(u32::MAX))
    };
    seen.case.width != Width::Bits64
        && matches!(translated.vector, 12 | 13)
        && (at_the_edge || seen.stopped_translated().is_some_and(reaches_across))
}

/// In 64-bit mode AMD's processors wrap around the address of each element of a masked store by 32-bit addresses.
fn masked_around_4_gib(seen: &Seen) -> bool {
    let narrow =
        |i: &Instruction| moves_masked(i) && i.memory_base().size().max(i.memory_index().size()) == 4;
    seen.case.width == Width::Bits64
        && processor::is_amd()
        && seen.translated.vector == 14
        && seen.native.rip != seen.translated.rip
        && seen.stopped_translated().is_some_and(narrow)
}

/// AMD's processors of family 23 that take a vector of 256 bits for two of 128 do not touch the last element of
/// VMOVDDUP's operand, which is doubled into nothing.
fn last_element_untouched(seen: &Seen) -> bool {
    /// Bytes of the operand before it.
    const BEFORE: u64 = 24;
    let translated = seen.translated;
    let base = |segment| seen.base(segment);
    let last = |i: &Instruction| match translated.vector {
        // The page's address.
        14 => seen.address(i, base).is_some_and(|from| translated.address.wrapping_sub(from) >= BEFORE),
        _ => is_memory_fault(translated),
    };
    let doubles = |i: &Instruction| i.mnemonic() == Mnemonic::Vmovddup && i.memory_size().size() == 32;
    processor::is_amd_family(0x17)
        && seen.native.rip != translated.rip
        && seen.stopped_translated().is_some_and(|i| doubles(i) && last(i))
}

/// What of a frame an instruction has pushed or popped that faults on another part of it is the processor's affair, and
/// so it is with stores of ten bytes; the routines and translated code leave nothing.
fn leaves_a_part(seen: &Seen) -> bool {
    use Mnemonic as M;
    let frames = [M::Enter, M::Pusha, M::Pushad, M::Popa, M::Popad];
    is_memory_fault(seen.native)
        && is_memory_fault(seen.translated)
        && seen.native.rip == seen.translated.rip
        && seen.stopped().is_some_and(|i| frames.contains(&i.mnemonic()) || is_extended(i))
}

/// A fast string operation whose source and destination overlap in memory but not by their addresses moves more than
/// an element at a time; translated code moves one after the other.
fn moves_in_strides(seen: &Seen) -> bool {
    let (native, translated) = (seen.native, seen.translated);
    may_move_in_strides(seen)
        && (native.vector, native.rip, native.gpr) == (translated.vector, translated.rip, translated.gpr)
}

/// An instruction behind it reads what it has moved.
fn reads_strides(seen: &Seen) -> bool {
    may_move_in_strides(seen) && seen.read_behind(moves_repeatedly)
}

fn may_move_in_strides(seen: &Seen) -> bool {
    let case = seen.case;
    let aliased = [case.gpr[6], case.gpr[7], case.fs_base, case.gs_base];
    case.width == Width::Bits64
        && aliased.iter().any(|address| *address >= ALIAS - WINDOW)
        && seen.list.iter().any(moves_repeatedly)
}

fn moves_repeatedly(i: &Instruction) -> bool {
    use Mnemonic as M;
    let string = matches!(i.mnemonic(), M::Movsb | M::Movsw | M::Movsd | M::Movsq);
    string && (i.has_rep_prefix() || i.has_repne_prefix())
}

/// FXSAVE stores addresses of the last x87 instruction and its operand, which under the translator are the host's.
fn x87_pointers(seen: &Seen, native: &mut Changes, translated: &mut Changes) {
    if !seen.list.iter().any(stores_pointers) {
        return;
    }
    let is_pointer = |value: u64| seen.list.iter().any(|i| i.ip() as u32 == value as u32);
    let at: Vec<u32> = native.iter().filter(|change| is_pointer(change.1)).map(|change| change.0).collect();
    for list in [native, translated] {
        list.retain(|(offset, _)| !at.iter().any(|at| *offset == *at || *offset == at + 8));
    }
}

/// An instruction behind it reads them.
fn reads_pointers(seen: &Seen) -> bool {
    let (native, translated) = (seen.native, seen.translated);
    seen.read_behind(stores_pointers) && (native.vector, native.rip) == (translated.vector, translated.rip)
}

fn stores_pointers(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Fxsave | Mnemonic::Fxsave64)
}

/// What multiplications leave in the flags that the manuals call undefined depends on the flags before, which
/// are not kept for that.
fn undefined_flags(seen: &Seen) -> u64 {
    seen.list.iter().map(left_undefined).fold(0, |sum, bits| sum | rflags(bits))
}

/// What reads them gets what they happen to be.
fn reads_undefined_flags(seen: &Seen) -> bool {
    let mut undefined = 0;
    seen.list.iter().any(|i| {
        let reads = i.rflags_read() & undefined != 0;
        // They stay so: what writes them next may be a shift by nothing.
        undefined |= left_undefined(i);
        reads
    })
}

fn left_undefined(i: &Instruction) -> u32 {
    match i.mnemonic() {
        Mnemonic::Mul | Mnemonic::Imul | Mnemonic::Lzcnt | Mnemonic::Tzcnt => i.rflags_undefined(),
        // Routines leave there what one kind of processor does.
        Mnemonic::Aaa | Mnemonic::Aas | Mnemonic::Aam | Mnemonic::Aad | Mnemonic::Daa | Mnemonic::Das => {
            i.rflags_undefined()
        }
        _ => 0,
    }
}

/// Flags that the rest of the program would have overwritten, where a fault ended it.
fn dead_flags(seen: &Seen) -> u64 {
    let native = seen.native;
    if native.vector == NO_EXCEPTION {
        return 0;
    }
    if seen.stopped().is_none() {
        return if compare::is_boundary(seen.case, native.rip) { 0 } else { STATUS };
    }
    seen.list
        .iter()
        .filter(|i| i.ip() >= native.rip)
        .map(|i| i.rflags_modified())
        .fold(0, |dead, bits| dead | rflags(bits))
}

/// AMD's processors of family 23 lose by how much pushes and pops have moved the stack pointer, if a conversion that
/// would have written it raises #XM.
fn stack_moves_lost(seen: &Seen) -> u64 {
    const SP: usize = 4;
    let (native, translated) = (seen.native, seen.translated);
    let before = seen.list.iter().rev().filter(|i| i.ip() < native.rip);
    let moved = before.scan(0_i64, |sum, i| {
        *sum += i64::from(i.stack_pointer_increment());
        Some(*sum)
    });
    let difference = translated.gpr[SP].wrapping_sub(native.gpr[SP]) as i64;
    let lost = processor::is_amd_family(0x17)
        && (native.vector, translated.vector, native.rip) == (19, 19, translated.rip)
        && seen.stopped().is_some_and(|i| i.op0_register().full_register() == Register::RSP)
        && moved.into_iter().any(|sum| sum == difference);
    u64::from(lost) << SP
}
