//! Lists by guest-physical page of what is known of its code, for address spaces that do not know it yet.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::hash::KeyHasher;

/// Most of one page.
pub const MOST: usize = 256;

/// See the module's documentation.
pub struct Listed<T>(HashMap<u64, Vec<T>, BuildHasherDefault<KeyHasher>>);

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<T> Listed<T> {
    /// Lists a thing with a page, in place of what is the `same` if there is that, and else if there is room.
    pub fn note(&mut self, page: u64, thing: T, same: impl Fn(&T) -> bool) {
        let known = self.0.entry(page).or_default();
        match known.iter().position(same) {
            Some(n) => known[n] = thing,
            None if known.len() < MOST => known.push(thing),
            None => {}
        }
    }

    /// What is listed with a page.
    pub fn of(&self, page: u64) -> &[T] {
        self.0.get(&page).map_or(&[], Vec::as_slice)
    }

    /// Forgets all, before blocks go.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
