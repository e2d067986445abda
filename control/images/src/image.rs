//! An image as its user sees it.

use crate::error::{Error, IoContext, Result};
use crate::manifest::{BUSYBOX, INITRD, KERNEL, Manifest, Package};
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
    pub(crate) fn new(manifest: Manifest, directory: PathBuf) -> Self {
        Self {
            name: manifest.name.clone(),
            kernel: directory.join(KERNEL),
            initrd: directory.join(INITRD),
            cmdline: crate::busybox::CMDLINE.to_owned(),
            command_cmdline: crate::busybox::COMMAND_CMDLINE.to_owned(),
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
        self.manifest.verify(&self.directory, &[KERNEL, BUSYBOX, INITRD])
    }

    /// The initramfs, followed by a run's own archive.
    pub fn initrd_with(&self, overlay: &[u8]) -> Result<Vec<u8>> {
        let mut initrd = fs::read(&self.initrd).at("read", &self.initrd)?;
        crate::overlay::append(&mut initrd, overlay);
        Ok(initrd)
    }
}

/// The digest of the recipe for a known image.
pub(crate) fn recipe_of(name: &str) -> Result<String> {
    match name {
        crate::busybox::NAME => crate::busybox::recipe(),
        _ => Err(Error::UnknownImage { name: name.to_owned(), known: crate::KNOWN.to_vec() }),
    }
}
