//! What the three host registers that belong to no guest register hold beside what a sequence needs for itself.
//!
//! Code that computes in r9, r10 and r11 would load each of them before each use and store it after each change. The
//! stores have to be, since any access may leave the block; but what has been loaded or stored is still there for the
//! next instruction, unless an address had to be computed in its place. On a processor that does not rename memory a
//! load behind a store of the same register costs four or five cycles, all of them on the way to the result. Code that is
//! entered in the middle of a block finds them there as well: entering guest code loads all of them.
//!
//! The delta of a group's hint stays where it was loaded, too, from one of its accesses to the next. Entering does not bring
//! it back, so that it is forgotten before any instruction at which, or behind which, code may be entered.

use crate::emit::Reg;
use crate::hint_table::HintId;
use crate::regs::SPILLED;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Content {
    #[default]
    Nothing,
    /// The guest's register of this name.
    Guest,
    /// A hint's delta.
    Delta(HintId),
}

/// See the module's documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held([Content; 3]);

impl Held {
    fn of(self, reg: Reg) -> Content {
        SPILLED.iter().position(|one| *one == reg).map_or(Content::Nothing, |n| self.0[n])
    }

    fn set(&mut self, reg: Reg, content: Content) {
        if let Some(n) = SPILLED.iter().position(|one| *one == reg) {
            self.0[n] = content;
        }
    }

    /// Whether the guest's register is there.
    pub(super) fn has(self, reg: Reg) -> bool {
        self.of(reg) == Content::Guest
    }

    /// Whether anything is there.
    pub(super) fn is_used(self, reg: Reg) -> bool {
        self.of(reg) != Content::Nothing
    }

    /// Where a hint's delta is.
    pub(super) fn delta(self, hint: HintId) -> Option<Reg> {
        SPILLED.into_iter().find(|reg| self.of(*reg) == Content::Delta(hint))
    }

    /// The guest's register is there now.
    pub(super) fn add(&mut self, reg: Reg) {
        self.set(reg, Content::Guest);
    }

    /// A hint's delta is there now.
    pub(super) fn add_delta(&mut self, reg: Reg, hint: HintId) {
        self.set(reg, Content::Delta(hint));
    }

    /// The host register is used for something else.
    pub(super) fn lose(&mut self, reg: Reg) {
        self.set(reg, Content::Nothing);
    }

    /// Code may be entered here.
    pub(super) fn lose_deltas(&mut self) {
        for content in &mut self.0 {
            if matches!(content, Content::Delta(_)) {
                *content = Content::Nothing;
            }
        }
    }

    /// All are, or may be, used for something else.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
