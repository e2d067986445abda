//! The engine: guest state in, guest code run, exits made of what comes back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use host::Stubs;
use memory::GuestRam;
use vcpu::{
    BlockView, CpuState, DebugPoints, Delivery, Engine, EngineError, Entry, Exit, HostCode, Invalidation,
    Kick, Sighting,
};
use x86::paging::PagingContext;

use crate::block::{BlockId, EXIT_BOUNCED, EXIT_FAULT, Key, Range};
use crate::cache::{Cache, NoBlock, Source};
use crate::direct::Promotion;
use crate::fault::{self, Running, Signal};
use crate::fetch::FetchCache;
use crate::guest::{Guest, host_refused, refused};
use crate::hint::Windowing;
use crate::mode::{ModeWord, VIEW_USER};
use crate::peers::{News, Peers, There};
use crate::region::{KickWord, Region};
use crate::slow::{Answers, Pending, Progress};
use crate::tlb::Tlb;
use crate::windows::Tables;
use crate::{sample, xsave};

mod burst;
mod counters;
mod exits;
mod page_in;
mod pause;
mod state;
mod watch;

use counters::Counters;
use exits::{Next, unsupported};
use pause::Spin;
use state::paging_of;
use watch::Watch;

/// How an engine is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of the translation cache in bytes.
    pub cache_bytes: usize,
    /// Width of guest-physical addresses, as CPUID tells the guest.
    pub physical_bits: u8,
    /// Which pages of ring 3's are mapped into windows.
    pub windows: Windowing,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 128 << 20, physical_bits: 40, windows: Windowing::Hot }
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
    pub(crate) options: Options,
    /// What each instruction is looked at for before it runs.
    watch: Watch,
    kick: Arc<KickWord>,
    pending: Option<Pending>,
    pub(crate) answers: Answers,
    /// The block that ran last, for going on in its middle, and the cache generation it belongs to.
    last: Option<(BlockId, u64)>,
    code_base: u64,
    spin: Spin,
    /// Ring 3's next code is the translator's, be it run directly otherwise or not.
    translates_next: bool,
    /// What XSAVE manages here.
    xsave_mask: u64,
    counters: Counters,
}

impl Translator {
    /// An engine for the vCPU of a machine with this RAM.
    pub fn new(ram: GuestRam, options: Options) -> Result<Self, EngineError> {
        Self::among(&Peers::new(1), ram, options)
    }

    /// An engine for one of several.
    pub fn among(peers: &Arc<Peers>, ram: GuestRam, options: Options) -> Result<Self, EngineError> {
        host::fault::install_fault_handler(fault::handle)
            .map_err(host_refused("installing a signal handler"))?;
        let xsave = xsave::host_features();
        let region = Region::new(options.cache_bytes)
            .map_err(host_refused("reserving the translation cache below 2 GiB"))?;
        let kick = Arc::new(KickWord::new(&region));
        let guest =
            Guest::new(ram, kick.clone(), peers.clone()).map_err(|e| refused("watching guest memory", e))?;
        let mut cache = Cache::new(region, xsave, options.windows);
        cache.pauses = !peers.is_alone();
        let tlb = Tlb::new(&mut cache.region, peers.count());
        cache.region.context().host_mxcsr = 0x1f80;
        cache.region.context().walk.set_ram(&guest.ram, peers.is_alone());
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
            watch: Watch::default(),
            kick,
            pending: None,
            answers: Answers::default(),
            last: None,
            code_base: 0,
            spin: Spin::default(),
            translates_next: false,
            xsave_mask: xsave.mask,
            counters: Counters::default(),
        })
    }

    /// Lets ring 3 run as it is in these processes; not if there are other vCPUs, which could write its code unseen.
    pub fn set_stubs(&mut self, stubs: &Arc<Stubs>, when: Promotion) {
        if self.guest.peers.is_alone() {
            self.tlb.direct.set_stubs(stubs.clone(), when);
        }
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
        self.cache.region.context().enter_target = host;
        self.cache.region.enter(self.cache.crossings);
        self.cache.region.context().exit_index as u32
    }

    fn signal(&mut self) -> Signal {
        let context = self.cache.region.context();
        Signal {
            pc: context.fault_pc,
            vector: context.fault_vector,
            address: context.fault_address,
            bus: context.fault_signal != 0,
            code: context.fault_code,
        }
    }

    /// Sees to what others have done, and want.
    fn read_mailbox(&mut self) {
        let Some((news, number)) = self.guest.mailbox.take() else { return };
        self.withdraw(&news);
        for written in news.written {
            self.cache.invalidate(&self.guest, written);
        }
        if news.all_written {
            self.cache.clear(&self.guest);
        }
        self.guest.mailbox.answer(number);
    }

    /// Lets guest code write pages no more that others translate.
    fn withdraw(&mut self, news: &News) {
        for page in &news.withdrawn {
            self.tlb.withdraw(&mut self.cache.region, &self.guest, Some(*page));
        }
        if news.all_withdrawn {
            self.tlb.withdraw(&mut self.cache.region, &self.guest, None);
        }
    }

    /// The run itself; gives the exit, and leaves the rip it happened at.
    fn go(&mut self, cpu: &mut CpuState, rip: &mut u64, mut next: Next) -> Exit {
        loop {
            let missed = matches!(next, Next::Missed(_));
            let resume = match next {
                Next::Again(at) => {
                    *rip = at;
                    None
                }
                Next::At(at) | Next::Missed(at) => {
                    *rip = at;
                    if self.mode.steps()
                        && let Some(exit) = self.stepped(cpu)
                    {
                        return exit;
                    }
                    None
                }
                Next::In(host) => Some(host),
                Next::Exit(exit) => return exit,
                Next::Callout => match self.callout(cpu, *rip) {
                    Ok(at) => {
                        *rip = at;
                        None
                    }
                    Err(exit) => return exit,
                },
            };
            let host = match resume {
                Some(host) => host,
                None if self.kicked() && self.cache.region.kick().swap(0, Ordering::AcqRel) != 0 => {
                    self.assume_shadow(cpu, *rip);
                    self.found_busy(cpu);
                    return Exit::Kicked;
                }
                None if self.runs_directly(cpu) => {
                    next = self.burst(cpu, rip);
                    continue;
                }
                None => {
                    if self.watch.is_on()
                        && let Some(fault) = self.look_ahead(cpu, *rip)
                    {
                        return Exit::Exception(fault);
                    }
                    match if missed { None } else { self.known(*rip) } {
                        Some(host) => host,
                        None => match self.block_for(cpu, *rip, false) {
                            Ok(id) => {
                                if missed {
                                    self.cache.note_target(id);
                                }
                                self.enter_block(id, *rip)
                            }
                            Err(exit) => return exit,
                        },
                    }
                }
            };
            let index = self.enter(host);
            next = self.leave(cpu, index, rip);
        }
    }

    /// Where to enter the block at `rip`, if guest code would find it by itself. Outside of long mode the limit of the code
    /// segment is to be seen to each time.
    fn known(&mut self, rip: u64) -> Option<u64> {
        if !self.mode.is_long() {
            return None;
        }
        let id = self.cache.known(rip, self.mode)?;
        self.last = Some((id, self.cache.generation()));
        self.cache.block(id).map(|block| block.body)
    }

    /// Makes a block ready that has been found for `rip`; gives the host address at which it begins.
    fn enter_block(&mut self, id: BlockId, rip: u64) -> u64 {
        self.cache.publish(id, rip);
        self.last = Some((id, self.cache.generation()));
        self.cache.block(id).map_or(self.cache.crossings.exit, |block| block.body)
    }

    /// The block at `rip`, translated if need be; the one without groups if they are to be `apart`.
    fn block_for(&mut self, cpu: &CpuState, rip: u64, apart: bool) -> Result<BlockId, Exit> {
        let page = self.code_page(cpu, rip).map_err(Exit::Exception)?;
        if self.user {
            self.tlb.direct.entered(self.paging.cr3, page.physical);
        }
        self.cache.make_room(&self.guest);
        let place = self.cache.place(page.physical, rip, self.mode);
        let key = Key { physical: page.physical, place, mode: self.mode, apart };
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
        if self.user {
            self.tlb.direct.translated(self.paging.cr3);
        }
        made.map_err(|_| Exit::Fatal(EngineError::NoMemory { rip, gpa: page.physical }))
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
        match entry {
            Entry::Step => self.watch.single = true,
            Entry::Resume | Entry::Inject(_) => self.watch.single = false,
            // An instruction that is stepped goes on.
            Entry::Complete(_) => {}
        }
        // Until this returns, or panics.
        let _there = (!self.guest.peers.is_alone()).then(|| There::new(&self.guest.mailbox));
        self.load(cpu);
        self.read_mailbox();
        let mut rip = cpu.rip;
        let next = match (entry, self.pending.take()) {
            (Entry::Complete(value), Some(pending)) => {
                let slow = match pending {
                    Pending::Bounce(bounce) => self.bounce_completed(cpu, *bounce, value),
                    Pending::Again => self.slow_answered(cpu, rip, value),
                };
                self.after_slow(slow, rip)
            }
            (Entry::Inject(_), _) => Next::Exit(unsupported(rip, "an injected event".into())),
            _ => Next::Again(rip),
        };
        let exit = self.go(cpu, &mut rip, next);
        if self.user && matches!(exit, Exit::Exception(_)) {
            self.cache.region.context().kernel_entries += 1;
        }
        self.store(cpu, rip);
        fault::set_running(None);
        exit
    }

    fn invalidate(&mut self, what: Invalidation) {
        let region = &mut self.cache.region;
        match what {
            Invalidation::Page { linear } => {
                self.counters.flushes[0] += 1;
                let tables = Tables { guest: &self.guest, paging: &self.paging };
                self.tlb.flush_page(region, tables, linear);
                let (kernel, user) =
                    (self.fetch.may_hold_code(linear, false), self.fetch.may_hold_code(linear, true));
                if kernel || user {
                    self.fetch.flush();
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
                self.fetch.leave_space();
                self.cache.spaces.leave();
                if self.fetch.take_local_kernel() {
                    self.cache.forget_mappings();
                } else {
                    self.cache.clear_view(VIEW_USER);
                }
            }
            Invalidation::AllPages => {
                self.counters.flushes[2] += 1;
                self.tlb.flush_all(region);
                self.fetch.clear();
                // Where code was seen is known no more.
                self.cache.spaces.clear();
                self.cache.forget_mappings();
            }
            Invalidation::Code { gpa, len } => {
                self.cache.invalidate(&self.guest, Range { start: gpa, len: len as u64 });
            }
            Invalidation::Everything => {
                self.tlb.direct.clear();
                let region = &mut self.cache.region;
                self.tlb.flush_all(region);
                self.fetch.clear();
                self.cache.clear(&self.guest);
            }
        }
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.cache.region.context().window = u64::from(wanted);
    }

    fn set_debug_points(&mut self, points: &Arc<DebugPoints>) {
        self.cache.set_debug_points(points);
        self.watch.points = points.clone();
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kick.clone()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counted()
    }

    fn contents(&mut self) -> Vec<(&'static str, u64)> {
        self.view_contents()
    }

    fn blocks_at(&mut self, rip: u64) -> Vec<BlockView> {
        self.view_blocks(rip)
    }

    fn host_code(&self, from: u64, most: usize) -> Vec<HostCode> {
        self.cache.parts(from).take(most).collect()
    }

    fn keep_host_code(&mut self) {
        self.cache.keep();
    }

    fn sighted(&mut self) -> Option<Sighting> {
        self.take_sighting()
    }

    fn dismiss(&mut self) {
        self.tlb.direct.turn_off();
        self.cache.withhold(false);
    }

    fn prepare_sighting(&mut self) -> Result<(), EngineError> {
        // What runs in another process is not seen.
        self.dismiss();
        host::sampling::install(sample::observe).map_err(host_refused("installing a signal handler"))
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        self.kick.detach();
    }
}
