//! Computing an image's reference counts anew, after whoever wrote it was killed.
//!
//! The driver keeps counts in memory and enters some pointers into the image before it writes the counts. Killed in
//! between, it leaves clusters that are in use and count as free; the next to write would give them away. The format
//! has an answer: while an image is open for writing it bears the dirty bit, and who finds that bit computes the
//! counts from the tables, which are always right. (QEMU does so on its own when it opens such an image.)
//!
//! The new counts go behind everything else in the file, and one write of the header puts them into force. Killed
//! before that, the image is as it was; the old counts' clusters, being counted by nothing, are free afterwards.
//!
//! Not modelled: internal snapshots, whose images are not opened for writing at all.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::header::{Header, LENGTH, be64};
use crate::disk::{ImageError, file_length};

/// Of an L1 or L2 entry: where.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Of an L2 entry: the cluster is compressed, and the rest of the entry means something else.
const COMPRESSED: u64 = 1 << 62;
/// More clusters than this are left to qemu-img: the counts of 16 TiB in clusters of 64 KiB take 512 MiB.
const CLUSTERS_MAX: u64 = 1 << 28;
/// 16 bits per count, which `refcount_order` 4 says.
const REFCOUNT_ORDER: u32 = 4;

const SHARED: ImageError =
    ImageError::Damaged("two of its tables use the same cluster; try qemu-img check -r all IMAGE");
const OUTSIDE: ImageError = ImageError::Damaged(
    "a table points out of the file, which may have been cut short; try qemu-img check -r all IMAGE",
);

/// Computes and writes the counts, and clears the dirty bit.
pub(super) fn rebuild_refcounts(file: &File, header: &Header) -> Result<(), ImageError> {
    let mut counts = Counts::new(file, header)?;
    counts.take(0, 1)?;
    counts.take(header.l1_table_offset, (header.l1_entries * 8).div_ceil(header.cluster_size()))?;
    let mut l1 = vec![0; (header.l1_entries * 8) as usize];
    file.read_exact_at(&mut l1, header.l1_table_offset)?;
    let mut l2 = vec![0; header.cluster_size() as usize];
    for entry in entries(&l1).map(|entry| entry & OFFSET).filter(|entry| *entry != 0) {
        // Each table is read once at most, because no cluster can be taken twice: a hostile image costs no more
        // than its length.
        counts.take(entry, 1)?;
        file.read_exact_at(&mut l2, entry)?;
        for entry in entries(&l2) {
            counts.take_entry(entry)?;
        }
    }
    Ok(counts.write(file)?)
}

fn entries(table: &[u8]) -> impl Iterator<Item = u64> {
    table.chunks_exact(8).map(|entry| be64(entry, 0))
}

struct Counts {
    cluster_bits: u32,
    /// One for each cluster of the file.
    of: Vec<u16>,
}

impl Counts {
    fn new(file: &File, header: &Header) -> Result<Self, ImageError> {
        let clusters = file_length(file)?.div_ceil(header.cluster_size());
        if clusters > CLUSTERS_MAX {
            return Err(ImageError::Unsupported(
                "its writer was killed, and it is too large to be repaired here; run qemu-img check -r all IMAGE",
            ));
        }
        Ok(Self { cluster_bits: header.cluster_bits, of: vec![0; clusters as usize] })
    }

    /// Counts clusters that nothing else may use.
    fn take(&mut self, offset: u64, clusters: u64) -> Result<(), ImageError> {
        if !offset.is_multiple_of(1 << self.cluster_bits) {
            return Err(ImageError::Damaged("a table points into the middle of a cluster"));
        }
        let first = offset >> self.cluster_bits;
        for cluster in first..first + clusters {
            match self.of.get_mut(cluster as usize) {
                Some(count @ 0) => *count = 1,
                Some(_) => return Err(SHARED),
                None => return Err(OUTSIDE),
            }
        }
        Ok(())
    }

    fn take_entry(&mut self, entry: u64) -> Result<(), ImageError> {
        if entry & COMPRESSED != 0 {
            return self.take_compressed(entry);
        }
        match entry & OFFSET {
            0 => Ok(()),
            offset => self.take(offset, 1),
        }
    }

    /// Compressed clusters are packed, so several of them touch the same cluster of the file.
    fn take_compressed(&mut self, entry: u64) -> Result<(), ImageError> {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let sectors = ((entry & (COMPRESSED - 1)) >> offset_bits) + 1;
        let end = (offset & !511) + sectors * 512;
        for cluster in offset >> self.cluster_bits..end.div_ceil(1 << self.cluster_bits) {
            let count = self.of.get_mut(cluster as usize).ok_or(OUTSIDE)?;
            *count = count.checked_add(1).ok_or(SHARED)?;
        }
        Ok(())
    }

    /// Puts table and blocks of counts behind the last cluster, and has the header name them.
    fn write(mut self, file: &File) -> io::Result<()> {
        let cluster = 1u64 << self.cluster_bits;
        let per_block = cluster / 2;
        let used = self.of.len() as u64;
        // The counts count themselves, so their number is found by trying.
        let (mut blocks, mut table) = (1, 1);
        loop {
            let needed = (used + table + blocks).div_ceil(per_block);
            if needed <= blocks && (blocks * 8).div_ceil(cluster) <= table {
                break;
            }
            blocks = needed.max(blocks);
            table = (blocks * 8).div_ceil(cluster);
        }
        self.of.resize((used + table + blocks) as usize, 1);

        let first_block = used + table;
        let mut pointers = vec![0; (table * cluster) as usize];
        for (block, pointer) in (first_block..first_block + blocks).zip(pointers.chunks_exact_mut(8)) {
            pointer.copy_from_slice(&(block * cluster).to_be_bytes());
        }
        file.write_all_at(&pointers, used * cluster)?;
        let mut bytes = vec![0; cluster as usize];
        for (block, counts) in (first_block..).zip(self.of.chunks(per_block as usize)) {
            bytes.fill(0);
            for (place, count) in bytes.chunks_exact_mut(2).zip(counts) {
                place.copy_from_slice(&count.to_be_bytes());
            }
            file.write_all_at(&bytes, block * cluster)?;
        }
        file.sync_all()?;

        let mut head = [0; LENGTH];
        file.read_exact_at(&mut head, 0)?;
        let features = be64(&head, 72) & !1;
        head[48..56].copy_from_slice(&(used * cluster).to_be_bytes());
        head[56..60].copy_from_slice(&(table as u32).to_be_bytes());
        head[72..80].copy_from_slice(&features.to_be_bytes());
        head[96..100].copy_from_slice(&REFCOUNT_ORDER.to_be_bytes());
        file.write_all_at(&head, 0)?;
        file.sync_all()
    }
}
