//! What lies where in the cache, for tools that see host addresses only.

use vcpu::{HostCode, HostPart};

use super::{BOUNCE_ROOM, Cache};
use crate::block::Block;
use crate::mode::{VIEW_KERNEL, VIEW_USER, View};
use crate::refill::Refill;
use crate::repeat::Repeat;

impl Cache {
    /// From now on what is thrown away is remembered.
    pub fn keep(&mut self) {
        self.gone.get_or_insert_default();
    }

    /// Notes what the blocks were that are about to go. What stood where they stand now is forgotten.
    pub(super) fn retire(&mut self) {
        if self.gone.is_some() {
            self.gone = Some(self.blocks_and_gone(0).collect());
        }
    }

    /// See [`vcpu::Engine::host_code`].
    pub fn parts(&self, from: u64) -> impl Iterator<Item = HostCode> {
        let len = BOUNCE_ROOM as u64;
        let address = self.emitter.layout().code() + self.region.code_bytes() as u64 - len;
        let bounce = HostCode { address, len, part: HostPart::Engine("bounce".into()) };
        let all = self.own_parts().into_iter().chain(self.blocks_and_gone(from)).chain([bounce]);
        all.filter(move |part| part.address >= from)
    }

    /// What blocks stand there or have stood, in the order of addresses, with some of those before `from` left out.
    fn blocks_and_gone(&self, from: u64) -> impl Iterator<Item = HostCode> {
        let code = self.emitter.layout().code();
        let free = move |part: &&HostCode| self.room.is_free((part.address - code) as usize);
        let mut blocks = self.parts_of_blocks(from).peekable();
        let mut gone = self.gone.iter().flatten().filter(free).cloned().peekable();
        std::iter::from_fn(move || match (blocks.peek(), gone.peek()) {
            (Some(block), Some(former)) if former.address < block.address => gone.next(),
            (Some(_), _) => blocks.next(),
            (None, _) => gone.next(),
        })
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
        let first = self.emitter.layout().repeat;
        starts.extend(Repeat::all().map(|repeat| {
            let kind = if repeat.moves { "moves" } else { "stores" };
            (repeat.address(first), format!("{kind}-of-{}-{}", repeat.width, whose(repeat.view)))
        }));
        starts.push((self.emitter.layout().walk, "walk".to_owned()));
        let chances = self.second_chance.iter().enumerate();
        starts.extend(chances.map(|(view, start)| (*start, format!("jump-by-victim-table-{}", whose(view)))));
        starts.sort();
        let end = self.emitter.layout().code() + self.room.start() as u64;
        let ends = starts.iter().skip(1).map(|(start, _)| *start).chain([end]).collect::<Vec<_>>();
        let part =
            |((address, name), end)| HostCode { address, len: end - address, part: HostPart::Engine(name) };
        starts.into_iter().zip(ends).map(part).collect()
    }

    /// The blocks, and then their ways out, with those left out that stand before `from`.
    fn parts_of_blocks(&self, from: u64) -> impl Iterator<Item = HostCode> {
        [false, true].into_iter().flat_map(move |ways_out| {
            let code =
                move |block: &Block| if ways_out { block.ways_out.clone() } else { block.entry..block.end };
            let part = move |block: &Block| {
                let (rip, user) =
                    (block.key.rip(self.page_of(&block.key)), block.key.mode.view() == VIEW_USER);
                let std::ops::Range { start, end } = code(block);
                HostCode {
                    address: start,
                    len: end - start,
                    part: HostPart::Guest { rip, user, way_out: ways_out },
                }
            };
            let from = self.blocks.parts().flat_map(move |blocks| {
                let first = blocks.partition_point(|block| code(block).end <= from);
                &blocks[first..]
            });
            from.map(part).filter(|part| part.len > 0)
        })
    }
}

fn whose(view: View) -> &'static str {
    match view {
        VIEW_KERNEL => "kernel",
        VIEW_USER => "user",
        _ => "kernel-without-smap",
    }
}
