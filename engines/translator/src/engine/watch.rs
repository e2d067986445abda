//! Breakpoints in the guest's debug registers, a debugger's watchpoints and steps, and alignment checks: while there are any, guest code runs one instruction at a time, and each is
//! looked at before it does.
//!
//! Checks in generated code would have to be in every block of a guest that hardly ever wants them; this way such
//! code is a few hundred times slower, and all other code pays nothing. An access by an instruction that has a
//! routine is the interpreter's to watch.

use iced_x86::{CodeSize, InstructionInfoFactory, OpAccess, Register, UsedMemory};
use std::sync::Arc;

use vcpu::{CpuState, DebugEvent, DebugPoints, Shadow, Watchpoint};
use x86::debug::Breakpoints;
use x86::{Exception, Mode, Rflags, Vector};

use super::Translator;
use crate::decode::is_amd;
use crate::mode::{ModeWord, checks_alignment};

/// What is watched for.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    breakpoints: Option<Breakpoints>,
    alignment: bool,
    /// Bits B0 to B3 of DR6 for the trap behind the instruction that runs.
    hits: u64,
    /// What a debugger wants.
    pub(super) points: Arc<DebugPoints>,
    /// And that it wants to know when one instruction has run.
    pub(super) single: bool,
    /// The debugger's watchpoint that the instruction hits.
    watched: Option<Watchpoint>,
}

impl Watch {
    /// Takes note of what a vCPU's registers ask for.
    pub(super) fn follow(&mut self, cpu: &CpuState) {
        self.breakpoints = Some(Breakpoints::of(&cpu.dr)).filter(Breakpoints::in_memory);
        self.alignment = checks_alignment(cpu);
        self.hits = 0;
        self.watched = None;
    }

    pub(super) fn is_on(&self) -> bool {
        self.breakpoints.is_some() || self.alignment || self.points.has_watchpoints()
    }

    /// The mode that code runs in because of it.
    pub(super) fn mode(&self, mode: ModeWord) -> ModeWord {
        match (self.single, self.is_on()) {
            (true, _) => mode.for_one_step(),
            (_, true) => mode.with_step(),
            _ => mode,
        }
    }

    /// What a debugger is to be told of the instruction that has run.
    pub(super) fn take_event(&mut self) -> Option<DebugEvent> {
        match self.watched.take() {
            Some(point) => Some(DebugEvent::Watchpoint(point)),
            None => self.single.then_some(DebugEvent::Stepped),
        }
    }

    pub(super) fn take_hits(&mut self) -> u64 {
        std::mem::take(&mut self.hits)
    }
}

impl Translator {
    /// Looks at the instruction at `rip`, which is about to run: a breakpoint on it, or a misaligned access, is a
    /// fault; breakpoints that its accesses hit are noted.
    pub(super) fn look_ahead(&mut self, cpu: &CpuState, rip: u64) -> Option<Exception> {
        (self.watch.hits, self.watch.watched) = (0, None);
        let flags = Rflags::from_bits_retain(self.cache.region.context().system_flags);
        // On AMD's a load of SS holds off traps only.
        let hidden = cpu.shadow == Shadow::MovSs && !is_amd();
        let passes = flags.contains(Rflags::RF) || hidden;
        // A fetch that faults does so before its instruction is known.
        let linear = self.code_linear(cpu, rip).ok()?;
        if let Some(breakpoints) = self.watch.breakpoints.filter(|_| !passes) {
            let detail = breakpoints.execution(linear);
            if detail != 0 {
                return Some(Exception { detail, ..Exception::new(Vector::Debug) });
            }
        }
        let code = self.fetch_instruction(cpu, rip).ok()?;
        let insn = self.cache.decode_one(&code, rip, self.mode)?;
        if insn.routine.is_some() {
            return None;
        }
        let mut factory = InstructionInfoFactory::new();
        for memory in factory.info(&insn.instruction).used_memory() {
            let Some(access) = self.access_of(cpu, memory, insn.instruction.has_rep_prefix()) else {
                continue;
            };
            if self.watch.alignment && access.linear & (alignment(memory) - 1) != 0 {
                return Some(Exception::with_code(Vector::AlignmentCheck, 0));
            }
            if let Some(breakpoints) = self.watch.breakpoints {
                self.watch.hits |= breakpoints.access(access.linear, access.size, access.write);
            }
            // A debugger may wait for reads alone, where the processor's breakpoints wait for writes or for both.
            for write in [false, true] {
                if access.is(write) && self.watch.watched.is_none() {
                    self.watch.watched = self.watch.points.watch(access.linear, access.size, write);
                }
            }
        }
        None
    }

    /// A memory operand, explicit or not, as the registers have it now.
    fn access_of(&mut self, cpu: &CpuState, memory: &UsedMemory, repeated: bool) -> Option<Access> {
        let (read, write) = match memory.access() {
            OpAccess::None | OpAccess::NoMemAccess => return None,
            OpAccess::Read | OpAccess::CondRead => (true, false),
            OpAccess::Write | OpAccess::CondWrite => (false, true),
            OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
        };
        if repeated && self.register(count_register(memory)) == 0 {
            return None;
        }
        let base = self.register(memory.base());
        let index = self.register(memory.index()).wrapping_mul(u64::from(memory.scale()));
        let offset = base.wrapping_add(index).wrapping_add(memory.displacement());
        let offset = offset & u64::MAX >> (64 - address_bits(memory));
        let segment = memory.segment().number().min(5);
        let long = self.mode.mode() == Mode::Long64;
        let start = match long {
            true if segment < 4 => 0,
            true => self.cache.region.context_ref().base[segment],
            false => cpu.segments[segment].base,
        };
        let linear = start.wrapping_add(offset);
        let linear = if long { linear } else { linear & 0xffff_ffff };
        Some(Access { linear, size: memory.memory_size().size().max(1) as u64, read, write })
    }
}

struct Access {
    linear: u64,
    size: u64,
    read: bool,
    write: bool,
}

impl Access {
    /// Whether it is one, or both.
    fn is(&self, write: bool) -> bool {
        if write { self.write } else { self.read }
    }
}

fn address_bits(memory: &UsedMemory) -> u32 {
    match memory.address_size() {
        CodeSize::Code16 => 16,
        CodeSize::Code32 => 32,
        CodeSize::Code64 | CodeSize::Unknown => 64,
    }
}

fn count_register(memory: &UsedMemory) -> Register {
    match address_bits(memory) {
        16 => Register::CX,
        32 => Register::ECX,
        _ => Register::RCX,
    }
}

/// What an access has to be a multiple of (SDM vol. 3 table 6-7): its elements' size, up to 8. Wider vectors have
/// checks of their own.
fn alignment(memory: &UsedMemory) -> u64 {
    let size = memory.memory_size();
    match size.element_size().max(1) as u64 {
        10 => 8,
        6 => 4,
        size => 1 << size.min(8).ilog2(),
    }
}
