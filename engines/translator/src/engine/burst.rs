//! A burst: ring 3 as it is, on the processor, until something stops it. See [`crate::direct`].

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use host::HostError;
use host::stub::{Failure, Registers, Stop};
use vcpu::{CpuState, Exit, Shadow, Width};
use x86::debug::dr6;
use x86::paging::{AccessKind, PagingMode, error_code};
use x86::register::gpr;
use x86::{Cr4, Exception, Rflags, SegmentRegister, Vector};

use super::Translator;
use super::exits::Next;
use super::page_in::PagedIn;
use crate::direct::{self, END, Loss, lost};
use crate::lower;
use crate::status;
use crate::windows::Tables;

/// Selectors that Linux has for code and data of ring 3, here and in guests, and for the task register (asm/segment.h).
const CODE: u16 = 0x33;
const CODE32: u16 = 0x23;
const DATA: u16 = 0x2b;
const TASK: u16 = 0x40;
/// `TRAP_TRACE` and `TRAP_HWBKPT` of asm-generic/siginfo.h.
const TRAP_TRACE: i32 = 2;
const TRAP_HWBKPT: i32 = 4;
/// SYSCALL and INT n.
const CALL_BYTES: u64 = 2;

impl Translator {
    /// Whether what is about to run is to be run directly.
    pub(super) fn runs_directly(&mut self, cpu: &CpuState) -> bool {
        if !self.user || self.tlb.direct.is_off() || std::mem::take(&mut self.translates_next) {
            return false;
        }
        let promoted = self.tlb.direct.runs(self.paging.cr3);
        if !promoted && self.tlb.direct.has(self.paging.cr3) {
            // It is on trial.
            return false;
        }
        (promoted || self.tlb.direct.is_due(self.paging.cr3))
            && self.admits_directly(cpu)
            && (promoted || self.promote())
    }

    /// Ring 3 has been found running: had better be run directly, maybe.
    pub(super) fn found_busy(&mut self, cpu: &CpuState) {
        // Now and then the host is to choose again where this thread runs.
        self.tlb.direct.release();
        if self.tlb.direct.is_off() {
            return;
        }
        let cr3 = self.user.then_some(self.paging.cr3);
        let entries = self.cache.region.context_ref().kernel_entries;
        let is_busy = self.tlb.direct.find(cr3, entries);
        if self.tlb.direct.has(self.paging.cr3) {
            self.cache.withhold(self.tlb.direct.runs(self.paging.cr3));
        } else if is_busy && self.admits_directly(cpu) {
            self.promote();
        }
    }

    fn promote(&mut self) -> bool {
        let done = self.tlb.direct.promote(Tables { guest: &self.guest, paging: &self.paging });
        if done {
            self.cache.withhold(true);
        }
        done
    }

    fn demote(&mut self) {
        self.tlb.direct.demote(self.paging.cr3);
        self.cache.withhold(false);
    }

    /// Whether the processor, as it is in a stub, does what the guest's would in this state.
    fn admits_directly(&self, cpu: &CpuState) -> bool {
        const CONTROLS: Cr4 = Cr4::OSFXSR.union(Cr4::OSXMMEXCPT).union(Cr4::OSXSAVE);
        let context = self.cache.region.context_ref();
        let selector = |register| cpu.segment(register).selector;
        let null_or_data = |register| matches!(selector(register), 0 | DATA);
        let at_ease = context.interrupt_flag != 0 && context.window == 0 && cpu.shadow == Shadow::None;
        at_ease
            && self.unusual_flags().is_empty()
            && self.mode.is_long()
            && !self.mode.steps()
            && !self.mode.restricts_old_fpu()
            && !self.watch.is_on()
            && !self.cache.has_breakpoints()
            && matches!(self.paging.mode, PagingMode::FourLevel | PagingMode::FiveLevel)
            && self.cache.xsave.xcr0 == self.xsave_mask
            && cpu.cr4.contains(CONTROLS)
            && cpu.cr4.contains(Cr4::FSGSBASE) == sets_bases()
            && context.base[4] < END
            && context.base[5] < END
            && self.ring3_selectors(cpu) == (CODE, DATA)
            && (cpu.ldtr.selector, cpu.tr.selector) == (0, TASK)
            && null_or_data(SegmentRegister::Ds)
            && null_or_data(SegmentRegister::Es)
            && selector(SegmentRegister::Fs) == 0
            && selector(SegmentRegister::Gs) == 0
    }

    /// Flags that most programs have clear, and that change what instructions do.
    fn unusual_flags(&self) -> Rflags {
        let flags = Rflags::from_bits_retain(self.cache.region.context_ref().system_flags);
        flags - Rflags::FIXED - Rflags::RF
    }

    /// CS and SS of ring 3, which is running.
    fn ring3_selectors(&self, cpu: &CpuState) -> (u16, u16) {
        let change = self.cache.region.context_ref().ring_change as u32;
        if change == lower::RETURNED {
            let (cs, ss) = lower::selectors(cpu.msrs.star, change);
            return (cs | 3, ss | 3);
        }
        (cpu.segment(SegmentRegister::Cs).selector, cpu.segment(SegmentRegister::Ss).selector)
    }

    /// Runs ring 3 from here until something stops it.
    pub(super) fn burst(&mut self, cpu: &mut CpuState, at: &mut u64) -> Next {
        let rip = *at;
        for page in self.cache.take_written_originals() {
            self.tlb.direct.forget_code(page);
        }
        let tables = Tables { guest: &self.guest, paging: &self.paging };
        if !self.tlb.direct.compare(tables) {
            self.cache.withhold(false);
            return Next::Again(rip);
        }
        if let Some(wanted) = self.tlb.direct.space(self.paging.cr3).and_then(|space| space.wanted.take()) {
            self.map_around(wanted, false);
        }
        if !self.may_execute(rip) {
            match self.page_in(cpu, rip, AccessKind::Execute) {
                PagedIn::Passes => {}
                PagedIn::Refused => return self.refused_directly(rip),
                PagedIn::Faults(fault) => return Next::Exit(Exit::Exception(fault)),
            }
        }
        let mut registers = self.registers_of_burst(cpu, rip);
        let mask = self.xsave_mask;
        let size = self.cache.xsave.size as usize;
        let cr3 = self.paging.cr3;
        let Some((space, last)) = self.tlb.direct.turn(cr3) else { return Next::Again(rip) };
        let changes = space.shadow.take_changes();
        if let Err(error) = space.stub.change(&changes) {
            return self.lose(rip, &error);
        }
        direct::put(&mut space.stub, &cpu.fpu, mask, size);
        self.kick.announce(Some(space.stub.interrupter()));
        if self.cache.region.kick().load(Ordering::SeqCst) != 0 {
            self.kick.announce(None);
            return Next::Again(rip);
        }
        let begun = host::cpu::rdtsc();
        let stop = space.stub.run(&mut registers, last.map(|last| &last.stub));
        let cycles = host::cpu::rdtsc().wrapping_sub(begun);
        self.kick.announce(None);
        let stop = match stop {
            Ok(stop) => stop,
            Err(Failure::Before(error)) => return self.lose(rip, &error),
            Err(Failure::During(error)) => return Next::Exit(Exit::Fatal(lost(error))),
        };
        direct::get(&space.stub, &mut cpu.fpu, mask, size);
        self.tlb.direct.burst(cr3, &stop, cycles);
        self.stopped(cpu, stop, &registers, at)
    }

    /// The address space's stub is of no use any more.
    fn lose(&mut self, rip: u64, error: &HostError) -> Next {
        tracing::info!(%error, "a guest's program is translated again");
        self.tlb.direct.lose(self.paging.cr3);
        self.cache.withhold(false);
        self.refused_directly(rip)
    }

    /// The translator is to go on.
    fn refused_directly(&mut self, rip: u64) -> Next {
        if self.tlb.direct.loses(self.paging.cr3, Loss::Refused) {
            self.demote();
        }
        self.translates_next = true;
        Next::Again(rip)
    }

    /// What to do after a burst.
    fn stopped(&mut self, cpu: &mut CpuState, stop: Stop, registers: &Registers, at: &mut u64) -> Next {
        let before = self.unusual_flags();
        self.take_registers(registers);
        self.last = None;
        let mut rip = registers.rip;
        let mut resolved = false;
        let mut owed = None;
        match stop {
            Stop::Interrupted => resolved = true,
            // To be executed once more, with the same effect on rcx and r11.
            Stop::SystemCall => rip = rip.wrapping_sub(CALL_BYTES),
            Stop::PageFault { address, error } => {
                let space = self.tlb.direct.space(self.paging.cr3);
                let stuck = space.is_some_and(|space| space.is_stuck(rip, address));
                match self.page_in(cpu, address, kind_of(error)) {
                    PagedIn::Passes => resolved = !stuck,
                    PagedIn::Refused => {}
                    PagedIn::Faults(fault) => owed = Some(fault),
                }
            }
            Stop::Fault { signal: libc_signal::TRAP, code: TRAP_HWBKPT, .. } => {}
            // A call of Linux' old page for such calls, which the host's kernel has begun to emulate by returning from it.
            Stop::Fault { signal: libc_signal::SYS, address, .. } => {
                rip = address;
                let rsp = &mut self.cache.region.context().gpr[gpr::RSP];
                *rsp = rsp.wrapping_sub(8);
            }
            Stop::Fault { signal: libc_signal::TRAP, code: TRAP_TRACE, .. } => {
                owed = Some(Exception { detail: dr6::BS, ..Exception::new(Vector::Debug) });
            }
            Stop::Fault { signal: libc_signal::TRAP, .. } => {
                let is_short = self.byte_at(cpu, rip.wrapping_sub(1)) != Some(3);
                rip = rip.wrapping_sub(if is_short { 1 } else { CALL_BYTES });
            }
            Stop::Fault { .. } => {}
        }
        let cr3 = self.paging.cr3;
        let loss = match stop {
            Stop::Interrupted => None,
            Stop::PageFault { .. } if resolved => Some(Loss::Missed),
            Stop::PageFault { .. } if owed.is_some() => Some(Loss::Faulted),
            _ => Some(Loss::Returned),
        };
        if loss.is_some_and(|loss| self.tlb.direct.loses(cr3, loss)) {
            self.demote();
        }
        self.translates_next = !resolved && owed.is_none();
        *at = rip;
        if registers.selectors[1] == CODE32 {
            // Compatibility mode, by a far jump.
            cpu.load_flat_segments(CODE32, DATA, Width::Protected, 3);
            self.cache.region.context().ring_change = 0;
        } else if let Some(owed) = owed {
            return Next::Exit(Exit::Exception(owed));
        } else if self.unusual_flags() == before {
            return Next::Again(rip);
        }
        // The mode is not what it was, and is found out when the engine is entered.
        Next::Exit(Exit::Kicked)
    }

    fn byte_at(&mut self, cpu: &CpuState, rip: u64) -> Option<u8> {
        let page = self.code_page(cpu, rip).ok()?;
        self.guest.ram.read_u8(page.physical).ok()
    }

    fn registers_of_burst(&mut self, cpu: &CpuState, rip: u64) -> Registers {
        let rflags = self.rflags().bits();
        let context = self.cache.region.context_ref();
        let data = |register| cpu.segment(register).selector;
        let selectors = [data(SegmentRegister::Es), CODE, DATA, data(SegmentRegister::Ds), 0, 0];
        Registers { gpr: context.gpr, rip, rflags, bases: [context.base[4], context.base[5]], selectors }
    }

    fn take_registers(&mut self, registers: &Registers) {
        let flags = Rflags::from_bits_retain(registers.rflags);
        let context = self.cache.region.context();
        context.gpr = registers.gpr;
        [context.base[4], context.base[5]] = registers.bases;
        context.flags = status::to_ax(flags);
        context.direction_flag = u64::from(flags.contains(Rflags::DF)) << 2;
        context.system_flags = (flags - Rflags::STATUS - Rflags::IF - Rflags::DF - Rflags::RF).bits();
    }
}

/// Signals of Linux on x86 (asm/signal.h).
mod libc_signal {
    pub const TRAP: i32 = 5;
    pub const SYS: i32 = 31;
}

/// What a page fault with this error code was an access for.
fn kind_of(error: u32) -> AccessKind {
    match error {
        _ if error & error_code::FETCH != 0 => AccessKind::Execute,
        _ if error & error_code::WRITE != 0 => AccessKind::Write,
        _ => AccessKind::Read,
    }
}

fn sets_bases() -> bool {
    static SETS: OnceLock<bool> = OnceLock::new();
    *SETS.get_or_init(host::cpu::programs_set_bases)
}
