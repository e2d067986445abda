//! The engine: guest state in, guest code run, exits made of what comes back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory::GuestRam;
use vcpu::{CpuState, Delivery, Engine, EngineError, Entry, Exit, Insn, Invalidation, Kick, Shadow, Width};
use x86::paging::PagingContext;
use x86::register::gpr;
use x86::{Efer, Exception, Rflags, Segment, SegmentRegister, Vector};

use crate::block::{BlockId, EXIT_BOUNCED, EXIT_FAULT, EXIT_MISS, Key, Range, Site, SiteKind};
use crate::cache::{Cache, GuestXsave, NoBlock, Source, SyscallTarget};
use crate::fault::{self, Running, Signal};
use crate::fetch::FetchCache;
use crate::guest::{Guest, host_refused, refused};
use crate::lower;
use crate::mode::{ModeWord, VIEW_KERNEL_AC, VIEW_USER};
use crate::region::{KickWord, Region};
use crate::slow::{Bounce, Progress, Slow};
use crate::status;
use crate::tlb::Tlb;
use crate::xsave;

/// How an engine is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of the translation cache in bytes.
    pub cache_bytes: usize,
    /// Width of guest-physical addresses, as CPUID tells the guest.
    pub physical_bits: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, physical_bits: 40 }
    }
}

/// Binary translation for one vCPU.
pub struct Translator {
    pub(crate) cache: Cache,
    pub(crate) tlb: Tlb,
    pub(crate) fetch: FetchCache,
    pub(crate) guest: Guest,
    pub(crate) progress: Progress,
    /// The mode guest code runs in.
    pub(crate) mode: ModeWord,
    pub(crate) paging: PagingContext,
    /// CPL 3.
    pub(crate) user: bool,
    options: Options,
    kick: Arc<KickWord>,
    pending: Option<Box<Bounce>>,
    /// The block that ran last, for going on in its middle, and the cache generation it belongs to.
    last: Option<(BlockId, u64)>,
    code_base: u64,
    counters: Counters,
}

/// How often guest code was left for what, for the log.
#[derive(Debug, Default)]
struct Counters {
    missed_jumps: u64,
    slow_accesses: u64,
    slow_executions: u64,
    links: u64,
    callouts: u64,
    translations: u64,
    flushes: [u64; 3],
}

enum Next {
    /// At least one instruction is done; go on at this rip.
    At(u64),
    /// Nothing is done yet; look up this rip.
    Again(u64),
    /// Go on at this host address.
    In(u64),
    /// Leave the engine.
    Exit(Exit),
}

impl Translator {
    /// An engine for a vCPU of a machine with this RAM.
    pub fn new(ram: GuestRam, options: Options) -> Result<Self, EngineError> {
        host::fault::install_fault_handler(fault::handle)
            .map_err(host_refused("installing a signal handler"))?;
        let xsave = xsave::host_features();
        let region = Region::new(options.cache_bytes)
            .map_err(host_refused("reserving the translation cache below 2 GiB"))?;
        let kick = Arc::new(KickWord::new(&region));
        let guest = Guest::new(ram, kick.clone()).map_err(|e| refused("watching guest memory", e))?;
        let mut cache = Cache::new(region, xsave);
        let tlb = Tlb::new(&mut cache.region);
        cache.region.context().host_mxcsr = 0x1f80;
        let reset = CpuState::reset();
        Ok(Self {
            cache,
            tlb,
            fetch: FetchCache::new(),
            guest,
            progress: Progress::default(),
            mode: ModeWord::of(&reset),
            paging: paging_of(&reset, options.physical_bits),
            user: false,
            options,
            kick,
            pending: None,
            last: None,
            code_base: 0,
            counters: Counters::default(),
        })
    }

    /// Whether a kick waits.
    pub(crate) fn kicked(&self) -> bool {
        self.cache.region.kick().load(Ordering::Relaxed) != 0
    }

    /// Runs the code at `entry` to the end of a bounce; the signal that stopped it, if one did.
    pub(crate) fn enter_bounce(&mut self, entry: u64) -> Option<Signal> {
        let index = self.enter(entry);
        debug_assert!(matches!(index, EXIT_BOUNCED | EXIT_FAULT));
        (index == EXIT_FAULT).then(|| self.signal())
    }

    fn enter(&mut self, host: u64) -> u32 {
        let stub = self.cache.crossings.enter;
        self.cache.region.context().enter_target = host;
        self.cache.region.enter(stub);
        self.cache.region.context().exit_index as u32
    }

    fn signal(&mut self) -> Signal {
        let context = self.cache.region.context();
        Signal {
            pc: context.fault_pc,
            vector: context.fault_vector,
            address: context.fault_address,
            bus: context.fault_signal != 0,
        }
    }

    /// Takes the vCPU's state over.
    fn load(&mut self, cpu: &mut CpuState) {
        self.mode = ModeWord::of(cpu);
        self.user = cpu.cpl() == 3;
        self.paging = paging_of(cpu, self.options.physical_bits);
        let xsave = GuestXsave { xcr0: cpu.xcr0.bits(), size: xsave::area_size(cpu.xcr0) };
        let base = if self.mode.is_long() { 0 } else { cpu.segments[1].base };
        let syscall = cpu
            .efer
            .contains(Efer::SCE | Efer::LMA)
            .then_some(SyscallTarget { rip: cpu.msrs.lstar, mask: cpu.msrs.sfmask });
        let built_in = xsave != self.cache.xsave || syscall != self.cache.syscall;
        if built_in || base != self.code_base {
            // Built into code, or into what the tables mean; both change next to never.
            if built_in {
                self.cache.clear(&self.guest);
            }
            self.cache.xsave = xsave;
            self.cache.syscall = syscall;
            self.cache.forget_mappings();
            self.code_base = base;
        }
        let mode = self.mode;
        self.cache.prepare_view(mode);
        for sibling in mode.siblings() {
            self.cache.prepare_view(sibling);
        }
        let context = self.cache.region.context();
        context.gpr = cpu.gpr;
        context.flags = status::to_ax(cpu.rflags);
        context.interrupt_flag = u64::from(cpu.rflags.contains(Rflags::IF)) << 1;
        context.direction_flag = u64::from(cpu.rflags.contains(Rflags::DF)) << 2;
        context.system_flags = (cpu.rflags - Rflags::STATUS - Rflags::IF - Rflags::DF).bits();
        context.mode = u64::from(mode.word());
        context.ring_change = 0;
        context.kernel_gs_base = cpu.msrs.kernel_gs_base;
        context.tsc_aux = cpu.msrs.tsc_aux;
        context.tsc_offset = cpu.tsc_offset;
        context.fpu = cpu.fpu.area.as_mut_ptr() as u64;
        for (n, segment) in cpu.segments.iter().enumerate() {
            context.base[n] = segment.base;
            context.selector[n] = u64::from(segment.selector);
            (context.readable[n], context.writable[n]) = limits(segment, mode);
        }
    }

    /// Gives it back.
    fn store(&mut self, cpu: &mut CpuState, rip: u64) {
        cpu.gpr = self.cache.region.context().gpr;
        cpu.rip = rip;
        cpu.rflags = self.rflags();
        let context = self.cache.region.context();
        cpu.msrs.kernel_gs_base = context.kernel_gs_base;
        cpu.segment_mut(SegmentRegister::Gs).base = context.base[SegmentRegister::Gs as usize];
        let star = cpu.msrs.star;
        match context.ring_change as u32 {
            lower::ENTERED => {
                let cs = (star >> 32) as u16 & !3;
                cpu.load_flat_segments(cs, cs.wrapping_add(8), Width::Long, 0);
            }
            lower::RETURNED => {
                let base = (star >> 48) as u16;
                cpu.load_flat_segments(base.wrapping_add(16), base.wrapping_add(8), Width::Long, 3);
            }
            _ => {}
        }
    }

    /// Takes note of a change of mode inside generated code.
    fn follow_mode(&mut self) {
        self.mode = ModeWord::from_word(self.cache.region.context().mode);
        self.user = self.mode.view() == VIEW_USER;
        self.paging.ac = self.mode.view() == VIEW_KERNEL_AC;
    }

    fn set_mode(&mut self, mode: ModeWord) {
        self.mode = mode;
        self.cache.region.context().mode = u64::from(mode.word());
    }

    /// RFLAGS, put together from where its parts are kept.
    pub(crate) fn rflags(&mut self) -> Rflags {
        let context = self.cache.region.context();
        let mut flags = status::from_ax(context.flags) | Rflags::from_bits_retain(context.system_flags);
        flags.set(Rflags::IF, context.interrupt_flag != 0);
        flags.set(Rflags::DF, context.direction_flag != 0);
        flags | Rflags::FIXED
    }

    fn drain_mailbox(&mut self) {
        for written in self.guest.mailbox.take() {
            self.cache.invalidate(&self.guest, written);
        }
    }

    /// The run itself; gives the exit and the rip it happened at.
    fn go(&mut self, cpu: &mut CpuState, mut rip: u64, mut next: Next) -> (Exit, u64) {
        loop {
            let resume = match next {
                Next::Again(at) => {
                    rip = at;
                    None
                }
                Next::At(at) => {
                    rip = at;
                    if self.mode.steps()
                        && let Some(exit) = self.stepped(cpu)
                    {
                        return (exit, rip);
                    }
                    None
                }
                Next::In(host) => Some(host),
                Next::Exit(exit) => return (exit, rip),
            };
            let host = match resume {
                Some(host) => host,
                None if self.cache.region.kick().swap(0, Ordering::AcqRel) != 0 => {
                    return (Exit::Kicked, rip);
                }
                None => match self.block_for(cpu, rip) {
                    Ok(id) => self.enter_block(id),
                    Err(exit) => return (exit, rip),
                },
            };
            let index = self.enter(host);
            next = self.leave(cpu, index, &mut rip);
        }
    }

    fn enter_block(&mut self, id: BlockId) -> u64 {
        self.cache.publish(id);
        self.last = Some((id, self.cache.generation()));
        self.cache.block(id).map_or(self.cache.crossings.exit, |block| block.body)
    }

    /// The block at `rip`, translated if need be.
    fn block_for(&mut self, cpu: &CpuState, rip: u64) -> Result<BlockId, Exit> {
        let page = self.code_page(cpu, rip).map_err(Exit::Exception)?;
        let key = Key { physical: page.physical, rip, mode: self.mode };
        let found = self.cache.find(&key);
        let second = found.and_then(|id| self.cache.block(id)).and_then(|block| block.second_page);
        if let (Some(id), None) = (found, second) {
            return Ok(id);
        }
        let linear = self.code_linear(cpu, rip).map_err(Exit::Exception)?;
        let mut source = Source { key, linear, linkable: page.linkable, next_page: None };
        let mut made = Err(NoBlock::NextPage);
        if second.is_none() {
            self.counters.translations += 1;
            made = self.cache.translate(&self.guest, &mut self.tlb, source);
        }
        if made == Err(NoBlock::NextPage) {
            let next = rip.wrapping_add(4096 - (linear & 0xfff));
            let next_page = self.code_page(cpu, next).map_err(Exit::Exception)?.physical;
            if let Some(id) = found.filter(|_| second == Some(next_page)) {
                return Ok(id);
            }
            source.next_page = Some(next_page);
            self.counters.translations += 1;
            made = self.cache.translate(&self.guest, &mut self.tlb, source);
        }
        made.map_err(|_| Exit::Fatal(EngineError::NoMemory { rip, gpa: page.physical }))
    }

    /// Makes sense of an exit.
    fn leave(&mut self, cpu: &mut CpuState, index: u32, rip: &mut u64) -> Next {
        self.follow_mode();
        match index {
            EXIT_MISS => {
                self.counters.missed_jumps += 1;
                let context = self.cache.region.context();
                context.flags = context.jump_flags;
                Next::At(context.exit_value)
            }
            EXIT_FAULT => self.faulted(cpu, rip),
            _ => match self.cache.sites.get(index) {
                Some(site) => self.at_site(cpu, site, rip),
                None => Next::Exit(unsupported(*rip, format!("exit {index}"))),
            },
        }
    }

    fn at_site(&mut self, cpu: &mut CpuState, site: Site, rip: &mut u64) -> Next {
        let Some(block) = self.cache.block(site.block) else {
            return Next::Exit(unsupported(*rip, "an exit from a dropped block".into()));
        };
        self.last = Some((site.block, self.cache.generation()));
        let at = block.key.rip.wrapping_add(u64::from(site.offset));
        match site.kind {
            SiteKind::Link(n) => {
                self.counters.links += 1;
                let target = block.links.get(usize::from(n)).map_or(at, |link| link.target);
                *rip = target;
                self.follow(cpu, site.block, n, target)
            }
            SiteKind::Slow => {
                *rip = at;
                let slow = self.slow(cpu, at);
                match slow {
                    Slow::Retry => self.counters.slow_accesses += 1,
                    _ => self.counters.slow_executions += 1,
                }
                self.after_slow(slow, at)
            }
            SiteKind::Callout => {
                self.counters.callouts += 1;
                *rip = at;
                self.callout(cpu, at)
            }
            SiteKind::Kick => Next::Again(at),
            SiteKind::Window => {
                cpu.shadow = Shadow::Sti;
                self.set_mode(self.mode.with_step());
                *rip = at;
                // The instruction in the shadow runs alone; `stepped` ends it.
                match self.block_for(cpu, at) {
                    Ok(id) => Next::In(self.enter_block(id)),
                    Err(exit) => Next::Exit(exit),
                }
            }
            SiteKind::Invalid => {
                *rip = at;
                // Too long, or at the end of what can be fetched: the fetch decides which fault it is.
                let fault = self.fetch_instruction(cpu, at).err();
                Next::Exit(Exit::Exception(fault.unwrap_or(Exception::UD)))
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

    /// A direct jump that is not linked yet.
    fn follow(&mut self, cpu: &CpuState, from: BlockId, n: u16, target: u64) -> Next {
        let generation = self.cache.generation();
        match self.block_for(cpu, target) {
            Ok(to) => {
                if self.cache.generation() == generation {
                    self.cache.link(from, n, to);
                }
                Next::In(self.enter_block(to))
            }
            Err(exit) => Next::Exit(exit),
        }
    }

    fn after_slow(&mut self, slow: Slow, rip: u64) -> Next {
        match slow {
            Slow::Retry => self.resume_at(rip),
            // A step ends with its instruction.
            Slow::Done(next) if self.mode.steps() => Next::At(next),
            Slow::Done(next) => self.resume_at(next),
            Slow::Fault(exception) => Next::Exit(Exit::Exception(exception)),
            Slow::Device(mmio, bounce) => {
                self.pending = Some(bounce);
                Next::Exit(Exit::Mmio(mmio))
            }
            Slow::Unsupported => Next::Exit(unsupported(rip, "an instruction's memory access".into())),
        }
    }

    /// Goes on in the middle of the block that ran last, if it is still good.
    fn resume_at(&mut self, rip: u64) -> Next {
        // A slow jump may lead back into its own block, for ever: this way passes no check of the block's own.
        if self.kicked() {
            return Next::Again(rip);
        }
        let block = self
            .last
            .filter(|(_, generation)| *generation == self.cache.generation())
            .and_then(|(id, _)| self.cache.block(id))
            .filter(|block| block.valid && block.key.mode == self.mode);
        match block.and_then(|block| block.resume_point(rip)) {
            Some(host) => Next::In(host),
            None => Next::Again(rip),
        }
    }

    fn callout(&mut self, cpu: &CpuState, rip: u64) -> Next {
        let code = match self.fetch_instruction(cpu, rip) {
            Ok(code) => code,
            Err(fault) => return Next::Exit(Exit::Exception(fault)),
        };
        let insn = self.cache.decode_one(&code, rip, self.mode);
        let Some((instruction, Some(routine))) = insn.map(|i| (i.instruction, i.routine)) else {
            return Next::Exit(Exit::Exception(Exception::UD));
        };
        Next::Exit(Exit::Sensitive(Insn { instruction, routine }))
    }

    fn fpu_trap(&mut self, cpu: &CpuState, rip: u64) -> Exit {
        let code = self.fetch_instruction(cpu, rip).unwrap_or_default();
        let insn = self.cache.decode_one(&code, rip, self.mode);
        let exception = insn.and_then(|i| crate::lower::fpu_exception(&i.instruction, self.mode));
        Exit::Exception(exception.unwrap_or(Exception::UD))
    }

    fn unsupported_at(&mut self, cpu: &CpuState, rip: u64) -> Exit {
        let code = self.fetch_instruction(cpu, rip).unwrap_or_default();
        let insn = self.cache.decode_one(&code, rip, self.mode);
        unsupported(rip, insn.map_or("an instruction".into(), |i| i.instruction.to_string()))
    }

    /// A host signal in guest code.
    fn faulted(&mut self, cpu: &CpuState, rip: &mut u64) -> Next {
        let signal = self.signal();
        let Some(at) = self.cache.block_at(signal.pc).and_then(|block| block.guest_rip(signal.pc)) else {
            return Next::Exit(unsupported(*rip, format!("a host fault (vector {})", signal.vector)));
        };
        *rip = at;
        if signal.bus {
            let source = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
            return Next::Exit(Exit::Fatal(refused("giving the guest the memory it was promised", source)));
        }
        let code = self.fetch_instruction(cpu, at).unwrap_or_default();
        let insn = self.cache.decode_one(&code, at, self.mode);
        if insn.is_some_and(|insn| crate::lower::masks_components(&insn.instruction)) {
            // It ran with edx:eax limited to what the guest has enabled.
            let context = self.cache.region.context();
            (context.gpr[gpr::RAX], context.gpr[gpr::RDX]) = (context.carried, context.carried_more);
            context.flags = context.jump_flags;
        }
        match signal.exception(cpu) {
            Some(exception) => Next::Exit(Exit::Exception(exception)),
            None => Next::Exit(unsupported(at, format!("a host fault (vector {})", signal.vector))),
        }
    }

    /// One instruction has run alone: its shadow ends, and a trap follows if it was single-stepped.
    fn stepped(&mut self, cpu: &mut CpuState) -> Option<Exit> {
        let flags = Rflags::from_bits_retain(self.cache.region.context().system_flags);
        let masks_trap = cpu.shadow == Shadow::MovSs;
        cpu.shadow = Shadow::None;
        if flags.contains(Rflags::TF) {
            if masks_trap {
                return None;
            }
            let single_step = Exception { detail: 1 << 14, ..Exception::new(Vector::Debug) };
            return Some(Exit::Exception(single_step));
        }
        self.set_mode(self.mode.without_step());
        self.cache.region.kick().store(1, Ordering::Relaxed);
        None
    }
}

impl Engine for Translator {
    fn name(&self) -> &'static str {
        "translator"
    }

    fn admits(&self, _cpu: &CpuState) -> bool {
        true
    }

    fn delivery(&self) -> Delivery {
        Delivery::Interpreter
    }

    fn run(&mut self, cpu: &mut CpuState, entry: Entry) -> Exit {
        if let Err(source) = fault::prepare_thread() {
            return Exit::Fatal(host_refused("installing an alternate signal stack")(source));
        }
        let code = self.cache.region.layout().code();
        fault::set_running(Some(Running {
            code: (code, code + self.cache.region.code_bytes() as u64),
            exit: self.cache.crossings.exit,
            context: self.cache.region.context_ptr(),
        }));
        self.load(cpu);
        self.drain_mailbox();
        let rip = cpu.rip;
        let next = match (entry, self.pending.take()) {
            (Entry::Complete(value), Some(bounce)) => {
                let slow = self.bounce_completed(cpu, *bounce, value);
                self.after_slow(slow, rip)
            }
            (Entry::Inject(_), _) => Next::Exit(unsupported(rip, "an injected event".into())),
            _ => Next::Again(rip),
        };
        let (exit, rip) = self.go(cpu, rip, next);
        self.store(cpu, rip);
        fault::set_running(None);
        exit
    }

    fn invalidate(&mut self, what: Invalidation) {
        let region = &mut self.cache.region;
        match what {
            Invalidation::Page { linear } => {
                self.counters.flushes[0] += 1;
                self.tlb.flush_page(region, linear);
                let (kernel, user) =
                    (self.fetch.may_hold_code(linear, false), self.fetch.may_hold_code(linear, true));
                if kernel || user {
                    self.fetch.flush(false);
                }
                // Links that rest on a mapping rest on a global one, which is a kernel's.
                if kernel {
                    self.cache.forget_mappings();
                } else if user {
                    self.cache.clear_view(VIEW_USER);
                }
            }
            Invalidation::AddressSpace => {
                self.counters.flushes[1] += 1;
                self.tlb.flush_local(region);
                self.fetch.flush(false);
                self.cache.clear_view(crate::mode::VIEW_USER);
            }
            Invalidation::AllPages => {
                self.counters.flushes[2] += 1;
                self.tlb.flush_all(region);
                self.fetch.flush(true);
                self.cache.forget_mappings();
            }
            Invalidation::Code { gpa, len } => {
                self.cache.invalidate(&self.guest, Range { start: gpa, len: len as u64 });
            }
            Invalidation::Everything => {
                self.tlb.flush_all(region);
                self.fetch.flush(true);
                self.cache.clear(&self.guest);
            }
        }
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.cache.region.context().window = u64::from(wanted);
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kick.clone()
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        self.kick.detach();
        tracing::info!(counters = ?self.counters, "translator ends");
    }
}

fn unsupported(rip: u64, what: String) -> Exit {
    Exit::Fatal(EngineError::Unsupported { what, rip })
}

fn paging_of(cpu: &CpuState, physical_bits: u8) -> PagingContext {
    PagingContext::new(cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, cpu.rflags, physical_bits)
}

/// How many bytes from offset 0 may be read and written without another look at the segment.
fn limits(segment: &Segment, mode: ModeWord) -> (u64, u64) {
    let bytes = u64::from(segment.limit) + 1;
    if mode.mode().is_real_style() {
        return (bytes, bytes);
    }
    let code = segment.has(Segment::EXECUTABLE);
    let expand_down = !code && segment.has(Segment::CONFORMING_OR_EXPAND_DOWN);
    if !segment.is_present() || expand_down {
        return (0, 0);
    }
    let extra = segment.has(Segment::READABLE_OR_WRITABLE);
    let readable = if !code || extra { bytes } else { 0 };
    let writable = if !code && extra { bytes } else { 0 };
    (readable, writable)
}
