//! Requests and answers as they are on the wire (linux/fuse.h): little-endian, as the guest is.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use host::tree::errno::{EINVAL, EIO};
use host::tree::{Name, Status, error};

use super::VALID;

/// Numbers of requests, as far as they are known here.
#[rustfmt::skip]
pub(super) mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
}

/// Flags of open(2), as Linux has them on x86 and in FUSE.
#[rustfmt::skip]
pub(super) mod open {
    pub const ACCMODE: u32   = 0o3;
    pub const WRONLY: u32    = 0o1;
    pub const RDWR: u32      = 0o2;
    pub const EXCL: u32      = 0o200;
    pub const TRUNC: u32     = 0o1000;
    pub const APPEND: u32    = 0o2000;
    pub const DSYNC: u32     = 0o10000;
}

/// Length of `struct fuse_out_header`.
pub(super) const REPLY_HEADER: usize = 16;

/// Length of `struct fuse_entry_out`.
pub(super) const ENTRY: usize = 128;

/// `struct fuse_in_header`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What a request holds that has not been read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arguments<'a>(&'a [u8]);

impl<'a> Arguments<'a> {
    /// Takes a request apart; none if it is too short to have a header, which can only be dropped, since an answer
    /// would name nothing.
    pub(super) fn of(request: &'a [u8]) -> Option<(Header, Self)> {
        let mut all = Self(request);
        let length = all.u32().ok()?;
        let header = Header {
            opcode: all.u32().ok()?,
            unique: all.u64().ok()?,
            node: all.u64().ok()?,
            uid: all.u32().ok()?,
            gid: all.u32().ok()?,
        };
        all.bytes(8).ok()?;
        // A length that lies leaves nothing, so that whatever the request needs is missing.
        Some((header, if length as usize == request.len() { all } else { Self(&[]) }))
    }

    pub(super) fn bytes(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> io::Result<u32> {
        self.bytes(4)?.try_into().map(u32::from_le_bytes).map_err(|_| malformed())
    }

    pub(super) fn u64(&mut self) -> io::Result<u64> {
        self.bytes(8)?.try_into().map(u64::from_le_bytes).map_err(|_| malformed())
    }

    /// A string, which ends with NUL.
    pub(super) fn string(&mut self) -> io::Result<&'a CStr> {
        let string = CStr::from_bytes_until_nul(self.0).map_err(|_| malformed())?;
        self.0 = &self.0[string.count_bytes() + 1..];
        Ok(string)
    }

    pub(super) fn name(&mut self) -> io::Result<Name<'a>> {
        Name::new(self.string()?)
    }
}

fn malformed() -> io::Error {
    error(EINVAL)
}

/// An answer that is being written, in no more bytes than the guest has room for.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    bytes: &'a mut Vec<u8>,
    room: usize,
}

impl<'a> Reply<'a> {
    /// Begins one, with room for the header.
    pub(super) fn new(bytes: &'a mut Vec<u8>, room: usize) -> Self {
        bytes.clear();
        bytes.resize(REPLY_HEADER, 0);
        Self { bytes, room }
    }

    /// Bytes that can still be added.
    pub(super) fn room(&self) -> usize {
        self.room.saturating_sub(self.bytes.len())
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes back what was added behind the first `length` bytes.
    pub(super) fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    pub(super) fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    /// Has `fill` write at most `length` bytes, as far as there is room, and say how many it has written.
    pub(super) fn fill(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let start = self.bytes.len();
        self.bytes.resize(start + length.min(self.room()), 0);
        let filled = fill(&mut self.bytes[start..])?;
        self.bytes.truncate(start + filled);
        Ok(())
    }

    /// `struct fuse_attr`.
    pub(super) fn attributes(&mut self, status: &Status, ino: u64) {
        let times = [status.atime, status.mtime, status.ctime];
        self.u64(ino);
        self.u64(status.size);
        self.u64(status.blocks);
        times.iter().for_each(|time| self.u64(time.as_secs()));
        times.iter().for_each(|time| self.u32(time.subsec_nanos()));
        for field in [status.mode, status.nlink, status.uid, status.gid] {
            self.u32(field);
        }
        self.u32(status.rdev as u32); // The C library's 64 bits have the kernel's 32 as their lower half.
        self.u32(status.blksize);
        self.u32(0);
    }

    /// `struct fuse_attr_out`.
    pub(super) fn attr_out(&mut self, status: &Status, ino: u64) {
        self.u64(VALID.as_secs());
        self.u32(VALID.subsec_nanos());
        self.u32(0);
        self.attributes(status, ino);
    }

    /// `struct fuse_entry_out`.
    pub(super) fn entry_out(&mut self, node: u64, status: &Status, ino: u64) {
        self.u64(node);
        self.u64(0); // Numbers are not used twice, so all are of one generation.
        self.validity(VALID, VALID);
        self.attributes(status, ino);
    }

    fn validity(&mut self, entry: Duration, attributes: Duration) {
        self.u64(entry.as_secs());
        self.u64(attributes.as_secs());
        self.u32(entry.subsec_nanos());
        self.u32(attributes.subsec_nanos());
    }

    /// `struct fuse_open_out`.
    pub(super) fn open_out(&mut self, handle: u64, flags: u32) {
        self.u64(handle);
        self.u32(flags);
        self.u32(0);
    }

    /// `struct fuse_write_out` or `struct fuse_getxattr_out`.
    pub(super) fn size_out(&mut self, size: usize) {
        self.u32(u32::try_from(size).unwrap_or(u32::MAX));
        self.u32(0);
    }

    /// Writes the header. Without room for so much there is no answer.
    pub(super) fn finish(mut self, unique: u64, result: io::Result<()>) {
        let outcome = result.and_then(|()| match self.bytes.len() > self.room {
            true => Err(malformed()),
            false => Ok(()),
        });
        let errno = match outcome {
            Ok(()) => 0,
            Err(error) => {
                self.truncate(REPLY_HEADER);
                error.raw_os_error().unwrap_or(EIO)
            }
        };
        if self.room < REPLY_HEADER {
            self.bytes.clear();
            return;
        }
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&(-errno).to_le_bytes());
        self.bytes[8..16].copy_from_slice(&unique.to_le_bytes());
    }
}
