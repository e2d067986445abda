//! Files below a folder, one name at a time: what serving a folder to somebody untrusted is made of.
//!
//! A [`Node`] is a file of any type, held by a descriptor that opens nothing (O_PATH): it stays the same file
//! whatever becomes of its name. From a folder's node one gets to another by a [`Name`], a single component, which
//! openat2(2) (Linux 5.6) resolves beneath that folder and through no link. There is no way up, and none across: a
//! node cannot lead out of the folder that the first one was opened as.
//!
//! To read or change what a node is, it is opened anew through `/proc/self/fd`, which names the file and not a
//! path to it. Only regular files and folders are opened: opening a pipe may wait for ever, opening a device may
//! rewind a tape.
//!
//! Errors are [`io::Error`] with the host's errno, since whom the folder is served to is told of it.
#![allow(unsafe_code)] // System calls that take folders' descriptors, which std does not offer.

mod attributes;
mod directory;
mod open;

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

pub use attributes::{FileSystem, SetTime};
pub use directory::{Directory, DirectoryEntry};
pub use open::{OpenFile, OpenHow, SeekTo};

/// The errors that a server of files has of its own.
pub mod errno {
    pub use libc::{E2BIG, EBADF, EEXIST, EINVAL, EIO, ENFILE, ENOSYS, EPERM, EPROTO, ERANGE, EROFS, ESTALE};
}

/// The longest name of a file, without the NUL (NAME_MAX).
pub const NAME_LENGTH: usize = 255;

/// What a file is, of the mode's `S_IFMT`.
pub const S_IFMT: u32 = libc::S_IFMT;
/// A folder's.
pub const S_IFDIR: u32 = libc::S_IFDIR;
/// A regular file's.
pub const S_IFREG: u32 = libc::S_IFREG;
/// A symbolic link's.
pub const S_IFLNK: u32 = libc::S_IFLNK;
/// A pipe's.
pub const S_IFIFO: u32 = libc::S_IFIFO;
/// A socket's.
pub const S_IFSOCK: u32 = libc::S_IFSOCK;
/// The mode's bit by which a folder gives its group to what is made in it.
pub const S_ISGID: u32 = libc::S_ISGID;

/// Where no folder leads, mounted in it or not: the processes' files are ways into them, popf's own among them.
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// One component of a path: not empty, not `.` or `..`, no `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name<'a>(&'a CStr);

impl<'a> Name<'a> {
    /// Takes a name that somebody untrusted gives.
    pub fn new(name: &'a CStr) -> io::Result<Self> {
        let bytes = name.to_bytes();
        if bytes.len() > NAME_LENGTH {
            return Err(error(libc::ENAMETOOLONG));
        }
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
            return Err(error(libc::EINVAL));
        }
        Ok(Self(name))
    }

    /// As a string.
    pub fn as_c_str(&self) -> &'a CStr {
        self.0
    }

    fn as_ptr(&self) -> *const libc::c_char {
        self.0.as_ptr()
    }
}

/// What stat(2) says of a file, and when it was born.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The device the file system is on.
    pub dev: u64,
    /// The file's number there.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Names it has.
    pub nlink: u32,
    /// Whose it is.
    pub uid: u32,
    /// Of which group.
    pub gid: u32,
    /// A device node's own device.
    pub rdev: u64,
    /// In bytes.
    pub size: u64,
    /// What it takes, in units of 512 bytes.
    pub blocks: u64,
    /// The good size for transfers.
    pub blksize: u32,
    /// Last read.
    pub atime: Duration,
    /// Last written.
    pub mtime: Duration,
    /// Last changed in any way.
    pub ctime: Duration,
    /// Born, if the file system knows.
    pub btime: Duration,
}

/// A file of any type, not opened.
#[derive(Debug)]
pub struct Node {
    fd: OwnedFd,
    kind: u32,
}

impl Node {
    /// The folder at a path of the user's own, all links followed.
    pub fn folder(path: &Path) -> io::Result<(Self, Status)> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| error(libc::EINVAL))?;
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: a NUL-terminated string that outlives the call.
        let fd = descriptor(unsafe { libc::open(path.as_ptr(), flags) })?;
        Self::new(fd)
    }

    fn new(fd: OwnedFd) -> io::Result<(Self, Status)> {
        let status = status(fd.as_fd())?;
        Ok((Self { fd, kind: status.mode & S_IFMT }, status))
    }

    /// The file of this name in this folder.
    pub fn lookup(&self, name: Name) -> io::Result<(Self, Status)> {
        let fd = open_beneath(self.fd.as_fd(), name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
        let (node, status) = Self::new(fd)?;
        // Folders only: what else is in there can be come by only through one.
        if node.kind == S_IFDIR && node.is_of_processes()? {
            return Err(error(libc::EACCES));
        }
        Ok((node, status))
    }

    fn is_of_processes(&self) -> io::Result<bool> {
        let mut buffer = MaybeUninit::<libc::statfs>::zeroed();
        // SAFETY: the buffer is as large as the kernel expects, and all zero is a value of it.
        let buffer = unsafe {
            check(libc::fstatfs(self.raw(), buffer.as_mut_ptr()))?;
            buffer.assume_init()
        };
        Ok(buffer.f_type == PROC_SUPER_MAGIC)
    }

    /// Its type: the mode's `S_IFMT`, which never changes.
    pub fn kind(&self) -> u32 {
        self.kind
    }

    /// What it is like now.
    pub fn status(&self) -> io::Result<Status> {
        status(self.fd.as_fd())
    }

    /// Makes a folder.
    pub fn make_folder(&self, name: Name, mode: u32) -> io::Result<()> {
        // SAFETY: a NUL-terminated string that outlives the call; so below.
        check(unsafe { libc::mkdirat(self.raw(), name.as_ptr(), mode) })
    }

    /// Makes an empty regular file, a pipe or a socket: by the mode's type, which is no device's.
    pub fn make_node(&self, name: Name, mode: u32) -> io::Result<()> {
        if matches!(mode & S_IFMT, libc::S_IFCHR | libc::S_IFBLK) {
            return Err(error(libc::EPERM));
        }
        // SAFETY: as above.
        check(unsafe { libc::mknodat(self.raw(), name.as_ptr(), mode, 0) })
    }

    /// Makes a symbolic link. What it says is text here, whatever it would lead to.
    pub fn make_link(&self, name: Name, target: &CStr) -> io::Result<()> {
        // SAFETY: two such strings.
        check(unsafe { libc::symlinkat(target.as_ptr(), self.raw(), name.as_ptr()) })
    }

    /// Gives a file a further name in this folder.
    pub fn add_name(&self, name: Name, node: &Self) -> io::Result<()> {
        let path = node.path();
        let follow = libc::AT_SYMLINK_FOLLOW; // The link in /proc; a node that is a link itself stays one.
        // SAFETY: two such strings.
        check(unsafe { libc::linkat(libc::AT_FDCWD, path.as_ptr(), self.raw(), name.as_ptr(), follow) })
    }

    /// Takes a name away from what is no folder.
    pub fn remove(&self, name: Name) -> io::Result<()> {
        // SAFETY: as above.
        check(unsafe { libc::unlinkat(self.raw(), name.as_ptr(), 0) })
    }

    /// Removes an empty folder.
    pub fn remove_folder(&self, name: Name) -> io::Result<()> {
        // SAFETY: as above.
        check(unsafe { libc::unlinkat(self.raw(), name.as_ptr(), libc::AT_REMOVEDIR) })
    }

    /// Renames from this folder into another, with the flags of renameat2(2).
    pub fn rename(&self, name: Name, to: &Self, new_name: Name, flags: u32) -> io::Result<()> {
        // SAFETY: two such strings. By number, as not every C library has a function for it.
        let result = unsafe {
            libc::syscall(libc::SYS_renameat2, self.raw(), name.as_ptr(), to.raw(), new_name.as_ptr(), flags)
        };
        check(result)
    }

    /// Where a symbolic link leads, as text.
    pub fn read_link(&self) -> io::Result<Vec<u8>> {
        let mut target = vec![0; libc::PATH_MAX as usize];
        // SAFETY: the buffer's own address and length; the empty path means the descriptor itself.
        let length =
            unsafe { libc::readlinkat(self.raw(), c"".as_ptr(), target.as_mut_ptr().cast(), target.len()) };
        target.truncate(count(length)?);
        Ok(target)
    }

    /// The path by which this process opens the very file anew.
    fn path(&self) -> CString {
        CString::new(format!("/proc/self/fd/{}", self.raw())).expect("no NUL in it")
    }

    fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Gives this thread a creation mask of its own, and has it take nothing away: whoever asks for a file has applied
/// theirs. The rest of the process keeps its mask.
pub fn clear_mask() -> io::Result<()> {
    // SAFETY: plain calls; nothing in the process relies on this thread's working folder following the others'.
    unsafe {
        check(libc::unshare(libc::CLONE_FS))?;
        libc::umask(0);
    }
    Ok(())
}

/// Whether this process acts as the superuser.
pub fn acts_as_root() -> bool {
    // SAFETY: a plain call.
    unsafe { libc::geteuid() == 0 }
}

/// Lets this process have as many descriptors as it may, and says how many that is.
pub fn raise_descriptor_limit() -> io::Result<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives both calls.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
    }
    Ok(usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

/// Opens what has this name in a folder, and nothing that a link leads to.
fn open_beneath(folder: BorrowedFd, name: Name, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: all zero is a value of it.
    let mut how: libc::open_how = unsafe { MaybeUninit::zeroed().assume_init() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: a NUL-terminated string and a structure with its size, which outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            folder.as_raw_fd(),
            name.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    descriptor(fd as RawFd)
}

fn status(fd: BorrowedFd) -> io::Result<Status> {
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    // SAFETY: the buffer is as large as the kernel expects, and all zero is a value of it; the empty path means the
    // descriptor itself.
    let stat = unsafe {
        let flags = libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT;
        check(libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, mask, buffer.as_mut_ptr()))?;
        buffer.assume_init()
    };
    let time = |time: libc::statx_timestamp| {
        // What is before 1970 stays there only by being outside of what can be said.
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), time.tv_nsec)
    };
    Ok(Status {
        dev: libc::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        mode: stat.stx_mode.into(),
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: libc::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        blksize: stat.stx_blksize,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        btime: time(stat.stx_btime),
    })
}

/// An error of the host's, by its number.
pub fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// A call that says -1 for an error.
fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A call that returns how much, or -1.
fn count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A call that returns a new descriptor, or -1.
fn descriptor(fd: RawFd) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests;
