//! What stands around a block's instructions: its ways in before them, its ways out behind them.

use super::control::Target;
use super::saved::Saved;
use super::{Link, Lowering};
use crate::block::{Site, SiteKind};
use crate::context::{CellId, ContextField as F};
use crate::decode::{End, GuestInsn};
use crate::emit::{Cond, Fixup, Op, Reg};
use crate::mode::ModeWord;
use crate::trampoline::emit_leave;

/// A way out to the engine.
pub(super) struct SlowStub {
    pub fixups: [Option<Fixup>; 2],
    pub saved: Saved,
    pub kind: SiteKind,
    pub offset: u16,
}

/// A jump to a block that may be linked.
pub(super) struct LinkStub {
    /// Where the jump goes that nothing has linked, unless it goes through a cell.
    pub jump: Option<Fixup>,
    pub target: Target,
    pub mode: ModeWord,
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
    /// The two ways in. An indirect jump arrives with the flags in the context. A direct jump backwards arrives with the flags
    /// in place.
    pub(super) fn entries(&mut self) {
        if self.frame.live_in == 0 {
            // Flags are dead here, so both ways in share one check.
            self.out.checked = self.e.offset() as u32;
            self.e.cmp_ctx8(F::Kick, 0);
            let kicked = self.e.jcc(Cond::NotEqual);
            self.slow.push(SlowStub {
                fixups: [Some(kicked), None],
                saved: Saved::Dead,
                kind: SiteKind::Kick,
                offset: 0,
            });
            self.out.body = self.e.offset() as u32;
        } else {
            self.e.cmp_ctx8(F::Kick, 0);
            let kicked = self.e.jcc(Cond::NotEqual);
            let (fixups, saved) = ([Some(kicked), None], Saved::Context);
            self.slow.push(SlowStub { fixups, saved, kind: SiteKind::Kick, offset: 0 });
            self.e.mov(Reg::R11, Reg::RAX);
            self.e.op_ctx(Op::Load, false, Reg::RAX, F::JumpFlags);
            self.e.flags_from_ax();
            self.e.mov(Reg::RAX, Reg::R11);
            self.out.body = self.e.offset() as u32;
        }
    }

    fn checked_entry_with_live_flags(&mut self) {
        self.out.checked = self.e.offset() as u32;
        self.e.mov(Reg::R11, Reg::RAX);
        self.e.flags_to_ax();
        self.e.cmp_ctx8(F::Kick, 0);
        let kicked = self.e.jcc(Cond::NotEqual);
        self.e.flags_from_ax();
        self.e.mov(Reg::RAX, Reg::R11);
        let body = self.e.here() - self.e.offset() as u64 + u64::from(self.out.body);
        self.e.jmp_to(body);
        self.slow.push(SlowStub {
            fixups: [Some(kicked), None],
            saved: Saved::Register(Reg::R11),
            kind: SiteKind::Kick,
            offset: 0,
        });
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
        self.parked = false;
        if self.frame.live_in != 0 {
            self.checked_entry_with_live_flags();
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
                backward: stub.target.rip <= self.frame.rip.wrapping_add(u64::from(next_offset)),
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
