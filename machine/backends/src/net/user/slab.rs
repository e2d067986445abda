//! A table of flows whose names are never reused, so that an event or a timer of one that is gone finds nothing.

/// The name of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id {
    index: u32,
    generation: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// How many bits of a generation fit into a token beside the kind.
const GENERATION: u32 = (1 << 24) - 1;

impl Id {
    /// As the low 56 bits of an epoll token.
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Back from a token, whatever its top byte.
    pub(super) fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 & GENERATION }
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Adds an entry and names it.
    pub(super) fn insert(&mut self, value: T) -> Id {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, value: None });
            // Limits of the tables keep this small.
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[index as usize];
        entry.value = Some(value);
        Id { index, generation: entry.generation }
    }

    pub(super) fn get(&self, id: Id) -> Option<&T> {
        let entry = self.entries.get(id.index as usize)?;
        entry.value.as_ref().filter(|_| entry.generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        let entry = self.entries.get_mut(id.index as usize)?;
        entry.value.as_mut().filter(|_| entry.generation == id.generation)
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        self.get(id)?;
        let entry = &mut self.entries[id.index as usize];
        entry.generation = (entry.generation + 1) & GENERATION;
        self.free.push(id.index);
        entry.value.take()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let id = Id { index: index as u32, generation: entry.generation };
            entry.value.as_ref().map(|value| (id, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_dies_with_its_entry() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!(slab.remove(a), None);
        let c = slab.insert('c');
        assert_eq!(Id::from_bits(c.to_bits() | 0xff << 56), c);
        assert_eq!((slab.get(a), slab.get(b), slab.get(c)), (None, Some(&'b'), Some(&'c')));
        assert_eq!(slab.get_mut(a), None);
        assert_eq!(slab.iter().collect::<Vec<_>>(), [(c, &'c'), (b, &'b')]);
        assert_eq!(slab.len(), 2);
    }
}
