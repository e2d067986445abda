//! The images there are.

use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::{busybox, debian};

const RECIPES: &[&dyn Recipe] = &[&busybox::CLOUD, &busybox::I686_PAE, &busybox::I686, &debian::Debian];

/// The names of the images that can be built.
pub fn known() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().map(|recipe| recipe.name())
}

pub(crate) fn of(name: &str) -> Result<&'static dyn Recipe> {
    let found = RECIPES.iter().find(|recipe| recipe.name() == name);
    found.copied().ok_or_else(|| Error::UnknownImage { name: name.to_owned(), known: known().collect() })
}
