//! Built images on disk, under the user's cache directory (XDG Base Directory Specification).
//!
//! ```text
//! $XDG_CACHE_HOME/popf/images/
//!     lock                  held by whoever changes something here
//!     busybox               a link to the image of that name
//!     busybox-<digest>/     an image, named by what it consists of
//!     tmp-<random>/         being built; what is left of an interrupted build is removed by the next
//! ```
//!
//! An image appears by a rename and becomes current by the rename of a link, so that a reader, who takes no
//! lock, sees the old one or the new one, whole.

use crate::error::{Error, IoContext, Result};
use crate::image::Image;
use crate::known;
use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::recipe::Recipe;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use tempfile::TempDir;

const TEMPORARY: &str = "tmp-";
/// So much of a digest tells images apart that lie in one directory.
const DIGEST_LENGTH: usize = 16;

/// A directory of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

/// Held while the cache is changed.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process that another thread is just starting has the file too, until it execs.
        if let Err(error) = self.file.unlock() {
            tracing::warn!("the image cache stays locked until this program ends: {error}");
        }
    }
}

impl Cache {
    /// The user's.
    pub fn of_user() -> Result<Self> {
        from_environment(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")).map(|root| Self { root })
    }

    /// The one in a directory, which need not exist yet.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { root: directory.into() }
    }

    /// The image of a name if it has been built, by this popf's recipe, and its files have their sizes.
    pub fn find(&self, name: &str) -> Result<Option<Image>> {
        let recipe = known::of(name)?;
        match self.load_undamaged(recipe)? {
            Some((manifest, directory)) if manifest.is_current(recipe)? => {
                Ok(Some(Image::new(recipe, manifest, directory)))
            }
            _ => Ok(None),
        }
    }

    /// Every image that [`Self::find`] would find.
    pub fn list(&self) -> Result<Vec<Image>> {
        known::known().filter_map(|name| self.find(name).transpose()).collect()
    }

    /// Removes an image; `false` if there was none.
    pub fn remove(&self, name: &str) -> Result<bool> {
        known::of(name)?;
        if !self.root.exists() {
            return Ok(false);
        }
        let _lock = self.lock(&mut crate::progress::Silent)?;
        let link = self.root.join(name);
        let existed = match fs::remove_file(&link) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error).at("remove", &link),
        };
        self.sweep(name, None)?;
        Ok(existed)
    }

    /// An image as it lies there, whichever recipe made it; one that is damaged is none.
    pub(crate) fn load_undamaged(&self, recipe: &dyn Recipe) -> Result<Option<(Manifest, PathBuf)>> {
        match self.load(recipe) {
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!("{error}");
                Ok(None)
            }
            other => other,
        }
    }

    fn load(&self, recipe: &dyn Recipe) -> Result<Option<(Manifest, PathBuf)>> {
        let link = self.root.join(recipe.name());
        let target = match fs::read_link(&link) {
            Ok(target) => target,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Error::Damaged {
                    path: link,
                    reason: format!("the link cannot be read: {error}"),
                });
            }
        };
        let mut parts = target.components();
        let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else {
            return Err(Error::Damaged { path: link, reason: "the link leads out of the cache".to_owned() });
        };
        let directory = self.root.join(target);
        Manifest::load(&directory, recipe).map(|manifest| Some((manifest, directory)))
    }

    /// Waits until nobody else changes the cache.
    pub(crate) fn lock(&self, progress: &mut dyn Progress) -> Result<Lock> {
        fs::create_dir_all(&self.root).at("create", &self.root)?;
        let path = self.root.join("lock");
        let file = File::options().create(true).append(true).open(&path).at("open", &path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.begin("waiting for another build", None);
                file.lock().at("lock", &path)?;
                progress.end();
            }
            Err(TryLockError::Error(error)) => return Err(error).at("lock", &path),
        }
        Ok(Lock { file })
    }

    /// A directory to build in, removed when dropped.
    pub(crate) fn workshop(&self, _: &Lock) -> Result<TempDir> {
        tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(&self.root)
            .at("make a directory in", &self.root)
    }

    /// Makes the finished image in `from` the current one of its name.
    pub(crate) fn commit(
        &self,
        _: &Lock,
        recipe: &dyn Recipe,
        from: &Path,
        manifest: Manifest,
    ) -> Result<Image> {
        manifest.store(from)?;
        for entry in fs::read_dir(from).at("read", from)? {
            let path = entry.at("read", from)?.path();
            // A name must not outlive the content in a power failure.
            File::open(&path).and_then(|file| file.sync_all()).at("write", &path)?;
        }
        let name = manifest.name.clone();
        let digest = manifest.content_digest();
        let directory_name = format!("{name}-{}", digest.get(..DIGEST_LENGTH).unwrap_or(&digest));
        let directory = self.root.join(&directory_name);
        if directory.exists() {
            // The same content, but damaged or asked for anew.
            fs::remove_dir_all(&directory).at("remove", &directory)?;
        }
        fs::rename(from, &directory).at("rename", from)?;
        let (link, new_link) = (self.root.join(&name), self.root.join(format!("{TEMPORARY}{name}")));
        symlink(&directory_name, &new_link).at("create", &new_link)?;
        fs::rename(&new_link, &link).at("rename", &new_link)?;
        self.sweep(&name, Some(&directory_name))?;
        Ok(Image::new(recipe, manifest, directory))
    }

    /// Removes a name's other images and what interrupted builds left. The lock is held.
    pub(crate) fn sweep(&self, name: &str, keep: Option<&str>) -> Result<()> {
        // Not those of another image whose name begins like this one's.
        let is_image = |text: &str| {
            let digest = text.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
            digest.is_some_and(|digest| {
                digest.len() == DIGEST_LENGTH && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
        };
        for entry in fs::read_dir(&self.root).at("read", &self.root)? {
            let entry = entry.at("read", &self.root)?;
            let file_name = entry.file_name();
            let Some(text) = file_name.to_str() else {
                continue;
            };
            let other_image = is_image(text) && Some(text) != keep;
            if !(text.starts_with(TEMPORARY) || other_image) {
                continue;
            }
            let path = entry.path();
            let is_directory = entry.file_type().at("look at", &path)?.is_dir();
            let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.at("remove", &path)?;
        }
        Ok(())
    }
}

/// The specification wants relative paths ignored.
fn from_environment(cache_home: Option<OsString>, home: Option<OsString>) -> Result<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    cache_home
        .and_then(absolute)
        .or_else(|| home.and_then(absolute).map(|home| home.join(".cache")))
        .map(|base| base.join("popf/images"))
        .ok_or(Error::NoCacheDirectory)
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
