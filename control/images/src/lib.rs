//! Guest images: built from Debian packages, cached by content.
//!
//! `popf run busybox` needs a kernel and a root file system, and popf ships neither. [`build`] makes them out of
//! what Debian signs, through the host's own apt, without privileges; [`find`] returns what was built. A run's
//! command reaches the guest in an archive of its own, which [`overlay()`] makes and [`Image::initrd_with`] puts
//! behind the image's.
//!
//! How the guest answers: without a command, a shell on the first serial port, and power-off when it ends. With
//! one, its standard output on the first serial port, its standard error on the second, and its exit status
//! written as one byte to the debug-exit port 0xf4 when both have drained (128 plus the signal's number if a
//! signal ended it, 127 if there is no such program, 126 if it cannot be executed).
//!
//! Not modelled: images other than `busybox`, and distributions whose packages are not Debian's.

mod apt;
mod ar;
pub mod busybox;
mod cache;
mod deb;
mod error;
#[cfg(test)]
mod guest_tests;
mod image;
mod initramfs;
mod manifest;
pub mod newc;
mod overlay;
mod progress;

pub use apt::Tools;
pub use busybox::BuildOptions;
pub use cache::Cache;
pub use error::{Error, PackageError, Result};
pub use image::Image;
pub use manifest::Package;
pub use overlay::{Overlay, Stdin, append, overlay};
pub use progress::{Display, Progress, Silent};

/// The port at which the guest reports a command's exit status.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// The images that can be built.
pub const KNOWN: &[&str] = &[busybox::NAME];

/// Finds an image of a known name, or makes it.
pub fn build(name: &str, options: &BuildOptions, progress: &mut dyn Progress) -> Result<Image> {
    match name {
        busybox::NAME => busybox::build(options, progress),
        _ => Err(Error::UnknownImage { name: name.to_owned(), known: KNOWN.to_vec() }),
    }
}

/// The image of a known name in the user's cache, if it has been built.
pub fn find(name: &str) -> Result<Option<Image>> {
    // An unknown name is an error wherever the cache is.
    image::recipe_of(name)?;
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
