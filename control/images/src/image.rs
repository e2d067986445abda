//! An image as its user sees it.

use crate::error::{IoContext, Result};
use crate::manifest::{INITRD, KERNEL, Manifest};
use crate::package::Package;
use crate::recipe::Recipe;
use std::fs;
use std::path::{Path, PathBuf};

/// A guest ready to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What it is asked for by.
    pub name: String,
    /// A bzImage.
    pub kernel: PathBuf,
    /// An uncompressed initramfs.
    pub initrd: PathBuf,
    /// The first disk, as a raw file with holes. It is never written: a run gets an overlay. A guest with a disk runs
    /// commands by its agent, one without by [`crate::overlay()`].
    pub disk: Option<PathBuf>,
    /// The kernel command line for an interactive run. `popf.term=`, `popf.rows=` and `popf.cols=` may be added.
    pub cmdline: String,
    /// The kernel command line for a run with a command: the first serial port is the command's alone, and the
    /// kernel speaks on the second (where standard error goes) only if it dies.
    pub command_cmdline: String,
    /// The Debian packages it is made of.
    pub packages: Vec<Package>,
    manifest: Manifest,
    directory: PathBuf,
}

impl Image {
    pub(crate) fn new(recipe: &dyn Recipe, manifest: Manifest, directory: PathBuf) -> Self {
        Self {
            name: manifest.name.clone(),
            kernel: directory.join(KERNEL),
            initrd: directory.join(INITRD),
            disk: recipe.disk().map(|disk| directory.join(disk)),
            cmdline: recipe.cmdline().to_owned(),
            command_cmdline: recipe.command_cmdline().to_owned(),
            packages: manifest.packages.clone(),
            manifest,
            directory,
        }
    }

    /// Where its files lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads every file and compares it with the digest recorded when it was written.
    pub fn verify(&self) -> Result<()> {
        self.manifest.verify(&self.directory, |_| true)
    }

    /// The initramfs, followed by a run's own archive.
    pub fn initrd_with(&self, overlay: &[u8]) -> Result<Vec<u8>> {
        let mut initrd = fs::read(&self.initrd).at("read", &self.initrd)?;
        crate::overlay::append(&mut initrd, overlay);
        Ok(initrd)
    }
}
