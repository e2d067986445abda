//! Ways into ring 3's code that are taken up again when their address space comes back: entries of the jump table, and
//! cells, with the pages they rest on.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use x86::paging::{self, Access, AccessKind, PagingContext};

use super::{Anchored, Cache};
use crate::block::{Block, BlockId, Place};
use crate::context::CellId;
use crate::guest::Guest;
use crate::hash::KeyHasher;
use crate::mode::VIEW_USER;
use crate::spaces::Known;

/// A page of code: linear and guest-physical address.
type Page = (u64, u64);

#[derive(Clone, Copy, Debug)]
enum How {
    /// The jump table's entry for this rip.
    Jump(u64),
    /// The cell of this block's jump, which leads to a host address.
    Cell(CellId, BlockId, u64),
}

/// A way to a block, and the pages on which it rests.
#[derive(Clone, Copy, Debug)]
struct Way {
    how: How,
    to: BlockId,
    pages: [u16; 3],
}

/// Those of one address space.
#[derive(Debug, Default)]
pub struct Ways {
    list: Vec<Way>,
    pages: Vec<Page>,
    numbers: HashMap<Page, u16, BuildHasherDefault<KeyHasher>>,
}

impl Known for Ways {
    const MOST: usize = 1024;
    const MOST_OF_ALL: usize = 1 << 18;

    fn len(&self) -> usize {
        self.list.len()
    }
}

impl Ways {
    fn note(&mut self, how: How, to: BlockId, pages: [Page; 3]) {
        let pages = pages.map(|page| self.number(page));
        self.list.push(Way { how, to, pages });
    }

    /// The same without the pages on which no way rests any more.
    fn compact(self) -> Self {
        let mut left = Self::default();
        for way in self.list {
            left.note(way.how, way.to, way.pages.map(|n| self.pages[usize::from(n)]));
        }
        left
    }

    /// There are at most three pages for each way, which [`Self::compact`] keeps so.
    fn number(&mut self, page: Page) -> u16 {
        let next = self.pages.len() as u16;
        let n = *self.numbers.entry(page).or_insert(next);
        if n == next {
            self.pages.push(page);
        }
        n
    }
}

impl Cache {
    /// Takes up again what was known of ways in this address space, unless it has been current ever since. `note` is told the address of each page
    /// with code, and whether it is larger than 4 KiB.
    pub fn enter_space(&mut self, guest: &Guest, paging: &PagingContext, mut note: impl FnMut(u64, bool)) {
        let Some(mut ways) = self.spaces.returned(paging.cr3) else { return };
        let fetch = Access::explicit(AccessKind::Execute, true);
        let stands = |&(linear, physical): &Page| {
            // What has not been accessed a processor would look up again.
            let found = paging::probe(paging, guest, linear, fetch).ok();
            let found = found.filter(|found| found.accessed && found.physical == physical);
            if let Some(found) = found {
                note(linear, found.size.bytes() > 4096);
            }
            found.is_some()
        };
        let stands: Vec<bool> = ways.pages.iter().map(stands).collect();
        for (&(linear, physical), _) in ways.pages.iter().zip(&stands).filter(|(_, stands)| **stands) {
            self.anchor(physical, linear);
        }
        let before = ways.list.len();
        ways.list.retain(|way| way.pages.iter().all(|n| stands[usize::from(*n)]) && self.open(*way));
        self.spaces.enter(if ways.list.len() < before { ways.compact() } else { ways });
    }

    /// `false` if the way is of no use any more.
    fn open(&mut self, way: Way) -> bool {
        let stands = |cache: &Self, id| {
            let block = cache.block(id).filter(|block| block.valid)?;
            (cache.views[VIEW_USER] == Some(block.key.mode)).then_some(block.entry)
        };
        let Some(entry) = stands(self, way.to) else { return false };
        match way.how {
            How::Jump(rip) => self.jumps.insert(&mut self.region, VIEW_USER, rip, (way.to, entry)),
            How::Cell(cell, from, goal) if stands(self, from).is_some() => {
                self.cells.fill(&mut self.region, cell, goal);
            }
            How::Cell(..) => return false,
        }
        true
    }

    /// Notes that the jump table has got an entry for this rip, whose block this is.
    pub(super) fn note_jump(&mut self, rip: u64, to: BlockId) {
        let Some(target) = self.blocks.get(to) else { return };
        if let Some(ways) = self.spaces.current() {
            let [page, next] = pages_of(target, rip);
            ways.note(How::Jump(rip), to, [page, page, next]);
        }
    }

    /// Notes that the cell of the `n`th jump of a block leads to this host address of another.
    pub(super) fn note_cell(&mut self, from: BlockId, n: u16, to: BlockId, goal: u64) {
        let (Some(source), Some(target)) = (self.block(from), self.block(to)) else { return };
        let link = source.links.get(usize::from(n));
        let Some((link, cell)) = link.and_then(|link| Some((link, link.cell?))) else { return };
        let base = self.page_of(&source.key);
        let [beside, _] = pages_of(source, source.key.rip(base));
        let [page, next] = pages_of(target, source.target(base, link));
        if let Some(ways) = self.spaces.current() {
            ways.note(How::Cell(cell, from, goal), to, [beside, page, next]);
        }
    }

    /// Says in the slot of a page of ring 3's code where the page is; the place of its blocks, if they are good anywhere.
    pub(super) fn anchor(&mut self, physical: u64, linear: u64) -> Option<Place> {
        match self.anchors.anchor(&mut self.region, physical, linear) {
            Anchored::At(slot) => return Some(Place::Anywhere(slot)),
            Anchored::BoundNow => {
                self.drop_where(|block| block.key.floats() && block.key.physical & !0xfff == physical);
            }
            Anchored::Bound => {}
        }
        None
    }
}

/// The pages that a block at this rip lies in; one of them twice, if it is one.
fn pages_of(block: &Block, rip: u64) -> [Page; 2] {
    let page = (rip & !0xfff, block.key.physical & !0xfff);
    let next = block.second_page.map(|physical| (page.0.wrapping_add(0x1000), physical & !0xfff));
    [page, next.unwrap_or(page)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_with_their_ways() {
        let mut ways = Ways::default();
        for round in 0..100 {
            for n in 0..Ways::MOST as u64 {
                let pages = [0, 1, 2].map(|part| (round << 32 | n << 16 | part << 12, part));
                ways.note(How::Jump(n), BlockId(0), pages);
            }
            assert_eq!(ways.pages.len(), 3 * Ways::MOST);
            ways.list.drain(1..);
            ways = ways.compact();
            let rests_on = ways.list[0].pages.map(|n| ways.pages[usize::from(n)]);
            assert_eq!(rests_on, [0, 1, 2].map(|part| (round << 32 | part << 12, part)));
            ways.list.clear();
            ways = ways.compact();
        }
    }
}
