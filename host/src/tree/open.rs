//! Files that are open.
#![allow(unsafe_code)] // System calls.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use super::{Name, Node, S_IFDIR, S_IFREG, Status, check, count, descriptor, error, open_beneath, status};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenHow {
    /// To be read.
    pub read: bool,
    /// To be written.
    pub write: bool,
    /// Emptied at once.
    pub truncate: bool,
    /// Every write waits for the disk (O_SYNC).
    pub sync: bool,
}

impl OpenHow {
    fn flags(self) -> i32 {
        let access = match (self.read, self.write) {
            (_, false) => libc::O_RDONLY,
            (false, true) => libc::O_WRONLY,
            (true, true) => libc::O_RDWR,
        };
        let truncate = if self.truncate { libc::O_TRUNC } else { 0 };
        let sync = if self.sync { libc::O_SYNC } else { 0 };
        access | truncate | sync | libc::O_CLOEXEC
    }
}

/// Where lseek(2) goes in a file with holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// The next data.
    Data,
    /// The next hole.
    Hole,
}

/// A regular file, open.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
}

impl Node {
    /// Opens a regular file.
    pub fn open(&self, how: OpenHow) -> io::Result<OpenFile> {
        match self.kind {
            S_IFREG => {}
            S_IFDIR => return Err(error(libc::EISDIR)),
            _ => return Err(error(libc::ENXIO)),
        }
        // SAFETY: a NUL-terminated string that outlives the call.
        let fd = descriptor(unsafe { libc::open(self.path().as_ptr(), how.flags()) })?;
        Ok(OpenFile { file: fd.into() })
    }

    /// Makes a regular file that was not there, and opens it.
    pub fn create(&self, name: Name, how: OpenHow, mode: u32) -> io::Result<OpenFile> {
        let flags = how.flags() | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let fd = open_beneath(self.fd.as_fd(), name, flags, mode & 0o7777)?;
        Ok(OpenFile { file: fd.into() })
    }

    /// Has the file system this is on write everything to its disk.
    pub fn sync_file_system(&self) -> io::Result<()> {
        let folder = self.open_folder()?;
        // SAFETY: a plain call on a descriptor we own.
        check(unsafe { libc::syncfs(folder.as_raw_fd()) })
    }

    pub(super) fn open_folder(&self) -> io::Result<File> {
        if self.kind != S_IFDIR {
            return Err(error(libc::ENOTDIR));
        }
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: a NUL-terminated string that outlives the call.
        let fd = descriptor(unsafe { libc::open(self.path().as_ptr(), flags) })?;
        Ok(fd.into())
    }
}

impl OpenFile {
    /// What it is like now.
    pub fn status(&self) -> io::Result<Status> {
        status(self.file.as_fd())
    }

    /// Reads until `buffer` is full or the file is at its end.
    pub fn read(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
        let mut total = 0;
        while !buffer.is_empty() {
            match self.file.read_at(buffer, offset) {
                Ok(0) => break,
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                    total += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What has been read is good.
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    /// Writes at an offset.
    pub fn write(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.write_with(bytes, offset, 0)
    }

    /// Writes at the end, wherever that is by then.
    pub fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write_with(bytes, 0, libc::RWF_APPEND)
    }

    fn write_with(&self, bytes: &[u8], mut offset: u64, flags: i32) -> io::Result<usize> {
        let mut total = 0;
        while total < bytes.len() {
            let rest = &bytes[total..];
            let vector = libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
            let at = i64::try_from(offset).map_err(|_| error(libc::EFBIG))?;
            // SAFETY: one vector of a slice that outlives the call, from which the kernel only reads.
            match count(unsafe { libc::pwritev2(self.file.as_raw_fd(), &raw const vector, 1, at, flags) }) {
                Ok(0) => break,
                Ok(count) => {
                    total += count;
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    /// Cuts or extends it.
    pub fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    /// Waits until the disk has it all, or all that is needed to read the data.
    pub fn sync(&self, data_only: bool) -> io::Result<()> {
        if data_only { self.file.sync_data() } else { self.file.sync_all() }
    }

    /// Reports what close(2) would: a file system that writes behind may find out only then.
    pub fn flush(&self) -> io::Result<()> {
        let second = self.file.try_clone()?;
        let fd = std::os::fd::IntoRawFd::into_raw_fd(second);
        // SAFETY: the descriptor is ours alone, and given up here.
        check(unsafe { libc::close(fd) })
    }

    /// The first offset not before this one with data, or with a hole.
    pub fn seek(&self, offset: u64, to: SeekTo) -> io::Result<u64> {
        let offset = i64::try_from(offset).map_err(|_| error(libc::ENXIO))?;
        let whence = match to {
            SeekTo::Data => libc::SEEK_DATA,
            SeekTo::Hole => libc::SEEK_HOLE,
        };
        // SAFETY: a plain call; all other access to the descriptor says its own offset.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), offset, whence) };
        u64::try_from(found).map_err(|_| io::Error::last_os_error())
    }

    /// Allocates room, punches a hole or the like, by the mode of fallocate(2).
    pub fn allocate(&self, mode: u32, offset: u64, length: u64) -> io::Result<()> {
        let (offset, length) = (signed(offset)?, signed(length)?);
        let mode = i32::try_from(mode).map_err(|_| error(libc::EOPNOTSUPP))?;
        // SAFETY: a plain call.
        check(unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, length) })
    }

    /// Copies within the host.
    pub fn copy_to(&self, offset: u64, to: &Self, to_offset: u64, length: usize) -> io::Result<usize> {
        let (mut offset, mut to_offset) = (signed(offset)?, signed(to_offset)?);
        let (from_fd, to_fd) = (self.file.as_raw_fd(), to.file.as_raw_fd());
        // SAFETY: two offsets that outlive the call.
        count(unsafe {
            libc::copy_file_range(from_fd, &raw mut offset, to_fd, &raw mut to_offset, length, 0)
        })
    }
}

fn signed(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| error(libc::EFBIG))
}
