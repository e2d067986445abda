//! From instructions to cases: surroundings in which they mostly succeed, sometimes just fail.
//!
//! Registers that are part of an address are given values that lead to a chosen place in the window; branches
//! lead to the UD2s behind the program; everything else is random. The first state of a program settles its bytes too:
//! displacements and where its branches lead.

use iced_x86::{ConstantOffsets, Decoder, FlowControl, Instruction, OpKind, Register};

use crate::case::{ALIAS, CODE, Case, DATA, PAGE, READ_ONLY, SEGMENTS, WINDOW};
use crate::encode::{self, Piece};
use crate::random::Random;

pub const UD2: [u8; 2] = [0x0f, 0x0b];
/// UD2s behind a program: its end, and where its branches lead.
pub const PADS: u64 = 4;

/// Which part of an instruction's bytes is still open.
pub struct Encoding<'a> {
    bytes: &'a mut [u8],
    offsets: ConstantOffsets,
}

impl Encoding<'_> {
    /// None.
    pub fn settled() -> Self {
        Self { bytes: &mut [], offsets: ConstantOffsets::default() }
    }

    /// Whether the displacement is, and long enough to lead anywhere.
    fn has_displacement(&self) -> bool {
        self.offsets.displacement_size() >= 2
    }

    fn set_displacement(&mut self, value: u64) {
        let (at, size) = (self.offsets.displacement_offset(), self.offsets.displacement_size());
        self.bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    fn set_branch(&mut self, relative: u64) {
        let (at, size) = (self.offsets.immediate_offset(), self.offsets.immediate_size());
        self.bytes[at..at + size].copy_from_slice(&relative.to_le_bytes()[..size]);
    }
}

/// Where the stack pointer is to lead.
#[derive(Clone, Copy)]
pub enum Stack {
    Anywhere,
    /// Close to what it was.
    Near(u64),
}

/// A case in the making.
pub struct Surroundings<'a> {
    random: &'a mut Random,
    pub case: Case,
    pinned: [bool; 16],
    aligned: bool,
    patch: usize,
    /// Addresses of the pads.
    pads: Vec<u64>,
    /// Addresses of the instructions that are still to come.
    later: Vec<u64>,
}

impl<'a> Surroundings<'a> {
    pub fn new(random: &'a mut Random, case: Case, aligned: bool) -> Self {
        let (pads, later) = (Vec::new(), Vec::new());
        Self { random, case, pinned: [false; 16], aligned, patch: 0, pads, later }
    }

    fn bits(&self) -> u32 {
        self.case.width as u32
    }

    fn mask(&self) -> u64 {
        u64::MAX >> (64 - self.bits().max(32))
    }

    /// A place in the data pages, in reach of 32 bits.
    fn data(&mut self) -> u64 {
        let offset = match self.random.below(10) {
            0..4 => {
                let page = 1 + self.random.below(3);
                page * PAGE - self.random.below(72) + self.random.below(8)
            }
            _ => 128 + self.random.below(4 * PAGE - 512),
        };
        DATA + if self.aligned { offset & !63 } else { offset }
    }

    /// Where an instruction is to reach: mostly data.
    fn target(&mut self) -> u64 {
        let place = match self.random.below(40) {
            0..2 => READ_ONLY + self.random.below(PAGE),
            2 => DATA - self.random.below(64),
            3 => DATA + 4 * PAGE - self.random.below(64),
            4 => WINDOW + self.random.below(PAGE),
            5 => CODE + PAGE + 512 + self.random.below(PAGE - 1024),
            6 => READ_ONLY + PAGE - self.random.below(64),
            _ => return self.data(),
        };
        if self.aligned { place & !63 } else { place }
    }

    fn stack(&mut self) -> u64 {
        let mut stack = self.data();
        if self.random.chance(80) {
            stack = stack.clamp(DATA + 64, DATA + 3 * PAGE);
        }
        if self.random.chance(80) {
            stack &= !7;
        }
        stack
    }

    /// Everything that no instruction asks for.
    pub fn registers(&mut self, stack: Stack) {
        self.case.rflags = self.random.next() & 0x8d5 | if self.random.chance(8) { 0x400 } else { 0 };
        for n in 0..16 {
            let value = match self.random.below(12) {
                0..3 => self.data(),
                3..5 => self.random.below(64),
                5 => self.random.below(16).wrapping_neg(),
                6..9 => self.random.interesting(),
                9 => self.random.next() & 0xffff_ffff,
                _ => self.random.next(),
            };
            self.case.gpr[n] = value & self.mask();
            if self.bits() != 64 && n > 7 {
                self.case.gpr[n] = 0;
            }
        }
        let base = self.base(Register::SS);
        let stack = match stack {
            Stack::Anywhere => self.stack().wrapping_sub(base),
            Stack::Near(before) if self.random.chance(60) => before,
            Stack::Near(before) => before.wrapping_add(8 * self.random.below(33)).wrapping_sub(128),
        };
        self.case.gpr[4] = stack & self.mask();
        if self.random.chance(30) {
            self.case.gpr[5] = self.data().wrapping_sub(base) & self.mask();
        }
    }

    fn base(&self, segment: Register) -> u64 {
        let number = segment.number().min(5);
        if self.bits() == 64 {
            return match segment {
                Register::FS => self.case.fs_base,
                Register::GS => self.case.gs_base,
                _ => 0,
            };
        }
        u64::from(SEGMENTS[usize::from(self.case.segments[number])].base)
    }

    /// Notes where instructions of these lengths stand, and the pads behind them.
    pub fn places(&mut self, lengths: impl Iterator<Item = usize>) {
        let mut at = self.case.start;
        for len in lengths {
            self.later.push(at);
            at += len as u64;
        }
        self.pads = (0..PADS).map(|n| at + n * 2).collect();
    }

    /// Chooses what is open of the program's bytes with the state that suits them.
    pub fn settle(&mut self, pieces: &[Piece]) -> Vec<Instruction> {
        self.places(pieces.iter().map(|piece| piece.len));
        let mut len = 0;
        for piece in pieces {
            let mut bytes = piece.bytes;
            let bytes = &mut bytes[..piece.len];
            let mut decoder =
                Decoder::with_ip(self.bits(), bytes, self.case.start + len as u64, encode::options());
            let i = decoder.decode();
            let offsets = decoder.get_constant_offsets(&i);
            self.one(&i, &mut Encoding { bytes, offsets });
            self.case.code[len..len + piece.len].copy_from_slice(bytes);
            len += piece.len;
        }
        for pad in self.case.code[len..].chunks_exact_mut(2).take(PADS as usize) {
            pad.copy_from_slice(&UD2);
        }
        let code = &self.case.code[..len];
        Decoder::with_ip(self.bits(), code, self.case.start, encode::options()).iter().collect()
    }

    /// Sees to it that one instruction finds what it asks for.
    pub fn one(&mut self, i: &Instruction, encoding: &mut Encoding) {
        self.later.retain(|at| *at > i.next_ip());
        let places = if self.later.is_empty() || self.random.chance(30) { &self.pads } else { &self.later };
        let place = self.random.pick(places);
        match i.flow_control() {
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call => {
                encoding.set_branch(place.wrapping_sub(i.next_ip()));
            }
            FlowControl::Return => {
                let sp = self.case.gpr[4].wrapping_add(self.base(Register::SS));
                self.put(sp, place);
            }
            FlowControl::IndirectBranch | FlowControl::IndirectCall => {
                if i.op0_kind() == OpKind::Register {
                    self.pin(i.op0_register(), place);
                } else {
                    let to = self.data();
                    self.reach(i, encoding, to);
                    self.put(to, place);
                }
                return;
            }
            _ => {}
        }
        if i.is_string_instruction() {
            self.string(i);
        } else if i.op_kinds().any(|kind| kind == OpKind::Memory) {
            let to = self.target();
            self.reach(i, encoding, to);
            if self.random.chance(25) {
                let operand = self.operand();
                self.put(to, operand);
            }
        } else if i.op0_kind() == OpKind::MemorySegRDI
            || i.op0_kind() == OpKind::MemorySegEDI
            || i.op0_kind() == OpKind::MemorySegDI
        {
            let to = self.target().wrapping_sub(self.base(i.memory_segment()));
            self.pin(Register::RDI, to);
        }
    }

    /// What memory holds where an instruction reads it, if not what is there by itself.
    fn operand(&mut self) -> u64 {
        match self.random.below(3) {
            0 => self.random.interesting(),
            1 => self.random.float64().to_bits(),
            _ => self.random.next(),
        }
    }

    /// Puts a word into the data pages if it fits there.
    fn put(&mut self, linear: u64, value: u64) {
        let offset = linear.wrapping_sub(DATA);
        if offset <= 4 * PAGE - 8 && self.patch < 4 {
            self.case.patches[self.patch] = (offset as u32, value);
            self.patch += 1;
        }
    }

    /// Gives a general register a value, unless another instruction relies on one.
    fn pin(&mut self, register: Register, value: u64) {
        let n = register.full_register().number();
        if !self.pinned[n] {
            self.case.gpr[n] = value & self.mask();
            self.pinned[n] = true;
        }
    }

    fn string(&mut self, i: &Instruction) {
        let bits = i
            .op_kinds()
            .map(|kind| match kind {
                OpKind::MemorySegSI | OpKind::MemoryESDI => 16,
                OpKind::MemorySegRSI | OpKind::MemoryESRDI => 64,
                _ => 32,
            })
            .max();
        let wide = bits == Some(64) && i.op_kinds().all(|k| k != OpKind::MemorySegESI);
        for (register, segment) in [(Register::RSI, i.memory_segment()), (Register::RDI, Register::ES)] {
            let mut to = if self.random.chance(80) { self.data() } else { self.target() };
            if wide && self.random.chance(20) {
                to += ALIAS - WINDOW;
            }
            let offset = to.wrapping_sub(self.base(segment));
            self.pin(register, offset);
        }
        if self.random.chance(90) {
            let most = if self.random.chance(20) { 1500 } else { 40 };
            let count = self.random.below(most);
            self.pin(Register::RCX, count);
        }
        if self.random.chance(50) {
            // So that comparisons go on for a while.
            let byte = self.random.pick(&[0, 0xff]);
            let rdi = self.case.gpr[7].wrapping_add(self.base(Register::ES));
            let rsi = self.case.gpr[6].wrapping_add(self.base(i.memory_segment()));
            let word = u64::from_le_bytes([byte; 8]);
            self.put(rdi, word);
            self.put(rsi, word);
        }
    }

    /// Makes the memory operand reach a linear address, as far as registers are still free.
    fn reach(&mut self, i: &Instruction, encoding: &mut Encoding, to: u64) {
        let (base, index) = (i.memory_base(), i.memory_index());
        let mut to = to.wrapping_sub(self.base(i.memory_segment()));
        let relative = matches!(base, Register::RIP | Register::EIP);
        let narrow = base.size().max(index.size()) == 4 || base == Register::EIP;
        if self.bits() == 64 && base.size() == 8 && !relative && self.random.chance(15) {
            to = to.wrapping_add(ALIAS - WINDOW);
        }
        let mut displacement = i.memory_displacement64();
        let open = encoding.has_displacement();
        if relative {
            if open {
                encoding.set_displacement(to.wrapping_sub(i.next_ip()));
            }
            return;
        }
        if open && self.random.chance(80) {
            displacement = self.random.below(0x800).wrapping_sub(0x400);
            if self.aligned {
                displacement &= !63;
            }
            encoding.set_displacement(displacement);
        }
        let general = |register: Register| register.is_gpr().then(|| register.full_register().number());
        let scale = u64::from(i.memory_index_scale());
        match (general(base), general(index)) {
            (None, None) if base == Register::None && open => encoding.set_displacement(to),
            (None, Some(index)) => {
                if !self.pinned[index] {
                    let value = self.random.below(64);
                    self.pin(Register::RAX + index as u32, value);
                }
                let scaled = self.case.gpr[index].wrapping_mul(scale);
                if open {
                    encoding.set_displacement(to.wrapping_sub(scaled));
                }
            }
            (Some(base), index) => {
                let mut rest = to.wrapping_sub(displacement);
                if let Some(index) = index.filter(|index| *index != base) {
                    let mut value = self.random.below(96).wrapping_sub(16);
                    if self.aligned {
                        value &= !63;
                    }
                    let register = Register::RAX + index as u32;
                    if self.random.chance(85) {
                        self.pin(register, value);
                    } else if narrow && self.bits() == 64 {
                        self.pinned[index] = true;
                    }
                    rest = rest.wrapping_sub(self.case.gpr[index].wrapping_mul(scale));
                }
                if narrow {
                    rest &= 0xffff_ffff;
                    if self.random.chance(30) && self.bits() == 64 {
                        // The upper half must not matter.
                        rest |= self.random.next() << 32;
                    }
                }
                let register = Register::RAX + base as u32;
                if base == 4 {
                    // The stack pointer stays; the displacement gives way.
                    let fitting = to.wrapping_sub(self.case.gpr[4]);
                    if open && index.is_none() {
                        encoding.set_displacement(fitting);
                    }
                } else {
                    self.pin(register, rest);
                }
            }
            _ => {}
        }
    }
}
