//! The header of a qcow2 image (docs/interop/qcow2.rst of QEMU), read and checked by ourselves.
//!
//! The driver's own reading is lenient: it believes sizes of tables, probes a backing file whose format is not given,
//! and does not know the dirty bit. Here is what we insist on before it sees the image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::disk::{Format, ImageError, file_length, read_up_to};

/// "QFI\xfb".
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Of `incompatible_features`: refcounts may be wrong and have to be computed anew.
const DIRTY: u64 = 1 << 0;
/// Of `incompatible_features`: somebody found the image to be damaged.
const CORRUPT: u64 = 1 << 1;
/// Of `incompatible_features`: the data is in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
/// Of the file, the first field of version 3.
const INCOMPATIBLE_FEATURES: u64 = 72;
/// The whole header of version 3.
pub(super) const LENGTH: usize = 104;
/// Header extension: the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Header extension: names for feature bits, each of so many bytes.
const FEATURE_NAMES: u32 = 0x6803_f857;
const FEATURE_NAME: usize = 48;
/// QEMU's limits, which are far above what any image needs.
const L1_MAX: u64 = 32 << 20;
const REFCOUNT_TABLE_MAX: u64 = 8 << 20;
const BACKING_NAME_MAX: usize = 1023;

/// What we need to know of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(super) cluster_bits: u32,
    pub(super) l1_entries: u64,
    pub(super) l1_table_offset: u64,
    pub(super) refcount_table_offset: u64,
    pub(super) refcount_table_clusters: u64,
    /// log2 of a count's bits.
    pub(super) refcount_order: u32,
    pub(super) version: u32,
    pub(super) snapshots: u32,
    pub(crate) dirty: bool,
    pub(crate) size: u64,
    pub(crate) backing: Option<Backing>,
}

/// The image that this one stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backing {
    /// As it is written, mostly relative to the image's folder.
    pub(crate) name: String,
    pub(crate) format: Format,
}

impl Header {
    /// Reads and checks the header of the image in `file`.
    pub(crate) fn read(file: &File) -> Result<Self, ImageError> {
        let length = file_length(file)?;
        let mut head = [0; LENGTH];
        let read = read_up_to(file, &mut head)?;
        if read < 72 || head[..4] != MAGIC {
            return Err(ImageError::Magic);
        }
        let version = be32(&head, 4);
        if !(2..=3).contains(&version) {
            return Err(ImageError::Unsupported("it is neither version 2 nor 3 of the format"));
        }
        let cluster_bits = be32(&head, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(ImageError::Damaged("its clusters have an impossible size"));
        }
        if be32(&head, 32) != 0 {
            return Err(ImageError::Unsupported("it is encrypted, which popf does not support"));
        }
        let (features, header_length, refcount_order) = match version {
            2 => (0, 72, 4),
            _ if read < LENGTH => return Err(ImageError::Damaged("it ends within its header")),
            _ => (be64(&head, 72), u64::from(be32(&head, 100)), be32(&head, 96)),
        };
        if refcount_order > 6 {
            return Err(ImageError::Damaged("its reference counts have an impossible size"));
        }
        check_features(features)?;
        let header = Self {
            cluster_bits,
            l1_entries: u64::from(be32(&head, 36)),
            l1_table_offset: be64(&head, 40),
            refcount_table_offset: be64(&head, 48),
            refcount_table_clusters: u64::from(be32(&head, 56)),
            refcount_order,
            version,
            snapshots: be32(&head, 60),
            dirty: features & DIRTY != 0,
            size: be64(&head, 24),
            backing: None,
        };
        header.check_tables(length)?;
        let mut cluster = vec![0; header.cluster_size() as usize];
        read_up_to(file, &mut cluster)?;
        let extensions = extensions(&cluster, header_length)?;
        let backing = match be64(&head, 8) {
            0 => None,
            offset => Some(Self::read_backing(&cluster, &extensions, offset, be32(&head, 16))?),
        };
        Ok(Self { backing, ..header })
    }

    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of an L2 table.
    pub(super) fn l2_entries(&self) -> u64 {
        self.cluster_size() / 8
    }

    fn check_tables(&self, file: u64) -> Result<(), ImageError> {
        let table = |offset: u64, bytes: u64| {
            offset.is_multiple_of(self.cluster_size())
                && offset.checked_add(bytes).is_some_and(|end| end <= file)
        };
        let l1 = self.l1_entries * 8;
        let per_table = self.cluster_size() * self.l2_entries();
        if self.l1_entries < self.size.div_ceil(per_table) {
            return Err(ImageError::Damaged("its first table does not cover the disk"));
        }
        let refcount_bytes = self.refcount_table_clusters << self.cluster_bits;
        if l1 > L1_MAX || refcount_bytes > REFCOUNT_TABLE_MAX {
            return Err(ImageError::Damaged("its tables are larger than any image's"));
        }
        if !table(self.l1_table_offset, l1)
            || refcount_bytes == 0
            || !table(self.refcount_table_offset, refcount_bytes)
        {
            return Err(ImageError::Damaged("a table lies outside the file, which may have been cut short"));
        }
        Ok(())
    }

    fn read_backing(
        cluster: &[u8],
        extensions: &[(u32, &[u8])],
        name: u64,
        length: u32,
    ) -> Result<Backing, ImageError> {
        let damaged = ImageError::Damaged("the name of its backing file is not where it should be");
        let length = length as usize;
        let range = usize::try_from(name).ok().and_then(|start| Some(start..start.checked_add(length)?));
        let name = range
            .and_then(|range| cluster.get(range))
            .filter(|name| (1..=BACKING_NAME_MAX).contains(&name.len()));
        let name = name.and_then(|name| std::str::from_utf8(name).ok()).ok_or(damaged)?.to_owned();
        if name.contains('\0') {
            return Err(ImageError::Damaged("the name of its backing file has a NUL in it"));
        }
        let format = extensions.iter().find(|(kind, _)| *kind == BACKING_FORMAT).map(|(_, data)| *data);
        let format = match format {
            Some(b"raw" | b"file" | b"host_device") => Format::Raw,
            Some(b"qcow2") => Format::Qcow2,
            Some(_) => {
                return Err(ImageError::Unsupported(
                    "its backing file has a format that popf does not read there; convert that one \
                     (qemu-img convert -O qcow2 OLD NEW.qcow2)",
                ));
            }
            // From its first bytes it could be whatever a guest wrote there.
            None => {
                return Err(ImageError::Unsupported(
                    "the format of its backing file is not written in it; write it there \
                     (qemu-img rebase -u -b BACKING -F raw|qcow2 IMAGE)",
                ));
            }
        };
        Ok(Backing { name, format })
    }
}

fn check_features(features: u64) -> Result<(), ImageError> {
    if features & CORRUPT != 0 {
        return Err(ImageError::Damaged("it is marked as corrupt; try qemu-img check -r all IMAGE"));
    }
    if features & EXTERNAL_DATA != 0 {
        return Err(ImageError::Unsupported("its data is in a second file, which popf does not support"));
    }
    if features & !DIRTY != 0 {
        return Err(ImageError::Unsupported(
            "it uses features that popf does not support (another compression, subclusters); convert it \
             (qemu-img convert -O qcow2 OLD NEW.qcow2)",
        ));
    }
    Ok(())
}

/// The header extensions, with their types.
fn extensions(cluster: &[u8], mut at: u64) -> Result<Vec<(u32, &[u8])>, ImageError> {
    let damaged = || ImageError::Damaged("its header extensions do not end");
    let mut list = Vec::new();
    loop {
        let start = usize::try_from(at).map_err(|_| damaged())?;
        let head = start.checked_add(8).and_then(|end| cluster.get(start..end)).ok_or_else(damaged)?;
        let (kind, length) = (be32(head, 0), be32(head, 4) as usize);
        if kind == 0 {
            return Ok(list);
        }
        let data = (start + 8)
            .checked_add(length)
            .and_then(|end| cluster.get(start + 8..end))
            .ok_or_else(damaged)?;
        if kind == FEATURE_NAMES && !length.is_multiple_of(FEATURE_NAME) {
            // The driver would read past the end of the last name.
            return Err(ImageError::Damaged("its list of features ends within a name"));
        }
        list.push((kind, data));
        at = (start + 8 + length.next_multiple_of(8)) as u64;
    }
}

/// Sets or clears the dirty bit, and waits until that is on stable storage.
///
/// The driver writes the part of the header before this field only, so the two do not meet.
pub(super) fn set_dirty(file: &File, dirty: bool) -> io::Result<()> {
    let mut field = [0; 8];
    file.read_exact_at(&mut field, INCOMPATIBLE_FEATURES)?;
    let features = u64::from_be_bytes(field) & !DIRTY | if dirty { DIRTY } else { 0 };
    file.write_all_at(&features.to_be_bytes(), INCOMPATIBLE_FEATURES)?;
    file.sync_data()
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_whole_and_end() {
        let extension = |kind: u32, length: u32, room: usize| {
            let mut bytes = [kind.to_be_bytes(), length.to_be_bytes()].concat();
            bytes.resize(8 + room, 1);
            bytes
        };
        let list = |parts: &[Vec<u8>]| extensions(&parts.concat(), 0).map(|list| list.len());
        let end = vec![0; 8];
        let (names, other) = (extension(FEATURE_NAMES, 96, 96), extension(7, 5, 8));
        assert_eq!(list(&[other.clone(), names, end.clone()]).ok(), Some(2));
        for (parts, why) in [
            (&[other.clone()][..], "do not end"),
            (&[extension(7, u32::MAX, 0), end.clone()], "do not end"),
            (&[other, extension(FEATURE_NAMES, 49, 56), end], "within a name"),
        ] {
            assert!(list(parts).unwrap_err().to_string().contains(why), "{parts:?}");
        }
    }
}
