//! What comes back from guest code, and where to go on.

use std::sync::atomic::Ordering;

use vcpu::{CpuState, DebugEvent, Engine, EngineError, Exit, Insn, Invalidation, Shadow};
use x86::classify::Routine;
use x86::debug::dr6;
use x86::register::gpr;
use x86::{Exception, Rflags, Vector};

use super::Translator;
use crate::block::{Block, BlockId, EXIT_FAULT, EXIT_MISS, Site, SiteKind};
use crate::cache::Cache;
use crate::decode::{GuestInsn, is_too_long};
use crate::fault::Signal;
use crate::guest::refused;
use crate::hint::{Roaming, Windowing, is_counted};
use crate::hint_table::HintId;
use crate::mode::VIEW_USER;
use crate::slow::{Pending, Slow};
use crate::windows::{Noticed, Tables, Wanted};

/// How the engine goes on after an exit from guest code.
pub(super) enum Next {
    /// At least one instruction is done; go on at this rip.
    At(u64),
    /// The same, and the jump table does not know it.
    Missed(u64),
    /// Nothing is done yet; look up this rip.
    Again(u64),
    /// Go on at this host address.
    In(u64),
    /// Leave the engine.
    Exit(Exit),
    /// Leave it for the sensitive instruction here: the exit in all cases but few, which is made where it is returned,
    /// since its copies wait for each other.
    Callout,
}

impl Translator {
    /// Makes sense of an exit.
    pub(super) fn leave(&mut self, cpu: &mut CpuState, index: u32, rip: &mut u64) -> Next {
        self.follow_mode();
        match index {
            EXIT_MISS => {
                self.counters.missed_jumps += 1;
                let context = self.cache.region.context();
                context.flags = context.jump_flags;
                let target = context.exit_value;
                match self.code_linear(cpu, target) {
                    Ok(_) => Next::Missed(target),
                    Err(fault) => self.jumped_nowhere(cpu, fault, rip),
                }
            }
            EXIT_FAULT => self.faulted(cpu, rip),
            _ => match self.cache.sites.get(index) {
                Some(site) => self.at_site(cpu, site, rip),
                None => Next::Exit(unsupported(*rip, format!("exit {index}"))),
            },
        }
    }

    pub(super) fn at_site(&mut self, cpu: &mut CpuState, site: Site, rip: &mut u64) -> Next {
        let Some(block) = self.cache.block(site.block) else {
            return Next::Exit(unsupported(*rip, "an exit from a dropped block".into()));
        };
        self.last = Some((site.block, self.cache.generation()));
        let page = self.cache.page_of(&block.key);
        let at = block.key.rip(page).wrapping_add(u64::from(site.offset));
        match site.kind {
            SiteKind::Link(n) => {
                self.counters.links += 1;
                let target = block.links.get(usize::from(n)).map_or(at, |link| block.target(page, link));
                *rip = target;
                if self.user && self.tlb.direct.runs(self.paging.cr3) {
                    return Next::Again(target);
                }
                self.follow(cpu, site.block, n, target)
            }
            SiteKind::Hinted(hint, _) if self.cache.region.hints().take_spent(hint) => {
                *rip = at;
                self.spent(cpu, site, hint, at)
            }
            SiteKind::Slow | SiteKind::Hinted(..) => {
                *rip = at;
                let slow = self.slow(cpu, at);
                self.count_slow(&slow);
                if self.options.windows == Windowing::All && self.user && matches!(slow, Slow::Retry) {
                    self.opens_window();
                }
                match (site.kind, &slow) {
                    // The page is entered, and yet the group that it leads does not pass.
                    (SiteKind::Hinted(_, Some(group)), Slow::Retry) if self.progress.is_repeated() => {
                        self.go_apart(cpu, site.block, group, at)
                    }
                    _ => self.after_slow(slow, at),
                }
            }
            SiteKind::Callout => {
                self.counters.callouts += 1;
                *rip = at;
                Next::Callout
            }
            SiteKind::Kick | SiteKind::Indirect => Next::Again(at),
            SiteKind::Pause => {
                *rip = at;
                self.paused(cpu, at)
            }
            SiteKind::Window => {
                cpu.shadow = Shadow::Sti;
                self.set_mode(self.mode.with_step());
                *rip = at;
                // The instruction in the shadow runs alone; `stepped` ends it.
                match self.block_for(cpu, at, false) {
                    Ok(id) => Next::In(self.enter_block(id, at)),
                    Err(exit) => Next::Exit(exit),
                }
            }
            SiteKind::Breakpoint => {
                *rip = at;
                Next::Exit(Exit::Debug { event: DebugEvent::Breakpoint, owed: 0 })
            }
            SiteKind::Invalid => {
                *rip = at;
                // Too long, or at the end of what can be fetched: the fetch decides which fault it is.
                let fault = match self.fetch_instruction(cpu, at) {
                    Err(fault) => fault,
                    Ok(code) if is_too_long(&code.to_vec(), self.mode) => Exception::gp(0),
                    Ok(_) => Exception::UD,
                };
                Next::Exit(Exit::Exception(fault))
            }
            SiteKind::FpuTrap => {
                *rip = at;
                Next::Exit(self.fpu_trap(cpu, at))
            }
            SiteKind::Unsupported => {
                *rip = at;
                Next::Exit(self.unsupported_at(cpu, at))
            }
        }
    }

    fn count_slow(&mut self, slow: &Slow) {
        match slow {
            Slow::Retry => self.counters.slow_accesses += 1,
            Slow::Fault(_) => self.counters.slow_faults += 1,
            Slow::Device(..) | Slow::Ask(_) => self.counters.slow_devices += 1,
            Slow::Done(_) | Slow::Changed | Slow::Unsupported => self.counters.slow_executions += 1,
        }
    }

    /// The budget of a hint that has missed is spent: its page had better be in a window, or its access do without.
    fn spent(&mut self, cpu: &mut CpuState, site: Site, hint: HintId, at: u64) -> Next {
        let slow = self.slow(cpu, at);
        self.count_slow(&slow);
        let noticed = match self.mode.view() {
            VIEW_USER if self.wants_windows() => {
                self.tlb.windows.notice(&self.paging, self.progress.linear())
            }
            _ => Noticed::Hopeless,
        };
        let over = match noticed {
            _ if !matches!(slow, Slow::Retry) || !is_counted(hint) && noticed != Noticed::Often => None,
            Noticed::Seldom => None,
            Noticed::Often if self.opens_window() => None,
            Noticed::Often | Noticed::Hopeless => Some(Roaming::Pages),
            Noticed::Mapped => Some(Roaming::Windows),
        };
        match over.filter(|_| is_counted(hint)) {
            Some(over) => {
                self.cache.roams(site.block, site.offset, hint, over);
                Next::Again(at)
            }
            None => self.after_slow(slow, at),
        }
    }

    /// Whether what is hot in ring 3 had better be in a window. Where it is run directly soon, what is left is seldom hot for long.
    fn wants_windows(&self) -> bool {
        self.tlb.direct.is_off() || !self.mode.is_long() || self.options.windows == Windowing::All
    }

    /// Maps the page that was entered last, and its surroundings, into a window. Whether it is.
    fn opens_window(&mut self) -> bool {
        let wanted = Wanted { linear: self.progress.linear(), write: false, around: true };
        let tables = Tables { guest: &self.guest, paging: &self.paging };
        // The TLB is to know of it, too.
        self.tlb.open_window(&mut self.cache.region, tables, wanted)
            && self.page(wanted.linear, false).is_ok()
    }

    /// An access has met what is not mapped in a window: maps it if that may be, and goes on in the middle of the
    /// instruction's code as if nothing had been. None if the guest is owed a fault, or the page must be accessed with care.
    fn window_fault(&mut self, signal: Signal) -> Option<Next> {
        let linear = self.tlb.windows.linear_of(signal.address).filter(|_| !signal.bus)?;
        self.tlb.windows.count_fault(linear);
        let write = signal.is_write();
        self.page(linear, write).ok().filter(|page| page.fast)?;
        let tables = Tables { guest: &self.guest, paging: &self.paging };
        let wanted = Wanted { linear, write, around: true };
        let opened = self.tlb.open_window(&mut self.cache.region, tables, wanted);
        if !opened || self.tlb.windows.linear_of(signal.address) != Some(linear) {
            return None;
        }
        self.page(linear, write).ok()?;
        self.cache.region.context().onward = signal.pc;
        Some(Next::In(self.cache.crossings.again))
    }

    /// Goes on where each access is checked by itself.
    fn go_apart(&mut self, cpu: &CpuState, from: BlockId, group: u8, rip: u64) -> Next {
        self.go_to(cpu, rip, true, |cache, to| cache.lead_apart(from, group, to))
    }

    /// A near jump to where no code can be: the jump itself is at fault, and is taken back.
    fn jumped_nowhere(&mut self, cpu: &CpuState, fault: Exception, rip: &mut u64) -> Next {
        let context = self.cache.region.context();
        *rip = context.exit_value;
        let source = self.cache.sites.get(context.jump_source as u32);
        let site = source.filter(|site| site.kind == SiteKind::Indirect);
        if let Some(site) = site
            && let Some(block) = self.cache.block(site.block)
        {
            let page = self.cache.page_of(&block.key);
            let at = block.key.rip(page).wrapping_add(u64::from(site.offset));
            let code = self.fetch_instruction(cpu, at).unwrap_or_default();
            if let Some(insn) = self.cache.decode_one(&code, at, self.mode) {
                self.take_back(&insn.instruction);
                *rip = at;
            }
        }
        Next::Exit(Exit::Exception(fault))
    }

    /// A direct jump that is not linked yet.
    pub(super) fn follow(&mut self, cpu: &CpuState, from: BlockId, n: u16, target: u64) -> Next {
        self.go_to(cpu, target, false, |cache, to| cache.link(from, n, to))
    }

    /// Goes on in the block at `rip`, which is made if need be; `connect` lets code find it without the engine from now on.
    fn go_to(
        &mut self,
        cpu: &CpuState,
        rip: u64,
        apart: bool,
        connect: impl FnOnce(&mut Cache, BlockId),
    ) -> Next {
        let generation = self.cache.generation();
        match self.block_for(cpu, rip, apart) {
            Ok(to) => {
                if self.cache.generation() == generation {
                    connect(&mut self.cache, to);
                }
                Next::In(self.enter_block(to, rip))
            }
            Err(exit) => Next::Exit(exit),
        }
    }

    pub(super) fn after_slow(&mut self, slow: Slow, rip: u64) -> Next {
        match slow {
            Slow::Retry => self.resume_after(rip, rip),
            // A step ends with its instruction.
            Slow::Done(next) if self.mode.steps() => Next::At(next),
            Slow::Done(next) => self.resume_after(rip, next),
            Slow::Fault(exception) => Next::Exit(Exit::Exception(exception)),
            Slow::Device(mmio, bounce) => {
                self.pending = Some(Pending::Bounce(bounce));
                Next::Exit(Exit::Mmio(mmio))
            }
            Slow::Ask(mmio) => {
                self.pending = Some(Pending::Again);
                Next::Exit(Exit::Mmio(mmio))
            }
            Slow::Changed => self.changed(rip),
            Slow::Unsupported => Next::Exit(unsupported(rip, "an instruction's memory access".into())),
        }
    }

    /// Goes on at `rip` in the middle of the block that ran last, if it is still good, after the instruction at `done`.
    fn resume_after(&mut self, done: u64, rip: u64) -> Next {
        // A slow jump may lead back into its own block, for ever: this way passes no check of the block's own.
        if self.kicked() {
            return Next::Again(rip);
        }
        let good = self.last.filter(|(_, generation)| *generation == self.cache.generation());
        match good.and_then(|(id, _)| self.cache.resume_after(id, self.mode, done, rip)) {
            Some(host) => {
                // They may be parked there.
                let context = self.cache.region.context();
                context.jump_flags = context.flags;
                Next::In(host)
            }
            None => Next::Again(rip),
        }
    }

    /// Leaves for the instruction at `rip`, unless the engine does it itself; then it is known where to go on.
    pub(super) fn callout(&mut self, cpu: &CpuState, rip: u64) -> Result<u64, Exit> {
        let code = self.fetch_instruction(cpu, rip).map_err(Exit::Exception)?;
        Err(match self.cache.decode_one(&code, rip, self.mode) {
            Some(insn) if self.is_flush(&insn) => return Ok(self.flush_page(&insn)),
            Some(GuestInsn { instruction, routine: Some(routine), .. }) => {
                Exit::Sensitive(Insn { instruction, routine })
            }
            _ if self.guest.peers.is_alone() => Exit::Exception(Exception::UD),
            // Another processor has put another instruction there meanwhile: see `changed`.
            _ => Exit::Kicked,
        })
    }

    /// Whether this is an INVLPG that nobody forbids: it is the engine that knows what to forget, and kernels flush much.
    fn is_flush(&self, insn: &GuestInsn) -> bool {
        insn.routine == Some(Routine::Invlpg)
            && self.mode.is_ring0()
            && self.mode.is_long()
            && !self.mode.steps()
    }

    /// Carries out an INVLPG. An address that is not canonical has no translation, and is no fault.
    fn flush_page(&mut self, insn: &GuestInsn) -> u64 {
        let linear = self.address_of_operand(&insn.instruction);
        if self.paging.is_canonical(linear) {
            self.invalidate(Invalidation::Page { linear });
        }
        insn.instruction.next_ip()
    }

    /// The code at `rip` is not what its block was made from: whoever has written there is about to say so, if he has not, and
    /// the mailbox is looked at between two runs.
    pub(super) fn changed(&mut self, rip: u64) -> Next {
        self.cache.region.kick().store(1, Ordering::Relaxed);
        Next::Again(rip)
    }

    pub(super) fn fpu_trap(&mut self, cpu: &CpuState, rip: u64) -> Exit {
        let code = self.fetch_instruction(cpu, rip).unwrap_or_default();
        let insn = self.cache.decode_one(&code, rip, self.mode);
        let exception = insn.and_then(|i| crate::lower::fpu_exception(&i.instruction, self.mode));
        Exit::Exception(exception.unwrap_or(Exception::UD))
    }

    pub(super) fn unsupported_at(&mut self, cpu: &CpuState, rip: u64) -> Exit {
        let code = self.fetch_instruction(cpu, rip).unwrap_or_default();
        let insn = self.cache.decode_one(&code, rip, self.mode);
        unsupported(rip, insn.map_or("an instruction".into(), |i| i.instruction.to_string()))
    }

    /// A host signal in guest code.
    pub(super) fn faulted(&mut self, cpu: &mut CpuState, rip: &mut u64) -> Next {
        let signal = self.signal();
        let in_window = signal.is_memory() && self.tlb.windows.linear_of(signal.address).is_some();
        if in_window && let Some(next) = self.window_fault(signal) {
            return next;
        }
        let block = self.cache.block_at(signal.pc);
        let parked = block.is_some_and(|block| block.is_parked(signal.pc));
        let guest_rip = |block: &Block| block.guest_rip(self.cache.page_of(&block.key), signal.pc);
        let at = block.and_then(guest_rip);
        *rip = at.unwrap_or(*rip);
        if signal.bus {
            let source = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
            return Next::Exit(Exit::Fatal(refused("giving the guest the memory it was promised", source)));
        }
        let Some(at) = at else {
            return Next::Exit(unsupported(*rip, format!("a host fault (vector {})", signal.vector)));
        };
        if parked {
            let context = self.cache.region.context();
            context.flags = context.jump_flags;
        }
        let code = self.fetch_instruction(cpu, at).unwrap_or_default();
        let insn = self.cache.decode_one(&code, at, self.mode);
        if insn.is_some_and(|insn| crate::lower::masks_components(&insn.instruction)) {
            // It ran with edx:eax limited to what the guest has enabled.
            let context = self.cache.region.context();
            (context.gpr[gpr::RAX], context.gpr[gpr::RDX]) = (context.carried, context.carried_more);
            context.flags = context.jump_flags;
        }
        if in_window {
            // No hint may know the window when it is tried again.
            self.cache.region.hints().forget_all();
            let slow = self.slow(cpu, at);
            return match slow {
                Slow::Retry => Next::Again(at),
                slow => self.after_slow(slow, at),
            };
        }
        if let Some(insn) = insn.filter(|_| matches!(signal.vector, 12 | 13))
            && let Some(fault) = self.beyond_canonical(cpu, &insn)
        {
            return Next::Exit(Exit::Exception(fault));
        }
        match signal.exception(cpu) {
            Some(exception) => Next::Exit(Exit::Exception(exception)),
            None => Next::Exit(unsupported(at, format!("a host fault (vector {})", signal.vector))),
        }
    }

    /// Guest code is left at `rip` for what may be an interrupt. If there is an STI in front it may have run last, since generated
    /// code keeps no account of shadows; to hold interrupts off for an instruction is right in any case.
    pub(super) fn assume_shadow(&mut self, cpu: &mut CpuState, rip: u64) {
        const STI: u8 = 0xfb;
        let enabled = self.cache.region.context().interrupt_flag != 0;
        if !enabled || cpu.shadow != Shadow::None || self.mode.steps() {
            return;
        }
        let before = self.code_page(cpu, rip.wrapping_sub(1)).ok();
        if before.is_some_and(|page| self.guest.ram.read_u8(page.physical) == Ok(STI)) {
            cpu.shadow = Shadow::Sti;
        }
    }

    /// One instruction has run alone: its shadow ends, and a trap follows if it was single-stepped.
    pub(super) fn stepped(&mut self, cpu: &mut CpuState) -> Option<Exit> {
        let context = self.cache.region.context();
        let flags = Rflags::from_bits_retain(context.system_flags);
        context.system_flags = (flags - Rflags::RF).bits();
        let awaited = context.window != 0;
        let shadow = std::mem::replace(&mut cpu.shadow, Shadow::None);
        let step = if flags.contains(Rflags::TF) { dr6::BS } else { 0 };
        let detail = self.watch.take_hits() | step;
        if let Some(event) = self.watch.take_event() {
            return Some(Exit::Debug { event, owed: detail });
        }
        if detail != 0 {
            return Some(Exit::Exception(Exception { detail, ..Exception::new(Vector::Debug) }));
        }
        let watched = self.watch.is_on();
        if !watched {
            self.set_mode(self.mode.without_step());
        }
        // The monitor may have waited for this.
        if !watched || awaited || shadow != Shadow::None {
            self.cache.region.kick().store(1, Ordering::Relaxed);
        }
        None
    }
}

pub(super) fn unsupported(rip: u64, what: String) -> Exit {
    Exit::Fatal(EngineError::Unsupported { what, rip })
}
