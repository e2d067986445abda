//! Translated blocks and the places from which guest code leaves to the engine.

use crate::by_part::{ByPart, part_of};
use crate::context::{CellId, PageSlot};
use crate::hint_table::{HintId, HintTable};
use crate::mode::ModeWord;

/// A block's number in its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId(pub u32);

impl BlockId {
    /// No block.
    pub const NONE: Self = Self(u32::MAX);

    /// In which part of the cache it is.
    pub fn part(self) -> usize {
        part_of(self.0 as usize)
    }
}

/// What makes two blocks the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Guest-physical address of the first byte.
    pub physical: u64,
    /// Where it is good.
    pub place: Place,
    /// Everything else that changes meaning.
    pub mode: ModeWord,
    /// Whether each access is checked by itself, for where a group of them straddles pages.
    pub apart: bool,
}

impl Key {
    /// Guest rip of the first byte; `page` is where its page is, see [`Place::Anywhere`].
    pub fn rip(&self, page: u64) -> u64 {
        match self.place {
            Place::At(rip) => rip,
            Place::Anywhere(_) => page.wrapping_add(self.physical & 0xfff),
        }
    }

    /// Whether code of the one may always lead to the other: if they are good wherever their pages are mapped, that has
    /// to be the same page.
    pub fn shares_page(&self, other: &Self) -> bool {
        let same = self.physical >> 12 == other.physical >> 12;
        self.floats() == other.floats() && (same || !self.floats())
    }

    /// Whether it is good wherever its page is mapped.
    pub fn floats(&self) -> bool {
        matches!(self.place, Place::Anywhere(_))
    }
}

/// Where a block is good. Return addresses and rip-relative operands are part of its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// At this guest rip only.
    At(u64),
    /// Wherever its page is mapped: each rip in it counts from the beginning of the page, and this slot says where that
    /// is now.
    Anywhere(PageSlot),
}

/// A range of guest-physical bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Range {
    /// Whether the two have a byte in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.start.saturating_add(other.len)
            && other.start < self.start.saturating_add(self.len)
    }
}

/// The state of a direct jump out of a block.
#[derive(Clone, Copy, Debug)]
pub struct LinkState {
    /// Host address of the jump's operand.
    pub at: u64,
    /// Host address of the stub it goes to while unlinked.
    pub stub: u64,
    /// Guest rip it leads to, as [`Key::rip`] gives it for page 0.
    pub target: u64,
    /// The mode it leads to.
    pub mode: ModeWord,
    /// Whether it must enter at the kick check.
    pub backward: bool,
    /// The cell that it goes through, if it does not go straight.
    pub cell: Option<CellId>,
    /// Whether it leaves the flags in `Context::jump_flags`.
    pub parked: bool,
    /// The block that it goes straight to, if it does.
    pub leads_to: Option<BlockId>,
}

/// Accesses of a block that are checked together, by the first of them.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Offset of the first instruction.
    pub first: u16,
    /// Offset of the last.
    pub last: u16,
    /// What the first checks.
    pub hint: HintId,
    /// Host address of the word that says where to go if they straddle pages.
    pub apart: u64,
}

/// One translated block.
#[derive(Debug)]
pub struct Block {
    /// Its identity.
    pub key: Key,
    /// Linear address of the first byte; its offset in the page, if the block is good at any address.
    pub linear: u64,
    /// Guest-physical bytes it was made from, including bytes that were only looked at.
    pub sources: Vec<Range>,
    /// Host address of the entry for indirect jumps.
    pub entry: u64,
    /// Host address of the entry that checks for a kick.
    pub checked: u64,
    /// Host address of the first instruction.
    pub body: u64,
    /// Host address from which to `end` the flags are in `Context::jump_flags`.
    pub parked: Option<u64>,
    /// One past the host code of the last instruction.
    pub end: u64,
    /// Host addresses of the ways out, which stand apart.
    pub ways_out: std::ops::Range<u64>,
    /// Offset from `entry` of each instruction's code, with the guest's offset.
    pub map: Box<[(u32, u16)]>,
    /// Jumps out.
    pub links: Box<[LinkState]>,
    /// Accesses that are checked together.
    pub groups: Box<[Option<Group>]>,
    /// Host addresses of the words by which others' groups lead here.
    pub straddlers: Vec<u64>,
    /// Jumps in: the block and which of its links. Those that have been unlinked since may be among them: what counts is what
    /// they lead to.
    pub incoming: Vec<(BlockId, u16)>,
    /// False once a source has changed.
    pub valid: bool,
    /// Guest-physical address of the second page it reaches into, whose mapping may part from the first's.
    pub second_page: Option<u64>,
}

impl Block {
    /// Whether an instruction at this linear address is part of it, or the breakpoint that it is; never of one that is
    /// good at any address.
    pub fn covers(&self, linear: u64) -> bool {
        let from_start = linear.wrapping_sub(self.linear);
        !self.key.floats() && (from_start == 0 || self.code_of(from_start).is_some())
    }

    /// Guest rip that a jump out of it leads to, when it begins in `page`.
    pub fn target(&self, page: u64, link: &LinkState) -> u64 {
        if self.key.floats() { page.wrapping_add(link.target) } else { link.target }
    }

    /// Host address at which the instruction at `rip` begins, if this block holds it when it begins in `page`.
    pub fn resume_point(&self, page: u64, rip: u64) -> Option<u64> {
        self.code_of(rip.wrapping_sub(self.key.rip(page)))
    }

    /// Host address at which the instruction at this offset of the block begins.
    fn code_of(&self, offset: u64) -> Option<u64> {
        let offset = u16::try_from(offset).ok()?;
        let n = self.map.binary_search_by_key(&offset, |(_, guest)| *guest).ok()?;
        Some(self.entry + u64::from(self.map[n].0))
    }

    /// Whether the flags are in `Context::jump_flags` at this host address.
    pub fn is_parked(&self, host: u64) -> bool {
        self.parked.is_some_and(|from| (from..self.end).contains(&host))
    }

    /// Host address at which to go on at `rip`, when the block begins in `page`, now that the instruction at `done` has been
    /// dealt with outside of it: done, or not begun if the two are the same. None inside of a group, unless its first
    /// instruction ran before `done` and its hint has known its page since.
    pub fn resume_after(&self, page: u64, done: u64, rip: u64, hints: &HintTable) -> Option<u64> {
        let host = self.resume_point(page, rip)?;
        let offset = |rip: u64| rip.wrapping_sub(self.key.rip(page)) as u16;
        let (done, next) = (offset(done), offset(rip));
        let follows = || self.map.windows(2).any(|pair| pair[0].1 == done && pair[1].1 == next);
        let stands = |group: &Group| {
            let open = group.first < next && next <= group.last;
            !open || (done == next || follows()) && group.first < done && hints.is_filled(group.hint)
        };
        self.groups.iter().flatten().all(stands).then_some(host)
    }

    /// Guest rip of the instruction whose code contains `host`, when the block begins in `page`.
    pub fn guest_rip(&self, page: u64, host: u64) -> Option<u64> {
        let offset = u32::try_from(host.checked_sub(self.entry)?).ok()?;
        let n = self.map.partition_point(|(start, _)| *start <= offset).checked_sub(1)?;
        Some(self.key.rip(page).wrapping_add(u64::from(self.map[n].1)))
    }
}

/// Why guest code is left, as its code told by an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteKind {
    /// A memory access that the software TLB does not answer, or an instruction that is always done slowly.
    Slow,
    /// An instruction with a routine.
    Callout,
    /// A direct jump that is not linked yet, by its number.
    Link(u16),
    /// A kick was seen; nothing of the instruction has run.
    Kick,
    /// PAUSE, where it leaves guest code.
    Pause,
    /// #UD.
    Invalid,
    /// A debugger's breakpoint; the instruction has not run.
    Breakpoint,
    /// A floating-point instruction in a mode that forbids it.
    FpuTrap,
    /// A form the lowering does not know.
    Unsupported,
    /// An indirect jump, which does not leave here, but is where it is a fault to have jumped nowhere.
    Indirect,
    /// A memory access whose hint and the software TLB do not know the page; the group that it leads.
    Hinted(HintId, Option<u8>),
    /// STI has set IF while an interrupt waits; the place is the next instruction.
    Window,
}

/// A place that leaves guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Why.
    pub kind: SiteKind,
    /// In which block.
    pub block: BlockId,
    /// Guest offset of the instruction in the block.
    pub offset: u16,
}

/// Exit index of a jump that found no block: the target is in the exit value, the flags in
/// `Context::jump_flags`.
pub const EXIT_MISS: u32 = 0;
/// Exit index of a host signal.
pub const EXIT_FAULT: u32 = 1;
/// Exit index at the end of a bounce.
pub const EXIT_BOUNCED: u32 = 2;
const FIRST_SITE: u32 = 16;

/// All sites of a cache, by the part in which their blocks are.
#[derive(Debug, Default)]
pub struct Sites(ByPart<Site>);

impl Sites {
    /// Adds one and gives its exit index.
    pub fn add(&mut self, site: Site) -> u32 {
        FIRST_SITE + self.0.push(site.block.part(), site) as u32
    }

    /// The site behind an exit index.
    pub fn get(&self, index: u32) -> Option<Site> {
        self.0.get(index.checked_sub(FIRST_SITE)? as usize).copied()
    }

    /// Forgets those of a part.
    pub fn clear(&mut self, part: usize) {
        self.0.clear(part);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.parts().map(<[Site]>::len).sum()
    }
}
