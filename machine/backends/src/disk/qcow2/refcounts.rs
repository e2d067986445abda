//! Whether an image's reference counts keep its own tables from being given away as free clusters.
//!
//! The driver believes them. Where they leave out the header it would write over it, and where they say nothing of
//! the first clusters at all it would look for a place for that without end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::header::{Header, be64};
use crate::disk::{ImageError, file_length};

/// Of an entry of the refcount table: where.
const OFFSET: u64 = !0x1ff;

const MISSING: ImageError = ImageError::Damaged(
    "its reference counts leave out its own tables, which writing would destroy; try qemu-img check -r all IMAGE",
);

/// Looks the tables' clusters up; to be called for an image that is to be written and is not dirty.
pub(super) fn check(file: &File, header: &Header) -> Result<(), ImageError> {
    let table = Table { file, header, length: file_length(file)? };
    let clusters = |bytes: u64| bytes.div_ceil(header.cluster_size());
    let (l1, counts) = (header.l1_table_offset, header.refcount_table_offset);
    let own = [
        (0, 1),
        (l1 >> header.cluster_bits, clusters(header.l1_entries * 8)),
        (counts >> header.cluster_bits, header.refcount_table_clusters),
    ];
    for (first, count) in own {
        for cluster in first..first + count {
            if !table.is_taken(cluster)? {
                return Err(MISSING);
            }
        }
    }
    Ok(())
}

struct Table<'a> {
    file: &'a File,
    header: &'a Header,
    length: u64,
}

impl Table<'_> {
    /// Whether a cluster has a count other than 0.
    fn is_taken(&self, cluster: u64) -> io::Result<bool> {
        let Header { cluster_bits, refcount_order, .. } = *self.header;
        // A block is a cluster of counts of 2^order bits.
        let per_block = cluster_bits + 3 - refcount_order;
        let (index, place) = (cluster >> per_block, cluster & ((1 << per_block) - 1));
        let entries = (self.header.refcount_table_clusters << cluster_bits) / 8;
        if index >= entries {
            return Ok(false);
        }
        let mut entry = [0; 8];
        self.file.read_exact_at(&mut entry, self.header.refcount_table_offset + index * 8)?;
        let block = be64(&entry, 0) & OFFSET;
        let within = block.checked_add(1 << cluster_bits).is_some_and(|end| end <= self.length);
        if block == 0 || !block.is_multiple_of(1 << cluster_bits) || !within {
            return Ok(false);
        }
        let (bits, bit) = (1_u64 << refcount_order, place << refcount_order);
        if bits < 8 {
            let mut byte = [0];
            self.file.read_exact_at(&mut byte, block + bit / 8)?;
            // The first count is in the lowest bits.
            return Ok(byte[0] >> (bit % 8) & ((1 << bits) - 1) != 0);
        }
        let mut count = vec![0; (bits / 8) as usize];
        self.file.read_exact_at(&mut count, block + bit / 8)?;
        Ok(count.iter().any(|byte| *byte != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Access, OpenOptions, create, open};

    fn opens(path: &std::path::Path, access: Access) -> Result<(), String> {
        open(path, &OpenOptions { format: None, access }).map(drop).map_err(|error| {
            use std::error::Error;
            error.source().map_or_else(String::new, ToString::to_string)
        })
    }

    #[test]
    fn an_image_that_would_write_over_itself_is_only_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        create(&path, 4 << 20).unwrap();
        let sound = std::fs::read(&path).unwrap();
        let table = be64(&sound, 48) as usize;
        let block = be64(&sound, table) as usize;
        assert_eq!(opens(&path, Access::ReadWrite), Ok(()));
        // No block of counts, one that lies nowhere, and one that has the header's, or a table's cluster free.
        let l1 = be64(&sound, 40) as usize >> 16;
        let damages: [(usize, &[u8]); 4] =
            [(table, &[0; 8]), (table, &[0x10; 8]), (block, &[0; 2]), (block + 2 * l1, &[0; 2])];
        for (at, bytes) in damages {
            let mut image = sound.clone();
            image[at..at + bytes.len()].copy_from_slice(bytes);
            std::fs::write(&path, &image).unwrap();
            let error = opens(&path, Access::ReadWrite).unwrap_err();
            assert!(error.contains("leave out its own tables"), "{at:#x}: {error}");
            assert!(std::fs::read(&path).unwrap() == image, "nothing is changed");
            assert_eq!(opens(&path, Access::ReadOnly), Ok(()));
        }
    }
}
