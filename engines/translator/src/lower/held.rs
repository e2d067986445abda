//! Which registers that live in the context are in their host registers besides.
//!
//! Code that computes in r9, r10 and r11 would load each of them before each use and store it after each change. The
//! stores have to be, since any access may leave the block; but what has been loaded or stored is still there for the
//! next instruction, unless an address had to be computed in its place. On a processor that does not rename memory a
//! load behind a store of the same register costs four or five cycles, all of them on the way to the result.
//!
//! Code that is entered in the middle of a block finds them there as well: entering guest code loads all of them.

use crate::emit::Reg;

/// See the module's documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held(u16);

impl Held {
    pub(super) fn has(self, reg: Reg) -> bool {
        self.0 >> reg.0 & 1 != 0
    }

    pub(super) fn add(&mut self, reg: Reg) {
        self.0 |= 1 << reg.0;
    }

    /// The host register is used for something else.
    pub(super) fn lose(&mut self, reg: Reg) {
        self.0 &= !(1 << reg.0);
    }

    /// All are, or may be.
    pub(super) fn clear(&mut self) {
        self.0 = 0;
    }
}
