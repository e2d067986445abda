//! The slow path: what generated code leaves for the engine to do with memory.
//!
//! Mostly that is a software-TLB miss: the page is entered and the instruction tried again. What can never pass
//! through the TLB is done here whole, by a bounce for anything with a memory operand, by a few lines for the
//! stack and string instructions.

mod bounce;
mod gather;
mod linear;
mod stack;
mod string;

use vcpu::{CpuState, Mmio};
use x86::Exception;

pub use bounce::Bounce;

use crate::decode::GuestInsn;
use crate::engine::Translator;
use linear::Access;

/// How the slow path ended.
#[derive(Debug)]
pub enum Slow {
    /// The access passes now: execute the instruction again.
    Retry,
    /// The instruction is done; go on at this rip.
    Done(u64),
    /// The guest is owed this at the instruction.
    Fault(Exception),
    /// A device has to answer first.
    Device(Mmio, Box<Bounce>),
    /// Nothing here knows this form.
    Unsupported,
}

/// How often the same access may be tried again before it is done slowly: two pages of one instruction can
/// contend for one TLB slot forever.
const RETRIES: u8 = 3;

/// Remembers whether retries get anywhere.
#[derive(Debug, Default)]
pub struct Progress {
    rip: u64,
    linear: u64,
    tries: u8,
}

impl Progress {
    fn stuck(&mut self, rip: u64, linear: u64) -> bool {
        if (self.rip, self.linear) == (rip, linear) {
            self.tries += 1;
        } else {
            *self = Self { rip, linear, tries: 1 };
        }
        let stuck = self.tries > RETRIES;
        if stuck {
            self.tries = 0;
        }
        stuck
    }
}

impl Translator {
    /// Does what the instruction at `rip` could not.
    pub(crate) fn slow(&mut self, cpu: &mut CpuState, rip: u64) -> Slow {
        let code = match self.fetch_instruction(cpu, rip) {
            Ok(code) => code,
            Err(fault) => return Slow::Fault(fault),
        };
        let Some(insn) = self.cache.decode_one(&code, rip, self.mode) else {
            return Slow::Fault(Exception::UD);
        };
        let i = &insn.instruction;
        if i.is_string_instruction() {
            return self.slow_string(cpu, &insn);
        }
        if stack::is_stack(i) {
            return self.slow_stack(cpu, &insn);
        }
        if gather::is_gather(i) {
            return self.gather(cpu, &insn);
        }
        let access = match self.operand_access(cpu, &insn) {
            Ok(access) => access,
            Err(fault) => return self.bounce_nowhere(cpu, insn, code, fault),
        };
        if !stack::always_slow(i) && self.passes(&[access], rip) {
            return Slow::Retry;
        }
        self.bounce(cpu, insn, code, access)
    }

    /// Enters the pages of these accesses; whether all of them will now pass in generated code. A fault is left
    /// for the slow execution to find again, in its proper order.
    fn passes(&mut self, accesses: &[Access], rip: u64) -> bool {
        let mut fast = true;
        for access in accesses {
            fast &= matches!(self.pages(*access), Ok([Some(page), None]) if page.fast);
            if !fast {
                return false;
            }
        }
        let first = accesses.first().map_or(0, |a| a.linear);
        !self.progress.stuck(rip, first)
    }

    /// Reads up to 8 bytes of RAM at a linear address.
    fn read_linear(&mut self, access: Access) -> Result<u64, Slow> {
        let pages = self.pages(access).map_err(Slow::Fault)?;
        let mut bytes = [0; 8];
        let mut at = 0;
        for (len, physical) in split(access, pages)? {
            let end = at + len;
            if self.guest.ram.read(physical, &mut bytes[at..end]).is_err() {
                return Err(Slow::Unsupported);
            }
            at = end;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes up to 8 bytes of RAM at a linear address; both pages are checked before either is written.
    fn write_linear(&mut self, access: Access, value: u64) -> Result<(), Slow> {
        let pages = self.pages(access).map_err(Slow::Fault)?;
        let bytes = value.to_le_bytes();
        let mut at = 0;
        for (len, physical) in split(access, pages)? {
            self.write_ram(physical, &bytes[at..at + len]);
            at += len;
        }
        Ok(())
    }
}

/// Length and guest-physical address of the one or two parts of an access to RAM.
fn split(
    access: Access,
    pages: [Option<linear::Target>; 2],
) -> Result<impl Iterator<Item = (usize, u64)>, Slow> {
    let size = access.size as usize;
    let first = size.min(4096 - (access.linear & 0xfff) as usize);
    if pages.iter().flatten().any(|page| page.host.is_none()) {
        return Err(Slow::Unsupported);
    }
    let lengths = [first, size - first];
    Ok(lengths.into_iter().zip(pages).filter_map(|(len, page)| page.map(|p| (len, p.physical))))
}

/// An instruction's operand access, for the families that compute their own.
fn access(linear: u64, size: u32, direction: crate::access::Direction) -> Access {
    Access { linear, size, direction }
}

/// So that a family names what it decodes once.
type Insn<'a> = &'a GuestInsn;
