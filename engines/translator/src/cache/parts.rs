//! What lies where in the cache, for tools that see host addresses only.

use vcpu::{HostCode, HostPart};

use super::{BOUNCE_ROOM, Cache};
use crate::block::Block;
use crate::mode::{VIEW_KERNEL, VIEW_USER, View};
use crate::refill::Refill;

impl Cache {
    /// From now on what is thrown away is remembered.
    pub fn keep(&mut self) {
        self.gone.get_or_insert_default();
    }

    /// Notes what the blocks were that are about to go. What stood where they stand now is forgotten.
    pub(super) fn retire(&mut self) {
        if let Some(mut gone) = self.gone.take() {
            let behind = self.end_of_code();
            let later = gone.split_off(gone.partition_point(|part| part.address < behind));
            self.gone = Some(self.parts_of_blocks(0).chain(later).collect());
        }
    }

    /// See [`vcpu::Engine::host_code`].
    pub fn parts(&self, from: u64) -> impl Iterator<Item = HostCode> {
        let behind = self.end_of_code();
        let gone = self.gone.iter().flatten().filter(move |part| part.address >= behind).cloned();
        let len = BOUNCE_ROOM as u64;
        let address = self.emitter.layout().code() + self.region.code_bytes() as u64 - len;
        let bounce = HostCode { address, len, part: HostPart::Engine("bounce".into()) };
        let all = self.own_parts().into_iter().chain(self.parts_of_blocks(from)).chain(gone).chain([bounce]);
        all.filter(move |part| part.address >= from)
    }

    fn end_of_code(&self) -> u64 {
        self.emitter.layout().code() + self.used as u64
    }

    fn own_parts(&self) -> Vec<HostCode> {
        let mut starts = vec![
            (self.crossings.enter, "enter".to_owned()),
            (self.crossings.exit, "leave".to_owned()),
            (self.miss, "jump-not-found".to_owned()),
        ];
        let first = self.emitter.layout().refill;
        starts.extend(Refill::all().map(|refill| {
            let kind = if refill.write { "write" } else { "read" };
            (refill.address(first), format!("refill-{kind}-{}", whose(refill.view)))
        }));
        let chances = self.second_chance.iter().enumerate();
        starts.extend(chances.map(|(view, start)| (*start, format!("jump-by-victim-table-{}", whose(view)))));
        starts.sort();
        let end = self.emitter.layout().code() + self.start as u64;
        let ends = starts.iter().skip(1).map(|(start, _)| *start).chain([end]).collect::<Vec<_>>();
        let part =
            |((address, name), end)| HostCode { address, len: end - address, part: HostPart::Engine(name) };
        starts.into_iter().zip(ends).map(part).collect()
    }

    /// With those before the block that holds the address `from` left out.
    fn parts_of_blocks(&self, from: u64) -> impl Iterator<Item = HostCode> {
        let first = self.blocks.partition_point(|block| block.end <= from);
        let part = |block: &Block, from: u64, to: u64, way_out| {
            let (rip, user) = (block.key.rip(self.page_of(&block.key)), block.key.mode.view() == VIEW_USER);
            HostCode { address: from, len: to - from, part: HostPart::Guest { rip, user, way_out } }
        };
        let parts = move |block: &Block| {
            [part(block, block.entry, block.tail, false), part(block, block.tail, block.end, true)]
        };
        self.blocks[first..].iter().flat_map(parts).filter(|part| part.len > 0)
    }
}

fn whose(view: View) -> &'static str {
    match view {
        VIEW_KERNEL => "kernel",
        VIEW_USER => "user",
        _ => "kernel-without-smap",
    }
}
