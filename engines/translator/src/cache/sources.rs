//! Which guest bytes a block depends on: those it was made from, and those that were only looked at to learn
//! which flags live behind it.

use super::Source;
use crate::block::Range;
use crate::decode::{self, End, GuestInsn, is_narrow};
use crate::flags;
use crate::guest::Guest;

/// The guest bytes a block stands for. At an invalid end, the bytes that made it invalid count too.
pub(super) fn sources_of(source: &Source, list: &[GuestInsn], end: End) -> Vec<Range> {
    let first = source.key.physical;
    let mut len = list.last().map_or(0, |i| u64::from(i.offset) + i.instruction.len() as u64);
    if end == End::Invalid {
        len += 15;
    }
    let room = 4096 - (first & 0xfff);
    let mut sources = vec![Range { start: first, len: len.clamp(1, room) }];
    if let Some(next) = source.next_page {
        sources.push(Range { start: next, len: len.saturating_sub(room).max(1) });
    }
    sources
}

/// Flags live behind the last instruction, from a look at where control goes if that is in the same page; where a conditional
/// branch leads is looked at apart.
pub(super) fn live_at_end(
    guest: &Guest,
    source: &Source,
    list: &[GuestInsn],
    end: End,
    sources: &mut Vec<Range>,
) -> u8 {
    use iced_x86::FlowControl as C;
    let Some(last) = list.last() else {
        return flags::ALL;
    };
    let i = &last.instruction;
    let mode = source.key.mode;
    if last.routine.is_some() || mode.steps() || source.next_page.is_some() {
        return flags::ALL;
    }
    if source.key.floats() && is_narrow(i) {
        return flags::ALL;
    }
    let target = match (end, i.flow_control()) {
        (End::Transfer, C::UnconditionalBranch | C::Call) => i.near_branch_target(),
        (End::Limit, _) | (End::Transfer, C::ConditionalBranch) => i.next_ip(),
        _ => return flags::ALL,
    };
    live_at(guest, source, target, sources)
}

/// Flags live where control may go to from the block, from a look at the code there if that is in the same page.
pub(super) fn live_at(guest: &Guest, source: &Source, target: u64, sources: &mut Vec<Range>) -> u8 {
    let linear = source.linear.wrapping_add(target.wrapping_sub(source.key.rip(0)));
    if linear >> 12 != source.linear >> 12 {
        return flags::ALL;
    }
    let physical = source.key.physical & !0xfff | linear & 0xfff;
    let Some(bytes) = guest.code(physical, 64) else {
        return flags::ALL;
    };
    let (live, looked_at) = decode::peek_live(&bytes, target, source.key.mode);
    sources.push(Range { start: physical, len: u64::from(looked_at).max(1) });
    live
}
