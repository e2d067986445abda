//! From guest code to blocks, and to single instructions for the slow path.

use super::sources::{live_at, live_at_end, sources_of};
use super::{Cache, NoBlock, Source, breakpoints};
use crate::block::{Block, BlockId, Group, LinkState, Place, Range};
use crate::code::Code;
use crate::decode::{self, End, GuestInsn};
use crate::flags;
use crate::guest::Guest;
use crate::lower::{self, Frame, Tools};
use crate::mode::ModeWord;
use crate::tlb::Tlb;

impl Cache {
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
            if !self.watch(guest, tlb, page) {
                return Err(NoBlock::NoMemory);
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

    pub(super) fn tools(&mut self) -> Tools<'_> {
        Tools {
            emitter: &mut self.emitter,
            encoder: &mut self.encoder,
            sites: &mut self.sites,
            hints: &mut self.hints,
            cells: &mut self.cells,
            accesses: &mut self.accesses,
        }
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
