//! A, the allocator: who has which words of the machine below, and whose the console is. Whatever would change
//! that goes through here, so no VM reaches what it was not given.

use std::fmt;

use crate::{Relocation, Word};

/// A VM of a monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VmId(pub(super) usize);

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Words asked for.
    pub asked: Word,
    /// Words that are left.
    pub left: Word,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} words were asked for, and {} are left", self.asked, self.left)
    }
}

impl std::error::Error for Refused {}

/// What one VM has.
#[derive(Clone, Copy, Debug)]
struct Grant {
    base: Word,
    size: Word,
    console: bool,
    /// R of the machine below while the VM runs.
    r: Relocation,
}

/// The books.
#[derive(Clone, Debug)]
pub struct Allocator {
    size: Word,
    next: Word,
    grants: Vec<Grant>,
    decisions: u64,
}

impl Allocator {
    /// For a machine of `size` words, of which the monitor keeps the first `own`.
    pub(super) fn new(size: Word, own: Word) -> Self {
        Self { size, next: own.min(size), grants: Vec::new(), decisions: 0 }
    }

    /// Sets words aside for a VM.
    pub(super) fn create(&mut self, size: Word, console: bool) -> Result<VmId, Refused> {
        self.decisions += 1;
        let left = self.size - self.next;
        if size > left {
            return Err(Refused { asked: size, left });
        }
        let base = self.next;
        self.next += size;
        self.grants.push(Grant { base, size, console, r: Relocation { l: base, b: 0 } });
        Ok(VmId(self.grants.len() - 1))
    }

    /// The VM wants its R to be this; what R of the machine below is now while it runs.
    ///
    /// An address `a` is good to the VM if `a < b` and `l + a` is within its size. Both limits are the smaller
    /// one here, so the machine below makes the same checks in one.
    pub(super) fn relocate(&mut self, id: VmId, wanted: Relocation) -> Relocation {
        self.decisions += 1;
        let grant = &mut self.grants[id.0];
        let room = grant.size.saturating_sub(wanted.l);
        grant.r = match wanted.b.min(room) {
            0 => Relocation { l: grant.base, b: 0 },
            b => Relocation { l: grant.base + wanted.l, b },
        };
        grant.r
    }

    /// R of the machine below while the VM runs.
    pub fn granted(&self, id: VmId) -> Relocation {
        self.grants[id.0].r
    }

    /// The word of the machine below that is the VM's real address `real`.
    ///
    /// # Panics
    /// If the VM has no such address.
    pub fn locate(&self, id: VmId, real: Word) -> Word {
        let Grant { base, size, .. } = self.grants[id.0];
        assert!(real < size, "a machine of {size} words has no word {real}");
        base + real
    }

    /// Whether the VM has the console.
    pub(super) fn has_console(&mut self, id: VmId) -> bool {
        self.decisions += 1;
        self.grants[id.0].console
    }

    /// How often it was asked.
    pub fn decisions(&self) -> u64 {
        self.decisions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The machine below lets through what the VM's own R and size would, and at the same word, for every R.
    #[test]
    fn composed_relocation_is_both() {
        let mut allocator = Allocator::new(20, 3);
        allocator.create(4, true).unwrap();
        let id = allocator.create(6, true).unwrap();
        for l in 0..9 {
            for b in 0..9 {
                let virtual_r = Relocation { l, b };
                let real = allocator.relocate(id, virtual_r);
                for a in 0..12 {
                    let expected = virtual_r.apply(a, 6).map(|word| allocator.locate(id, word));
                    assert_eq!(real.apply(a, 20), expected, "R=({l},{b}), a={a}");
                }
            }
        }
    }

    #[test]
    fn no_word_is_given_twice() {
        let mut allocator = Allocator::new(20, 3);
        assert_eq!(allocator.create(18, true), Err(Refused { asked: 18, left: 17 }));
        let ids = [allocator.create(10, true).unwrap(), allocator.create(7, false).unwrap()];
        assert_eq!(allocator.create(1, true), Err(Refused { asked: 1, left: 0 }));
        assert_eq!(ids.map(|id| allocator.locate(id, 6)), [9, 19]);
        assert!(allocator.has_console(ids[0]) && !allocator.has_console(ids[1]));
    }
}
