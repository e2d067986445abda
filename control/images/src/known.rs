//! The images there are.

use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::{busybox, debian};

const RECIPES: &[&dyn Recipe] = &[&busybox::Busybox, &debian::Debian];

/// The images that can be built.
pub const KNOWN: &[&str] = &[busybox::NAME, debian::NAME];

pub(crate) fn of(name: &str) -> Result<&'static dyn Recipe> {
    let found = RECIPES.iter().find(|recipe| recipe.name() == name);
    found.copied().ok_or_else(|| Error::UnknownImage { name: name.to_owned(), known: KNOWN.to_vec() })
}
