//! Plain images and host block devices: the file's bytes are the disk's.
//!
//! Not modelled: images whose size is no whole number of sectors (the rest is out of reach), growing.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use super::probe::{PROBED, format_of};
use super::{Disk, Format, SECTOR, check_range, file_length, read_up_to, refuse_change};

/// How much is written at once where zeroes have to be written.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// A raw disk.
#[derive(Debug)]
pub(crate) struct Raw {
    file: File,
    size: u64,
    read_only: bool,
    /// The guest may not make it look like another format.
    keep_raw: bool,
}

impl Raw {
    /// Takes a file that is open for what it is wanted for.
    pub(crate) fn new(file: File, read_only: bool, keep_raw: bool) -> io::Result<Self> {
        let size = file_length(&file)?;
        Ok(Self { file, size: size - size % SECTOR, read_only, keep_raw })
    }

    fn check_change(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.read_only {
            return Err(refuse_change());
        }
        check_range(self.size, offset, len)
    }

    /// See [`super::open()`].
    fn check_format(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if !self.keep_raw || offset >= PROBED as u64 {
            return Ok(());
        }
        let mut head = [0; PROBED];
        read_up_to(&self.file, &mut head)?;
        let new = &mut head[offset as usize..];
        let count = new.len().min(data.len());
        new[..count].copy_from_slice(&data[..count]);
        match format_of(&head) {
            Format::Raw => Ok(()),
            format => {
                tracing::warn!(
                    "the guest would make its raw disk look like a {format} image; that write fails (give \
                     format=raw to let it)"
                );
                Err(refuse_change())
            }
        }
    }

    fn put_zeroes(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let now = len.min(ZEROES.len() as u64);
            self.file.write_all_at(&ZEROES[..now as usize], offset)?;
            offset += now;
            len -= now;
        }
        Ok(())
    }
}

impl Disk for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buffer.len() as u64)?;
        self.file.read_exact_at(buffer, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_change(offset, data.len() as u64)?;
        self.check_format(offset, data)?;
        self.file.write_all_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.file.sync_data() }
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_change(offset, len)?;
        match host::file::punch_hole(&self.file, offset, len) {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.check_change(offset, len)?;
        let unmapped = if unmap {
            host::file::punch_hole(&self.file, offset, len)
        } else {
            host::file::zero_range(&self.file, offset, len)
        };
        match unmapped {
            Err(error) if error.kind() == ErrorKind::Unsupported => self.put_zeroes(offset, len),
            result => result,
        }
    }
}
