//! The slow path: what generated code leaves for the engine to do with memory.
//!
//! Mostly that is a software-TLB miss: the page is entered and the instruction tried again. What can never pass
//! through the TLB is done here whole, by a bounce for anything with a memory operand, by a few lines for the
//! stack and string instructions, gathers and scatters.

mod answers;
mod bounce;
mod gather;
mod linear;
mod locked;
mod stack;
mod string;

use vcpu::{CpuState, Mmio};
use x86::Exception;

pub use answers::Answers;
pub use bounce::Bounce;

use crate::decode::GuestInsn;
use crate::engine::Translator;
use crate::inlining::inlines;
use crate::lower::has_memory;
use crate::mode::ModeWord;
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
    /// A device has to answer before the instruction is done again: see [`answers`].
    Ask(Mmio),
    /// Another processor has put an instruction there that leaves for something else.
    Changed,
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
    /// Whether the last access has been tried again before.
    pub fn is_repeated(&self) -> bool {
        self.tries > 1
    }

    /// The linear address that was asked for last.
    pub fn linear(&self) -> u64 {
        self.linear
    }

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
        self.answers.forget();
        self.slow_again(cpu, rip)
    }

    /// The same with a device's answer.
    pub(crate) fn slow_answered(&mut self, cpu: &mut CpuState, rip: u64, value: u64) -> Slow {
        self.answers.add(value);
        self.slow_again(cpu, rip)
    }

    fn slow_again(&mut self, cpu: &mut CpuState, rip: u64) -> Slow {
        let code = match self.fetch_instruction(cpu, rip) {
            Ok(code) => code,
            Err(fault) => return Slow::Fault(fault),
        };
        let decoded = self.cache.decode_one(&code, rip, self.mode);
        // What is there was read once more, and with several processors may be something else by now.
        if !self.guest.peers.is_alone() && !decoded.is_some_and(|insn| may_be_slow(&insn, self.mode)) {
            return Slow::Changed;
        }
        let Some(insn) = decoded else {
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
}

/// Whether it is of a kind that leaves for the slow path.
fn may_be_slow(insn: &GuestInsn, mode: ModeWord) -> bool {
    let i = &insn.instruction;
    let accesses = i.is_string_instruction() || stack::is_stack(i) || stack::always_slow(i) || has_memory(i);
    accesses && insn.routine.is_none_or(|routine| inlines(i, routine, mode))
}

/// An instruction whose access a device has to answer.
#[derive(Debug)]
pub enum Pending {
    /// On its way through the bounce buffer.
    Bounce(Box<Bounce>),
    /// To be done again.
    Again,
}

/// An instruction's operand access, for the families that compute their own.
fn access(linear: u64, size: u32, direction: crate::access::Direction) -> Access {
    Access { linear, size, direction }
}

/// So that a family names what it decodes once.
type Insn<'a> = &'a GuestInsn;
