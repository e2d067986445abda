//! What is known of address spaces while they are not the current one.
//!
//! A write of CR3 makes a processor forget, and the engine with it. But what it had to forget it meets again when the same
//! address space comes back, at a crossing each: a pipe between two programs switches thousands of times a second. So it is noted
//! under its CR3. When that comes back, whoever noted it looks it up in the guest's tables as they are then, and takes up again
//! what they still say.
//!
//! What has been taken up again may be used no more; then it costs without bringing anything. So every so often an address
//! space begins anew.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::hash::KeyHasher;

/// How often an address space comes back before it begins anew.
const RETURNS: u32 = 32;

/// What is known of one address space.
pub trait Known: Default {
    /// Most that one may have: who knows more between two switches pays for it anyway.
    const MOST: usize;
    /// Most that all may have.
    const MOST_OF_ALL: usize;

    /// How many things that are.
    fn len(&self) -> usize;
}

/// See the module's documentation.
#[derive(Default)]
pub struct Spaces<K> {
    /// That of the current address space; none before it has been entered.
    current: Option<Space<K>>,
    /// Of the others, by CR3.
    others: HashMap<u64, Space<K>, BuildHasherDefault<KeyHasher>>,
    /// How many things those are.
    len: usize,
}

#[derive(Default)]
struct Space<K> {
    cr3: u64,
    known: K,
    returns: u32,
}

impl<K: Known> Spaces<K> {
    /// The current address space is left: what is known of it may be wrong when it comes back.
    pub fn leave(&mut self) {
        let Some(space) = self.current.take().filter(|space| (1..K::MOST).contains(&space.known.len()))
        else {
            return;
        };
        let len = space.known.len();
        if self.len + len > K::MOST_OF_ALL {
            self.clear();
        }
        self.len += len;
        if let Some(former) = self.others.insert(space.cr3, space) {
            self.len -= former.known.len();
        }
    }

    /// What was known of the address space that is current now, if it has been left since. What becomes of it is to be put
    /// by with [`Self::enter`].
    pub fn returned(&mut self, cr3: u64) -> Option<K> {
        if self.current.is_some() {
            return None;
        }
        let known = self.others.remove(&cr3);
        self.len -= known.as_ref().map_or(0, |space| space.known.len());
        let space = known.filter(|space| space.returns < RETURNS).unwrap_or_default();
        let returns = space.returns + 1;
        self.current = Some(Space { cr3, known: K::default(), returns });
        Some(space.known)
    }

    /// What is known of the current address space from now on.
    pub fn enter(&mut self, known: K) {
        if let Some(space) = &mut self.current {
            space.known = known;
        }
    }

    /// What is known of the current address space, if there is still room.
    pub fn current(&mut self) -> Option<&mut K> {
        self.current.as_mut().map(|space| &mut space.known).filter(|known| known.len() < K::MOST)
    }

    /// What was known of the current address space has been forgotten.
    pub fn forget_current(&mut self) {
        self.current = None;
    }

    /// Nothing is known any more.
    pub fn clear(&mut self) {
        (self.current, self.len) = (None, 0);
        self.others.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct List(Vec<u32>);

    impl Known for List {
        const MOST: usize = 4;
        const MOST_OF_ALL: usize = 8;

        fn len(&self) -> usize {
            self.0.len()
        }
    }

    fn visit(spaces: &mut Spaces<List>, cr3: u64, things: &[u32]) -> Vec<u32> {
        let List(mut known) = spaces.returned(cr3).expect("it has been left");
        let found = known.clone();
        known.extend(things);
        spaces.enter(List(known));
        assert!(spaces.returned(cr3).is_none(), "it is current");
        spaces.leave();
        found
    }

    #[test]
    fn each_is_known_by_its_number_until_it_has_come_back_often() {
        let mut spaces = Spaces::<List>::default();
        assert!(visit(&mut spaces, 1, &[10]).is_empty());
        assert!(visit(&mut spaces, 2, &[20, 21]).is_empty());
        for _ in 0..RETURNS - 1 {
            assert_eq!(visit(&mut spaces, 1, &[]), [10]);
        }
        assert!(visit(&mut spaces, 1, &[11]).is_empty(), "it begins anew");
        assert_eq!(visit(&mut spaces, 1, &[]), [11]);
        assert_eq!(visit(&mut spaces, 2, &[]), [20, 21]);
        assert_eq!(spaces.len, 3);
    }

    #[test]
    fn too_much_is_not_kept() {
        let mut spaces = Spaces::<List>::default();
        visit(&mut spaces, 1, &[1, 2, 3, 4]);
        assert!(visit(&mut spaces, 1, &[1, 2, 3]).is_empty(), "of one");
        visit(&mut spaces, 2, &[1, 2, 3]);
        visit(&mut spaces, 3, &[1, 2, 3]);
        assert_eq!(spaces.len, 3);
        assert!(visit(&mut spaces, 1, &[]).is_empty(), "of all");
        assert_eq!(visit(&mut spaces, 3, &[]), [1, 2, 3]);
    }

    #[test]
    fn what_has_been_forgotten_does_not_come_back() {
        let mut spaces = Spaces::<List>::default();
        visit(&mut spaces, 1, &[1]);
        assert!(spaces.returned(1).is_some());
        spaces.enter(List(vec![1, 2]));
        spaces.forget_current();
        spaces.leave();
        assert!(visit(&mut spaces, 1, &[3]).is_empty());
        spaces.clear();
        assert!(visit(&mut spaces, 1, &[]).is_empty());
    }
}
