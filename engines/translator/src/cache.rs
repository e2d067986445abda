//! The translation cache: blocks, how they are found, linked and dropped.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use iced_x86::Encoder;
use vcpu::{DebugPoints, HostCode};

use crate::access::Accesses;
use crate::block::{Block, BlockId, Group, Key, LinkState, Place, Range, Sites};
use crate::cells::Cells;
use crate::code::Code;
use crate::context::{ContextField, PAGE_SLOTS, VIEWS};
use crate::decode::{self, End, GuestInsn};
use crate::emit::{Emitter, Op, Reg};
use crate::flags;
use crate::guest::Guest;
use crate::hash::KeyHasher;
use crate::hint::{Hints, Windowing};
use crate::lower::{self, Frame, SyscallTarget, Tools};
use crate::mode::{ModeWord, VIEW_USER};
use crate::refill;
use crate::region::Region;
use crate::spaces::Spaces;
use crate::tlb::Tlb;
use crate::trampoline::{self, Crossings};
use crate::xsave::XsaveFeatures;

mod anchors;
mod blocks;
mod breakpoints;
mod decoded;
mod drop;
mod evict;
mod ghosts;
mod jumps;
mod links;
mod parts;
mod room;
mod sources;
mod view;
mod ways;

use anchors::{Anchored, Anchors};
use blocks::Blocks;
use decoded::Decoded;
use evict::Dice;
use ghosts::Ghosts;
use jumps::Jumps;
use room::Room;
use sources::{live_at, live_at_end, sources_of};
use ways::Ways;

/// Most host code one block may take, and most for its ways out.
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
    /// Whether PAUSE leaves guest code.
    pub pauses: bool,
    /// Where a debugger wants guest code to be left.
    points: Arc<DebugPoints>,
    miss: u64,
    second_chance: [u64; VIEWS],
    emitter: Emitter,
    encoder: Encoder,
    accesses: Accesses,
    decoded: Decoded,
    hints: Hints,
    jumps: Jumps,
    cells: Cells,
    anchors: Anchors,
    /// What is kept of other address spaces.
    pub spaces: Spaces<Ways>,
    blocks: Blocks,
    by_key: HashMap<Key, BlockId, BuildHasherDefault<KeyHasher>>,
    by_page: HashMap<u64, Vec<BlockId>, BuildHasherDefault<KeyHasher>>,
    views: [Option<ModeWord>; VIEWS],
    far_links: Vec<(BlockId, u16)>,
    /// Blocks that groups of others lead to.
    straddled: Vec<BlockId>,
    /// Jumps to code that goes through the jump table, and in which part that is.
    table_links: Vec<(usize, BlockId, u16)>,
    room: Room,
    dice: Dice,
    ghosts: Ghosts,
    generation: u64,
    instructions: u64,
    /// What code was that has been thrown away, in the order of addresses, if somebody wants to know.
    gone: Option<Vec<HostCode>>,
}

/// What has gone through the cache.
pub struct Size {
    /// Guest instructions translated, in all.
    pub instructions: u64,
    /// Bytes of code that are there now.
    pub bytes: u64,
    /// How often a part of it was thrown away.
    pub emptied: u64,
}

impl Cache {
    /// An empty cache in `region`.
    pub fn new(mut region: Region, xsave: XsaveFeatures, windows: Windowing) -> Self {
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
        let room = Room::new(start..region.code_bytes() - BOUNCE_ROOM);
        let emitter = Emitter::new(layout.code() + start as u64, layout);
        let mut cache = Self {
            region,
            crossings,
            sites: Sites::default(),
            xsave: GuestXsave { xcr0: 1, size: 576 },
            syscall: None,
            pauses: false,
            points: Arc::default(),
            miss,
            second_chance,
            emitter,
            encoder: Encoder::new(64),
            accesses: Accesses::new(),
            decoded: Decoded::new(),
            hints: Hints::new(windows),
            jumps: Jumps::new(miss),
            cells: Cells::default(),
            anchors: Anchors::default(),
            spaces: Spaces::default(),
            blocks: Blocks::default(),
            by_key: HashMap::default(),
            by_page: HashMap::default(),
            views: [None; VIEWS],
            far_links: Vec::new(),
            straddled: Vec::new(),
            table_links: Vec::new(),
            room,
            dice: Dice::new(),
            ghosts: Ghosts::new(),
            generation: 0,
            instructions: 0,
            gone: None,
        };
        for view in 0..VIEWS {
            cache.clear_view(view);
        }
        cache
    }

    /// How often a part has been emptied: block numbers are good within one generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// A block by number.
    pub fn block(&self, id: BlockId) -> Option<&Block> {
        self.blocks.get(id)
    }

    /// Where a block is good whose code is at this rip, which is this guest-physical address. A debugger's breakpoints are at
    /// linear addresses, so that they bind the blocks to theirs.
    pub fn place(&mut self, physical: u64, rip: u64, mode: ModeWord) -> Place {
        if !mode.is_relocatable() || self.points.has_breakpoints() {
            return Place::At(rip);
        }
        // Making the tables ready may begin an epoch, which this page has to be anchored in.
        self.prepare_view(mode);
        self.anchor(physical & !0xfff, rip & !0xfff).unwrap_or(Place::At(rip))
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
        self.blocks.at(host)
    }

    /// Lets indirect jumps of its view find a block at this rip. A view's table holds blocks of one mode only.
    pub fn publish(&mut self, id: BlockId, rip: u64) {
        let Some(block) = self.blocks.get(id) else {
            return;
        };
        let (Key { mode, apart, .. }, entry) = (block.key, block.entry);
        self.prepare_view(mode);
        if !mode.steps() && !apart {
            self.jumps.insert(&mut self.region, mode.view(), rip, (id, entry));
            if mode.is_relocatable() {
                self.note_jump(rip, id);
            }
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
            self.spaces.forget_current();
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

    /// Translates, registers and publishes nothing: the caller does that. There must be room.
    pub fn translate(&mut self, guest: &Guest, tlb: &mut Tlb, source: Source) -> Result<BlockId, NoBlock> {
        // Most blocks are short, and what is not needed of their code is not in the processor's caches either.
        const FEW: usize = 128;
        const MOST: usize = decode::MAX_INSTRUCTIONS * 15;
        let mode = source.key.mode;
        let limit = if mode.steps() || source.next_page.is_some() { 1 } else { decode::MAX_INSTRUCTIONS };
        let rip = source.key.rip(0);
        let mut code = self.fetch(guest, tlb, &source, FEW)?;
        let (mut list, mut end) = decode::decode(&code, rip, mode, limit, &mut self.accesses);
        if end == End::Page && code.len() == FEW {
            code = self.fetch(guest, tlb, &source, MOST)?;
            (list, end) = decode::decode(&code, rip, mode, limit, &mut self.accesses);
        }
        let end = breakpoints::cut(&self.points, &source, &mut list, end);
        if list.is_empty() && end == End::Page {
            return Err(NoBlock::NextPage);
        }
        let mut sources = sources_of(&source, &list, end);
        let live = live_at_end(guest, &source, &list, end, &mut sources);
        decode::mark_live_flags(&mut list, mode, live, |branch| {
            live_at(guest, &source, branch.near_branch_target(), &mut sources)
        });
        self.instructions += list.len() as u64;
        self.ghosts.made(source.key.physical);
        let live_in = list.first().map_or(flags::ALL, |i| i.live_before);
        let id = self.install(&source, &code, &list, end, live_in, sources);
        self.link_to_known(id);
        Ok(id)
    }

    /// The guest's bytes, at most so many of each page, with writes to them watched from before they are read.
    fn fetch(
        &mut self,
        guest: &Guest,
        tlb: &mut Tlb,
        source: &Source,
        most: usize,
    ) -> Result<Vec<u8>, NoBlock> {
        let pages = [Some(source.key.physical), source.next_page];
        let mut code = Vec::new();
        for physical in pages.into_iter().flatten() {
            let page = physical & !0xfff;
            if !guest.watcher.watches(page) {
                let region = &mut self.region;
                let withdraw = |guest: &Guest, page| tlb.withdraw(region, guest, page);
                if !guest.watch(page, withdraw) {
                    return Err(NoBlock::NoMemory);
                }
                tlb.protect_physical(&mut self.region, page);
            }
            code.extend(guest.code(physical, most).ok_or(NoBlock::NoMemory)?);
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
        let part = self.room.current();
        let id = self.blocks.next(part);
        let code_start = self.emitter.layout().code();
        let (hot, cold) = self.room.next();
        let (entry, ways_out) = (code_start + hot as u64, code_start + cold as u64);
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
            pauses: self.pauses,
            miss: self.miss,
            second_chance: self.second_chance,
            ways_out,
            apart: source.key.apart,
            bounce: None,
        };
        self.emitter.restart(entry);
        let lowered = lower::lower(self.tools(), frame, list, end, code);
        let (body, behind) = self.emitter.parts();
        self.region.write_code(hot, body);
        self.region.write_code(cold, behind);
        self.room.take(body.len(), behind.len());
        let address = |offset: u32| self.emitter.address(offset as usize);
        let links = lowered.links.iter().map(|link| LinkState {
            at: address(link.at),
            stub: address(link.stub),
            target: link.target,
            mode: link.mode,
            backward: link.backward,
            cell: link.cell,
            parked: link.parked,
            leads_to: None,
        });
        let groups = lowered.groups.iter().map(|group| {
            let apart = address(group.apart);
            group.hint.map(|hint| Group { first: group.first, last: group.last, hint, apart })
        });
        let block = Block {
            key: source.key,
            linear,
            entry,
            checked: address(lowered.checked),
            body: address(lowered.body),
            parked: lowered.parked.map(address),
            end: entry + u64::from(lowered.tail),
            ways_out: ways_out..ways_out + behind.len() as u64,
            map: lowered.map.into_boxed_slice(),
            links: links.collect(),
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
        self.blocks.push(part, block);
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

    /// Where to go on in a block: see [`Block::resume_after`].
    pub fn resume_after(&self, id: BlockId, mode: ModeWord, done: u64, rip: u64) -> Option<u64> {
        let block = self.blocks.get(id).filter(|block| block.valid && block.key.mode == mode)?;
        let page = self.page_of(&block.key);
        block.resume_after(page, done, rip, self.region.hints_ref())
    }

    /// What has gone through it so far.
    pub fn size(&self) -> Size {
        let bytes = self.room.used() as u64;
        Size { instructions: self.instructions, bytes, emptied: self.generation }
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
            block: BlockId::NONE,
            live_in: flags::ALL,
            xcr0: self.xsave.xcr0,
            xsave_size: self.xsave.size,
            syscall: None,
            pauses: false,
            miss: self.miss,
            second_chance: self.second_chance,
            ways_out: 0,
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
    pub fn decode_one(&mut self, code: &Code, rip: u64, mode: ModeWord) -> Option<GuestInsn> {
        if let Some(insn) = self.decoded.get(code, rip, mode) {
            return Some(insn);
        }
        let (list, _) = decode::decode(&code.to_vec(), rip, mode, 1, &mut self.accesses);
        let mut insn = list.first().copied()?;
        insn.live_before = flags::ALL;
        insn.live_after = flags::ALL;
        self.decoded.put(code, rip, mode, insn);
        Some(insn)
    }
}
