//! What stands around a block's instructions: its ways in before them, its ways out behind them.

use super::control::Target;
use super::saved::Saved;
use super::{Link, Lowering};
use crate::block::{Site, SiteKind};
use crate::context::{CellId, ContextField as F};
use crate::decode::{End, GuestInsn};
use crate::detour::Detour;
use crate::emit::{Cond, Fixup, Op, Reg};
use crate::mode::ModeWord;
use crate::trampoline::emit_leave;

/// A way out to the engine.
pub(super) struct SlowStub {
    pub fixups: [Option<Fixup>; 2],
    pub saved: Saved,
    pub kind: SiteKind,
    pub offset: u16,
    /// Tries something else before.
    pub detour: Option<Detour>,
}

impl SlowStub {
    pub fn new(fixups: [Option<Fixup>; 2], saved: Saved, kind: SiteKind, offset: u16) -> Self {
        Self { fixups, saved, kind, offset, detour: None }
    }

    /// For where a detour may do instead.
    pub fn behind(self, detour: Option<Detour>) -> Self {
        Self { detour, ..self }
    }
}

/// A jump to a block that may be linked.
pub(super) struct LinkStub {
    /// Where the jump goes that nothing has linked, unless it goes through a cell.
    pub jump: Option<Fixup>,
    pub target: Target,
    pub mode: ModeWord,
    pub backward: bool,
    pub cell: Option<CellId>,
    pub parked: bool,
}

/// A conditional jump to where none may be linked.
pub(super) struct FarStub {
    pub jump: Fixup,
    pub target: Target,
    pub mode: ModeWord,
}

impl Lowering<'_> {
    /// The ways in. An indirect jump arrives with the flags in the context, direct jumps with the flags in place; those
    /// that lead backwards want the check for a kick, too.
    pub(super) fn entries(&mut self, parks_at_once: bool) {
        let dead = self.frame.live_in == 0;
        self.e.cmp_ctx8(F::Kick, 0);
        let kicked = self.e.jcc(Cond::NotEqual);
        let saved = if dead { Saved::Dead } else { Saved::Context };
        self.slow.push(SlowStub::new([Some(kicked), None], saved, SiteKind::Kick, 0));
        if dead {
            // So all ways in are one.
            self.out.body = self.e.offset() as u32;
        } else if parks_at_once {
            // The flags stay where an indirect jump has put them; who comes directly puts them there.
            let past = self.e.jmp();
            self.check_for_kick();
            self.out.body = self.e.offset() as u32;
            self.flags_to_context();
            self.e.fix_here(past);
            self.parked = true;
            self.out.parked = Some(self.e.offset() as u32);
        } else {
            self.flags_from_context();
            self.out.body = self.e.offset() as u32;
            self.checks_behind = true;
        }
    }

    /// The way in for jumps backwards, where the flags matter.
    fn check_for_kick(&mut self) {
        self.out.checked = self.e.offset() as u32;
        self.e.mov(Reg::R11, Reg::RCX);
        self.e.op_ctx(Op::Load, false, Reg::RCX, F::Kick);
        let calm = self.e.jrcxz();
        self.e.mov(Reg::RCX, Reg::R11);
        self.leave(SiteKind::Kick, 0);
        self.e.fix_short_here(calm);
        self.e.mov(Reg::RCX, Reg::R11);
    }

    /// Everything behind the last instruction: where control goes next, then the stubs off the hot path.
    pub(super) fn finish(&mut self, list: &[GuestInsn], end: End) {
        let next = list.last().map_or(self.frame.rip, |l| l.instruction.next_ip());
        let next_offset = next.wrapping_sub(self.frame.rip) as u16;
        match end {
            End::Transfer => {}
            // An instruction that straddles pages has a block of its own, which no link may lead to.
            End::Page if self.linear_of(next) & 0xfff != 0 => self.jump_far(next.into()),
            End::Limit | End::Page => self.jump(next),
            End::Invalid => self.leave(SiteKind::Invalid, next_offset),
            End::Breakpoint => self.leave(SiteKind::Breakpoint, next_offset),
        }
        self.out.tail = self.e.offset() as u32;
        self.e.part(self.frame.ways_out);
        self.parked = false;
        if self.checks_behind {
            self.check_for_kick();
            let body = self.e.address(self.out.body as usize);
            self.e.jmp_to(body);
        }
        if let Some((other, source)) = self.elsewhere.take() {
            self.e.fix_here(other);
            self.e.mov_imm(Reg::R11, source.into());
            self.e.jmp_to(self.frame.second_chance[self.frame.mode.view()]);
        }
        for stub in std::mem::take(&mut self.far_stubs) {
            self.e.fix_here(stub.jump);
            self.frame.mode = stub.mode;
            self.jump_far(stub.target);
        }
        for stub in std::mem::take(&mut self.window_stubs) {
            self.window_stub(stub);
        }
        for stub in std::mem::take(&mut self.slow) {
            if let Some(detour) = stub.detour {
                detour.emit(self.e);
            }
            for fixup in stub.fixups.into_iter().flatten() {
                self.e.fix_here(fixup);
            }
            self.restore_flags_to_leave(stub.saved);
            self.leave(stub.kind, stub.offset);
        }
        for stub in std::mem::take(&mut self.hint_stubs) {
            self.hint_stub(stub);
        }
        for stub in std::mem::take(&mut self.link_stubs) {
            if let Some(jump) = stub.jump {
                self.e.fix_here(jump);
            }
            let link = self.out.links.len();
            self.out.links.push(Link {
                at: stub.jump.map_or(0, |jump| jump.at as u32),
                stub: self.e.offset() as u32,
                target: stub.target.rip,
                mode: stub.mode,
                backward: stub.backward,
                cell: stub.cell,
                parked: stub.parked,
            });
            if stub.parked {
                self.flags_from_context();
            }
            self.leave(SiteKind::Link(link as u16), 0);
        }
    }

    pub(super) fn leave(&mut self, kind: SiteKind, offset: u16) {
        if self.parked {
            self.flags_from_context();
        }
        let index = self.site(kind, offset);
        emit_leave(self.e, index);
    }

    pub(super) fn site(&mut self, kind: SiteKind, offset: u16) -> u32 {
        self.sites.add(Site { kind, block: self.frame.block, offset })
    }
}
