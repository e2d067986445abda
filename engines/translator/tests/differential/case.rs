//! What one case is and what it leaves behind, in a form that two processes share; and the memory both sides see.

use crate::random::Random;

/// Where the window stands in linear memory: the native process maps it there, the guest's page tables too.
pub const WINDOW: u64 = 0x1000_0000;
/// The same pages once more, out of reach of 32-bit addresses.
pub const ALIAS: u64 = 0x5000_0000_0000 + WINDOW;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// First data page; what is before it is unmapped.
pub const DATA: u64 = WINDOW + PAGE;
/// Pages of data; what is behind them is unmapped.
pub const DATA_PAGES: u64 = 4;
/// Bytes of data.
pub const DATA_BYTES: usize = (DATA_PAGES * PAGE) as usize;
/// A page that may only be read.
pub const READ_ONLY: u64 = WINDOW + 6 * PAGE;
/// Two pages of code, read and execute.
pub const CODE: u64 = WINDOW + 8 * PAGE;
/// Pages of code.
pub const CODE_PAGES: u64 = 2;
/// Pages of the window in all.
pub const WINDOW_PAGES: u64 = 12;
/// Most bytes of code a case has, with what ends it.
pub const MOST_CODE: usize = 192;
/// Bytes of an XSAVE area.
pub const FPU_BYTES: usize = 3072;
/// Most changed words that are told one by one.
pub const MOST_CHANGES: usize = 2048;

/// What stands on one page of the window, by page number.
pub fn page_kind(page: u64) -> PageKind {
    match page {
        1..=4 => PageKind::Data,
        6 => PageKind::ReadOnly,
        8 | 9 => PageKind::Code,
        _ => PageKind::Nothing,
    }
}

/// See [`page_kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    Nothing,
    Data,
    ReadOnly,
    Code,
}

/// A segment that a case may load; the native side has them in its local descriptor table.
#[derive(Clone, Copy, Debug)]
pub struct SegmentSpec {
    pub base: u32,
    /// In bytes, inclusive; of page granularity where it does not fit 20 bits.
    pub limit: u32,
    pub code: bool,
    pub big: bool,
    pub expand_down: bool,
    /// Writable data, or readable code.
    pub accessible: bool,
}

const fn data(base: u64, limit: u32, big: bool) -> SegmentSpec {
    SegmentSpec { base: base as u32, limit, code: false, big, expand_down: false, accessible: true }
}

const fn code(base: u64, limit: u32, big: bool) -> SegmentSpec {
    SegmentSpec { code: true, ..data(base, limit, big) }
}

/// All of them.
pub const SEGMENTS: [SegmentSpec; 12] = [
    code(0, u32::MAX, true),
    data(0, u32::MAX, true),
    code(CODE, 0xffff, false),
    data(DATA, 0xffff, false),
    data(DATA, 0x2fff, false),
    data(DATA - 0x800, 0x3abc, true),
    // Expand-down: offsets above the limit are inside.
    SegmentSpec { expand_down: true, ..data(DATA, 0x0fff, true) },
    SegmentSpec { expand_down: true, ..data(DATA - 0xc000, 0xcfff, false) },
    SegmentSpec { accessible: false, ..data(0, u32::MAX, true) },
    code(CODE, 0x1fff, true),
    // A base at which offsets wrap around 4 GiB.
    data(DATA.wrapping_sub(0x1_0000_0000 - 0x8000), u32::MAX, true),
    data(WINDOW, u32::MAX, false),
];

/// The mode a case runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Width {
    Bits16 = 16,
    Bits32 = 32,
    Bits64 = 64,
}

/// One case.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Case {
    pub width: Width,
    /// Guest only: run in ring 0.
    pub ring0: bool,
    pub code: [u8; MOST_CODE],
    pub code_len: u32,
    /// Instruction pointer of the first byte of `code`.
    pub start: u64,
    pub gpr: [u64; 16],
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    /// Into [`SEGMENTS`], in the order of instruction encodings; not in 64-bit mode.
    pub segments: [u8; 6],
    /// The vector state follows from it.
    pub fpu_seed: u64,
    /// Offset in the data pages and the value put there.
    pub patches: [(u32, u64); 4],
}

impl Case {
    /// Linear address of `start`.
    pub fn linear_start(&self) -> u64 {
        match self.width {
            Width::Bits64 => self.start,
            _ => u64::from(SEGMENTS[usize::from(self.segments[1])].base) + self.start,
        }
    }

    /// Whether the other is the same program in the same place and mode.
    pub fn same_program(&self, other: &Self) -> bool {
        (self.width, self.ring0, self.start, self.segments)
            == (other.width, other.ring0, other.start, other.segments)
            && self.bytes() == other.bytes()
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.code[..self.code_len as usize]
    }
}

/// What a case leaves.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Outcome {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// Exception vector, or [`NO_EXCEPTION`].
    pub vector: u64,
    pub error_code: u64,
    /// For a page fault.
    pub address: u64,
    /// Standard format, every component written out.
    pub fpu: [u8; FPU_BYTES],
    pub change_count: u32,
    /// Offset in the data pages and the word found there.
    pub changes: [(u32, u64); MOST_CHANGES],
}

impl Outcome {
    /// Offsets in the data pages and the words found there.
    pub fn changes(&self) -> &[(u32, u64)] {
        &self.changes[..self.change_count as usize]
    }
}

/// The engine or the process ended in some other way.
pub const NO_EXCEPTION: u64 = 0xff;

/// The case would not have ended.
pub const ENDLESS: u64 = 0xfe;

/// The bytes of the data pages before each case.
pub fn initial_data(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed ^ 0xda7a);
    let word = |_| match random.below(4) {
        0 => random.interesting(),
        1 => u64::from((random.float32()).to_bits()) << 32 | u64::from(random.float32().to_bits()),
        2 => random.float64().to_bits(),
        _ => random.next(),
    };
    (0..DATA_BYTES / 8).map(word).flat_map(u64::to_le_bytes).collect()
}

/// The eight bytes at an offset.
pub fn word(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("8 bytes"))
}

/// Writes down which words of `now` differ from `before`.
pub fn note_changes(before: &[u8], now: &[u8], outcome: &mut Outcome) {
    /// Bytes compared at a time.
    const STRETCH: usize = 512;
    let mut count = 0;
    for from in (0..DATA_BYTES).step_by(STRETCH) {
        let to = from + STRETCH;
        if before[from..to] == now[from..to] {
            continue;
        }
        for at in (from..to).step_by(8) {
            let found = word(now, at);
            if found != word(before, at) {
                outcome.changes[count] = (at as u32, found);
                count += 1;
            }
        }
    }
    outcome.change_count = count as u32;
}
