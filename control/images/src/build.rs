//! What building any of the images has in common.
//!
//! An image is made in two steps. What takes long and needs the network, its *base*, is fetched and kept; the
//! initramfs, which holds all that is popf's own, is written last and from kept files alone. So a newer popf makes
//! a newer image in a moment, offline, unless the base itself is to be made in another way.

use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::error::{IoContext, Result};
use crate::image::Image;
use crate::known;
use crate::manifest::{INITRD, Manifest};
use crate::package::Package;
use crate::progress::Progress;
use crate::recipe::{Recipe, Site};
use crate::tools::Tools;
use std::fs;
use std::path::Path;

/// How an image is built.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// Fetch the packages, even if the image is there.
    pub refresh: bool,
    /// Where it is put; by default the user's cache.
    pub cache: Option<Cache>,
    /// The host's programs.
    pub tools: Tools,
    /// By which another thread can end the build.
    pub cancel: Cancel,
}

/// Finds an image of a known name, or makes it. Nothing is fetched that is there already.
pub fn build(name: &str, options: &BuildOptions, progress: &mut dyn Progress) -> Result<Image> {
    let recipe = known::of(name)?;
    let cache = options.cache.clone().map_or_else(Cache::of_user, Ok)?;
    let lock = cache.lock(progress)?;
    let existing = if options.refresh { None } else { cache.load_undamaged(recipe)? };
    if let Some((manifest, directory)) = &existing
        && manifest.is_current(recipe)?
    {
        return Ok(Image::new(recipe, manifest.clone(), directory.clone()));
    }
    let workshop = cache.workshop(&lock)?;
    let target = workshop.path().join("image");
    fs::create_dir(&target).at("create", &target)?;
    let reused = existing.and_then(|(manifest, directory)| reuse(recipe, &manifest, &directory, &target));
    let packages = match reused {
        Some(packages) => packages,
        None => {
            let (tools, cancel) = (&options.tools, &options.cancel);
            recipe.fetch(&Site { tools, cancel, workshop: workshop.path(), target: &target }, progress)?
        }
    };
    options.cancel.check()?;
    progress.begin("writing initramfs", None);
    let path = target.join(INITRD);
    fs::write(&path, recipe.initramfs(&target)?).at("write", &path)?;
    let manifest = Manifest::describe(recipe, packages, &target)?;
    let image = cache.commit(&lock, recipe, &target, manifest)?;
    progress.end();
    Ok(image)
}

/// The packages of an image whose base another popf made in this one's way, its files put into `target`, if they
/// are still whole.
fn reuse(recipe: &dyn Recipe, manifest: &Manifest, directory: &Path, target: &Path) -> Option<Vec<Package>> {
    if manifest.base != recipe.base() {
        return None;
    }
    manifest.verify(directory, |file| file != INITRD).ok()?;
    for name in recipe.fetched() {
        // A disk is large, and nothing writes to these files.
        fs::hard_link(directory.join(name), target.join(name)).ok()?;
    }
    Some(manifest.packages.clone())
}
