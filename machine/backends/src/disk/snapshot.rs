//! A disk whose writes are forgotten at the end.
//!
//! They go to a temporary file without a name, at the offsets they have on the disk; the file is sparse, and a bit per
//! block says which blocks it holds. It needs no format, because nobody opens it again: so a snapshot stands on any
//! disk, of whatever format, and costs a write no more than a raw image does.

use std::env;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use super::{Disk, DiskError, check_range};

/// The least that is copied from the disk below when a part of it is written.
const BLOCK_MIN: u64 = 64 << 10;
/// Larger disks have larger blocks: the bits take 2 MiB at most.
const BLOCKS_MAX: u64 = 1 << 24;

/// A disk's contents at a time, and what has become of them.
#[derive(Debug)]
pub(crate) struct Snapshot {
    base: Arc<dyn Disk>,
    changes: File,
    block: u64,
    /// Which blocks are in `changes`. Exclusive while one comes in, so that nobody sees half of it.
    held: RwLock<Vec<u64>>,
}

impl Snapshot {
    /// Stands on `base`, which nobody else may write meanwhile.
    pub(crate) fn new(base: Arc<dyn Disk>) -> Result<Self, DiskError> {
        // Where other programs keep what may be large; /tmp is memory on many hosts.
        let directory = env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let changes =
            tempfile::tempfile_in(&directory).map_err(|source| DiskError::Temporary { directory, source })?;
        let block = BLOCK_MIN.max(base.size().div_ceil(BLOCKS_MAX).next_power_of_two());
        let words = base.size().div_ceil(block).div_ceil(64);
        Ok(Self { base, changes, block, held: RwLock::new(vec![0; words as usize]) })
    }

    /// Has `changes` hold every block of the range, and calls `change` before anybody else sees them.
    ///
    /// Blocks that the range covers wholly are not copied: `change` writes all of them, or fails, and then they are
    /// not taken for held.
    fn with_held(&self, offset: u64, len: u64, change: impl Fn() -> io::Result<()>) -> io::Result<()> {
        check_range(self.size(), offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let blocks = offset / self.block..(offset + len).div_ceil(self.block);
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        if blocks.clone().all(|block| is_set(&held, block)) {
            return change();
        }
        drop(held);
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        for block in [blocks.start, blocks.end - 1] {
            let (start, end) = (block * self.block, ((block + 1) * self.block).min(self.size()));
            let covered = offset <= start && end <= offset + len;
            if !covered && !is_set(&held, block) {
                let mut copy = vec![0; (end - start) as usize];
                self.base.read(start, &mut copy)?;
                self.changes.write_all_at(&copy, start)?;
                set(&mut held, block);
            }
        }
        change()?;
        blocks.for_each(|block| set(&mut held, block));
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        // What lies behind the end of the file is zero already, and must be there to be read.
        let end = offset + len;
        if self.changes.metadata()?.len() < end {
            self.changes.set_len(self.size())?;
        }
        match host::file::punch_hole(&self.changes, offset, len) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let zeroes = vec![0; self.block as usize];
                for start in (offset..end).step_by(zeroes.len()) {
                    let count = (end - start).min(self.block);
                    self.changes.write_all_at(&zeroes[..count as usize], start)?;
                }
                Ok(())
            }
            result => result,
        }
    }
}

fn is_set(bits: &[u64], block: u64) -> bool {
    bits[(block / 64) as usize] >> (block % 64) & 1 != 0
}

fn set(bits: &mut [u64], block: u64) {
    bits[(block / 64) as usize] |= 1 << (block % 64);
}

impl Disk for Snapshot {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buffer.len() as u64)?;
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let here = is_set(&held, at / self.block);
            // As far as it is the same.
            let mut end = (at / self.block + 1) * self.block;
            while end < at + rest.len() as u64 && is_set(&held, end / self.block) == here {
                end += self.block;
            }
            let (now, later) = rest.split_at_mut((end - at).min(rest.len() as u64) as usize);
            if here {
                self.changes.read_exact_at(now, at)?;
            } else {
                self.base.read(at, now)?;
            }
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with_held(offset, data.len() as u64, || self.changes.write_all_at(data, offset))
    }

    /// Nothing is kept, so nothing has to be safe.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// Gives back what room the range takes: whole blocks only, because part of one would have to come in first.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        check_range(self.size(), offset, len)?;
        let first = offset.next_multiple_of(self.block);
        let end = (offset + len) / self.block * self.block;
        if first >= end {
            Ok(())
        } else {
            self.with_held(first, end - first, || self.zero(first, end - first))
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        self.with_held(offset, len, || self.zero(offset, len))
    }
}
