//! Bytes of one instruction: of a chosen code with everything else random, or wholly random.

use iced_x86::{
    Code, Decoder, DecoderOptions, EncodingKind, FlowControl, Instruction, MandatoryPrefix, Mnemonic,
    OpCodeInfo, OpCodeOperandKind, OpCodeTableKind, OpKind, Register,
};
use x86::Mode;
use x86::classify;

use crate::random::Random;
use crate::{monitor, processor};

/// One instruction of a program.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub bytes: [u8; 15],
    pub len: usize,
    pub instruction: Instruction,
}

impl Piece {
    /// A direct branch.
    pub fn jumps(&self) -> bool {
        let kinds = [FlowControl::ConditionalBranch, FlowControl::UnconditionalBranch, FlowControl::Call];
        kinds.contains(&self.instruction.flow_control())
    }

    /// Goes on behind it, with no fault but #UD, and touches no memory but the stack.
    pub fn is_quiet(&self) -> bool {
        let i = &self.instruction;
        i.flow_control() == FlowControl::Next
            && i.code().op_code().encoding() == EncodingKind::Legacy
            && i.op_kinds().all(|kind| {
                matches!(
                    kind,
                    OpKind::Register
                        | OpKind::Immediate8
                        | OpKind::Immediate8to64
                        | OpKind::Immediate32
                        | OpKind::Immediate8to32
                )
            })
            && (0..i.op_count()).all(|n| !i.op_register(n).is_vector_register())
            && !matches!(i.mnemonic(), Mnemonic::Div | Mnemonic::Idiv)
            && i.op0_register().full_register() != Register::RSP
    }
}

/// Whether a case may contain this.
pub fn admissible(i: &Instruction, bits: u32) -> bool {
    use Mnemonic as M;
    let mode = match bits {
        16 => Mode::Protected16,
        32 => Mode::Protected32,
        _ => Mode::Long64,
    };
    let routine = classify::routine(i.code(), mode);
    if i.is_invalid() || routine.is_some_and(|routine| !monitor::carries_out(routine, bits)) {
        return false;
    }
    // What it reads is different each time, or it is the hosting kernel's business.
    if matches!(i.mnemonic(), M::Rdrand | M::Rdseed | M::Xbegin | M::Xabort | M::Xend | M::Xtest) {
        return false;
    }
    // They store pointers to the host's code (see the module's documentation).
    if matches!(i.mnemonic(), M::Fnstenv | M::Fstenv | M::Fnsave | M::Fsave) {
        return false;
    }
    matches!(
        i.flow_control(),
        FlowControl::Next
            | FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::ConditionalBranch
            | FlowControl::Return
            | FlowControl::Call
            | FlowControl::IndirectCall
            | FlowControl::Exception
    )
}

/// How this processor decodes where vendors differ.
pub fn options() -> u32 {
    if processor::is_amd() { DecoderOptions::AMD } else { DecoderOptions::NONE }
}

/// The codes that cases are made from.
pub fn codes(bits: u32, filter: Option<&str>) -> Vec<Code> {
    Code::values()
        .filter(|code| {
            let info = code.op_code();
            let mut i = Instruction::default();
            i.set_code(*code);
            let available = match bits {
                16 => info.mode16(),
                32 => info.mode32(),
                _ => info.mode64(),
            };
            // Some are two instructions in one name, some only other decoders know.
            available
                && info.is_instruction()
                && !info.fwait()
                && matches!(info.decoder_option(), DecoderOptions::NONE | DecoderOptions::AMD)
                && !matches!(info.encoding(), EncodingKind::MVEX | EncodingKind::D3NOW | EncodingKind::XOP)
                && admissible(&i, bits)
                && filter.is_none_or(|part| format!("{code:?}").to_lowercase().contains(&part.to_lowercase()))
        })
        .collect()
}

/// An instruction of this code, or one that shares its bytes.
pub fn of_code(random: &mut Random, code: Code, bits: u32) -> Option<Piece> {
    for _ in 0..12 {
        let mut bytes = Vec::with_capacity(32);
        let info = code.op_code();
        match info.encoding() {
            EncodingKind::Legacy => legacy(random, info, bits, &mut bytes),
            EncodingKind::VEX => vex(random, info, bits, &mut bytes),
            EncodingKind::EVEX => evex(random, info, bits, &mut bytes),
            _ => return None,
        }
        tail(random, info, &mut bytes);
        if let Some(piece) = decode(&bytes, bits)
            && (piece.instruction.code() == code || random.chance(3))
        {
            return Some(piece);
        }
    }
    None
}

/// Wholly random bytes that are an instruction.
pub fn of_bytes(random: &mut Random, bits: u32) -> Option<Piece> {
    for _ in 0..20 {
        let mut bytes = Vec::with_capacity(32);
        for _ in 0..random.below(3) {
            bytes.push(random.pick(&[0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x64, 0x65, 0xf0]));
        }
        if bits == 64 && random.chance(50) {
            bytes.push(0x40 | random.below(16) as u8);
        }
        if random.chance(40) {
            bytes.push(0x0f);
        }
        for _ in 0..16 {
            bytes.push(random.next() as u8);
        }
        if let Some(piece) = decode(&bytes, bits) {
            return Some(piece);
        }
    }
    None
}

/// Takes an instruction from the front of `bytes`.
pub fn decode(bytes: &[u8], bits: u32) -> Option<Piece> {
    let bytes = &bytes[..bytes.len().min(15)];
    let mut decoder = Decoder::with_ip(bits, bytes, 0, options());
    let instruction = decoder.decode();
    if !admissible(&instruction, bits)
        || is_overridden(&instruction, bytes)
        || copies_stack_pointer(&instruction)
        || bits != 64 && is_wide(&instruction)
    {
        return None;
    }
    let len = instruction.len();
    let mut kept = [0; 15];
    kept[..len].copy_from_slice(&bytes[..len]);
    Some(Piece { bytes: kept, len, instruction })
}

/// Some processors let a repeat prefix override the condition of LOOPE and LOOPNE.
fn is_overridden(i: &Instruction, bytes: &[u8]) -> bool {
    matches!(i.mnemonic(), Mnemonic::Loope | Mnemonic::Loopne)
        && bytes[..i.len() - 2].iter().any(|byte| matches!(byte, 0xf2 | 0xf3))
}

/// Instructions that reach xmm8 to xmm15 in 64-bit mode alone, where translated code always runs.
fn is_wide(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Fxsave | Mnemonic::Fxrstor)
}

/// A processor was seen to read a stale stack pointer in these, behind a push or pop.
fn copies_stack_pointer(i: &Instruction) -> bool {
    i.code().op_code().encoding() == EncodingKind::EVEX
        && (0..i.op_count()).any(|n| i.op_register(n).full_register() == Register::RSP)
}

fn segment_prefix(random: &mut Random, bytes: &mut Vec<u8>) {
    if random.chance(12) {
        bytes.push(random.pick(&[0x64, 0x65, 0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26]));
    }
}

fn legacy(random: &mut Random, info: &OpCodeInfo, bits: u32, bytes: &mut Vec<u8>) {
    if info.fwait() {
        bytes.push(0x9b);
    }
    segment_prefix(random, bytes);
    let address = match info.address_size() {
        0 => random.chance(12),
        size => size != bits,
    };
    if address {
        bytes.push(0x67);
    }
    if info.can_use_lock_prefix() && random.chance(40) {
        bytes.push(0xf0);
    }
    if info.can_use_rep_prefix() && random.chance(50) {
        bytes.push(0xf3);
    } else if info.can_use_repne_prefix() && random.chance(50) {
        bytes.push(0xf2);
    }
    let default = if bits == 16 { 16 } else { 32 };
    let size = match info.operand_size() {
        64 => 0,
        size => size,
    };
    if size != 0 && size != default {
        bytes.push(0x66);
    }
    match info.mandatory_prefix() {
        MandatoryPrefix::P66 => bytes.push(0x66),
        MandatoryPrefix::PF3 => bytes.push(0xf3),
        MandatoryPrefix::PF2 => bytes.push(0xf2),
        _ => {}
    }
    if bits == 64 {
        let wide = info.operand_size() == 64 && !info.default_op_size64() && !info.force_op_size64();
        let mut rex = random.below(8) as u8;
        if wide || info.operand_size() == 0 && random.chance(10) {
            rex |= 8;
        }
        if rex & 8 != 0 || random.chance(60) {
            bytes.push(0x40 | rex);
        }
    }
    match info.table() {
        OpCodeTableKind::T0F => bytes.push(0x0f),
        OpCodeTableKind::T0F38 => bytes.extend([0x0f, 0x38]),
        OpCodeTableKind::T0F3A => bytes.extend([0x0f, 0x3a]),
        _ => {}
    }
    opcode(info, bytes);
    use OpCodeOperandKind as K;
    let named = |kind: &K| {
        matches!(kind, K::r8_opcode | K::r16_opcode | K::r32_opcode | K::r64_opcode | K::sti_opcode)
    };
    if info.op_kinds().iter().any(named) {
        let last = bytes.len() - 1;
        bytes[last] |= random.below(8) as u8;
    }
}

fn opcode(info: &OpCodeInfo, bytes: &mut Vec<u8>) {
    if info.op_code_len() == 2 {
        bytes.push((info.op_code() >> 8) as u8);
    }
    bytes.push(info.op_code() as u8);
}

fn prefix_bits(info: &OpCodeInfo) -> u8 {
    match info.mandatory_prefix() {
        MandatoryPrefix::P66 => 1,
        MandatoryPrefix::PF3 => 2,
        MandatoryPrefix::PF2 => 3,
        _ => 0,
    }
}

fn map_bits(info: &OpCodeInfo) -> u8 {
    match info.table() {
        OpCodeTableKind::T0F => 1,
        OpCodeTableKind::T0F38 => 2,
        OpCodeTableKind::T0F3A => 3,
        OpCodeTableKind::MAP5 => 5,
        OpCodeTableKind::MAP6 => 6,
        _ => 0,
    }
}

fn vex(random: &mut Random, info: &OpCodeInfo, bits: u32, bytes: &mut Vec<u8>) {
    segment_prefix(random, bytes);
    if random.chance(8) {
        bytes.push(0x67);
    }
    let vvvv = if random.chance(40) { 15 } else { random.below(16) as u8 };
    let length = if info.is_lig() { random.below(2) as u8 } else { info.l() as u8 & 1 };
    let wide = if info.is_wig() { random.below(2) as u8 } else { info.w() as u8 };
    // Outside of 64-bit mode the two upper bits tell VEX from LES and LDS.
    let registers = if bits == 64 { random.below(8) as u8 } else { 7 };
    let low = length << 2 | prefix_bits(info);
    if map_bits(info) == 1 && wide == 0 && random.chance(40) {
        bytes.extend([0xc5, (registers & 4) << 5 | vvvv << 3 | low]);
    } else {
        bytes.extend([0xc4, registers << 5 | map_bits(info), wide << 7 | vvvv << 3 | low]);
    }
    opcode(info, bytes);
}

fn evex(random: &mut Random, info: &OpCodeInfo, bits: u32, bytes: &mut Vec<u8>) {
    segment_prefix(random, bytes);
    if random.chance(8) {
        bytes.push(0x67);
    }
    let registers = if bits == 64 { random.below(16) as u8 } else { 15 };
    let vvvv = if random.chance(40) { 15 } else { random.below(16) as u8 };
    let wide = if info.is_wig() { random.below(2) as u8 } else { info.w() as u8 };
    let broadcast = u8::from(
        (info.can_broadcast() || info.can_use_rounding_control() || info.can_suppress_all_exceptions())
            && random.chance(40),
    );
    let length = if info.is_lig() { random.below(3) as u8 } else { info.l() as u8 & 3 };
    let upper = if random.chance(70) { 1 } else { 0 };
    let masks = if info.can_use_op_mask_register() && (info.require_op_mask_register() || random.chance(60)) {
        random.below(8) as u8
    } else {
        0
    };
    let zeroing = u8::from(info.can_use_zeroing_masking() && masks != 0 && random.chance(50));
    bytes.extend([
        0x62,
        registers << 4 | map_bits(info),
        wide << 7 | vvvv << 3 | 4 | prefix_bits(info),
        zeroing << 7 | length << 5 | broadcast << 4 | upper << 3 | masks,
    ]);
    opcode(info, bytes);
}

/// ModRM with what the code fixes of it, then random bytes for whatever follows.
fn tail(random: &mut Random, info: &OpCodeInfo, bytes: &mut Vec<u8>) {
    let mut modrm = random.next() as u8;
    match random.below(10) {
        0..4 => modrm |= 0xc0,
        // With a SIB byte, or relative to rip or absolute.
        4..6 => modrm = modrm & 0x38 | random.pick(&[4, 0x44, 0x84]),
        6 => modrm = modrm & 0x38 | 5,
        _ => {}
    }
    if info.is_group() {
        modrm = modrm & !0x38 | (info.group_index() as u8) << 3;
    }
    if info.is_rm_group() {
        modrm = modrm & 0x38 | 0xc0 | info.rm_group_index() as u8;
    }
    bytes.push(modrm);
    for _ in 0..12 {
        bytes.push(random.next() as u8);
    }
}
