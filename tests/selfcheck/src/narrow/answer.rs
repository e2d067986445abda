//! What the program answers, taken apart.

use super::program::{CONTEXT_BYTES, INFO_BYTES};

/// What a command makes the program write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What a system call returned.
    Returned(u32),
    /// Memory.
    Memory(Vec<u8>),
    /// A signal's frame.
    Signal(Box<Frame>),
}

/// Where and how something ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Signal, error number, code, address.
    pub info: [u32; INFO_BYTES / 4],
    /// `struct sigcontext`.
    pub context: [u32; CONTEXT_BYTES / 4],
    /// What stays the same of the x87 and SSE state: control, status and tag words, MXCSR, the registers.
    pub state: Vec<u8>,
}

/// The words of `struct sigcontext`.
const NAMES: [&str; CONTEXT_BYTES / 4] = [
    "gs",
    "fs",
    "es",
    "ds",
    "edi",
    "esi",
    "ebp",
    "esp",
    "ebx",
    "edx",
    "ecx",
    "eax",
    "vector",
    "error code",
    "eip",
    "cs",
    "eflags",
    "esp again",
    "ss",
    "state's address",
    "mask",
    "cr2",
];
/// Places in a [`Frame`]'s context.
const VECTOR: usize = 12;
const SEGMENTS: [usize; 6] = [0, 1, 2, 3, 15, 18];
const STATE_ADDRESS: usize = 19;

impl Frame {
    /// The signal, and the processor's vector.
    pub fn signal_and_vector(&self) -> (u32, u32) {
        (self.info[0], self.context[VECTOR])
    }

    /// From what the program writes.
    pub fn new(bytes: &[u8]) -> Self {
        let (info, rest) = bytes.split_at(INFO_BYTES);
        let (context, state) = rest.split_at(CONTEXT_BYTES);
        let word =
            |bytes: &[u8], n: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[4 * n + byte]));
        let mut context = std::array::from_fn(|n| word(context, n));
        for segment in SEGMENTS {
            context[segment] = flat(context[segment] & 0xffff);
        }
        // Each kernel begins its stacks elsewhere.
        context[STATE_ADDRESS] = 0;
        let fxsave = &state[112..];
        // Not the pointers (SDM vol. 1 table 10-2): AMD's processors store them only while an exception waits.
        let registers = (0..8).flat_map(|n| &fxsave[32 + 16 * n..][..10]);
        let words = fxsave[..6].iter().chain(&fxsave[24..28]);
        let state = words.chain(registers).chain(&fxsave[160..288]).copied().collect();
        Self { info: std::array::from_fn(|n| word(info, n)), context, state }
    }
}

impl Answer {
    /// In what another is different, in words; nothing if it is the same.
    pub fn differs(&self, other: &Self) -> Option<String> {
        let (one, other) = match (self, other) {
            (same, other) if same == other => return None,
            (Self::Signal(one), Self::Signal(other)) => (one, other),
            _ => return Some(format!("{self:x?}, {other:x?}")),
        };
        let words = one.context.iter().zip(&other.context).zip(NAMES);
        let words = words.filter(|((one, other), _)| one != other);
        let mut all: Vec<_> =
            words.map(|((one, other), name)| format!("{name} {one:x}, {other:x}")).collect();
        if one.info != other.info {
            all.push(format!("siginfo {:x?}, {:x?}", one.info, other.info));
        }
        if one.state != other.state {
            all.push(format!("x87 and SSE state {:x?}, {:x?}", one.state, other.state));
        }
        Some(all.join("; "))
    }
}

/// Selectors of flat segments are Linux' own, which are others under a 64-bit kernel: code 23h and data 2Bh there, 73h and 7Bh
/// here (arch/x86/include/asm/segment.h). Those of descriptors in an LDT are ours.
fn flat(selector: u32) -> u32 {
    match selector {
        0x23 | 0x73 => 0xc0de,
        0x2b | 0x7b => 0xda7a,
        other => other,
    }
}
