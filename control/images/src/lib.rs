//! Guest images: built from Debian packages, cached by content.
//!
//! `popf run busybox` needs a kernel and a root file system, and popf ships neither. [`build()`] makes them out of
//! what Debian signs, through the host's own apt, without privileges; [`find`] returns what was built:
//!
//! | image | what it is | a run's command reaches it |
//! | --- | --- | --- |
//! | `busybox` | a kernel and one static program, in memory | in an archive behind the initramfs: [`overlay()`] |
//! | `busybox-686-pae` | the same with 32 bits | so, too |
//! | `busybox-686` | the same with page tables of two levels | so, too |
//! | `debian` | Debian 12 with systemd, on a disk | through the agent, once it has started |
//!
//! How the first three answer: without a command, a shell on the first serial port, and power-off when it ends. With
//! one, its standard output on the first serial port, its standard error on the second, and its exit status
//! written as one byte to the debug-exit port 0xf4 when both have drained (128 plus the signal's number if a
//! signal ended it, 127 if there is no such program, 126 if it cannot be executed).
//!
//! Not modelled: distributions other than Debian.

mod apt;
mod ar;
mod build;
mod busybox;
mod cache;
mod cancel;
mod deb;
mod debian;
mod error;
#[cfg(test)]
mod guest_tests;
mod image;
mod initramfs;
mod known;
mod manifest;
pub mod newc;
mod overlay;
mod package;
mod progress;
mod recipe;
mod running;
mod tools;

pub use build::{BuildOptions, build};
pub use cache::Cache;
pub use cancel::Cancel;
pub use error::{Error, PackageError, Result};
pub use image::Image;
pub use known::known;
pub use overlay::{Overlay, Stdin, append, overlay};
pub use package::Package;
pub use progress::{Display, Progress, Silent, Total};
pub use tools::Tools;

/// The port at which the guest reports a command's exit status.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// The agent, a static program that runs in a guest with a disk, built from `guest/agent.rs`. It is here for tests of
/// whoever talks to it.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));

/// The image of a known name in the user's cache, if it has been built.
pub fn find(name: &str) -> Result<Option<Image>> {
    // An unknown name is an error wherever the cache is.
    known::of(name)?;
    Cache::of_user()?.find(name)
}

/// All images in the user's cache.
pub fn list() -> Result<Vec<Image>> {
    Cache::of_user()?.list()
}

/// Removes an image from the user's cache; `false` if it was not there.
pub fn remove(name: &str) -> Result<bool> {
    Cache::of_user()?.remove(name)
}
