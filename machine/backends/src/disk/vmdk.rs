//! VMware's format, after "Virtual Disk Format 5.0": a disk made of extents, each a file of its own or, with one
//! extent, the same file that describes it.
//!
//! The driver for qcow2 reads flat extents only; those that users have are sparse (`monolithicSparse`) or compressed
//! (`streamOptimized`, what OVA files hold), so this is a reader of our own.
//!
//! Not modelled: writing; images that stand on a parent; ESX's own sparse extents; reading a stream without its index.

mod descriptor;
mod sparse;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use self::descriptor::{Extent, Kind};
use self::sparse::Sparse;
use super::file::open_file;
use super::{Disk, DiskError, Format, ImageError, SECTOR, check_range, read_up_to, refuse_change};

/// A sparse extent begins with this.
pub(super) const SPARSE_MAGIC: [u8; 4] = *b"KDMV";
/// A descriptor in a file of its own does with this.
pub(super) const DESCRIPTOR_MAGIC: &[u8; 21] = b"# Disk DescriptorFile";
/// Descriptors are short text.
const DESCRIPTOR_MAX: u64 = 64 << 10;

/// What to tell who wants to write.
pub(super) const READ_ONLY: &str = "VMDK images are only read: add readonly or snapshot, or convert it (qemu-img \
                                    convert -O qcow2 OLD NEW.qcow2)";

/// A VMDK image.
#[derive(Debug)]
pub(crate) struct Vmdk {
    /// In the order of the disk, with where each ends.
    extents: Vec<(u64, Part)>,
    size: u64,
}

#[derive(Debug)]
enum Part {
    Zero,
    Flat { file: File, offset: u64 },
    Sparse(Sparse),
}

impl Vmdk {
    /// Opens the image whose first file is open already, and locked.
    pub(crate) fn open(file: File, path: &Path) -> Result<Self, DiskError> {
        let told = |source| DiskError::Image { path: path.to_owned(), format: Format::Vmdk, source };
        let mut magic = [0; 4];
        read_up_to(&file, &mut magic).map_err(|error| told(error.into()))?;
        if magic == SPARSE_MAGIC {
            let sparse = Sparse::open(file).map_err(told)?;
            let size = sparse.size();
            return Ok(Self { extents: vec![(size, Part::Sparse(sparse))], size });
        }
        let listed = read_descriptor(&file).map_err(told)?;
        let mut extents = Vec::new();
        let mut size = 0u64;
        for Extent { sectors, kind } in listed {
            let end = sectors.checked_mul(SECTOR).and_then(|bytes| size.checked_add(bytes));
            size = end.ok_or(ImageError::Damaged("its extents are larger than any disk")).map_err(told)?;
            let part = open_part(kind, sectors, path).map_err(|source| match source {
                DiskError::Image { .. } => source,
                other => DiskError::Backing { path: path.to_owned(), source: Box::new(other) },
            })?;
            extents.push((size, part));
        }
        Ok(Self { extents, size })
    }
}

fn read_descriptor(file: &File) -> Result<Vec<Extent>, ImageError> {
    if file.metadata()?.len() > DESCRIPTOR_MAX {
        return Err(ImageError::Magic);
    }
    let mut text = vec![0; DESCRIPTOR_MAX as usize];
    let length = read_up_to(file, &mut text)?;
    descriptor::parse(&text[..length])
}

fn open_part(kind: Kind, sectors: u64, path: &Path) -> Result<Part, DiskError> {
    let beside = |name: &str| path.parent().unwrap_or(Path::new("")).join(name);
    match kind {
        Kind::Zero => Ok(Part::Zero),
        Kind::Flat { name, offset } => Ok(Part::Flat { file: open_file(&beside(&name), false)?, offset }),
        Kind::Sparse { name } => {
            let path = beside(&name);
            let told = |source| DiskError::Image { path: path.clone(), format: Format::Vmdk, source };
            let sparse = Sparse::open(open_file(&path, false)?).map_err(told)?;
            if sparse.size() < sectors * SECTOR {
                return Err(told(ImageError::Damaged("it is smaller than its descriptor says")));
            }
            Ok(Part::Sparse(sparse))
        }
    }
}

impl Disk for Vmdk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buffer.len() as u64)?;
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let index = self.extents.partition_point(|(end, _)| *end <= at);
            let start = if index == 0 { 0 } else { self.extents[index - 1].0 };
            let (end, part) = &self.extents[index];
            let (now, later) = rest.split_at_mut((end - at).min(rest.len() as u64) as usize);
            match part {
                Part::Zero => now.fill(0),
                Part::Flat { file, offset } => file.read_exact_at(now, offset + (at - start))?,
                Part::Sparse(sparse) => sparse.read(at - start, now)?,
            }
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(refuse_change())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(refuse_change())
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> io::Result<()> {
        Err(refuse_change())
    }
}
