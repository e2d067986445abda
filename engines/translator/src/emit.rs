//! The emitter: host machine code for the sequences the translator writes itself.
//!
//! Guest instructions are re-encoded by iced-x86; what surrounds them (address computation, software-TLB
//! checks, spills, jumps) is a handful of forms, written here directly because they are most of the bytes and
//! most of the translation time. Encodings: SDM vol. 2 ch. 2.

use crate::context::{ContextField, Layout};

/// A host register by its encoding number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

#[allow(missing_docs)]
impl Reg {
    pub const RAX: Self = Self(0);
    pub const RCX: Self = Self(1);
    pub const RDX: Self = Self(2);
    pub const RBX: Self = Self(3);
    pub const RSP: Self = Self(4);
    pub const RBP: Self = Self(5);
    pub const RSI: Self = Self(6);
    pub const RDI: Self = Self(7);
    pub const R9: Self = Self(9);
    pub const R10: Self = Self(10);
    pub const R11: Self = Self(11);
}

/// Condition codes as `jcc` encodes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cond {
    /// CF = 1.
    Below = 2,
    /// CF = 0.
    NotBelow = 3,
    /// ZF = 1.
    Equal = 4,
    /// ZF = 0.
    NotEqual = 5,
    /// CF = 0 and ZF = 0.
    Above = 7,
}

/// One-byte opcodes of the form `op reg, r/m` used by [`Emitter::op_ctx`] and friends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// reg += r/m
    Add = 0x03,
    /// reg |= r/m
    Or = 0x0b,
    /// reg &= r/m
    And = 0x23,
    /// reg -= r/m
    Sub = 0x2b,
    /// compare reg with r/m
    Cmp = 0x3b,
    /// reg = r/m
    Load = 0x8b,
    /// r/m = reg
    Store = 0x89,
    /// reg = address of r/m
    Lea = 0x8d,
}

/// A memory operand of host code, by host registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mem {
    /// Base register.
    pub base: Option<Reg>,
    /// Index register (never rsp) and scale 1, 2, 4 or 8.
    pub index: Option<(Reg, u8)>,
    /// Displacement, sign-extended.
    pub disp: i32,
}

impl Mem {
    /// `[base]`
    pub fn base(base: Reg) -> Self {
        Self { base: Some(base), index: None, disp: 0 }
    }

    /// `[address]`, below 2 GiB.
    pub fn absolute(address: u64) -> Self {
        Self { base: None, index: None, disp: address as i32 }
    }

    /// `[base+disp]`
    pub fn at(base: Reg, disp: i32) -> Self {
        Self { base: Some(base), index: None, disp }
    }
}

/// A place in the code whose 32-bit relative operand is filled in later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Fixup {
    /// Offset of the operand in the code.
    pub at: usize,
}

/// Collects host code destined for a known address.
pub struct Emitter {
    code: Vec<u8>,
    origin: u64,
    /// From which offset on the code stands elsewhere, and where.
    part: (usize, u64),
    layout: Layout,
}

impl Emitter {
    /// Starts code that will run at `origin`.
    pub fn new(origin: u64, layout: Layout) -> Self {
        Self { code: Vec::with_capacity(1024), origin, part: (usize::MAX, 0), layout }
    }

    /// Starts over at another address, keeping the buffer.
    pub fn restart(&mut self, origin: u64) {
        self.code.clear();
        self.origin = origin;
        self.part = (usize::MAX, 0);
    }

    /// What follows will stand at `origin`.
    pub fn part(&mut self, origin: u64) {
        self.part = (self.code.len(), origin);
    }

    /// The code before [`Self::part`] and that from there on.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        self.code.split_at(self.part.0.min(self.code.len()))
    }

    /// Address of the byte at an offset.
    pub fn address(&self, offset: usize) -> u64 {
        let (from, origin) = self.part;
        match offset.checked_sub(from) {
            Some(offset) => origin + offset as u64,
            None => self.origin + offset as u64,
        }
    }

    /// What has been emitted.
    pub fn code(&self) -> &[u8] {
        &self.code
    }

    /// Offset of the next byte.
    pub fn offset(&self) -> usize {
        self.code.len()
    }

    /// Address of the next byte.
    pub fn here(&self) -> u64 {
        self.address(self.code.len())
    }

    /// Where the tables stand.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// More is known of where things stand.
    pub fn set_layout(&mut self, layout: Layout) {
        self.layout = layout;
    }

    /// Copies bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    /// Fills with one-byte no-operations up to a multiple of `align`.
    pub fn align(&mut self, align: usize) {
        while !(self.here() as usize).is_multiple_of(align) {
            self.code.push(0x90);
        }
    }

    /// Emits a routine, and fills up with INT3 to where the next of its kind begins.
    pub fn routine<T>(&mut self, bytes: usize, emit: impl FnOnce(&mut Self) -> T) -> T {
        let end = self.code.len() + bytes;
        let result = emit(self);
        assert!(self.code.len() <= end, "{} bytes too many", self.code.len() - end);
        self.code.resize(end, 0xcc);
        result
    }

    fn imm32(&mut self, value: i32) {
        self.bytes(&value.to_le_bytes());
    }

    fn rex(&mut self, wide: bool, reg: u8, index: u8, base: u8) {
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1);
        if rex != 0x40 {
            self.code.push(rex);
        }
    }

    fn modrm_mem(&mut self, reg: u8, mem: Mem) {
        let reg = (reg & 7) << 3;
        let Some(base) = mem.base else {
            // No base: SIB with disp32, absolute and sign-extended.
            let (index, scale) = mem.index.map_or((4, 1), |(r, s)| (r.0 & 7, s));
            self.bytes(&[reg | 4, scale_bits(scale) | index << 3 | 5]);
            self.imm32(mem.disp);
            return;
        };
        // rbp and r13 as base have no form without displacement.
        let (mode, short) = match mem.disp {
            0 if base.0 & 7 != 5 => (0, true),
            d if i8::try_from(d).is_ok() => (0x40, true),
            _ => (0x80, false),
        };
        if mem.index.is_some() || base.0 & 7 == 4 {
            let (index, scale) = mem.index.map_or((4, 1), |(r, s)| (r.0 & 7, s));
            self.bytes(&[mode | reg | 4, scale_bits(scale) | index << 3 | base.0 & 7]);
        } else {
            self.code.push(mode | reg | base.0 & 7);
        }
        match (mode, short) {
            (0, _) => {}
            (_, true) => self.code.push(mem.disp as u8),
            (_, false) => self.imm32(mem.disp),
        }
    }

    /// `op reg, [mem]`, or the store, in 64 or 32 bits.
    pub fn op_mem(&mut self, op: Op, wide: bool, reg: Reg, mem: Mem) {
        let index = mem.index.map_or(0, |(r, _)| r.0);
        self.rex(wide, reg.0, index, mem.base.map_or(0, |r| r.0));
        self.code.push(op as u8);
        self.modrm_mem(reg.0, mem);
    }

    /// `op reg, other`.
    pub fn op_reg(&mut self, op: Op, wide: bool, reg: Reg, other: Reg) {
        self.rex(wide, reg.0, 0, other.0);
        self.bytes(&[op as u8, 0xc0 | (reg.0 & 7) << 3 | other.0 & 7]);
    }

    /// `mov to, from`, 64 bits.
    pub fn mov(&mut self, to: Reg, from: Reg) {
        if to != from {
            self.op_reg(Op::Load, true, to, from);
        }
    }

    /// `mov to, from`, 32 bits, clearing the upper half.
    pub fn mov32(&mut self, to: Reg, from: Reg) {
        self.op_reg(Op::Load, false, to, from);
    }

    /// `mov reg, value` in the shortest form; flags are untouched.
    pub fn mov_imm(&mut self, reg: Reg, value: u64) {
        if u32::try_from(value).is_ok() {
            self.rex(false, 0, 0, reg.0);
            self.code.push(0xb8 | reg.0 & 7);
            self.imm32(value as u32 as i32);
        } else if let Ok(value) = i32::try_from(value as i64) {
            self.rex(true, 0, 0, reg.0);
            self.bytes(&[0xc7, 0xc0 | reg.0 & 7]);
            self.imm32(value);
        } else {
            self.rex(true, 0, 0, reg.0);
            self.code.push(0xb8 | reg.0 & 7);
            self.bytes(&value.to_le_bytes());
        }
    }

    /// `mov reg, [field]`, then adds `value`; flags are untouched.
    pub fn load_and_add(&mut self, reg: Reg, field: ContextField, value: u64) {
        self.op_ctx(Op::Load, true, reg, field);
        let mut left = value as i64;
        while left != 0 {
            let step = left.clamp(i32::MIN.into(), i32::MAX.into());
            self.lea(true, reg, Mem::at(reg, step as i32));
            left -= step;
        }
    }

    /// `imul to, from, factor`, 32 bits.
    pub fn imul32(&mut self, to: Reg, from: Reg, factor: u32) {
        self.rex(false, to.0, 0, from.0);
        self.bytes(&[0x69, 0xc0 | (to.0 & 7) << 3 | from.0 & 7]);
        self.bytes(&factor.to_le_bytes());
    }

    /// `lea reg, [mem]`; in 32 bits the result is zero-extended.
    pub fn lea(&mut self, wide: bool, reg: Reg, mem: Mem) {
        self.op_mem(Op::Lea, wide, reg, mem);
    }

    /// `movzx reg32, reg8`; the source is one of al to dil or r8b to r15b.
    pub fn movzx8(&mut self, reg: Reg, from: Reg) {
        self.bytes(&[
            0x40 | (reg.0 >> 3) << 2 | from.0 >> 3,
            0x0f,
            0xb6,
            0xc0 | (reg.0 & 7) << 3 | from.0 & 7,
        ]);
    }

    /// `movzx reg32, reg16`.
    pub fn movzx16(&mut self, reg: Reg, from: Reg) {
        self.rex(false, reg.0, 0, from.0);
        self.bytes(&[0x0f, 0xb7, 0xc0 | (reg.0 & 7) << 3 | from.0 & 7]);
    }

    /// `mov to16, from16`, leaving the rest of `to` alone.
    pub fn mov16(&mut self, to: Reg, from: Reg) {
        self.bytes(&[0x66]);
        self.op_reg(Op::Load, false, to, from);
    }

    /// `movzx reg32, word [mem]`.
    pub fn load16(&mut self, reg: Reg, mem: Mem) {
        self.rex(false, reg.0, mem.index.map_or(0, |(r, _)| r.0), mem.base.map_or(0, |r| r.0));
        self.bytes(&[0x0f, 0xb7]);
        self.modrm_mem(reg.0, mem);
    }

    /// `mov [mem], imm` of 2, 4 or 8 bytes; 8 take a sign-extended 32-bit value.
    pub fn store_imm(&mut self, bytes: u8, mem: Mem, value: i32) {
        if bytes == 2 {
            self.bytes(&[0x66]);
        }
        self.rex(bytes == 8, 0, mem.index.map_or(0, |(r, _)| r.0), mem.base.map_or(0, |r| r.0));
        self.code.push(0xc7);
        self.modrm_mem(0, mem);
        let value = value.to_le_bytes();
        self.bytes(&value[..if bytes == 2 { 2 } else { 4 }]);
    }

    /// `op reg, imm32` of the group-1 instructions (`/digit`: 0 add, 1 or, 4 and, 5 sub, 6 xor, 7 cmp).
    pub fn group1(&mut self, digit: u8, wide: bool, reg: Reg, value: i32) {
        self.rex(wide, 0, 0, reg.0);
        if let Ok(short) = i8::try_from(value) {
            self.bytes(&[0x83, 0xc0 | digit << 3 | reg.0 & 7, short as u8]);
        } else {
            self.bytes(&[0x81, 0xc0 | digit << 3 | reg.0 & 7]);
            self.imm32(value);
        }
    }

    /// `shift reg, count` (`/digit`: 4 shl, 5 shr, 7 sar).
    pub fn shift(&mut self, digit: u8, wide: bool, reg: Reg, count: u8) {
        self.rex(wide, 0, 0, reg.0);
        self.bytes(&[0xc1, 0xc0 | digit << 3 | reg.0 & 7, count]);
    }

    /// `rorx to, from, count`, 32 bits; flags are untouched. BMI2 has it.
    pub fn rorx32(&mut self, to: Reg, from: Reg, count: u8) {
        let low = |reg: Reg| 1 ^ reg.0 >> 3;
        self.bytes(&[0xc4, low(to) << 7 | 1 << 6 | low(from) << 5 | 3, 0x7b, 0xf0]);
        self.bytes(&[0xc0 | (to.0 & 7) << 3 | from.0 & 7, count]);
    }

    /// `op reg, [context field]`, or the store. Addressed from rip: a store followed by a load through an
    /// absolute address costs four cycles more than through a register or rip.
    pub fn op_ctx(&mut self, op: Op, wide: bool, reg: Reg, field: ContextField) {
        self.rex(wide, reg.0, 0, 0);
        self.bytes(&[op as u8, (reg.0 & 7) << 3 | 5]);
        self.rip_relative(field, 0);
    }

    /// `mov reg16, [context field]`, leaving the rest of the register alone.
    pub fn op_ctx16(&mut self, reg: Reg, field: ContextField) {
        self.bytes(&[0x66]);
        self.op_ctx(Op::Load, false, reg, field);
    }

    /// `test reg, imm32`, 32 bits.
    pub fn test32(&mut self, reg: Reg, value: u32) {
        self.rex(false, 0, 0, reg.0);
        self.bytes(&[0xf7, 0xc0 | reg.0 & 7]);
        self.bytes(&value.to_le_bytes());
    }

    /// Any instruction whose last bytes are ModRM `mod=0 rm=5` for a context field, then `imm`.
    pub fn raw_ctx(&mut self, opcode: &[u8], digit: u8, field: ContextField, imm: &[u8]) {
        self.bytes(opcode);
        self.code.push(digit << 3 | 5);
        self.rip_relative(field, imm.len());
        self.bytes(imm);
    }

    /// Any instruction with a one-byte `/digit` operand at `mem`, then `imm`.
    pub fn raw_mem(&mut self, opcode: &[u8], digit: u8, wide: bool, mem: Mem, imm: &[u8]) {
        self.rex(wide, 0, mem.index.map_or(0, |(r, _)| r.0), mem.base.map_or(0, |r| r.0));
        self.bytes(opcode);
        self.modrm_mem(digit, mem);
        self.bytes(imm);
    }

    /// `mov dword [field], imm32`.
    pub fn set_ctx32(&mut self, field: ContextField, value: u32) {
        self.raw_ctx(&[0xc7], 0, field, &value.to_le_bytes());
    }

    /// `cmp dword [field], imm8`.
    pub fn cmp_ctx8(&mut self, field: ContextField, value: u8) {
        self.raw_ctx(&[0x83], 7, field, &[value]);
    }

    /// `jmp [field]`.
    pub fn jmp_ctx(&mut self, field: ContextField) {
        self.raw_ctx(&[0xff], 4, field, &[]);
    }

    fn rip_relative(&mut self, field: ContextField, behind: usize) {
        let target = self.layout.context + field.offset() as u64;
        let end = self.here() + 4 + behind as u64;
        self.imm32(target.wrapping_sub(end) as i32);
    }

    /// `jmp rel32`, to be fixed.
    pub fn jmp(&mut self) -> Fixup {
        self.code.push(0xe9);
        self.fixup()
    }

    /// `jcc rel32`, to be fixed. `cond` is the raw condition number.
    pub fn jcc_raw(&mut self, cond: u8) -> Fixup {
        self.bytes(&[0x0f, 0x80 | cond]);
        self.fixup()
    }

    /// `jcc rel32`, to be fixed.
    pub fn jcc(&mut self, cond: Cond) -> Fixup {
        self.jcc_raw(cond as u8)
    }

    /// `jrcxz rel8`, to be fixed by [`Self::fix_short_here`]; no flag is read or written.
    pub fn jrcxz(&mut self) -> Fixup {
        self.bytes(&[0xe3, 0]);
        Fixup { at: self.code.len() - 1 }
    }

    /// Points a fixup of one byte at the next byte, at most 127 bytes on.
    pub fn fix_short_here(&mut self, fixup: Fixup) {
        self.code[fixup.at] = (self.code.len() - fixup.at - 1) as u8;
    }

    fn fixup(&mut self) -> Fixup {
        let at = self.code.len();
        self.imm32(0);
        Fixup { at }
    }

    /// `jmp` to a known address.
    pub fn jmp_to(&mut self, target: u64) {
        let fixup = self.jmp();
        self.fix_to(fixup, target);
    }

    /// Points a fixup at the next byte.
    pub fn fix_here(&mut self, fixup: Fixup) {
        self.fix_to(fixup, self.here());
    }

    /// Points a fixup at an address.
    pub fn fix_to(&mut self, fixup: Fixup, target: u64) {
        let end = self.address(fixup.at) + 4;
        let relative = target.wrapping_sub(end) as i32;
        self.code[fixup.at..fixup.at + 4].copy_from_slice(&relative.to_le_bytes());
    }

    /// `jmp [mem]`.
    pub fn jmp_mem(&mut self, mem: Mem) {
        self.rex(false, 0, mem.index.map_or(0, |(r, _)| r.0), mem.base.map_or(0, |r| r.0));
        self.code.push(0xff);
        self.modrm_mem(4, mem);
    }

    /// Status flags into ax: `lahf; seto al`.
    pub fn flags_to_ax(&mut self) {
        self.bytes(&[0x9f, 0x0f, 0x90, 0xc0]);
    }

    /// Status flags from ax: `add al, 127` brings the overflow flag back, `sahf` the other five.
    pub fn flags_from_ax(&mut self) {
        self.bytes(&[0x04, 0x7f, 0x9e]);
    }
}

fn scale_bits(scale: u8) -> u8 {
    (scale.trailing_zeros() as u8) << 6
}
