//! A table whose entries are known to somebody untrusted by number: a number that has been given back stands for
//! nothing, also after its slot has been filled again.

/// The table.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    limit: usize,
    /// The generation of a slot that is new.
    first: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slots<T> {
    /// An empty table that will hold so many.
    pub(super) fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), limit: limit.min(u32::MAX as usize), first: 0 }
    }

    /// Begins at some other generation, so that numbers of another table, which somebody may remember, mean nothing
    /// in this one.
    pub(super) fn scatter(mut self) -> Self {
        let mut bytes = [0; 4];
        // Without randomness the numbers of two tables are the same, as if this had not been called.
        let _ = host::entropy::fill(&mut bytes);
        // Far from the end.
        self.first = u32::from_le_bytes(bytes) >> 1;
        self
    }

    /// Puts a value in; its number, the first time 1, or none if the table is full.
    pub(super) fn insert(&mut self, value: T) -> Option<u64> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < self.limit => {
                self.slots.push(Slot { generation: self.first, value: None });
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        Some((u64::from(slot.generation) << 32) + u64::from(index) + 1)
    }

    /// The slot that a number means, if it is of this generation.
    fn index(&self, number: u64) -> Option<usize> {
        let place = number.checked_sub(1)?;
        let index = (place & u64::from(u32::MAX)) as usize;
        let slot = self.slots.get(index)?;
        (u64::from(slot.generation) == place >> 32).then_some(index)
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.slots[self.index(number)?].value.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let index = self.index(number)?;
        self.slots[index].value.as_mut()
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let index = self.index(number)?;
        let slot = &mut self.slots[index];
        let value = slot.value.take()?;
        // A slot whose generations are used up stays empty for good.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(index as u32);
        }
        Some(value)
    }

    /// Slots, filled or not.
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// What is in a slot.
    pub(super) fn at(&mut self, index: usize) -> Option<&mut T> {
        self.slots.get_mut(index)?.value.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_tables_have_other_numbers() {
        let numbers: Vec<_> = (0..8).map(|_| Slots::new(2).scatter().insert(()).unwrap()).collect();
        assert!(numbers.iter().any(|number| *number != numbers[0]), "{numbers:?}");
    }

    #[test]
    fn numbers_are_not_used_twice() {
        let mut slots = Slots::new(2);
        let (a, b) = (slots.insert('a').unwrap(), slots.insert('b').unwrap());
        assert_eq!((a, b), (1, 2));
        assert_eq!(slots.insert('c'), None);
        assert_eq!(slots.remove(a), Some('a'));
        assert_eq!((slots.remove(a), slots.get(a)), (None, None));
        let c = slots.insert('c').unwrap();
        assert_ne!(c, a);
        assert_eq!((slots.get(c), slots.get(b), slots.get(a)), (Some(&'c'), Some(&'b'), None));
        for wild in [0, 3, c + 1, c + (1 << 32), u64::MAX] {
            assert_eq!(slots.get(wild), None, "{wild:#x}");
        }
    }
}
