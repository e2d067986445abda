//! From instructions to a case: surroundings in which they mostly succeed, sometimes just fail.
//!
//! Registers that are part of an address are given values that lead to a chosen place in the window; branches
//! lead to the UD2s behind the program; everything else is random.

use iced_x86::{Code, ConstantOffsets, Decoder, FlowControl, Instruction, OpKind, Register};

use crate::case::{ALIAS, CODE, Case, DATA, MOST_CODE, PAGE, READ_ONLY, SEGMENTS, WINDOW, Width};
use crate::encode::{self, Piece};
use crate::random::Random;

pub const UD2: [u8; 2] = [0x0f, 0x0b];
/// UD2s behind a program: its end, and where its branches lead.
pub const PADS: u64 = 4;

/// Makes cases.
pub struct Generator {
    widths: Vec<Width>,
    filter: Option<String>,
    lists: [Vec<Code>; 3],
}

impl Generator {
    /// For these widths and codes whose name contains `filter`.
    pub fn new(widths: &[Width], filter: Option<String>) -> Self {
        let lists = [16, 32, 64].map(|bits| encode::codes(bits, filter.as_deref()));
        Self { widths: widths.to_vec(), filter, lists }
    }

    /// The codes for 64-bit mode.
    pub fn wide_codes(&self) -> &[Code] {
        &self.lists[2]
    }

    /// A case by number; the codes take turns.
    pub fn case(&self, number: usize, random: &mut Random) -> Case {
        loop {
            let width = if random.chance(70) && self.widths.contains(&Width::Bits64) {
                Width::Bits64
            } else {
                random.pick(&self.widths)
            };
            let bits = width as u32;
            let program = if self.filter.is_none() && random.chance(10) {
                self.long_program(random, bits)
            } else {
                self.short_program(number, random, bits)
            };
            if !program.is_empty() {
                return surround(random, &program, width);
            }
        }
    }

    /// One to four instructions of any kind.
    fn short_program(&self, number: usize, random: &mut Random, bits: u32) -> Vec<Piece> {
        let wanted = [1, 1, 2, 2, 3, 4][random.below(6) as usize];
        let list = self.list(bits);
        let mut program = Vec::with_capacity(wanted);
        for _ in 0..wanted {
            let piece = if self.filter.is_none() && random.chance(8) {
                encode::of_bytes(random, bits)
            } else if random.chance(50) {
                let code = list[(number * 2 + program.len()) % list.len()];
                encode::of_code(random, code, bits)
            } else {
                let code = random.pick(list);
                encode::of_code(random, code, bits)
            };
            program.extend(piece);
        }
        program
    }

    /// Up to a dozen instructions on general registers, with jumps among them: for what becomes of flags from
    /// block to block.
    fn long_program(&self, random: &mut Random, bits: u32) -> Vec<Piece> {
        let list = self.list(bits);
        let wanted = 4 + random.below(9) as usize;
        let mut program = Vec::with_capacity(wanted);
        for _ in 0..20 * wanted {
            let code = random.pick(list);
            let piece = encode::of_code(random, code, bits);
            let jumps = random.chance(25);
            program.extend(piece.filter(|piece| if jumps { piece.jumps() } else { piece.is_quiet() }));
            if program.len() == wanted {
                break;
            }
        }
        program
    }

    fn list(&self, bits: u32) -> &[Code] {
        &self.lists[bits.trailing_zeros() as usize - 4]
    }
}

struct Surroundings<'a> {
    random: &'a mut Random,
    case: Case,
    pinned: [bool; 16],
    aligned: bool,
    patch: usize,
    /// Addresses of the pads.
    pads: Vec<u64>,
    /// Addresses of the instructions that are still to come.
    later: Vec<u64>,
}

fn surround(random: &mut Random, program: &[Piece], width: Width) -> Case {
    let len: usize = program.iter().map(|piece| piece.len).sum();
    let code_len = len + PADS as usize * 2;
    assert!(code_len <= MOST_CODE);
    let aligned = random.chance(45);
    let mut case = Case {
        width,
        ring0: random.chance(30),
        code: [0; MOST_CODE],
        code_len: code_len as u32,
        start: CODE
            + if random.chance(12) {
                // Across the page boundary.
                PAGE - random.below(len as u64 + 4)
            } else {
                random.below(PAGE / 16 - 8) * 16
            },
        gpr: [0; 16],
        rflags: random.next() & 0x8d5 | if random.chance(8) { 0x400 } else { 0 },
        fs_base: DATA + random.below(PAGE),
        gs_base: if random.chance(50) { ALIAS + PAGE } else { DATA },
        segments: [1, 0, 1, 1, 1, 1],
        fpu_seed: random.next(),
        patches: [(0, 0); 4],
    };
    if width != Width::Bits64 {
        segments(random, &mut case);
    }
    let mut around = Surroundings {
        pads: Vec::new(),
        later: Vec::new(),
        random,
        case,
        pinned: [false; 16],
        aligned,
        patch: 0,
    };
    around.registers();
    around.code(program);
    around.case
}

fn segments(random: &mut Random, case: &mut Case) {
    let linear = case.start;
    let flat = random.chance(40);
    case.segments = if case.width == Width::Bits16 {
        let data = |random: &mut Random| {
            if flat { 3 } else { random.pick(&[3, 3, 4, 5, 6, 7, 10, 11, 1, 8]) }
        };
        let stack = if flat { 3 } else { random.pick(&[3, 3, 4, 7, 11, 5, 1]) };
        [data(random), 2, stack, data(random), data(random), data(random)]
    } else {
        let data = |random: &mut Random| {
            if flat { 1 } else { random.pick(&[1, 1, 3, 4, 5, 6, 7, 8, 10, 11]) }
        };
        let stack = if flat { 1 } else { random.pick(&[1, 1, 3, 5, 6, 10, 4]) };
        let code = if flat { 0 } else { random.pick(&[0, 9]) };
        [data(random), code, stack, data(random), data(random), data(random)]
    };
    case.start = linear - u64::from(SEGMENTS[usize::from(case.segments[1])].base);
}

impl Surroundings<'_> {
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

    fn registers(&mut self) {
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
        let mut stack = self.data();
        if self.random.chance(80) {
            stack = stack.clamp(DATA + 64, DATA + 3 * PAGE);
        }
        if self.random.chance(80) {
            stack &= !7;
        }
        let base = self.base(Register::SS);
        self.case.gpr[4] = stack.wrapping_sub(base) & self.mask();
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

    fn code(&mut self, program: &[Piece]) {
        let len: u64 = program.iter().map(|piece| piece.len as u64).sum();
        self.pads = (0..PADS).map(|n| self.case.start + len + n * 2).collect();
        let mut at = self.case.start;
        for piece in program {
            self.later.push(at);
            at += piece.len as u64;
        }
        let mut bytes = Vec::with_capacity(MOST_CODE);
        for piece in program {
            let ip = self.case.start + bytes.len() as u64;
            let mut own = piece.bytes[..piece.len].to_vec();
            let (i, offsets) = {
                let mut decoder = Decoder::with_ip(self.bits(), &own, ip, encode::options());
                let i = decoder.decode();
                (i, decoder.get_constant_offsets(&i))
            };
            let next = ip + piece.len as u64;
            self.later.retain(|at| *at > next);
            self.one(&i, &offsets, &mut own);
            bytes.extend(own);
        }
        for _ in 0..PADS {
            bytes.extend(UD2);
        }
        self.case.code[..bytes.len()].copy_from_slice(&bytes);
    }

    fn one(&mut self, i: &Instruction, offsets: &ConstantOffsets, bytes: &mut [u8]) {
        let pad = if self.later.is_empty() || self.random.chance(30) {
            self.random.pick(&self.pads.clone())
        } else {
            self.random.pick(&self.later.clone())
        };
        match i.flow_control() {
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call => {
                let relative = pad.wrapping_sub(i.next_ip());
                let (at, size) = (offsets.immediate_offset(), offsets.immediate_size());
                bytes[at..at + size].copy_from_slice(&relative.to_le_bytes()[..size]);
            }
            FlowControl::Return => {
                let sp = self.case.gpr[4].wrapping_add(self.base(Register::SS));
                self.put(sp, pad);
            }
            FlowControl::IndirectBranch | FlowControl::IndirectCall => {
                if i.op0_kind() == OpKind::Register {
                    self.pin(i.op0_register(), pad);
                } else {
                    let to = self.data();
                    self.reach(i, offsets, bytes, to);
                    self.put(to, pad);
                }
                return;
            }
            _ => {}
        }
        if i.is_string_instruction() {
            self.string(i);
        } else if i.op_kinds().any(|kind| kind == OpKind::Memory) {
            let to = self.target();
            self.reach(i, offsets, bytes, to);
        } else if i.op0_kind() == OpKind::MemorySegRDI
            || i.op0_kind() == OpKind::MemorySegEDI
            || i.op0_kind() == OpKind::MemorySegDI
        {
            let to = self.target().wrapping_sub(self.base(i.memory_segment()));
            self.pin(Register::RDI, to);
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
    fn reach(&mut self, i: &Instruction, offsets: &ConstantOffsets, bytes: &mut [u8], to: u64) {
        let (base, index) = (i.memory_base(), i.memory_index());
        let (at, size) = (offsets.displacement_offset(), offsets.displacement_size());
        let mut to = to.wrapping_sub(self.base(i.memory_segment()));
        let relative = matches!(base, Register::RIP | Register::EIP);
        let narrow = base.size().max(index.size()) == 4 || base == Register::EIP;
        if self.bits() == 64 && base.size() == 8 && !relative && self.random.chance(15) {
            to = to.wrapping_add(ALIAS - WINDOW);
        }
        let mut displacement = i.memory_displacement64();
        let set = |bytes: &mut [u8], value: u64| {
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        };
        if relative {
            if size == 4 {
                set(bytes, to.wrapping_sub(i.next_ip()));
            }
            return;
        }
        if size >= 2 && self.random.chance(80) {
            displacement = self.random.below(0x800).wrapping_sub(0x400);
            if self.aligned {
                displacement &= !63;
            }
            set(bytes, displacement);
        }
        let general = |register: Register| register.is_gpr().then(|| register.full_register().number());
        let scale = u64::from(i.memory_index_scale());
        match (general(base), general(index)) {
            (None, None) if base == Register::None && size >= 2 => set(bytes, to),
            (None, Some(index)) => {
                if !self.pinned[index] {
                    let value = self.random.below(64);
                    self.pin(Register::RAX + index as u32, value);
                }
                let scaled = self.case.gpr[index].wrapping_mul(scale);
                if size >= 2 {
                    set(bytes, to.wrapping_sub(scaled));
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
                    if size >= 2 && index.is_none() {
                        set(bytes, fitting);
                    }
                } else {
                    self.pin(register, rest);
                }
            }
            _ => {}
        }
    }
}
