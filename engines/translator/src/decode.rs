//! From guest bytes to a list of instructions with what the lowering needs to know of each.

use std::sync::OnceLock;

use iced_x86::{Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};
use x86::classify::{self, Routine};

use crate::access::{Accesses, Direction, Operands};
use crate::flags;
use crate::inlining;
use crate::mode::ModeWord;

/// Instructions in one block at most: enough for any straight run that matters, and a bound on the work that
/// one invalidation throws away.
pub const MAX_INSTRUCTIONS: usize = 64;

/// Conditional branches after which a block goes on, at most: the longer it is, the more of it is never run.
const MAX_BRANCHES: usize = 3;

/// One guest instruction of a block.
#[derive(Clone, Copy, Debug)]
pub struct GuestInsn {
    /// Decoded form; its `ip` is the guest's rip.
    pub instruction: Instruction,
    /// Offset of its first byte from the block's.
    pub offset: u16,
    /// Its register operands that live in the context.
    pub operands: Operands,
    /// What it does to its memory operand.
    pub direction: Direction,
    /// The routine that must carry it out, if it must not run as it is.
    pub routine: Option<Routine>,
    /// Status flags that it, or something after it, reads as they are before it.
    pub live_before: u8,
    /// Status flags that are read after it.
    pub live_after: u8,
}

/// Why decoding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The last instruction transfers control or has a routine.
    Transfer,
    /// The next instruction follows in the same page.
    Limit,
    /// The next instruction begins in, or reaches into, the next page; the list may be empty.
    Page,
    /// The next bytes are no instruction: #UD. The list may be empty.
    Invalid,
    /// A debugger has a breakpoint there. The list is empty.
    Breakpoint,
}

/// How the host's processor, and so the guest's, decodes where vendors differ: an operand-size prefix makes a
/// near branch of 64-bit mode a 16-bit one on AMD's and means nothing on Intel's.
fn options() -> u32 {
    if is_amd() { DecoderOptions::AMD } else { DecoderOptions::NONE }
}

/// Whether the processor is AMD's (or Hygon's), where the makers differ.
pub fn is_amd() -> bool {
    static AMD: OnceLock<bool> = OnceLock::new();
    *AMD.get_or_init(|| matches!(host::cpu::vendor().as_str(), "AuthenticAMD" | "HygonGenuine"))
}

/// Decodes from `bytes`, which are the guest's at `rip` and end with their page.
pub fn decode(
    bytes: &[u8],
    rip: u64,
    mode: ModeWord,
    limit: usize,
    accesses: &mut Accesses,
) -> (Vec<GuestInsn>, End) {
    let mut list = Vec::with_capacity(limit.min(16));
    let mut decoder = Decoder::with_ip(mode.bits(), bytes, rip, options());
    let mut instruction = Instruction::default();
    let mut branches = 0;
    let end = loop {
        if list.len() == limit || branches == MAX_BRANCHES {
            break End::Limit;
        }
        if !decoder.can_decode() {
            break End::Page;
        }
        let offset = decoder.position() as u16;
        decoder.decode_out(&mut instruction);
        match decoder.last_error() {
            DecoderError::None => {}
            DecoderError::NoMoreBytes if bytes.len() - usize::from(offset) < 15 => break End::Page,
            _ => break End::Invalid,
        }
        let routine = classify::routine(instruction.code(), mode.mode());
        let (operands, direction) = accesses.of(&instruction);
        list.push(GuestInsn {
            instruction,
            offset,
            operands,
            direction,
            routine,
            live_before: 0,
            live_after: 0,
        });
        if ends_block(&instruction, routine, mode) {
            if limit == 1 || !skips(&instruction) {
                break End::Transfer;
            }
            branches += 1;
        }
    };
    (list, end)
}

/// Whether these bytes, which are no instruction, only have too many prefixes: one longer than 15 bytes is #GP and not
/// #UD.
pub fn is_too_long(bytes: &[u8], mode: ModeWord) -> bool {
    const LONGEST: usize = 15;
    let is_prefix = |byte: u8| {
        let rex = mode.bits() == 64 && byte & 0xf0 == 0x40;
        matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3) || rex
    };
    let prefixes = bytes.iter().take_while(|byte| is_prefix(**byte)).count();
    bytes.len() >= LONGEST
        && (1..=prefixes).any(|left_out| {
            let mut rest = [0; LONGEST];
            rest[..LONGEST - left_out].copy_from_slice(&bytes[left_out..LONGEST]);
            let instruction = Decoder::with_ip(mode.bits(), &rest, 0, options()).decode();
            !instruction.is_invalid() && instruction.len() + left_out > LONGEST
        })
}

/// Whether nothing may follow in a block: control moves, or the engine is left.
fn ends_block(instruction: &Instruction, routine: Option<Routine>, mode: ModeWord) -> bool {
    if let Some(routine) = routine {
        return !inlining::inlines(instruction, routine, mode)
            || instruction.flow_control() != FlowControl::Next;
    }
    instruction.flow_control() != FlowControl::Next
}

/// Whether this jumps to an offset of 16 bits, which AMD's processors have in 64-bit mode too.
pub fn is_narrow(i: &Instruction) -> bool {
    i.op0_kind() == OpKind::NearBranch16
}

/// Whether this skips some of the code behind it, or not: a conditional branch forwards, behind which a block goes on.
fn skips(i: &Instruction) -> bool {
    i.is_jcc_short_or_near() && i.near_branch_target() > i.ip() && !is_narrow(i)
}

/// Fills in which flags are live around each instruction, backwards from those live where the last one goes straight on; `aside`
/// says which are where a conditional branch leads, if that is not all the same.
pub fn mark_live_flags(
    list: &mut [GuestInsn],
    mode: ModeWord,
    mut live: u8,
    mut aside: impl FnMut(&Instruction) -> u8,
) {
    for insn in list.iter_mut().rev() {
        if live != flags::ALL && insn.instruction.flow_control() == FlowControl::ConditionalBranch {
            live |= aside(&insn.instruction);
        }
        insn.live_after = live;
        live = live_before(insn, mode, live);
        insn.live_before = live;
    }
}

fn live_before(insn: &GuestInsn, mode: ModeWord, after: u8) -> u8 {
    if let Some(routine) = insn.routine {
        // A routine of the monitor sees, saves or replaces all of them.
        return if inlining::keeps_flags(&insn.instruction, routine, mode) { after } else { flags::ALL };
    }
    let instruction = &insn.instruction;
    after & !certainly_written(instruction) | flags::read(instruction)
}

/// Flags that do not survive the instruction, whatever they were.
fn certainly_written(i: &Instruction) -> u8 {
    use Mnemonic as M;
    match i.mnemonic() {
        _ if writes_conditionally(i) => 0,
        // What the manuals call undefined after these, processors leave as it was, or some do (BSF and BSR, and OF
        // after a rotation by more than 1).
        M::Bsf
        | M::Bsr
        | M::Bt
        | M::Bts
        | M::Btr
        | M::Btc
        | M::Div
        | M::Idiv
        | M::Rol
        | M::Ror
        | M::Rcl
        | M::Rcr => flags::of(i.rflags_modified() & !i.rflags_undefined()),
        _ => flags::of(i.rflags_modified()),
    }
}

/// Shifts by a count that may be zero, and repeated compares that may not run at all, leave the flags alone.
fn writes_conditionally(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Shl | M::Shr | M::Sar | M::Sal | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd => {
            instruction.op_kind(instruction.op_count() - 1) == OpKind::Register
        }
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq | M::Scasb | M::Scasw | M::Scasd | M::Scasq => {
            instruction.has_rep_prefix() || instruction.has_repne_prefix()
        }
        _ => false,
    }
}

/// Flags live on entry to code that starts with `bytes`, looking a few instructions ahead; all of them where
/// that does not settle it. Also how many bytes were looked at, on which the answer depends.
pub fn peek_live(bytes: &[u8], rip: u64, mode: ModeWord) -> (u8, u16) {
    const AHEAD: usize = 6;
    let mut unknown = flags::ALL;
    let mut live = 0;
    let mut decoder = Decoder::with_ip(mode.bits(), bytes, rip, options());
    let mut instruction = Instruction::default();
    for _ in 0..AHEAD {
        if !decoder.can_decode() || unknown == 0 {
            break;
        }
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid()
            || instruction.flow_control() != FlowControl::Next
            || classify::routine(instruction.code(), mode.mode()).is_some()
        {
            // A conditional branch reads what it reads; past it, two ways are open.
            live |= unknown;
            return (live, decoder.position() as u16);
        }
        live |= unknown & flags::read(&instruction);
        unknown &= !certainly_written(&instruction);
    }
    (live | unknown, decoder.position() as u16)
}
