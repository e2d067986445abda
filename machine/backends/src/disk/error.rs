//! Why a disk cannot be had.

use std::io;
use std::path::PathBuf;

use super::Format;

/// A disk image could not be opened or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The file cannot be opened.
    #[error("cannot open {path}{hint}", path = path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// What may help.
        hint: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A directory, a socket and the like.
    #[error("{path} is neither a file nor a block device", path = .0.display())]
    Kind(PathBuf),
    /// Somebody else's lock.
    #[error(
        "{path} is {how} by another virtual machine; end that one, or give each an overlay of its own on an image \
         that nobody writes (popf image create NEW.qcow2 --backing IMAGE --backing-format FORMAT)",
        path = path.display(),
        how = if *writing { "in use" } else { "written" }
    )]
    InUse {
        /// The image.
        path: PathBuf,
        /// Whether we wanted to write.
        writing: bool,
    },
    /// Its contents will not do.
    #[error("{path} cannot be used as a {format} image", path = path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// What it was taken for.
        format: Format,
        /// What is wrong.
        source: ImageError,
    },
    /// An image that another one stands on cannot be had.
    #[error("{path} stands on another image, which cannot be used", path = path.display())]
    Backing {
        /// The image that stands.
        path: PathBuf,
        /// What is wrong with the other.
        source: Box<DiskError>,
    },
    /// A new image cannot be made.
    #[error("cannot create {path}", path = path.display())]
    Create {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No room for a snapshot's writes.
    #[error("no temporary file for the writes of a snapshot in {directory}; set TMPDIR to a folder with room", directory = directory.display())]
    Temporary {
        /// The folder.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread.
    #[error("no thread for the disk")]
    Thread(#[source] io::Error),
}

/// What is wrong with an image's contents.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Not this format at all.
    #[error("it does not begin like one; say what it is with format=")]
    Magic,
    /// It contradicts itself, or ends too early.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Sound, for all we know, but nothing we can use.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The chain of backing files comes back to itself, or has no end in sight.
    #[error("its chain of backing files {0}")]
    Chain(&'static str),
    /// It cannot be read, or the format's driver finds fault with it.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
}
