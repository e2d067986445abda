//! Code for single instructions of the slow path ([`crate::slow`]), a few of which are kept: one that leaves again and again, as a kernel's
//! XSAVE into a stack that straddles pages, is the same each time, and code that has just been written is slow to run.

use super::{BOUNCE_ROOM, Cache, GuestXsave};
use crate::block::BlockId;
use crate::code::Code;
use crate::decode::GuestInsn;
use crate::flags;
use crate::lower::{self, Frame};
use crate::mode::ModeWord;

/// How many are kept, and most bytes of one that is.
const KEPT: usize = 8;
const SLOT: usize = BOUNCE_ROOM / KEPT;

/// All that the code depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounce {
    code: Code,
    rip: u64,
    mode: ModeWord,
    buffer: u64,
    xsave: GuestXsave,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Bounced {
    slots: [Option<Bounce>; KEPT],
    next: usize,
}

impl Bounced {
    fn find(&self, bounce: &Bounce) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref() == Some(bounce))
    }

    /// A slot whose code may be overwritten.
    fn free(&mut self) -> usize {
        let slot = self.next;
        self.next = (slot + 1) % KEPT;
        self.slots[slot] = None;
        slot
    }
}

impl Cache {
    /// Makes code of one instruction with its memory operand at `buffer`, for the slow path, unless it is there; gives the host address
    /// at which to enter it. It leaves with [`crate::block::EXIT_BOUNCED`].
    pub fn bounce(&mut self, insn: &GuestInsn, mode: ModeWord, code: &Code, buffer: u64) -> Option<u64> {
        let bounce = Bounce { code: *code, rip: insn.instruction.ip(), mode, buffer, xsave: self.xsave };
        if let Some(slot) = self.bounced.find(&bounce) {
            return Some(self.emitter.layout().code() + self.bounce_offset(slot) as u64);
        }
        let slot = self.bounced.free();
        if let Some(entry) = self.emit_bounce(insn, &bounce, self.bounce_offset(slot), SLOT) {
            self.bounced.slots[slot] = Some(bounce);
            return Some(entry);
        }
        // A long one may have all the room.
        self.bounced = Bounced::default();
        self.emit_bounce(insn, &bounce, self.bounce_offset(0), BOUNCE_ROOM)
    }

    /// Where a slot is in the cache.
    fn bounce_offset(&self, slot: usize) -> usize {
        self.region.code_bytes() - BOUNCE_ROOM + slot * SLOT
    }

    /// Makes it at this offset of the cache; nothing if there is no such code, or it is longer than this.
    fn emit_bounce(&mut self, insn: &GuestInsn, bounce: &Bounce, offset: usize, room: usize) -> Option<u64> {
        let entry = self.emitter.layout().code() + offset as u64;
        let frame = Frame {
            page: None,
            rip: bounce.rip,
            linear: 0,
            physical: 0,
            linkable: (0, 0),
            mode: bounce.mode,
            block: BlockId::NONE,
            live_in: flags::ALL,
            xcr0: bounce.xsave.xcr0,
            xsave_size: bounce.xsave.size,
            syscall: None,
            pauses: false,
            miss: self.miss,
            second_chance: self.second_chance,
            ways_out: 0,
            apart: true,
            bounce: Some(bounce.buffer),
        };
        self.emitter.restart(entry);
        if !lower::lower_bounce(self.tools(), frame, insn, &bounce.code.to_vec()) {
            return None;
        }
        let code = self.emitter.code();
        if code.len() > room {
            return None;
        }
        self.region.write_code(offset, code);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_are_known_each_by_all_that_it_depends_on() {
        let mode = ModeWord::of(&vcpu::CpuState::reset());
        let of = |rip| Bounce {
            code: Code::new(&[0x0f, 0xae, 0x27]),
            rip,
            mode,
            buffer: 64,
            xsave: GuestXsave { xcr0: 7, size: 832 },
        };
        let mut bounced = Bounced::default();
        let slots: Vec<usize> = (0..=KEPT as u64)
            .map(|rip| {
                let slot = bounced.free();
                bounced.slots[slot] = Some(of(rip));
                slot
            })
            .collect();
        assert_eq!(slots[KEPT], slots[0], "the oldest goes");
        let found: Vec<_> = (0..=KEPT as u64).map(|rip| bounced.find(&of(rip))).collect();
        assert_eq!(found[0], None);
        assert!((1..=KEPT).all(|n| found[n] == Some(slots[n])));
        let others = [
            Bounce { code: Code::new(&[0x0f, 0xae, 0x2f]), ..of(3) },
            Bounce { mode: mode.without_step(), buffer: 65, ..of(3) },
            Bounce { xsave: GuestXsave { xcr0: 3, size: 832 }, ..of(3) },
        ];
        assert!(others.iter().all(|other| bounced.find(other).is_none()));
    }
}
