//! Making qcow2 images.

use std::fs::{self, File};
use std::io;
use std::path::{self, Path};

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2 as Driver;
use imago::{FormatCreateBuilder, StorageOpenOptions};

use crate::disk::{Access, DiskError, Format, OpenOptions, open};

/// Makes an empty qcow2 image of `size` bytes. The file must not exist.
pub fn create(path: &Path, size: u64) -> Result<(), DiskError> {
    make(path, size, None)
}

/// Makes a qcow2 image that begins with the contents of `backing` and keeps what changes. The file must not exist.
///
/// The backing file's absolute path is what the image will remember; while the image is in use nobody may write it.
pub fn create_overlay(path: &Path, backing: &Path, format: Format) -> Result<(), DiskError> {
    let refuse = |source| DiskError::Backing { path: path.to_owned(), source: Box::new(source) };
    let options = OpenOptions { format: Some(format), access: Access::ReadOnly };
    let size = open(backing, &options).map_err(refuse)?.size();
    if format == Format::Vmdk {
        let problem =
            "a VMDK image cannot be a backing file; convert it (qemu-img convert -O qcow2 OLD NEW.qcow2)";
        return Err(DiskError::Create { path: path.to_owned(), source: io::Error::other(problem) });
    }
    // Links stay: whoever made one may mean it to lead elsewhere one day.
    let absolute = path::absolute(backing).and_then(|path| {
        path.into_os_string().into_string().map_err(|_| io::Error::other("its path is not UTF-8"))
    });
    let absolute =
        absolute.map_err(|source| refuse(DiskError::Open { path: backing.to_owned(), hint: "", source }))?;
    make(path, size, Some((absolute, format.to_string())))
}

fn make(path: &Path, size: u64, backing: Option<(String, String)>) -> Result<(), DiskError> {
    let told = |source| DiskError::Create { path: path.to_owned(), source };
    let file = File::create_new(path).map_err(told)?;
    write(file, size, backing).map_err(|error| {
        // Half an image is of no use to anybody.
        let _ = fs::remove_file(path);
        told(error)
    })
}

fn write(file: File, size: u64, backing: Option<(String, String)>) -> io::Result<()> {
    let copy = file.try_clone()?;
    let storage = ImagoFile::from_open_file(file, StorageOpenOptions::new().write(true))?;
    let mut image = Driver::<ImagoFile>::create_builder(storage).size(size);
    if let Some((name, format)) = backing {
        image = image.backing(name, format);
    }
    image.create()?;
    copy.sync_all()
}
