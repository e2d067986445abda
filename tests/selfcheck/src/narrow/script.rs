//! What the program is told, and what it answers.

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;

use super::program::{CONTEXT_BYTES, INFO_BYTES, STATE_BYTES};

/// A command as the program reads it: what to do, and ten operands.
pub struct Command;

impl Command {
    /// A system call: EAX, EBX, ECX, EDX, ESI, EDI, EBP. Writes what it returns.
    pub const CALL: u32 = 1;
    /// Reads to memory: address, bytes.
    pub const READ: u32 = 2;
    /// Writes from memory: address, bytes.
    pub const WRITE: u32 = 3;
    /// Runs with these registers: EDI, ESI, EBP, ESP, EBX, EDX, ECX, EAX, EIP, EFLAGS. Writes the frame of the signal in which it
    /// ends.
    pub const RUN: u32 = 4;
    /// Goes on where the last signal came.
    pub const RESUME: u32 = 5;
    /// Bytes of one.
    pub const BYTES: usize = 44;
}

/// Registers to run with.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub edi: u32,
    pub esi: u32,
    pub ebp: u32,
    pub esp: u32,
    pub ebx: u32,
    pub edx: u32,
    pub ecx: u32,
    pub eax: u32,
    pub eip: u32,
    pub eflags: u32,
}

/// Assembles a check's code.
pub type Body = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Where checks put their code.
pub const CODE: u32 = 0x2000_0000;
/// Pages that may be read and written.
pub const DATA: u32 = 0x2100_0000;
/// Bytes of either.
pub const BYTES: u32 = 0x1_0000;
/// The top of the stack, within the data.
pub const STACK: u32 = DATA + 0x8000;

/// System calls by number.
pub mod number {
    pub const FORK: u32 = 2;
    pub const MUNMAP: u32 = 91;
    pub const FTRUNCATE: u32 = 93;
    pub const MODIFY_LDT: u32 = 123;
    pub const MPROTECT: u32 = 125;
    pub const MREMAP: u32 = 163;
    pub const MMAP2: u32 = 192;
    pub const MADVISE: u32 = 219;
    pub const MEMFD_CREATE: u32 = 356;
}

/// Rights of a page.
pub const NONE: u32 = 0;
pub const READ: u32 = 1;
pub const READ_WRITE: u32 = 3;
pub const ALL: u32 = 7;

impl Default for Start {
    fn default() -> Self {
        let zero = 0;
        Self {
            edi: DATA,
            esi: DATA + 0x1000,
            ebp: STACK,
            esp: STACK,
            ebx: zero,
            edx: zero,
            ecx: zero,
            eax: zero,
            eip: CODE,
            eflags: 0x202,
        }
    }
}

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
pub const TRAP: usize = 12;
const SEGMENTS: [usize; 6] = [0, 1, 2, 3, 15, 18];
const STATE_ADDRESS: usize = 19;

impl Frame {
    fn new(bytes: &[u8]) -> Self {
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
        let frames = match (self, other) {
            (same, other) if same == other => return None,
            (Self::Signal(one), Self::Signal(other)) => (one, other),
            _ => return Some(format!("{self:x?}, {other:x?}")),
        };
        let (one, other) = frames;
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

/// What is to come.
struct Expected {
    label: String,
    bytes: usize,
    /// The signal that it has to be and the processor's vector, where it is a signal.
    signal: Option<(u32, u32)>,
}

/// Commands, and what answers they have.
#[derive(Default)]
pub struct Script {
    check: &'static str,
    input: Vec<u8>,
    expected: Vec<Expected>,
}

impl Script {
    /// What follows is about this.
    pub fn check(&mut self, name: &'static str) {
        self.check = name;
    }

    /// All commands, for the program to read.
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    fn command(&mut self, kind: u32, operands: &[u32]) {
        let operands = operands.iter().copied().chain(std::iter::repeat(0)).take(Command::BYTES / 4 - 1);
        [kind].into_iter().chain(operands).for_each(|word| self.input.extend(word.to_le_bytes()));
    }

    fn expect(&mut self, what: &str, bytes: usize, signal: Option<(u32, u32)>) {
        self.expected.push(Expected { label: format!("{}: {what}", self.check), bytes, signal });
    }

    /// A system call.
    pub fn call(&mut self, what: &str, number: u32, arguments: &[u32]) {
        self.command(Command::CALL, &[&[number], arguments].concat());
        self.expect(what, 4, None);
    }

    /// Maps fresh pages at an address, in the place of what was there.
    pub fn map(&mut self, address: u32, bytes: u32, rights: u32) {
        const PRIVATE_FIXED_ANONYMOUS: u32 = 0x32;
        let arguments = [address, bytes, rights, PRIVATE_FIXED_ANONYMOUS, u32::MAX, 0];
        self.call("mmap", number::MMAP2, &arguments);
    }

    /// Puts bytes into memory.
    pub fn put(&mut self, address: u32, bytes: &[u8]) {
        self.command(Command::READ, &[address, bytes.len() as u32]);
        self.input.extend(bytes);
    }

    /// Has memory written out.
    pub fn show(&mut self, what: &str, address: u32, bytes: u32) {
        self.command(Command::WRITE, &[address, bytes]);
        self.expect(what, bytes as usize, None);
    }

    /// Puts code into memory.
    pub fn code(&mut self, address: u32, bits: u32, code: impl FnOnce(&mut CodeAssembler)) {
        let mut assembler = CodeAssembler::new(bits).expect("16 and 32 bits are known");
        code(&mut assembler);
        let bytes = assembler.assemble(u64::from(address)).expect("a check's code can be assembled");
        self.put(address, &bytes);
    }

    /// Runs what ends in this signal, for the exception of this vector.
    pub fn run(&mut self, what: &str, start: Start, signal: u32, vector: u32) {
        let Start { edi, esi, ebp, esp, ebx, edx, ecx, eax, eip, eflags } = start;
        self.command(Command::RUN, &[edi, esi, ebp, esp, ebx, edx, ecx, eax, eip, eflags]);
        self.expect(what, INFO_BYTES + CONTEXT_BYTES + STATE_BYTES, Some((signal, vector)));
    }

    /// Goes on where the last signal came, up to the next.
    pub fn resume(&mut self, what: &str, signal: u32, vector: u32) {
        self.command(Command::RESUME, &[]);
        self.expect(what, INFO_BYTES + CONTEXT_BYTES + STATE_BYTES, Some((signal, vector)));
    }

    /// The program's output taken apart, each answer with what it is about.
    pub fn answers(&self, output: &[u8]) -> Result<Vec<(&str, Answer)>, String> {
        let mut rest = output;
        let mut answers = Vec::new();
        for Expected { label, bytes, signal } in &self.expected {
            let Some((answer, behind)) = rest.split_at_checked(*bytes) else {
                return Err(format!("{label}: no answer"));
            };
            rest = behind;
            let answer = match signal {
                Some(expected) => {
                    let frame = Frame::new(answer);
                    let found = (frame.info[0], frame.context[TRAP]);
                    if found != *expected {
                        return Err(format!(
                            "{label}: signal and vector {found:?}, not {expected:?}; {frame:x?}"
                        ));
                    }
                    Answer::Signal(Box::new(frame))
                }
                None => match <[u8; 4]>::try_from(answer) {
                    Ok(word) => Answer::Returned(u32::from_le_bytes(word)),
                    Err(_) => Answer::Memory(answer.to_vec()),
                },
            };
            answers.push((label.as_str(), answer));
        }
        match rest {
            [] => Ok(answers),
            rest => Err(format!("{} bytes behind the last answer", rest.len())),
        }
    }
}
