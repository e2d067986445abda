//! What is said of files: owner, mode, times, length, extended attributes.
#![allow(unsafe_code)] // System calls.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use super::{Node, OpenHow, S_IFLNK, check, count, error};

/// A time to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    #[default]
    Keep,
    /// The host's present.
    Now,
    /// This, since 1970.
    To(Duration),
}

impl SetTime {
    fn timespec(self) -> io::Result<libc::timespec> {
        Ok(match self {
            Self::Keep => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
            Self::Now => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
            Self::To(time) => libc::timespec {
                tv_sec: time.as_secs().try_into().map_err(|_| error(libc::EINVAL))?,
                tv_nsec: time.subsec_nanos().into(),
            },
        })
    }
}

/// What statfs(2) says of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// The unit of the next three.
    pub frsize: u64,
    /// Its size.
    pub blocks: u64,
    /// Free.
    pub bfree: u64,
    /// Free for those who are not root.
    pub bavail: u64,
    /// Files there can be.
    pub files: u64,
    /// Files there can be besides those there are.
    pub ffree: u64,
    /// The good size for transfers.
    pub bsize: u64,
    /// The longest name.
    pub namelen: u64,
}

impl Node {
    /// Sets the permissions.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        // A link has none, and the call would follow it.
        if self.kind == S_IFLNK {
            return Err(error(libc::EOPNOTSUPP));
        }
        // SAFETY: a NUL-terminated string that outlives the call; so below.
        check(unsafe { libc::chmod(self.path().as_ptr(), mode & 0o7777) })
    }

    /// Sets owner and group.
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        const KEEP: u32 = u32::MAX;
        let (uid, gid) = (uid.unwrap_or(KEEP), gid.unwrap_or(KEEP));
        // SAFETY: as above; the empty path means the descriptor itself.
        check(unsafe { libc::fchownat(self.raw(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) })
    }

    /// Sets the times of the last read and the last write.
    pub fn set_times(&self, atime: SetTime, mtime: SetTime) -> io::Result<()> {
        let times = [atime.timespec()?, mtime.timespec()?];
        // SAFETY: two strings and an array of two; a path in /proc, as the empty one is for newer kernels only.
        check(unsafe { libc::utimensat(libc::AT_FDCWD, self.path().as_ptr(), times.as_ptr(), 0) })
    }

    /// Cuts or extends a regular file.
    pub fn set_length(&self, length: u64) -> io::Result<()> {
        self.open(OpenHow { write: true, ..OpenHow::default() })?.set_length(length)
    }

    /// Whether this process may do that with it, by the mask of access(2).
    pub fn access(&self, mask: u32) -> io::Result<()> {
        let mask = i32::try_from(mask).map_err(|_| error(libc::EINVAL))?;
        // SAFETY: as above.
        check(unsafe { libc::faccessat(libc::AT_FDCWD, self.path().as_ptr(), mask, libc::AT_EACCESS) })
    }

    /// The file system it is on.
    pub fn file_system(&self) -> io::Result<FileSystem> {
        let mut buffer = MaybeUninit::<libc::statfs64>::zeroed();
        // SAFETY: the buffer is as large as the kernel expects, and all zero is a value of it.
        let found = unsafe {
            check(libc::fstatfs64(self.raw(), buffer.as_mut_ptr()))?;
            buffer.assume_init()
        };
        // The kernel has no negative ones.
        let size = |value: i64| value.max(0) as u64;
        Ok(FileSystem {
            frsize: size(if found.f_frsize == 0 { found.f_bsize } else { found.f_frsize }),
            blocks: found.f_blocks,
            bfree: found.f_bfree,
            bavail: found.f_bavail,
            files: found.f_files,
            ffree: found.f_ffree,
            bsize: size(found.f_bsize),
            namelen: size(found.f_namelen),
        })
    }

    /// An extended attribute's value into `value`, or its length if that is empty.
    pub fn attribute(&self, name: &CStr, value: &mut [u8]) -> io::Result<usize> {
        let path = self.attributes_path()?;
        // SAFETY: two strings, and the buffer's own address and length.
        count(unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) })
    }

    /// The names of all of them, each ended by NUL, into `names`, or their length if that is empty.
    pub fn attributes(&self, names: &mut [u8]) -> io::Result<usize> {
        let path = self.attributes_path()?;
        // SAFETY: a string, and the buffer's own address and length.
        count(unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) })
    }

    /// Sets one, with the flags of setxattr(2).
    pub fn set_attribute(&self, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
        let path = self.attributes_path()?;
        let flags = i32::try_from(flags).map_err(|_| error(libc::EINVAL))?;
        // SAFETY: two strings, and the value's own address and length.
        check(unsafe {
            libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
        })
    }

    /// Removes one.
    pub fn remove_attribute(&self, name: &CStr) -> io::Result<()> {
        let path = self.attributes_path()?;
        // SAFETY: two strings.
        check(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })
    }

    /// Attributes of links are for the host's security modules, which nobody else may read or set.
    fn attributes_path(&self) -> io::Result<std::ffi::CString> {
        if self.kind == S_IFLNK { Err(error(libc::EOPNOTSUPP)) } else { Ok(self.path()) }
    }
}
