//! QEMU's copy-on-write format, version 3.
//!
//! The `imago` crate reads and writes the tables. It is built without `async` (its feature `sync`): every call is a
//! plain one that may come from any thread, so there is no runtime to keep and the queue's threads are all it takes.
//! We hand it open files and never a path, so that it opens nothing by itself: locks, formats and chains of backing
//! files are [`super::open()`]'s.
//!
//! What we add is that an image outlives its writer ([`repair()`]): it bears the dirty bit while it is open for
//! writing, and a cluster that a discard has freed is not given away before the table that lost it is in the file.
//!
//! Not modelled: writing version 2 or images with internal snapshots, other compressions than zlib, subclusters,
//! encryption, external data files; a freed cluster's room in the host's file system is kept for the next write.

pub(crate) mod create;
pub(crate) mod header;
mod refcounts;
mod repair;

use std::fs::File;
use std::io;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2 as Driver;
use imago::raw::Raw as RawDriver;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, StorageOpenOptions};

use self::header::{Header, set_dirty};
use super::{Disk, ImageError, SECTOR, check_range, refuse_change};

/// One image of a chain, as the driver has it.
pub(crate) type Layer = FormatAccess<ImagoFile>;

/// Opens a plain file as the end of a chain.
pub(crate) fn raw_layer(file: File) -> Result<Layer, ImageError> {
    let file = ImagoFile::from_open_file(file, StorageOpenOptions::new())?;
    Ok(FormatAccess::new(RawDriver::builder(file).open(DenyImplicitOpenGate::default())?))
}

/// Opens an image whose header has been read, on what it stands on.
pub(crate) fn layer(file: File, backing: Option<Layer>, write: bool) -> Result<Layer, ImageError> {
    let file = ImagoFile::from_open_file(file, StorageOpenOptions::new().write(write))?;
    let image = Driver::<ImagoFile>::builder(file).backing(backing).data_file(None).write(write);
    Ok(FormatAccess::new(image.open(DenyImplicitOpenGate::default())?))
}

/// Makes an image fit for opening after its writer was killed; its lock must be held.
pub(crate) fn repair(file: &File, header: &Header) -> Result<(), ImageError> {
    check_writable(header)?;
    repair::rebuild_refcounts(file, header)
}

/// Refuses an image that would give its own tables away. Its writer has not been killed, or it has been repaired.
pub(crate) fn check_refcounts(file: &File, header: &Header) -> Result<(), ImageError> {
    refcounts::check(file, header)
}

/// Refuses what we could damage.
pub(crate) fn check_writable(header: &Header) -> Result<(), ImageError> {
    if header.version < 3 {
        return Err(ImageError::Unsupported(
            "it has version 2 of the format, which is only read; bring it up to date (qemu-img amend -o compat=1.1 \
             IMAGE), or add readonly or snapshot",
        ));
    }
    if header.snapshots > 0 {
        return Err(ImageError::Unsupported(
            "it has internal snapshots, so it is only read; add readonly or snapshot, or delete them (qemu-img \
             snapshot -l and -d)",
        ));
    }
    Ok(())
}

/// A qcow2 image with all it stands on.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    /// Exclusive for what changes where data is: the driver must see no other request then.
    image: RwLock<Layer>,
    /// The same file, for what the driver does not do; none if the image is only read.
    written: Option<File>,
    size: u64,
}

impl Qcow2 {
    /// Takes an opened chain, and the top's file if that is to be written. From now on it is dirty.
    pub(crate) fn new(image: Layer, written: Option<File>) -> Result<Self, ImageError> {
        if let Some(file) = &written {
            set_dirty(file, true)?;
        }
        let size = image.size();
        Ok(Self { image: RwLock::new(image), written, size: size - size % SECTOR })
    }

    /// The driver keeps its own tables sound when a request fails; a panic is a bug wherever it happens.
    fn shared(&self) -> RwLockReadGuard<'_, Layer> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Layer> {
        self.image.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_change(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.read_only() {
            return Err(refuse_change());
        }
        check_range(self.size, offset, len)
    }

    /// Changes where data is, and has the file say so before a freed cluster can be given away.
    fn remap(&self, change: impl FnOnce(&mut Layer) -> io::Result<()>) -> io::Result<()> {
        let mut image = self.exclusive();
        change(&mut image).and(image.flush())
    }
}

impl Disk for Qcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.written.is_none()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buffer.len() as u64)?;
        self.shared().read(buffer, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_change(offset, data.len() as u64)?;
        self.shared().write(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        let Some(file) = &self.written else {
            return Ok(());
        };
        // The driver's caches to the file, then the file to the disk; not by the driver, which would hold up all
        // other requests meanwhile.
        self.shared().flush()?;
        file.sync_data()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_change(offset, len)?;
        self.remap(|image| image.discard_to_any(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.check_change(offset, len)?;
        self.remap(|image| match unmap {
            true => image.discard_to_zero(offset, len),
            false => image.write_zeroes(offset, len),
        })
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        let Some(file) = &self.written else {
            return;
        };
        // With the bit still set the next to open the image repairs it, the same as if we had been killed.
        if let Err(error) = self.flush().and_then(|()| set_dirty(file, false)) {
            tracing::error!(
                "a qcow2 image was not closed properly; it is repaired when it is used next ({error})"
            );
        }
    }
}
