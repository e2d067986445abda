//! Where blocks end for a debugger's breakpoints, so that all other code runs as fast as without.

use vcpu::DebugPoints;

use super::Source;
use crate::decode::{End, GuestInsn};

/// Ends a block before the first instruction with a breakpoint; a block that begins with one is nothing but the way
/// out.
pub(super) fn cut(points: &DebugPoints, source: &Source, list: &mut Vec<GuestInsn>, end: End) -> End {
    if !points.has_breakpoints() || source.key.mode.passes() {
        return end;
    }
    let breaks = |offset: u16| points.breaks_at(source.linear.wrapping_add(offset.into()));
    if breaks(0) {
        list.clear();
        return End::Breakpoint;
    }
    if let Some(n) = list.iter().position(|insn| breaks(insn.offset)) {
        list.truncate(n);
        return End::Limit;
    }
    // What is no instruction can have a breakpoint too.
    let next = list.last().map(|last| last.offset + last.instruction.len() as u16);
    if end == End::Invalid && next.is_some_and(breaks) { End::Limit } else { end }
}
