//! The translation cache: blocks, how they are found, linked and dropped.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use iced_x86::Encoder;
use vcpu::DebugPoints;

use crate::access::Accesses;
use crate::block::{Block, BlockId, Group, Key, LinkState, Place, Range, Sites};
use crate::context::{ContextField, PAGE_SLOTS, VIEWS};
use crate::decode::{self, End, GuestInsn};
use crate::emit::{Emitter, Op, Reg};
use crate::flags;
use crate::guest::Guest;
use crate::hint::Hints;
use crate::hint_table::HintId;
use crate::lower::{self, Frame, SyscallTarget, Tools};
use crate::mode::{ModeWord, VIEW_USER};
use crate::refill;
use crate::region::Region;
use crate::tlb::Tlb;
use crate::trampoline::{self, Crossings, XsaveFeatures};

mod anchors;
mod breakpoints;
mod cells;
mod hash;
mod jumps;
mod sources;
mod view;

pub use anchors::PageSlot;
pub use cells::{CellId, Cells};

use anchors::{Anchored, Anchors};
use hash::KeyHasher;
use jumps::Jumps;
use sources::{live_at_end, sources_of};

/// Most host code one block may take; the cache is emptied when less is left.
const BLOCK_ROOM: usize = 32 << 10;
/// Room at the end for the code of a bounce.
const BOUNCE_ROOM: usize = 4096;
const ENTRY_ALIGN: usize = 32;

/// Guest code about to be translated.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Identity of the block.
    pub key: Key,
    /// Linear address of the first byte.
    pub linear: u64,
    /// Linear range within which jumps may be linked.
    pub linkable: (u64, u64),
    /// Guest-physical address of the next page's first byte, if an instruction reaches into it.
    pub next_page: Option<u64>,
}

/// Why there is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBlock {
    /// The first instruction reaches into the next page, whose address is needed.
    NextPage,
    /// No RAM is there.
    NoMemory,
}

/// What the guest may use of XSAVE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestXsave {
    /// XCR0.
    pub xcr0: u64,
    /// Size of its standard-format area.
    pub size: u32,
}

/// See the module's documentation.
pub struct Cache {
    /// The memory it all lies in.
    pub region: Region,
    /// The crossings.
    pub crossings: Crossings,
    /// Places that leave guest code.
    pub sites: Sites,
    /// What the guest may use of XSAVE now.
    pub xsave: GuestXsave,
    /// Where SYSCALL leads, if it is enabled.
    pub syscall: Option<SyscallTarget>,
    /// Where a debugger wants guest code to be left.
    points: Arc<DebugPoints>,
    miss: u64,
    second_chance: [u64; VIEWS],
    emitter: Emitter,
    encoder: Encoder,
    accesses: Accesses,
    hints: Hints,
    jumps: Jumps,
    cells: Cells,
    anchors: Anchors,
    blocks: Vec<Block>,
    by_key: HashMap<Key, BlockId, BuildHasherDefault<KeyHasher>>,
    by_page: HashMap<u64, Vec<BlockId>, BuildHasherDefault<KeyHasher>>,
    views: [Option<ModeWord>; VIEWS],
    far_links: Vec<(BlockId, u16)>,
    start: usize,
    used: usize,
    generation: u64,
    instructions: u64,
}

/// What has gone through the cache.
pub struct Size {
    /// Guest instructions translated, in all.
    pub instructions: u64,
    /// Bytes of code that are there now.
    pub bytes: u64,
    /// How often everything was thrown away.
    pub emptied: u64,
}

impl Cache {
    /// An empty cache in `region`.
    pub fn new(mut region: Region, xsave: XsaveFeatures) -> Self {
        let mut layout = region.layout();
        let mut emitter = Emitter::new(layout.code(), layout);
        let crossings = trampoline::emit(&mut emitter, xsave);
        layout.exit = crossings.exit;
        let prefix = emitter.code().to_vec();
        region.write_code(0, &prefix);
        let mut emitter = Emitter::new(layout.code() + prefix.len() as u64, layout);
        layout.refill = refill::emit(&mut emitter);
        emitter.align(ENTRY_ALIGN);
        let miss = emitter.here();
        // The missed target is in r9; it leaves in r10. Who jumped there may be in r11.
        emitter.op_ctx(Op::Store, true, Reg::R11, ContextField::JumpSource);
        emitter.mov(Reg::R10, Reg::R9);
        trampoline::emit_leave(&mut emitter, crate::block::EXIT_MISS);
        let second_chance =
            std::array::from_fn(|view| trampoline::emit_second_chance(&mut emitter, view, miss));
        let stub = emitter.code().to_vec();
        region.write_code(prefix.len(), &stub);
        let start = prefix.len() + stub.len();
        let emitter = Emitter::new(layout.code() + start as u64, layout);
        let mut cache = Self {
            region,
            crossings,
            sites: Sites::default(),
            xsave: GuestXsave { xcr0: 1, size: 576 },
            syscall: None,
            points: Arc::default(),
            miss,
            second_chance,
            emitter,
            encoder: Encoder::new(64),
            accesses: Accesses::new(),
            hints: Hints::new(),
            jumps: Jumps::new(miss),
            cells: Cells::default(),
            anchors: Anchors::default(),
            blocks: Vec::new(),
            by_key: HashMap::default(),
            by_page: HashMap::default(),
            views: [None; VIEWS],
            far_links: Vec::new(),
            start,
            used: start,
            generation: 0,
            instructions: 0,
        };
        for view in 0..VIEWS {
            cache.clear_view(view);
        }
        cache
    }

    /// How often it has been emptied: block numbers are good within one generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// A block by number.
    pub fn block(&self, id: BlockId) -> Option<&Block> {
        self.blocks.get(id.0 as usize)
    }

    /// Where a block is good whose code is at this rip, which is this guest-physical address. A debugger's breakpoints are at
    /// linear addresses, so that they bind the blocks to theirs.
    pub fn place(&mut self, physical: u64, rip: u64, mode: ModeWord) -> Place {
        if !mode.is_relocatable() || self.points.has_breakpoints() {
            return Place::At(rip);
        }
        // Making the tables ready may begin an epoch, which this page has to be anchored in.
        self.prepare_view(mode);
        let (page, linear) = (physical & !0xfff, rip & !0xfff);
        match self.anchors.anchor(&mut self.region, page, linear) {
            Anchored::At(slot) => return Place::Anywhere(slot),
            Anchored::BoundNow => {
                self.drop_where(|block| block.key.floats() && block.key.physical & !0xfff == page);
            }
            Anchored::Bound => {}
        }
        Place::At(rip)
    }

    /// Linear address of the page that a block begins in, if it is good at any; see [`Key::rip`].
    pub fn page_of(&self, key: &Key) -> u64 {
        match key.place {
            Place::At(_) => 0,
            Place::Anywhere(slot) => self.region.page_bases_ref()[usize::from(slot) % PAGE_SLOTS],
        }
    }

    /// A block by identity.
    pub fn find(&self, key: &Key) -> Option<BlockId> {
        self.by_key.get(key).copied()
    }

    /// The block whose host code contains an address.
    pub fn block_at(&self, host: u64) -> Option<&Block> {
        let n = self.blocks.partition_point(|b| b.entry <= host).checked_sub(1)?;
        self.blocks.get(n).filter(|b| host < b.end)
    }

    /// Lets indirect jumps of its view find a block at this rip. A view's table holds blocks of one mode only.
    pub fn publish(&mut self, id: BlockId, rip: u64) {
        let Some(block) = self.blocks.get(id.0 as usize) else {
            return;
        };
        let (Key { mode, apart, .. }, entry) = (block.key, block.entry);
        self.prepare_view(mode);
        if !mode.steps() && !apart {
            self.jumps.insert(&mut self.region, mode.view(), rip, entry);
        }
    }

    /// Makes the view's jump table one of this mode before code of the mode runs.
    pub fn prepare_view(&mut self, mode: ModeWord) {
        let mode = mode.without_step();
        if self.views[mode.view()] != Some(mode) {
            self.clear_view(mode.view());
            self.views[mode.view()] = Some(mode);
        }
    }

    /// Empties one jump table.
    pub fn clear_view(&mut self, view: usize) {
        self.jumps.clear(&mut self.region, view);
        if view == VIEW_USER {
            self.cells.forget(&mut self.region);
            self.anchors.begin_epoch();
        }
    }

    /// Empties all jump tables and undoes links that rest on a larger mapping than their own page.
    pub fn forget_mappings(&mut self) {
        for view in 0..VIEWS {
            self.clear_view(view);
        }
        for (from, n) in std::mem::take(&mut self.far_links) {
            self.unlink(from, n);
        }
    }

    /// Makes room for another block, if need be by emptying the cache. That comes before the block's key is made, of which
    /// nothing is good any more then.
    pub fn make_room(&mut self, guest: &Guest) {
        if self.used + BLOCK_ROOM + BOUNCE_ROOM > self.region.code_bytes() {
            self.clear(guest);
        }
    }

    /// Translates, registers and publishes nothing: the caller does that. There must be room.
    pub fn translate(&mut self, guest: &Guest, tlb: &mut Tlb, source: Source) -> Result<BlockId, NoBlock> {
        let code = self.fetch(guest, tlb, &source)?;
        let mode = source.key.mode;
        let limit = if mode.steps() || source.next_page.is_some() { 1 } else { decode::MAX_INSTRUCTIONS };
        let (mut list, end) = decode::decode(&code, source.key.rip(0), mode, limit, &mut self.accesses);
        let end = breakpoints::cut(&self.points, &source, &mut list, end);
        if list.is_empty() && end == End::Page {
            return Err(NoBlock::NextPage);
        }
        let mut sources = sources_of(&source, &list, end);
        let live = live_at_end(guest, &source, &list, end, &mut sources);
        decode::mark_live_flags(&mut list, mode, live);
        self.instructions += list.len() as u64;
        let live_in = list.first().map_or(flags::ALL, |i| i.live_before);
        let id = self.install(&source, &code, &list, end, live_in, sources);
        self.link_to_known(id);
        Ok(id)
    }

    /// Links a new block's jumps to blocks of its own page that are there already, so that they need not be met first.
    fn link_to_known(&mut self, id: BlockId) {
        let Some(block) = self.block(id).filter(|block| block.second_page.is_none()) else { return };
        let (key, linear) = (block.key, block.linear);
        let near = block.links.iter().enumerate().filter_map(|(n, link)| {
            let there = linear.wrapping_add(link.target.wrapping_sub(key.rip(0)));
            let physical = key.physical & !0xfff | there & 0xfff;
            let place = match key.place {
                Place::At(_) => Place::At(link.target),
                anywhere => anywhere,
            };
            let inside = link.cell.is_none() && there >> 12 == linear >> 12;
            inside.then_some((n as u16, Key { physical, place, mode: link.mode, apart: false }))
        });
        let known: Vec<_> = near.filter_map(|(n, key)| self.find(&key).map(|to| (n, to))).collect();
        for (n, to) in known {
            if self.block(to).is_some_and(|target| target.second_page.is_none()) {
                self.link(id, n, to);
            }
        }
    }

    /// The guest's bytes, with writes to them watched from before they are read.
    fn fetch(&mut self, guest: &Guest, tlb: &mut Tlb, source: &Source) -> Result<Vec<u8>, NoBlock> {
        const MOST: usize = decode::MAX_INSTRUCTIONS * 15;
        let pages = [Some(source.key.physical), source.next_page];
        let mut code = Vec::new();
        for physical in pages.into_iter().flatten() {
            let page = physical & !0xfff;
            if !guest.watcher.watches(page) {
                if !guest.watcher.watch(page) {
                    return Err(NoBlock::NoMemory);
                }
                tlb.protect_physical(&mut self.region, page);
            }
            code.extend(guest.code(physical, MOST).ok_or(NoBlock::NoMemory)?);
        }
        Ok(code)
    }

    fn install(
        &mut self,
        source: &Source,
        code: &[u8],
        list: &[GuestInsn],
        end: End,
        live_in: u8,
        sources: Vec<Range>,
    ) -> BlockId {
        let id = BlockId(self.blocks.len() as u32);
        let code_start = self.emitter.layout().code();
        let offset = self.used.next_multiple_of(ENTRY_ALIGN);
        let entry = code_start + offset as u64;
        let floats = source.key.floats();
        let linear = if floats { source.key.rip(0) } else { source.linear };
        let linkable = match source.next_page {
            Some(_) => (0, 0),
            None if floats => (0, 0x1000),
            None => source.linkable,
        };
        let page = match source.key.place {
            Place::At(_) => None,
            Place::Anywhere(slot) => Some(slot),
        };
        let frame = Frame {
            page,
            rip: source.key.rip(0),
            linear,
            physical: source.key.physical,
            linkable,
            mode: source.key.mode,
            block: id,
            live_in,
            xcr0: self.xsave.xcr0,
            xsave_size: self.xsave.size,
            syscall: self.syscall,
            miss: self.miss,
            second_chance: self.second_chance,
            apart: source.key.apart,
            bounce: None,
        };
        self.emitter.restart(entry);
        let lowered = lower::lower(self.tools(), frame, list, end, code);
        self.region.write_code(offset, self.emitter.code());
        self.used = offset + self.emitter.code().len();
        let links = lowered.links.iter().map(|link| LinkState {
            at: entry + u64::from(link.at),
            stub: entry + u64::from(link.stub),
            target: link.target,
            mode: link.mode,
            backward: link.backward,
            cell: link.cell,
            parked: link.parked,
        });
        let groups = lowered.groups.iter().map(|group| {
            let apart = entry + u64::from(group.apart);
            group.hint.map(|hint| Group { first: group.first, last: group.last, hint, apart })
        });
        let block = Block {
            key: source.key,
            linear,
            entry,
            checked: entry + u64::from(lowered.checked),
            body: entry + u64::from(lowered.body),
            parked: lowered.parked.map(|at| entry + u64::from(at)),
            tail: entry + u64::from(lowered.tail),
            end: code_start + self.used as u64,
            map: lowered.map.into_boxed_slice(),
            links: links.collect(),
            cells: Vec::new(),
            groups: groups.collect(),
            straddlers: Vec::new(),
            incoming: Vec::new(),
            valid: true,
            second_page: source.next_page,
            sources,
        };
        for link in &block.links {
            if let Some(cell) = link.cell {
                self.cells.own(&mut self.region, cell, link.stub);
            }
        }
        for range in &block.sources {
            let pages = self.by_page.entry(range.start & !0xfff).or_default();
            if pages.last() != Some(&id) {
                pages.push(id);
            }
        }
        self.by_key.insert(source.key, id);
        self.blocks.push(block);
        id
    }

    fn tools(&mut self) -> Tools<'_> {
        Tools {
            emitter: &mut self.emitter,
            encoder: &mut self.encoder,
            sites: &mut self.sites,
            hints: &mut self.hints,
            cells: &mut self.cells,
            accesses: &mut self.accesses,
        }
    }

    /// Lets a direct jump go straight to its target.
    pub fn link(&mut self, from: BlockId, n: u16, to: BlockId) {
        let (Some(source), Some(target)) = (self.blocks.get(from.0 as usize), self.blocks.get(to.0 as usize))
        else {
            return;
        };
        let Some(link) = source.links.get(usize::from(n)).copied() else {
            return;
        };
        if let Some(cell) = link.cell {
            if source.valid && target.valid && link.mode == target.key.mode {
                let goal = match link {
                    LinkState { parked: true, .. } => target.entry,
                    LinkState { backward: true, .. } => target.checked,
                    _ => target.body,
                };
                self.cells.fill(&mut self.region, cell, goal);
                self.blocks[to.0 as usize].cells.push(cell);
            }
            return;
        }
        if !source.valid || !target.valid || link.mode != target.key.mode || target.key.rip(0) != link.target
        {
            return;
        }
        // If not, the page has been mapped elsewhere meanwhile; what it was is still good there.
        if !source.key.shares_page(&target.key) {
            return;
        }
        if target.second_page.is_some() {
            if self.used + BLOCK_ROOM > self.region.code_bytes() {
                return;
            }
            // Only the table notices when the second page's mapping changes.
            let stub = self.table_stub(link.mode.view(), source.key.place, link.target);
            self.patch(link.at, stub);
            return;
        }
        let goal = if link.backward { target.checked } else { target.body };
        if source.linear >> 12 != target.linear >> 12 {
            self.far_links.push((from, n));
        }
        self.patch(link.at, goal);
        self.blocks[to.0 as usize].incoming.push((from, n));
    }

    /// Where to go on in a block: see [`Block::resume_after`].
    pub fn resume_after(&self, id: BlockId, mode: ModeWord, done: u64, rip: u64) -> Option<u64> {
        let block = self.blocks.get(id.0 as usize).filter(|block| block.valid && block.key.mode == mode)?;
        let page = self.page_of(&block.key);
        block.resume_after(page, done, rip, self.region.hints_ref())
    }

    /// Lets a group of a block lead to another block where it straddles pages.
    pub fn lead_apart(&mut self, from: BlockId, group: u8, to: BlockId) {
        let (Some(source), Some(target)) = (self.block(from), self.block(to)) else { return };
        let group = source.groups.get(usize::from(group)).copied().flatten();
        let Some(group) = group.filter(|_| target.valid && source.key.shares_page(&target.key)) else {
            return;
        };
        let body = target.body as u32;
        self.write_word(group.apart, body);
        self.blocks[to.0 as usize].straddlers.push(group.apart);
    }

    fn write_word(&mut self, at: u64, value: u32) {
        let offset = (at - self.emitter.layout().code()) as usize;
        self.region.write_code(offset, &value.to_le_bytes());
    }

    /// Code that goes through the jump table, for a jump that cannot be linked.
    fn table_stub(&mut self, view: usize, place: Place, target: u64) -> u64 {
        let stub = self.emitter.layout().code() + self.used as u64;
        self.emitter.restart(stub);
        let second_chance = self.second_chance[view];
        trampoline::emit_flags_to_context(&mut self.emitter);
        match place {
            Place::Anywhere(slot) => {
                self.emitter.load_and_add(Reg::R9, ContextField::PageBase(slot), target);
                trampoline::emit_jump_hash(&mut self.emitter, view, second_chance);
            }
            Place::At(_) => trampoline::emit_jump_to_known(&mut self.emitter, view, target, second_chance),
        }
        self.region.write_code(self.used, self.emitter.code());
        self.used += self.emitter.code().len();
        stub
    }

    fn unlink(&mut self, from: BlockId, n: u16) {
        let link = self.blocks.get(from.0 as usize).and_then(|b| b.links.get(usize::from(n)));
        if let Some(link) = link.copied() {
            self.patch(link.at, link.stub);
        }
    }

    fn patch(&mut self, at: u64, goal: u64) {
        self.write_word(at, goal.wrapping_sub(at + 4) as u32);
    }

    /// Drops the blocks made from these guest-physical bytes.
    pub fn invalidate(&mut self, guest: &Guest, written: Range) {
        let last = written.start.saturating_add(written.len.saturating_sub(1));
        for page in (written.start >> 12)..=(last >> 12) {
            self.invalidate_in_page(guest, page << 12, written);
        }
    }

    fn invalidate_in_page(&mut self, guest: &Guest, page: u64, written: Range) {
        let Some(ids) = self.by_page.get_mut(&page) else {
            return;
        };
        let mut stale = Vec::new();
        let blocks = &self.blocks;
        ids.retain(|id| {
            let hit = blocks[id.0 as usize].sources.iter().any(|range| range.overlaps(written));
            if hit {
                stale.push(*id);
            }
            !hit
        });
        if ids.is_empty() {
            self.by_page.remove(&page);
            guest.watcher.unwatch(page);
        }
        for id in stale {
            self.drop_block(id);
        }
    }

    /// The hint of an instruction at this place has missed too often: translates the block without, if it misses fast.
    pub fn roams(&mut self, id: BlockId, offset: u16, hint: HintId) {
        self.region.hints().forget(hint);
        let Some(block) = self.block(id) else { return };
        let physical = block.key.physical.wrapping_add(u64::from(offset));
        if self.hints.is_roaming(hint, physical, host::cpu::rdtsc()) {
            self.drop_block(id);
        }
    }

    fn drop_block(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.0 as usize];
        if !std::mem::replace(&mut block.valid, false) {
            return;
        }
        let (key, entry) = (block.key, block.entry);
        let straddlers = std::mem::take(&mut block.straddlers);
        let cells = std::mem::take(&mut block.cells);
        for (from, n) in std::mem::take(&mut block.incoming) {
            self.unlink(from, n);
        }
        straddlers.into_iter().for_each(|word| self.write_word(word, 0));
        cells.into_iter().for_each(|cell| self.cells.empty(&mut self.region, cell));
        if self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
        }
        // The jump table may hold it under any number of addresses: whoever is sent there goes on to the engine.
        self.emitter.restart(entry);
        self.emitter.jmp_to(self.miss);
        let offset = (entry - self.emitter.layout().code()) as usize;
        self.region.write_code(offset, self.emitter.code());
    }

    /// Takes a debugger's points, and drops the blocks that are not as they want them.
    pub fn set_debug_points(&mut self, points: &Arc<DebugPoints>) {
        let former = std::mem::replace(&mut self.points, points.clone());
        if former.has_breakpoints() != points.has_breakpoints() {
            self.drop_where(|block| block.key.mode.is_relocatable());
        }
        for linear in former.changed_breakpoints(points) {
            self.drop_where(|block| block.covers(linear));
        }
    }

    fn drop_where(&mut self, stale: impl Fn(&Block) -> bool) {
        let blocks = (0..).zip(&self.blocks);
        let stale: Vec<_> = blocks.filter(|(_, block)| block.valid && stale(block)).collect();
        let stale: Vec<_> = stale.into_iter().map(|(n, _)| BlockId(n)).collect();
        stale.into_iter().for_each(|id| self.drop_block(id));
    }

    /// What has gone through it so far.
    pub fn size(&self) -> Size {
        let bytes = (self.used - self.start) as u64;
        Size { instructions: self.instructions, bytes, emptied: self.generation }
    }

    /// Empties the cache. No guest code may be half-way through a block.
    pub fn clear(&mut self, guest: &Guest) {
        guest.watcher.unwatch_all();
        self.blocks.clear();
        self.by_key.clear();
        self.by_page.clear();
        self.sites.clear();
        self.hints.clear();
        self.cells.clear();
        self.anchors.clear();
        self.far_links.clear();
        self.used = self.start;
        self.generation += 1;
        for view in 0..VIEWS {
            self.clear_view(view);
        }
    }

    /// Emits one instruction with its memory operand at `buffer`, for the slow path, and gives the host address
    /// at which to enter it; it leaves with [`crate::block::EXIT_BOUNCED`].
    pub fn bounce(&mut self, insn: &GuestInsn, mode: ModeWord, code: &[u8], buffer: u64) -> Option<u64> {
        let offset = self.region.code_bytes() - BOUNCE_ROOM;
        let entry = self.emitter.layout().code() + offset as u64;
        let frame = Frame {
            page: None,
            rip: insn.instruction.ip(),
            linear: 0,
            physical: 0,
            linkable: (0, 0),
            mode,
            block: BlockId(u32::MAX),
            live_in: flags::ALL,
            xcr0: self.xsave.xcr0,
            xsave_size: self.xsave.size,
            syscall: None,
            miss: self.miss,
            second_chance: self.second_chance,
            apart: true,
            bounce: Some(buffer),
        };
        self.emitter.restart(entry);
        let fits = lower::lower_bounce(self.tools(), frame, insn, code);
        if !fits {
            return None;
        }
        self.region.write_code(offset, self.emitter.code());
        Some(entry)
    }

    /// Decodes one instruction for the slow path.
    pub fn decode_one(&mut self, code: &[u8], rip: u64, mode: ModeWord) -> Option<GuestInsn> {
        let (list, _) = decode::decode(code, rip, mode, 1, &mut self.accesses);
        let mut insn = list.first().copied()?;
        insn.live_before = flags::ALL;
        insn.live_after = flags::ALL;
        Some(insn)
    }
}
