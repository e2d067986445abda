//! The translation cache: blocks, how they are found, linked and dropped.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use iced_x86::Encoder;
use vcpu::{DebugPoints, HostCode};

use crate::access::Accesses;
use crate::block::{Block, BlockId, Key, Place, Sites};
use crate::cells::Cells;
use crate::context::{ContextField, PAGE_SLOTS, VIEWS};
use crate::emit::{Emitter, Op, Reg};
use crate::hash::KeyHasher;
use crate::hint::{Hints, Windowing};
use crate::lower::SyscallTarget;
use crate::mode::{ModeWord, VIEW_USER};
use crate::refill;
use crate::region::Region;
use crate::repeat;
use crate::spaces::Spaces;
use crate::trampoline::{self, Crossings};
use crate::walk;
use crate::xsave::XsaveFeatures;

mod anchors;
mod blocks;
mod bounced;
mod breakpoints;
mod bridges;
mod decoded;
mod drop;
mod evict;
mod ghosts;
mod jumps;
mod links;
mod listed;
mod originals;
mod parts;
mod room;
mod sources;
mod targets;
mod translate;
mod view;
mod ways;

use anchors::{Anchored, Anchors};
use blocks::Blocks;
use bounced::Bounced;
use bridges::Bridges;
use decoded::Decoded;
use evict::Dice;
use ghosts::Ghosts;
use jumps::Jumps;
use originals::Originals;
use room::Room;
use targets::Targets;
use ways::Ways;

/// Most host code one block may take, and most for its ways out.
const BLOCK_ROOM: usize = 32 << 10;
/// Room at the end for the code of bounces.
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
    bounced: Bounced,
    hints: Hints,
    jumps: Jumps,
    cells: Cells,
    anchors: Anchors,
    targets: Targets,
    bridges: Bridges,
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
    originals: Originals,
    /// Whether the engine wants to see whatever goes to ring 3's code, so that nothing leads there.
    withheld: bool,
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
        layout.walk = walk::emit(&mut emitter);
        emitter.set_layout(layout);
        layout.repeat = repeat::emit(&mut emitter);
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
            bounced: Bounced::default(),
            hints: Hints::new(windows),
            jumps: Jumps::new(miss),
            cells: Cells::default(),
            anchors: Anchors::default(),
            targets: Targets::default(),
            bridges: Bridges::default(),
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
            originals: Originals::default(),
            withheld: false,
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
        let (page, linear) = (physical & !0xfff, rip & !0xfff);
        let place = self.anchor(page, linear);
        if place.is_some() && !self.withheld && self.anchors.is_first(page) {
            self.offer_targets(page, linear);
            self.offer_bridges(page);
        }
        place.unwrap_or(Place::At(rip))
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
        let withheld = self.withheld && mode.view() == VIEW_USER;
        if !mode.steps() && !apart && !withheld {
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
}
