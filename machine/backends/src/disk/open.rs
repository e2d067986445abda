//! Opening a disk: which format, who else uses it, and what it stands on.
//!
//! **Formats.** A guest with a raw disk can write whatever it likes to its first sector, a qcow2 header that names
//! `/etc/shadow` as backing file among it; read as what it then looks like, it would show the guest that file. So the
//! format is what the user says. If they say nothing, the first bytes decide, and where they say raw the guest may
//! not write there what would be taken for another format the next time. A backing file's format has to be written
//! in the image above it.
//!
//! **Locks.** An image that is written is locked against everybody, one that is read against writers; backing files
//! are read. The locks end with the process. On a file system that knows no locks there is a warning instead.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::open_file;
use super::probe::probe;
use super::qcow2::header::{Backing, Header};
use super::qcow2::{self, Layer, Qcow2};
use super::raw::Raw;
use super::snapshot::Snapshot;
use super::vmdk::{self, Vmdk};
use super::{Disk, DiskError, Format, ImageError};

/// Longer chains take longer to open than anybody waits.
const CHAIN_MAX: usize = 64;

/// What is to be done with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and writing.
    ReadWrite,
    /// Reading.
    ReadOnly,
    /// Reading, and writing what is forgotten at the end.
    Snapshot,
}

/// How to open a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// The format, or what the first bytes say.
    pub format: Option<Format>,
    /// What for.
    pub access: Access,
}

/// Opens the disk at `path`.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Arc<dyn Disk>, DiskError> {
    if options.access == Access::Snapshot {
        let base = open(path, &OpenOptions { access: Access::ReadOnly, ..*options })?;
        return Ok(Arc::new(Snapshot::new(base)?));
    }
    let write = options.access == Access::ReadWrite;
    let file = open_file(path, write)?;
    let found = probe(&file).map_err(|error| refuse(path, options.format.unwrap_or(Format::Raw), error))?;
    let format = options.format.unwrap_or(found);
    if format == Format::Raw && found != Format::Raw {
        tracing::warn!("{} begins like a {found} image and is used as raw, as told", path.display());
    }
    let told = |error: ImageError| refuse(path, format, error);
    match format {
        Format::Raw => {
            // Told nothing, the next run would believe the first bytes.
            let keep_raw = options.format.is_none();
            Ok(Arc::new(Raw::new(file, !write, keep_raw).map_err(|error| told(error.into()))?))
        }
        Format::Vmdk if write => Err(told(ImageError::Unsupported(vmdk::READ_ONLY))),
        Format::Vmdk => Ok(Arc::new(Vmdk::open(file, path)?)),
        Format::Qcow2 => open_qcow2(file, path, write),
    }
}

fn refuse(path: &Path, format: Format, error: impl Into<ImageError>) -> DiskError {
    DiskError::Image { path: path.to_owned(), format, source: error.into() }
}

fn open_qcow2(file: File, path: &Path, write: bool) -> Result<Arc<dyn Disk>, DiskError> {
    let told = |error| refuse(path, Format::Qcow2, error);
    let written = if write { Some(file.try_clone().map_err(|error| told(error.into()))?) } else { None };
    let image = open_layer(file, path, write, &mut Vec::new())?;
    Ok(Arc::new(Qcow2::new(image, written).map_err(told)?))
}

/// Opens an image and what it stands on; `above` are the images that stand on it.
fn open_layer(file: File, path: &Path, write: bool, above: &mut Vec<(u64, u64)>) -> Result<Layer, DiskError> {
    let told = |error| refuse(path, Format::Qcow2, error);
    let (file, header) = usable(file, path, write)?;
    if write {
        qcow2::check_refcounts(&file, &header).map_err(told)?;
    }
    above.push(identity(&file.metadata().map_err(|error| told(error.into()))?));
    let backing = match &header.backing {
        None => None,
        Some(backing) => Some(open_backing(backing, path, above)?),
    };
    qcow2::layer(file, backing, write).map_err(told)
}

/// What a qcow2 image stands on, where it looks for that.
pub fn backing(path: &Path) -> Result<Option<(PathBuf, Format)>, DiskError> {
    let file = open_file(path, false)?;
    let header = Header::read(&file).map_err(|error| refuse(path, Format::Qcow2, error))?;
    Ok(header.backing.map(|backing| (resolve(path, &backing.name), backing.format)))
}

fn open_backing(backing: &Backing, path: &Path, above: &mut Vec<(u64, u64)>) -> Result<Layer, DiskError> {
    let told = |source| DiskError::Backing { path: path.to_owned(), source: Box::new(source) };
    let below = resolve(path, &backing.name);
    // Before it is opened: a loop would show as a lock, our own.
    if below.metadata().is_ok_and(|metadata| above.contains(&identity(&metadata))) {
        let problem = ImageError::Chain("leads back to an image that stands on it");
        return Err(refuse(path, Format::Qcow2, problem));
    }
    if above.len() >= CHAIN_MAX {
        let problem =
            ImageError::Chain("has no end in sight; flatten it (qemu-img convert -O qcow2 OLD NEW)");
        return Err(refuse(path, Format::Qcow2, problem));
    }
    let file = open_file(&below, false).map_err(told)?;
    match backing.format {
        Format::Qcow2 => open_layer(file, &below, false, above).map_err(told),
        _ => qcow2::raw_layer(file).map_err(|error| told(refuse(&below, Format::Raw, error))),
    }
}

/// One file, by whatever name.
fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Reads the header, and repairs the image if its writer was killed.
fn usable(file: File, path: &Path, write: bool) -> Result<(File, Header), DiskError> {
    let told = |error| refuse(path, Format::Qcow2, error);
    let header = Header::read(&file).map_err(told)?;
    if write {
        qcow2::check_writable(&header).map_err(told)?;
    }
    if !header.dirty {
        return Ok((file, header));
    }
    tracing::info!("{} was not closed properly; repairing it", path.display());
    let file = if write {
        qcow2::repair(&file, &header).map_err(told)?;
        file
    } else {
        // Its lock gives way to that of somebody who may write: us, for a moment.
        drop(file);
        let file = open_file(path, true).map_err(|error| match error {
            DiskError::Open { .. } => told(ImageError::Unsupported(
                "it was not closed properly and has to be repaired by somebody who may write it (qemu-img check -r \
                 all IMAGE)",
            )),
            other => other,
        })?;
        qcow2::repair(&file, &Header::read(&file).map_err(told)?).map_err(told)?;
        drop(file);
        open_file(path, false)?
    };
    let header = Header::read(&file).map_err(told)?;
    Ok((file, header))
}

/// Where a backing file is: relative names are relative to the folder of the image that names them.
fn resolve(image: &Path, name: &str) -> PathBuf {
    image.parent().unwrap_or(Path::new("")).join(name)
}
