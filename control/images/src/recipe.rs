//! What the images differ in.

use crate::cancel::Cancel;
use crate::error::Result;
use crate::package::Package;
use crate::progress::Progress;
use crate::tools::Tools;
use std::path::Path;

/// One kind of image.
pub(crate) trait Recipe: Sync {
    /// What it is asked for by.
    fn name(&self) -> &'static str;
    /// The kernel command line for an interactive run. It leaves the kernel's check of the timer out: on a busy host
    /// ticks come too late for it, and the kernel panics.
    fn cmdline(&self) -> &'static str;
    /// The kernel command line for a run with a command.
    fn command_cmdline(&self) -> &'static str;
    /// The names of the base's files.
    fn fetched(&self) -> &'static [&'static str];
    /// Which of them is a disk.
    fn disk(&self) -> Option<&'static str>;
    /// A digest of how the base is made.
    fn base(&self) -> String;
    /// A digest of what [`Self::initramfs`] adds to the base's files.
    fn finish(&self) -> Result<String>;
    /// Makes the base's files in `target`, with `workshop` for what is needed on the way.
    fn fetch(&self, site: &Site, progress: &mut dyn Progress) -> Result<Vec<Package>>;
    /// The initramfs for the base in `target`.
    fn initramfs(&self, target: &Path) -> Result<Vec<u8>>;
}

/// Where a base is made, and with what.
pub(crate) struct Site<'a> {
    /// The host's programs.
    pub(crate) tools: &'a Tools,
    /// Ends the programs that run, and the making with them.
    pub(crate) cancel: &'a Cancel,
    /// For what is needed on the way; removed afterwards.
    pub(crate) workshop: &'a Path,
    /// For the files.
    pub(crate) target: &'a Path,
}
