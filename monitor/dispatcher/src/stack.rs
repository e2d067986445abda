//! Who has called the code that runs: return addresses on the guest's stack, guessed.
//!
//! Linux is built without frame pointers, and its own tables of how to unwind (ORC) are its own affair. What can be
//! seen without them: a word on a kernel's stack that points behind a call instruction may be a return address; it
//! may also be what an earlier call has left. So candidates are given with what their call leads to, and whoever
//! knows the symbols takes those that fit together.

use serde::{Deserialize, Serialize};
use vcpu::{CpuState, Environment};
use x86::Mode;
use x86::paging::{Access, AccessKind, PagingContext, probe};
use x86::register::gpr;

/// Words of the stack looked at.
const WORDS: u64 = 512;
/// Candidates kept.
const FRAMES: usize = 40;
/// Where a kernel's text and its modules are, by the ABI's kernel code model: the top 2 GiB.
const KERNEL_TEXT: u64 = 0xffff_ffff_8000_0000;

/// What may be a return address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// It.
    pub returns_to: u64,
    /// What the call before it leads to, if that stands in the instruction.
    pub called: Option<u64>,
}

/// The candidates on a 64-bit kernel's stack. Nothing is read but RAM, and nothing is changed.
pub(crate) fn callers(cpu: &CpuState, env: &dyn Environment) -> Vec<Frame> {
    let mut frames = Vec::new();
    if cpu.mode() != Mode::Long64 || cpu.cpl() != 0 {
        return frames;
    }
    let mut memory = Memory { context: paging(cpu, env), env, page: None };
    let top = cpu.gpr[gpr::RSP] & !7;
    for n in 0..WORDS {
        let Some(word) = memory.word(top.wrapping_add(n * 8)) else { break };
        if !(KERNEL_TEXT..=u64::MAX - 16).contains(&word) {
            continue;
        }
        if let Some(called) = memory.call_before(word) {
            frames.push(Frame { returns_to: word, called });
            if frames.len() == FRAMES {
                break;
            }
        }
    }
    frames
}

/// How this vCPU's linear addresses are translated now.
pub fn paging(cpu: &CpuState, env: &dyn Environment) -> PagingContext {
    PagingContext::new(cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, cpu.rflags, env.physical_bits())
}

struct Memory<'a> {
    context: PagingContext,
    env: &'a dyn Environment,
    /// The page translated last.
    page: Option<(u64, u64)>,
}

impl Memory<'_> {
    fn physical(&mut self, linear: u64, kind: AccessKind) -> Option<u64> {
        let page = linear & !0xfff;
        if let Some((known, physical)) = self.page
            && known == page
        {
            return Some(physical | linear & 0xfff);
        }
        let found = probe(&self.context, self.env, page, Access::explicit(kind, false)).ok()?;
        self.page = Some((page, found.physical & !0xfff));
        Some(found.physical & !0xfff | linear & 0xfff)
    }

    fn word(&mut self, linear: u64) -> Option<u64> {
        let physical = self.physical(linear, AccessKind::Read)?;
        Some(self.env.read_u64(physical))
    }

    /// Eight bytes before an address that is where code may be.
    fn before(&mut self, address: u64) -> Option<[u8; 8]> {
        let stack = self.page.take();
        let mut bytes = [0; 8];
        let mut known = true;
        for (n, byte) in bytes.iter_mut().enumerate() {
            let at = address - 8 + n as u64;
            match self.physical(at, AccessKind::Execute) {
                // In its aligned word, which lies in one page.
                Some(physical) => *byte = (self.env.read_u64(physical & !7) >> (physical % 8 * 8)) as u8,
                None => known = false,
            }
        }
        self.page = stack;
        known.then_some(bytes)
    }

    /// Whether a call stands before this address, and where it leads if it says so.
    fn call_before(&mut self, address: u64) -> Option<Option<u64>> {
        let bytes = self.before(address)?;
        if let [_, _, _, 0xe8, a, b, c, d] = bytes {
            let target = address.wrapping_add(i64::from(i32::from_le_bytes([a, b, c, d])) as u64);
            return (target >= KERNEL_TEXT).then_some(Some(target));
        }
        // call r/m64: FF /2, of two to seven bytes.
        let indirect = |len: usize| {
            let [.., modrm] = bytes[8 - len..8 - len + 2] else { return false };
            bytes[8 - len] == 0xff && modrm >> 3 & 7 == 2 && length(modrm, bytes[(8 - len + 2).min(7)]) == len
        };
        (2..=7).any(indirect).then_some(None)
    }
}

/// The length of an instruction of one byte of opcode with these ModRM and SIB bytes.
fn length(modrm: u8, sib: u8) -> usize {
    let (mode, base) = (modrm >> 6, modrm & 7);
    if mode == 3 {
        return 2;
    }
    let with_sib = usize::from(base == 4);
    let displacement = match mode {
        0 if base == 5 || base == 4 && sib & 7 == 5 => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    2 + with_sib + displacement
}
