//! What is in a folder (getdents64(2)).
#![allow(unsafe_code)] // System calls.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::{Node, count, error};

/// How much is asked for at a time.
const BUFFER: usize = 32 << 10;
/// Where the name begins in a `struct linux_dirent64`.
const NAME: usize = 19;

/// A folder, open.
#[derive(Debug)]
pub struct Directory {
    file: File,
    buffer: Vec<u8>,
    /// What of the buffer has not been given out.
    unread: std::ops::Range<usize>,
    /// The offset of the entry here.
    position: u64,
}

/// One name in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    /// The file's number.
    pub ino: u64,
    /// Where to go on after this one; a number that only the file system understands.
    pub next: u64,
    /// The type, as `d_type` has it: the mode's shifted to the right by 12; 0 for unknown.
    pub kind: u8,
    /// `.` and `..` are among them.
    pub name: &'a CStr,
}

impl Node {
    /// Opens a folder to be read.
    pub fn list(&self) -> io::Result<Directory> {
        Ok(Directory { file: self.open_folder()?, buffer: Vec::new(), unread: 0..0, position: 0 })
    }
}

impl Directory {
    /// Goes to where an entry said that the next one is; 0 is the beginning.
    pub fn seek(&mut self, offset: u64) -> io::Result<()> {
        if offset == self.position && offset != 0 {
            return Ok(());
        }
        let target = i64::try_from(offset).map_err(|_| error(libc::EINVAL))?;
        // SAFETY: a plain call on a descriptor we own.
        if unsafe { libc::lseek(self.file.as_raw_fd(), target, libc::SEEK_SET) } < 0 {
            return Err(io::Error::last_os_error());
        }
        self.unread = 0..0;
        self.position = offset;
        Ok(())
    }

    /// The entry here; none at the end.
    pub fn peek(&mut self) -> io::Result<Option<DirectoryEntry<'_>>> {
        if self.unread.is_empty() {
            self.buffer.resize(BUFFER, 0);
            let (buffer, length) = (self.buffer.as_mut_ptr(), self.buffer.len());
            // SAFETY: the buffer's own address and length.
            let read = unsafe { libc::syscall(libc::SYS_getdents64, self.file.as_raw_fd(), buffer, length) };
            self.unread = 0..count(read as isize)?;
        }
        let Some((ino, next, length)) = self.fixed_part() else { return Ok(None) };
        let bytes = &self.buffer[self.unread.clone()];
        let name = CStr::from_bytes_until_nul(&bytes[NAME..length]).map_err(|_| error(libc::EIO))?;
        Ok(Some(DirectoryEntry { ino, next, kind: bytes[18], name }))
    }

    /// Goes on behind the entry here.
    pub fn pass(&mut self) {
        if let Some((_, next, length)) = self.fixed_part() {
            self.unread.start += length;
            self.position = next;
        }
    }

    /// Of the entry at the front of the buffer: `d_ino`, `d_off` and `d_reclen`.
    fn fixed_part(&self) -> Option<(u64, u64, usize)> {
        let bytes = &self.buffer[self.unread.clone()];
        let (ino, rest) = bytes.split_first_chunk()?;
        let (next, rest) = rest.split_first_chunk()?;
        let (length, _) = rest.split_first_chunk()?;
        Some((u64::from_ne_bytes(*ino), u64::from_ne_bytes(*next), u16::from_ne_bytes(*length).into()))
    }

    /// Waits until the disk has it.
    pub fn sync(&self, data_only: bool) -> io::Result<()> {
        if data_only { self.file.sync_data() } else { self.file.sync_all() }
    }
}
