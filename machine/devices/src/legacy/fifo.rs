//! The sixteen places of a UART's FIFO.

/// A queue of at most 16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fifo<T> {
    places: [T; 16],
    head: u8,
    len: u8,
}

impl<T: Copy + Default> Fifo<T> {
    /// How many it holds when full.
    pub const CAPACITY: usize = 16;

    /// How many it holds.
    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends, if there is room.
    pub fn push(&mut self, item: T) -> bool {
        if self.len() == Self::CAPACITY {
            return false;
        }
        self.places[usize::from(self.head + self.len) % Self::CAPACITY] = item;
        self.len += 1;
        true
    }

    /// The first in line.
    pub fn first(&self) -> Option<T> {
        (self.len > 0).then(|| self.places[usize::from(self.head)])
    }

    /// Takes the first in line.
    pub fn pop(&mut self) -> Option<T> {
        let item = self.first()?;
        self.discard(1);
        Some(item)
    }

    /// Drops the first `count`.
    pub fn discard(&mut self, count: usize) {
        let count = count.min(self.len()) as u8;
        self.head = (self.head + count) % Self::CAPACITY as u8;
        self.len -= count;
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// As many as lie together, first in line first.
    pub fn front(&self) -> &[T] {
        let head = usize::from(self.head);
        &self.places[head..Self::CAPACITY.min(head + self.len())]
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        (0..self.len).map(|i| self.places[usize::from(self.head + i) % Self::CAPACITY])
    }
}

impl<T: Copy + Default> FromIterator<T> for Fifo<T> {
    /// The first sixteen.
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut fifo = Self::default();
        for item in items {
            if !fifo.push(item) {
                break;
            }
        }
        fifo
    }
}
