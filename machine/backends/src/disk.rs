//! Block storage: what a disk device stands on.
//!
//! [`Disk`] is one image or host block device, read and written at any offset by any number of threads at once.
//! [`DiskQueue`] puts requests and threads in front of it, so that a device never waits for the host.
//!
//! | module | gives |
//! | --- | --- |
//! | [`open()`] | the way in: format, locks, chains of backing files |
//! | [`raw`] | plain images, ISO images, block devices |
//! | [`qcow2`] | QEMU's format by the `imago` crate; checking, repairing and creating by our own code |
//! | [`vmdk`] | VMware's format, which is only read |
//! | [`snapshot`] | writes that are forgotten at the end |
//! | [`queue`] | requests and the threads that carry them out |
//!
//! Data goes through buffers of ours. Nobody here sees guest memory, so that no reference to it can exist while a
//! guest changes it.
//!
//! An image may have been written by a guest, or by somebody who wishes its user ill. What it says is checked, it leads
//! to no other file unless its user said what it is (see [`open()`]), and it costs no more than in proportion to what it
//! really holds.

mod error;
mod file;
mod open;
mod probe;
mod qcow2;
mod queue;
mod raw;
mod snapshot;
mod vmdk;

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::str::FromStr;

pub use error::{DiskError, ImageError};
pub use open::{Access, OpenOptions, backing, open};
pub use probe::probe;
pub use qcow2::create::{create, create_overlay};
pub use queue::{Completion, DiskQueue, Operation, Request};

/// The unit in which devices address disks.
pub const SECTOR: u64 = 512;

/// A disk. Every method may be called by many threads at once; of requests that overlap in time and place, either
/// may come first.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Its size in bytes, which does not change.
    fn size(&self) -> u64;

    /// Whether every change is refused.
    fn read_only(&self) -> bool;

    /// Fills `buffer` from `offset` on, or fails.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data`. After an error, what the range holds is anybody's guess; everything else is as before.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Returns when every write that has returned is on stable storage.
    fn flush(&self) -> io::Result<()>;

    /// The range is not needed any more. What it holds then is anybody's guess; a disk may ignore this.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// The range reads as zeroes. With `unmap` its room may be given back.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;
}

/// How an image's bytes are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// As they are: plain images, ISO images, block devices.
    Raw,
    /// QEMU's copy-on-write format, version 3 (2 is only read).
    Qcow2,
    /// VMware's, with sparse, compressed or flat extents.
    Vmdk,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        })
    }
}

/// The text names no format we know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown disk format {0:?}; known are raw, qcow2 and vmdk")]
pub struct UnknownFormat(pub String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "vmdk" => Ok(Self::Vmdk),
            _ => Err(UnknownFormat(text.to_owned())),
        }
    }
}

/// Checks that a request lies within a disk of `size` bytes.
fn check_range(size: u64, offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, "beyond the end of the disk")),
    }
}

fn refuse_change() -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, "the disk is read-only")
}

/// The length of a file, or of a block device, whose metadata say 0.
fn file_length(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// Reads from the start of the file until `buffer` is full or the file ends.
fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
