//! What can go wrong while an image is built or looked up.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No recipe has this name.
    #[error("there is no image named {name:?}; known images: {}", known.join(", "))]
    UnknownImage {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// The user has no home.
    #[error(
        "no place for images: set XDG_CACHE_HOME (or HOME) to an absolute path, \
         or pass a kernel and an initramfs of your own: popf run --kernel F --initrd F"
    )]
    NoCacheDirectory,
    /// The host's file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// A verb.
        action: &'static str,
        /// What it was to be done to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Not a Debian-like host.
    #[error(
        "images are built from Debian packages, and this host has no {program}; pass a kernel (bzImage or \
         vmlinux, with 8250 serial ports built in) and an initramfs instead: popf run --kernel F --initrd F"
    )]
    NoApt {
        /// The program that was not found.
        program: String,
    },
    /// Programs that this image is made with.
    #[error(
        "this host has no {} to make the image with; install what is missing: sudo apt-get install {}",
        programs.join(", "), packages.join(" ")
    )]
    MissingTools {
        /// Their names.
        programs: Vec<String>,
        /// The packages that they come in.
        packages: Vec<&'static str>,
    },
    /// A program of the host's ran and failed.
    #[error("{program} failed ({status}){}", indented(message))]
    Program {
        /// Which.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        message: String,
    },
    /// The host's package sources do not have what an image needs.
    #[error(
        "this host's apt sources have no package {package}; popf's images are made of Debian's packages, so on \
         another distribution pass a kernel and an initramfs instead: popf run --kernel F --initrd F"
    )]
    NoPackage {
        /// Its name.
        package: String,
    },
    /// A package is missing, and so are lists that may have had it.
    #[error(
        "package {package} is not to be found, as not all package lists could be fetched; is there a network?{}",
        indented(message)
    )]
    NoLists {
        /// Its name.
        package: String,
        /// What apt said.
        message: String,
    },
    /// A package's description is not what it should be.
    #[error("the description of package {package} has no usable {field}")]
    Description {
        /// Its name.
        package: String,
        /// The missing field.
        field: &'static str,
    },
    /// A package's file is damaged, or not what it should be.
    #[error("package file {} cannot be unpacked", path.display())]
    Package {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PackageError,
    },
    /// What was made has not got what an image needs.
    #[error("the root file system that mmdebstrap made has no {0}")]
    Incomplete(String),
    /// The build was ended from outside.
    #[error("the build was cancelled; nothing of it is left")]
    Cancelled,
    /// A cached image no longer is what was written.
    #[error("the cached image in {} is damaged: {reason}; `popf image build --refresh` makes it anew", path.display())]
    Damaged {
        /// Its directory.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// A command for the guest that cannot be passed on.
    #[error("the guest cannot be given this command: {0}")]
    Command(&'static str),
    /// An archive for the guest that cannot be written.
    #[error("the initramfs cannot be written")]
    Archive(#[source] io::Error),
}

/// What is wrong with a package file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// Reading or decompressing failed, or the file ends early.
    #[error("it is truncated or damaged")]
    Read(#[source] io::Error),
    /// It is no Debian package of the known format.
    #[error("{0}")]
    Format(&'static str),
    /// Its payload is compressed in a way that is not supported.
    #[error("its payload {0:?} is compressed in an unknown way")]
    Compression(String),
    /// It does not contain a file that is needed.
    #[error("it contains no {0}")]
    Missing(&'static str),
    /// A file in it is larger than anything sensible.
    #[error("its {name} has {size} bytes; at most {limit} are taken")]
    TooLarge {
        /// Which file.
        name: &'static str,
        /// Its size.
        size: u64,
        /// What would have been taken.
        limit: u64,
    },
    /// What was unpacked cannot be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

fn indented(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(":\n  {}", message.trim().replace('\n', "\n  ")) }
}

/// Turns an `io::Error` into ours, with what was being done to what.
pub(crate) trait IoContext<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}
