//! Things of a translation cache that go when a part of it is emptied.

/// Parts of a translation cache, each of which is emptied by itself.
pub const PARTS: usize = 16;

/// A list for each part. The number of a thing is that in its list, times [`PARTS`], plus that of the part: so it says where the
/// thing is, and those of parts that have as many things are close together.
#[derive(Debug)]
pub struct ByPart<T>([Vec<T>; PARTS]);

impl<T> Default for ByPart<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Vec::new()))
    }
}

/// The part in which the thing with this number is.
pub fn part_of(number: usize) -> usize {
    number % PARTS
}

fn number(part: usize, n: usize) -> usize {
    n * PARTS + part
}

impl<T> ByPart<T> {
    /// The number that the next thing in a part will have.
    pub fn next(&self, part: usize) -> usize {
        number(part, self.0[part].len())
    }

    /// Adds one to a part, and gives its number.
    pub fn push(&mut self, part: usize, thing: T) -> usize {
        let number = self.next(part);
        self.0[part].push(thing);
        number
    }

    /// That with this number.
    pub fn get(&self, number: usize) -> Option<&T> {
        self.0[part_of(number)].get(number / PARTS)
    }

    /// The same, to change.
    pub fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.0[part_of(number)].get_mut(number / PARTS)
    }

    /// All of them, by number.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let numbered = |part: usize| move |(n, thing)| (number(part, n), thing);
        self.parts().enumerate().flat_map(move |(part, list)| list.iter().enumerate().map(numbered(part)))
    }

    /// The same, part by part.
    pub fn parts(&self) -> impl Iterator<Item = &[T]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// How many there are in a part.
    pub fn count(&self, part: usize) -> usize {
        self.0[part].len()
    }

    /// Takes all out of a part, by number.
    pub fn take(&mut self, part: usize) -> impl Iterator<Item = (usize, T)> + use<T> {
        let list = std::mem::take(&mut self.0[part]);
        list.into_iter().enumerate().map(move |(n, thing)| (number(part, n), thing))
    }

    /// Leaves nothing in a part.
    pub fn clear(&mut self, part: usize) {
        self.0[part].clear();
    }
}
