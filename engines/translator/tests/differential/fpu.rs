//! Vector and x87 state of a case: made from its seed, and compared by component.

use std::sync::OnceLock;

use crate::case::FPU_BYTES;
use crate::random::Random;

const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;
const XSTATE_BV: usize = 512;
/// Last instruction and operand pointers and opcode: they name the host's code, and the crossing between
/// engine and guest may lose them as an operating system's context switch does.
pub const POINTERS: std::ops::Range<usize> = 6..24;

/// Where the components stand.
pub struct Layout {
    /// Those that cases use: x87, SSE, AVX and AVX-512 where the host has them.
    pub mask: u64,
    /// Offset and size by component number.
    pub components: [(usize, usize); 8],
}

/// The host's.
pub fn layout() -> &'static Layout {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    LAYOUT.get_or_init(|| {
        let mask = host::cpu::xcr0() & 0xe7;
        let components = std::array::from_fn(|n| {
            if n < 2 || mask >> n & 1 == 0 {
                return (0, 0);
            }
            let leaf = host::cpu::cpuid(0xd, n as u32);
            (leaf.ebx as usize, leaf.eax as usize)
        });
        Layout { mask, components }
    })
}

/// Bytes up to the end of the last component.
pub fn size() -> usize {
    let ends = layout().components.iter().map(|(at, size)| at + size);
    ends.max().unwrap_or(0).max(576)
}

/// An XSAVE area.
pub type Area = [u8; FPU_BYTES];

/// Areas that [`Areas`] keeps. Cases that follow each other choose among as many seeds.
pub const KEPT: usize = 128;

/// Areas by the seed that fills them, which takes as long as a case does otherwise.
pub struct Areas(Vec<(u64, Box<Area>)>);

impl Default for Areas {
    fn default() -> Self {
        let mut area = Box::new([0; FPU_BYTES]);
        fill(0, &mut area[..]);
        Self(vec![(0, area); KEPT])
    }
}

impl Areas {
    /// That of a seed.
    pub fn of(&mut self, seed: u64) -> &Area {
        let (kept, area) = &mut self.0[seed as usize % KEPT];
        if *kept != seed {
            fill(seed, &mut area[..]);
            *kept = seed;
        }
        area
    }
}

/// Fills `area`, a standard-format XSAVE area, except for what it keeps behind byte 416 for others.
pub fn fill(seed: u64, area: &mut [u8]) {
    let random = &mut Random::new(seed);
    let control = random.pick(&[0x37f_u16, 0x37f, 0x37f, 0x27f, 0x77f, 0xb7f, 0xf7f, 0x07f]);
    area[0..2].copy_from_slice(&control.to_le_bytes());
    let top = random.below(8) as u16;
    let conditions = random.next() as u16 & 0x4700;
    area[2..4].copy_from_slice(&(top << 11 | conditions).to_le_bytes());
    let tags = random.next() as u8;
    area[4] = random.pick(&[0, 0xff, 0xff, 0xf0, tags]);
    area[5..24].fill(0);
    let mxcsr =
        random.pick(&[0x1f80_u32, 0x1f80, 0x1f80, 0x1fa0, 0x9fc0, 0x3f80, 0x5f80, 0x7f80, 0x1f00, 0x0f80]);
    area[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
    for n in 0..8 {
        let at = ST + n * 16;
        area[at..at + 16].fill(0);
        let (mantissa, exponent) = extended(random);
        area[at..at + 8].copy_from_slice(&mantissa.to_le_bytes());
        area[at + 8..at + 10].copy_from_slice(&exponent.to_le_bytes());
    }
    let mask = layout().mask;
    for n in 0..16 {
        vector(random, &mut area[XMM + n * 16..XMM + n * 16 + 16]);
    }
    for n in 2..8 {
        let (at, size) = layout().components[n];
        for lane in area[at..at + size].chunks_mut(if n == 5 { 8 } else { 16 }) {
            if n == 5 {
                let any = random.next();
                let value = random.pick(&[0, u64::MAX, 1, 0xffff, 0x5555, any]);
                lane.copy_from_slice(&value.to_le_bytes());
            } else {
                vector(random, lane);
            }
        }
    }
    area[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&mask.to_le_bytes());
}

/// An 80-bit value: mostly ordinary, sometimes not.
fn extended(random: &mut Random) -> (u64, u16) {
    let integer = 1 << 63;
    match random.below(8) {
        0 => (0, random.pick(&[0, 0x8000])),
        1 => (integer, random.pick(&[0x7fff, 0xffff])),
        2 => (integer | random.next(), 0x7fff),
        3 => (random.next() >> 1, 0),
        4 => (random.next(), random.next() as u16),
        _ => (
            integer | random.next() & random.next(),
            0x3fff_u16.wrapping_add((random.below(80) as u16).wrapping_sub(40)),
        ),
    }
}

fn vector(random: &mut Random, lane: &mut [u8]) {
    let kind = random.below(5);
    for part in lane.chunks_mut(8) {
        let value = match kind {
            // Small indices, as gathers want.
            0 => random.below(512) | random.below(512) << 32,
            1 => random.below(512),
            2 => u64::from(random.float32().to_bits()) | u64::from(random.float32().to_bits()) << 32,
            3 => random.float64().to_bits(),
            _ => random.next(),
        };
        part.copy_from_slice(&value.to_le_bytes());
    }
}

/// Writes the initial values of components whose bit in XSTATE_BV is clear, and clears what is not compared.
pub fn normalise(area: &mut [u8; FPU_BYTES]) {
    let present = u64::from_le_bytes(area[XSTATE_BV..XSTATE_BV + 8].try_into().expect("8 bytes"));
    if present & 1 == 0 {
        area[0..24].fill(0);
        area[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        area[ST..XMM].fill(0);
    }
    if present & 2 == 0 {
        area[XMM..XMM + 256].fill(0);
    }
    for n in 2..8 {
        let (at, size) = layout().components[n];
        if present >> n & 1 == 0 {
            area[at..at + size].fill(0);
        }
    }
    area[POINTERS].fill(0);
    for n in 0..8 {
        area[ST + n * 16 + 10..ST + n * 16 + 16].fill(0);
    }
    area[28..32].fill(0);
    area[416..576].fill(0);
    area[size()..].fill(0);
}

/// Whether this offset belongs to a vector register from 8 on.
pub fn is_upper(at: usize) -> bool {
    let within = |n: usize, size: usize| {
        let (start, len) = layout().components[n];
        (start + 8 * size..start + len).contains(&at)
    };
    (XMM + 128..XMM + 256).contains(&at) || within(2, 16) || within(6, 32) || within(7, 0)
}

/// The name of the register at an offset of a normalised area.
pub fn name(at: usize) -> String {
    match at {
        0..2 => "fcw".into(),
        2..4 => "fsw".into(),
        4..6 => "ftw".into(),
        24..28 => "mxcsr".into(),
        32..160 => format!("st{}", (at - ST) / 16),
        160..416 => format!("xmm{}", (at - XMM) / 16),
        _ => {
            let component =
                layout().components.iter().position(|(start, size)| (*start..start + size).contains(&at));
            let (start, _) = layout().components[component.unwrap_or(0)];
            match component {
                Some(2) => format!("ymm{}", (at - start) / 16),
                Some(5) => format!("k{}", (at - start) / 8),
                Some(6) => format!("zmm{}", (at - start) / 32),
                Some(7) => format!("zmm{}", 16 + (at - start) / 64),
                _ => format!("fpu+{at}"),
            }
        }
    }
}
