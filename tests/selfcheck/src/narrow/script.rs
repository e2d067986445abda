//! What the program is told, and what it answers.

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;

use super::answer::{Answer, Frame};
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

/// Signals.
pub const ILL: u32 = 4;
pub const TRAP: u32 = 5;
pub const BUS: u32 = 7;
pub const FPE: u32 = 8;
pub const SEGV: u32 = 11;

/// Rights of a page.
pub const NONE: u32 = 0;
pub const READ: u32 = 1;
pub const READ_WRITE: u32 = 3;
pub const ALL: u32 = 7;

impl Default for Start {
    fn default() -> Self {
        Self {
            edi: DATA,
            esi: DATA + 0x1000,
            ebp: STACK,
            esp: STACK,
            ebx: 0,
            edx: 0,
            ecx: 0,
            eax: 0,
            eip: CODE,
            eflags: 0x202,
        }
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
    pub fn code<F>(&mut self, address: u32, bits: u32, code: F)
    where
        F: FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    {
        let bytes = CodeAssembler::new(bits).and_then(|mut assembler| {
            code(&mut assembler)?;
            assembler.assemble(u64::from(address))
        });
        self.put(address, &bytes.expect("a check's code can be assembled"));
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
                    let found = frame.signal_and_vector();
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
