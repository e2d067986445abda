//! Groups: accesses of one block that are checked together.
//!
//! Accesses at constant distances from one register (a structure's fields, what a function pushes and keeps on its stack,
//! an unrolled loop's elements) mostly lie in one page. The first of them, the leader, is checked for all the bytes that
//! any of them touches, and for writing if any of them writes; the others, its followers, add the leader's hint's delta and
//! are done. Where the bytes straddle pages after all, or may not all be written, control goes on in a block that was
//! made without groups.
//!
//! A follower rests on what its leader has seen, so that code may go on in the middle of a group only if its hint still
//! knows its page: see [`crate::block::Block::resume_after`].

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::special::is_special;
use super::stack::Width;
use super::{LoweredGroup, access_size, has_memory};
use crate::access::{Accesses, Operands};
use crate::decode::GuestInsn;
use crate::emit::Reg;
use crate::hint::Hints;
use crate::mode::ModeWord;
use crate::regs::{SPILLED, is_spilled, names_high_byte, number};

/// Most bytes a group may span: the wider, the oftener it straddles pages. A hint reaches as far.
const SPAN: i64 = 256;

/// What an instruction's access is to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// In none.
    Alone,
    /// First of this group.
    Leads(u8),
    /// Another of this group.
    Follows(u8),
}

/// What a leader checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// From the leader's first byte to the group's: not positive.
    pub low: i32,
    /// Bytes of the group.
    pub span: u32,
    /// Whether any access writes.
    pub write: bool,
    /// Number of the first instruction in it.
    leader: usize,
    /// Number of the last.
    last: usize,
}

/// The groups of a block.
#[derive(Debug, Default)]
pub(super) struct Plan {
    roles: Vec<Role>,
    groups: Vec<Group>,
}

impl Plan {
    /// The role of the block's `n`th instruction.
    pub fn role(&self, n: usize) -> Role {
        self.roles.get(n).copied().unwrap_or(Role::Alone)
    }

    /// A group by number.
    pub fn group(&self, n: u8) -> Group {
        self.groups[usize::from(n)]
    }

    /// The groups as a block keeps them, their hints not given yet.
    pub fn lowered(&self, list: &[GuestInsn]) -> Vec<LoweredGroup> {
        let offset = |n: usize| list.get(n).map_or(0, |insn| insn.offset);
        let groups = self.groups.iter();
        groups
            .map(|group| LoweredGroup {
                first: offset(group.leader),
                last: offset(group.last),
                hint: None,
                apart: 0,
            })
            .collect()
    }

    fn close(&mut self, open: &Open, len: usize) {
        let Ok(number) = u8::try_from(self.groups.len()) else { return };
        if open.followers.is_empty() {
            return;
        }
        self.roles.resize(len, Role::Alone);
        self.roles[open.leader] = Role::Leads(number);
        for n in &open.followers {
            self.roles[*n] = Role::Follows(number);
        }
        self.groups.push(Group {
            low: (open.low - open.first) as i32,
            span: (open.high - open.low) as u32,
            write: open.write,
            leader: open.leader,
            last: open.followers.last().copied().unwrap_or(open.leader),
        });
    }
}

/// From what an address is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    base: Reg,
    index: Option<(Reg, u8)>,
}

/// An access that may be in a group.
struct Access {
    origin: Origin,
    disp: i64,
    size: u32,
    write: bool,
}

/// A group that may grow.
struct Open {
    origin: Origin,
    /// How far the base register has moved since the leader.
    moved: i64,
    leader: usize,
    followers: Vec<usize>,
    /// Where the leader's bytes begin, and the group's begin and end, from where the base was then.
    first: i64,
    low: i64,
    high: i64,
    write: bool,
    /// Whether control may have gone aside since the leader.
    aside: bool,
}

/// Finds the groups of a block of this mode that begins at this guest-physical address.
pub(super) fn plan(
    list: &[GuestInsn],
    mode: ModeWord,
    physical: u64,
    hints: &Hints,
    accesses: &mut Accesses,
) -> Plan {
    let mut plan = Plan::default();
    if !mode.is_long() || list.len() < 2 {
        return plan;
    }
    let mut open: Vec<Open> = Vec::new();
    for (n, insn) in list.iter().enumerate() {
        let i = &insn.instruction;
        if insn.routine.is_some() {
            // It may change the view of memory.
            open.drain(..).for_each(|group| plan.close(&group, list.len()));
            continue;
        }
        let may = |on_stack| hints.may_have(mode.view(), on_stack, physical + u64::from(insn.offset));
        let joins = |access: &Access| may(access.is_on_stack()) && !names_high_byte(i);
        match access(insn, mode).filter(joins) {
            Some(access) => join(&mut open, &mut plan, access, n, list.len()),
            // It has the stack's hint, too, and may make it know another page.
            None if touches_stack(i) => {
                close_where(&mut open, &mut plan, list.len(), |group| group.origin.is_stack());
            }
            None => {}
        }
        if open.is_empty() {
            continue;
        }
        if i.flow_control() == FlowControl::ConditionalBranch {
            open.iter_mut().for_each(|group| group.aside = true);
            continue;
        }
        let moves = constant_move(i, mode);
        let written = accesses.written(i);
        for group in &mut open {
            if let Some((reg, by)) = moves
                && group.origin.base == reg
            {
                group.moved = group.moved.saturating_add(by);
            }
        }
        let known = moves.map_or(0, |(reg, _)| 1 << reg.0);
        close_where(&mut open, &mut plan, list.len(), |group| group.origin.depends_on(written, known));
    }
    open.iter().for_each(|group| plan.close(group, list.len()));
    plan
}

impl Origin {
    fn is_stack(self) -> bool {
        self.base == Reg::RSP && self.index.is_none()
    }

    /// Whether a change of these registers ends it; a change of the base by a known constant does not.
    fn depends_on(self, written: u16, known: u16) -> bool {
        let bit = |reg: Reg| 1 << reg.0;
        written & !known & bit(self.base) != 0 || self.index.is_some_and(|(reg, _)| written & bit(reg) != 0)
    }
}

impl Access {
    fn is_on_stack(&self) -> bool {
        self.origin.is_stack()
    }
}

fn close_where(open: &mut Vec<Open>, plan: &mut Plan, len: usize, which: impl Fn(&Open) -> bool) {
    open.retain(|group| {
        let ends = which(group);
        if ends {
            plan.close(group, len);
        }
        !ends
    });
}

/// Puts an access into the open group it belongs to, or opens one.
fn join(open: &mut Vec<Open>, plan: &mut Plan, access: Access, n: usize, len: usize) {
    if let Some(at) = open.iter().position(|group| group.origin == access.origin) {
        let group = &mut open[at];
        let begin = access.disp.saturating_add(group.moved);
        let low = group.low.min(begin);
        let high = group.high.max(begin.saturating_add(i64::from(access.size)));
        // For a write that may not come, the page need not be writable.
        if high.saturating_sub(low) <= SPAN && (group.write || !access.write || !group.aside) {
            (group.low, group.high) = (low, high);
            group.write |= access.write;
            group.followers.push(n);
            return;
        }
        plan.close(&open.swap_remove(at), len);
    }
    open.push(Open {
        origin: access.origin,
        moved: 0,
        leader: n,
        followers: Vec::new(),
        first: access.disp,
        low: access.disp,
        high: access.disp + i64::from(access.size),
        write: access.write,
        aside: false,
    });
}

/// The access of an instruction, if it is one that lowering can make part of a group.
fn access(insn: &GuestInsn, mode: ModeWord) -> Option<Access> {
    let i = &insn.instruction;
    if i.is_stack_instruction() {
        let disp = stack_disp(i, mode)?;
        let origin = Origin { base: Reg::RSP, index: None };
        let size = disp.unsigned_abs().max(8) as u32;
        return Some(Access { origin, disp, size, write: disp < 0 });
    }
    if !has_memory(i) || is_special(i) || i.flow_control() != FlowControl::Next {
        return None;
    }
    // FS and GS have bases.
    if i.memory_segment().number() >= 4 || i.memory_base().size() != 8 || i.memory_base() == Register::RIP {
        return None;
    }
    let base = number(i.memory_base())?;
    let index = number(i.memory_index()).map(|reg| (reg, i.memory_index_scale() as u8));
    if i.memory_index() != Register::None && i.memory_index().size() != 8 {
        return None;
    }
    if !leaves_room(Some(base), index.is_some(), insn.operands) {
        return None;
    }
    Some(Access {
        origin: Origin { base, index },
        disp: i64::from(i.memory_displacement64() as i32),
        size: access_size(i),
        write: insn.direction.writes(),
    })
}

/// Whether a scratch register is left for the delta beside the operands and the address: its base, or the sum if it has an
/// index.
pub(super) fn leaves_room(base: Option<Reg>, indexed: bool, operands: Operands) -> bool {
    let base = base.is_some_and(|base| is_spilled(base) && !operands.uses(base));
    operands.spilled() + usize::from(indexed || base) < SPILLED.len()
}

/// Where a push, pop, call or return with no other access finds its slot, from the stack pointer before it.
fn stack_disp(i: &Instruction, mode: ModeWord) -> Option<i64> {
    let plain = match i.mnemonic() {
        Mnemonic::Push | Mnemonic::Pop | Mnemonic::Call | Mnemonic::Ret => !has_memory(i),
        _ => false,
    };
    let width = Width::of(i, mode).ok().filter(|_| plain)?;
    if width.bytes != 8 {
        return None;
    }
    Some(if i.stack_pointer_increment() < 0 { -8 } else { 0 })
}

/// Whether an instruction goes by the stack's hint; half of the stack pointer may be in another page than all of it.
fn touches_stack(i: &Instruction) -> bool {
    i.is_stack_instruction() || has_memory(i) && matches!(i.memory_base(), Register::RSP | Register::ESP)
}

/// The register that an instruction moves by a constant, and how far.
fn constant_move(i: &Instruction, mode: ModeWord) -> Option<(Reg, i64)> {
    let register = i.op0_register();
    let wide = i.op0_kind() == OpKind::Register && register.is_gpr64();
    let reg = number(register).filter(|_| wide);
    let immediate = || i.try_immediate(1).ok().map(|value| value as i64);
    let by = match i.mnemonic() {
        Mnemonic::Push | Mnemonic::Pop | Mnemonic::Call if register != Register::RSP => {
            stack_disp(i, mode)?;
            return Some((Reg::RSP, i64::from(i.stack_pointer_increment())));
        }
        Mnemonic::Add => immediate()?,
        Mnemonic::Sub => immediate()?.checked_neg()?,
        Mnemonic::Inc => 1,
        Mnemonic::Dec => -1,
        Mnemonic::Lea if i.memory_base() == register && i.memory_index() == Register::None => {
            i64::from(i.memory_displacement64() as i32)
        }
        _ => return None,
    };
    Some((reg?, by))
}
