//! A sparse extent: grains of a fixed size, found through a directory of tables, perhaps compressed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use flate2::read::ZlibDecoder;

use super::descriptor::check_parent;
use super::{DESCRIPTOR_MAX, SPARSE_MAGIC};
use crate::disk::{ImageError, SECTOR, check_range, file_length, read_up_to};

const HEADER: usize = 79;
/// Of `flags`: a table's entry of 1 means zeroes.
const ZERO_GRAINS: u32 = 1 << 2;
/// Of `flags`: grains are compressed.
const COMPRESSED: u32 = 1 << 16;
/// Of `compressAlgorithm`.
const DEFLATE: u16 = 1;
/// Of `gdOffset`: the directory was written last; a second header at the end of the file knows where.
const AT_END: u64 = u64::MAX;
/// Limits that real images stay far below: 64 KiB grains, 512 entries.
const GRAIN_MAX: u64 = 2 << 20;
const TABLE_ENTRIES_MAX: u32 = 512;
const DIRECTORY_MAX: u64 = 8 << 20;

/// A sparse extent, open.
#[derive(Debug)]
pub(super) struct Sparse {
    file: File,
    size: u64,
    /// In bytes.
    grain: u64,
    table_entries: u64,
    /// Where the tables are, in sectors.
    directory: Vec<u32>,
    zero_grains: bool,
    compressed: bool,
}

impl Sparse {
    /// Reads the header and the directory.
    pub(super) fn open(file: File) -> Result<Self, ImageError> {
        let length = file_length(&file)?;
        let mut head = [0; HEADER];
        let mut read = read_up_to(&file, &mut head)?;
        if read == HEADER && le64(&head, 56) == AT_END {
            // Before it there is a marker, behind it the end-of-stream marker; each takes a sector.
            file.read_exact_at(&mut head, length.saturating_sub(2 * SECTOR))?;
            read = HEADER;
        }
        if read < HEADER || head[..4] != SPARSE_MAGIC {
            return Err(ImageError::Magic);
        }
        if !(1..=3).contains(&le32(&head, 4)) {
            return Err(ImageError::Unsupported("it has a version of the format that popf does not know"));
        }
        let flags = le32(&head, 8);
        let compressed = flags & COMPRESSED != 0;
        if compressed && le16(&head, 77) != DEFLATE {
            return Err(ImageError::Unsupported("it is compressed in a way that popf does not know"));
        }
        check_embedded(&file, le64(&head, 28), le64(&head, 36))?;

        let bytes = |sectors: u64| sectors.checked_mul(SECTOR);
        let damaged = ImageError::Damaged("the sizes in its header are impossible");
        let (size, grain) = (bytes(le64(&head, 12)), bytes(le64(&head, 20)));
        let table_entries = le32(&head, 44);
        let (Some(size), Some(grain @ SECTOR..=GRAIN_MAX), 1..=TABLE_ENTRIES_MAX) =
            (size, grain, table_entries)
        else {
            return Err(damaged);
        };
        let table_entries = u64::from(table_entries);
        let tables = size.div_ceil(grain * table_entries);
        let directory = bytes(le64(&head, 56)).filter(|start| {
            tables <= DIRECTORY_MAX / 4 && start.checked_add(tables * 4).is_some_and(|end| end <= length)
        });
        let Some(directory) = directory else {
            return Err(ImageError::Damaged(
                "its directory lies outside the file, which may have been cut short",
            ));
        };
        let mut entries = vec![0; tables as usize * 4];
        file.read_exact_at(&mut entries, directory)?;
        let directory = entries.chunks_exact(4).map(|entry| le32(entry, 0)).collect();
        let zero_grains = flags & ZERO_GRAINS != 0;
        Ok(Self { file, size, grain, table_entries, directory, zero_grains, compressed })
    }

    /// In bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset` on.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buffer.len() as u64)?;
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let within = at % self.grain;
            let (now, later) = rest.split_at_mut((self.grain - within).min(rest.len() as u64) as usize);
            match self.place(at / self.grain)? {
                None => now.fill(0),
                Some(place) if self.compressed => self.read_compressed(place, within, now)?,
                Some(place) => self.file.read_exact_at(now, place + within)?,
            }
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Where in the file a grain is, if anywhere.
    fn place(&self, grain: u64) -> io::Result<Option<u64>> {
        let table = match self.directory[(grain / self.table_entries) as usize] {
            0 => return Ok(None),
            sector => u64::from(sector) * SECTOR,
        };
        let mut entry = [0; 4];
        self.file.read_exact_at(&mut entry, table + grain % self.table_entries * 4)?;
        Ok(match le32(&entry, 0) {
            0 => None,
            1 if self.zero_grains => None,
            sector => Some(u64::from(sector) * SECTOR),
        })
    }

    /// A compressed grain is preceded by its first sector's number and its length.
    fn read_compressed(&self, place: u64, within: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut marker = [0; 12];
        self.file.read_exact_at(&mut marker, place)?;
        let length = u64::from(le32(&marker, 8));
        // Deflate makes nothing longer than by a few bytes in a thousand.
        if length > self.grain * 2 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a compressed grain has an impossible length",
            ));
        }
        let mut packed = vec![0; length as usize];
        self.file.read_exact_at(&mut packed, place + marker.len() as u64)?;
        let mut grain = vec![0; within as usize + buffer.len()];
        // The disk's last grain may be shorter than the others.
        ZlibDecoder::new(packed.as_slice()).read_exact(&mut grain)?;
        buffer.copy_from_slice(&grain[within as usize..]);
        Ok(())
    }
}

/// A descriptor within the extent has to say that it stands for itself.
fn check_embedded(file: &File, offset: u64, sectors: u64) -> Result<(), ImageError> {
    if offset == 0 {
        return Ok(());
    }
    let (Some(start), Some(length)) = (offset.checked_mul(SECTOR), sectors.checked_mul(SECTOR)) else {
        return Err(ImageError::Damaged("its descriptor lies outside the file"));
    };
    let mut text = vec![0; length.min(DESCRIPTOR_MAX) as usize];
    file.read_exact_at(&mut text, start)?;
    check_parent(&text)
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
