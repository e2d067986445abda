//! The ways into the routines: one for each view, kind of access and pair of scratch registers, which puts registers by and goes to
//! the one body for that view and kind. They are entered by a [detour](crate::detour).

use std::mem::offset_of;

use super::Walk;
use super::levels::{Body, LINEAR, walk};
use crate::context::ContextField as F;
use crate::emit::{Emitter, Fixup, Mem, Op, Reg};
use crate::mode::{VIEW_KERNEL, VIEW_KERNEL_AC, View};
use crate::regs::SPILLED;
use crate::tlb_entry::TlbEntry;

/// Bytes from the way into one routine to the next.
const STRIDE: usize = 80;
const VIEWS: [View; 2] = [VIEW_KERNEL, VIEW_KERNEL_AC];

/// Which routine an access needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walker {
    view: View,
    write: bool,
    /// Holds the linear address less the tag.
    rest: Reg,
    /// Holds the place of the entry in the TLB.
    place: Reg,
}

impl Walker {
    /// The one for an access whose lookup has failed with these in these registers, if that is one of a kernel's.
    pub fn of(view: View, write: bool, rest: Reg, place: Reg) -> Option<Self> {
        let pair = SPILLED.contains(&rest) && SPILLED.contains(&place) && rest != place;
        (VIEWS.contains(&view) && pair).then_some(Self { view, write, rest, place })
    }

    /// All of them, in the order of their places.
    pub fn all() -> impl Iterator<Item = Self> {
        let kinds = VIEWS.into_iter().flat_map(|view| [false, true].map(|write| (view, write)));
        let pairs = || SPILLED.into_iter().flat_map(|rest| SPILLED.map(|place| (rest, place)));
        kinds.flat_map(move |(view, write)| {
            pairs().map(move |(rest, place)| Self { view, write, rest, place })
        })
    }

    fn index(self) -> usize {
        let scratch = |reg: Reg| SPILLED.iter().position(|one| *one == reg).unwrap_or(0);
        let view = VIEWS.iter().position(|view| *view == self.view).unwrap_or(0);
        let kind = view * 2 + usize::from(self.write);
        (kind * SPILLED.len() + scratch(self.rest)) * SPILLED.len() + scratch(self.place)
    }

    /// Where it stands, if the first is at `start`.
    pub fn address(self, start: u64) -> u64 {
        start + (self.index() * STRIDE) as u64
    }
}

/// Emits all routines; where the first is.
pub fn emit(e: &mut Emitter) -> u64 {
    e.align(64);
    let start = e.here();
    let ways_in = Walker::all().map(|walker| e.routine(STRIDE, |e| emit_way_in(e, walker)));
    let ways_in: Vec<_> = ways_in.collect();
    let kinds = VIEWS.into_iter().flat_map(|view| [false, true].map(|write| (view, write)));
    for ((view, write), ways_in) in kinds.zip(ways_in.chunks(SPILLED.len() * SPILLED.len())) {
        e.align(64);
        ways_in.iter().for_each(|jump| e.fix_here(*jump));
        Body::new(e, view, write).emit();
    }
    start
}

/// Puts registers by, and the linear address into its place; gives the jump to the body.
fn emit_way_in(e: &mut Emitter, walker: Walker) -> Fixup {
    let Walker { view, write, rest, place } = walker;
    let tag = if write { TlbEntry::WRITE } else { TlbEntry::READ };
    let table = e.layout().tlb(view) as i32;
    e.op_mem(Op::Add, true, rest, Mem::at(place, table + tag as i32));
    for reg in SPILLED {
        e.op_ctx(Op::Store, true, reg, F::Put(reg.0));
    }
    let put = e.layout().context + F::Put(rest.0).offset() as u64;
    e.set_ctx32(walk(offset_of!(Walk, rest)), put as u32);
    e.mov(LINEAR, rest);
    e.jmp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_routine_has_its_place() {
        assert!(Walker::all().enumerate().all(|(n, walker)| walker.index() == n));
    }
}
