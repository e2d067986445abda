//! What disk images need of files beyond reading and writing: locks that hold between processes, and holes.
#![allow(unsafe_code)] // System calls on descriptors.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::HostError;

/// Opens a file or block device for reading, and for writing if so wanted. It does not wait, not even for the other
/// end of a FIFO, and does not open a block device for writing that is mounted (`EBUSY`).
pub fn open(path: &Path, write: bool) -> io::Result<File> {
    let mut flags = libc::O_NONBLOCK;
    if write && path.metadata()?.file_type().is_block_device() {
        flags |= libc::O_EXCL;
    }
    OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)
}

/// What a lock keeps others from doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileLock {
    /// Writing: for who reads, and whose image must not change.
    Shared,
    /// Everything: for who writes.
    Exclusive,
}

/// QEMU's bytes (block/file-posix.c, "image locking protocol"): a read lock on byte 100 + p says that one uses
/// permission p, one on byte 200 + p that one does not share it. p is 0 for reading, 1 for writing, 3 for resizing.
/// Keeping to them, popf and QEMU do not write each other's images.
const USES: libc::off_t = 100;
const DENIES: libc::off_t = 200;
const READ: libc::off_t = 0;
const WRITE: libc::off_t = 1;
/// From writing to resizing.
const CHANGES: libc::off_t = 3;
/// All there is.
const EVERYTHING: libc::off_t = 200;

/// Takes a lock that lasts until the last descriptor of this open file is closed, however the process ends. Says
/// `false` if somebody else's is in the way.
///
/// The file must be open for writing if the lock is exclusive, for reading if it is shared.
pub fn try_lock(file: &File, lock: FileLock) -> Result<bool, HostError> {
    match lock {
        FileLock::Exclusive => set_lock(file, libc::F_WRLCK, USES, EVERYTHING),
        // First locked, then looked: of two that come at once at least one sees the other.
        FileLock::Shared => Ok(set_lock(file, libc::F_RDLCK, USES + READ, 1)?
            && set_lock(file, libc::F_RDLCK, DENIES + WRITE, CHANGES)?
            && nobody_holds(file, USES + WRITE, CHANGES)?),
    }
}

fn flock(kind: libc::c_int, start: libc::off_t, len: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn set_lock(file: &File, kind: libc::c_int, start: libc::off_t, len: libc::off_t) -> Result<bool, HostError> {
    let range = flock(kind, start, len);
    // SAFETY: an open descriptor and a structure that lives through the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &range) } == 0 {
        return Ok(true);
    }
    let error = HostError::last("fcntl(F_OFD_SETLK)");
    match error.os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

fn nobody_holds(file: &File, start: libc::off_t, len: libc::off_t) -> Result<bool, HostError> {
    let mut range = flock(libc::F_WRLCK, start, len);
    // SAFETY: an open descriptor and a structure that lives through the call, which may change it.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut range) } != 0 {
        return Err(HostError::last("fcntl(F_OFD_GETLK)"));
    }
    Ok(i32::from(range.l_type) == libc::F_UNLCK)
}

/// Gives the range back to the file system or device; it reads as zeroes. `Unsupported` if it cannot be given back.
pub fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

/// Zeroes the range and keeps its room. `Unsupported` if that takes writing zeroes.
pub fn zero_range(file: &File, offset: u64, len: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

fn allocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let len = libc::off_t::try_from(len).map_err(io::Error::other)?;
    loop {
        // SAFETY: a plain call on an open descriptor.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // ENODEV: a device without this; ENOTTY and EINVAL: what drivers answer who do not know the mode.
            Some(libc::EOPNOTSUPP | libc::ENODEV | libc::ENOTTY | libc::EINVAL | libc::ENOSYS) => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, error));
            }
            _ => return Err(error),
        }
    }
}

/// The first stretch of data at or behind an offset; `None` if there are only holes, which read as zeroes. Moves the
/// file's own position. A file system that knows no holes says that all is data.
pub fn next_data(file: &File, offset: u64) -> io::Result<Option<Range<u64>>> {
    let start = match seek(file, offset, libc::SEEK_DATA) {
        Ok(start) => start,
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(start..seek(file, start, libc::SEEK_HOLE)?))
}

fn seek(file: &File, offset: u64, whence: libc::c_int) -> io::Result<u64> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: a plain call on an open descriptor.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    u64::try_from(found).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn open(path: &Path) -> File {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("popf-host-{name}-{}", std::process::id()))
    }

    #[test]
    fn locks_exclude_as_they_say() {
        let path = scratch("lock");
        let (one, two, three) = (open(&path), open(&path), open(&path));
        assert!(try_lock(&one, FileLock::Shared).unwrap());
        assert!(try_lock(&two, FileLock::Shared).unwrap(), "readers share");
        assert!(!try_lock(&three, FileLock::Exclusive).unwrap(), "a writer waits for readers");
        drop((one, two));
        assert!(try_lock(&three, FileLock::Exclusive).unwrap());
        let copy = three.try_clone().unwrap();
        drop(three);
        for lock in [FileLock::Shared, FileLock::Exclusive] {
            assert!(!try_lock(&open(&path), lock).unwrap(), "a second descriptor keeps the lock: {lock:?}");
        }
        drop(copy);
        assert!(try_lock(&open(&path), FileLock::Exclusive).unwrap());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn holes_read_as_zeroes_and_take_no_room() {
        let path = scratch("hole");
        let file = open(&path);
        file.write_all_at(&[0xaa; 64 << 10], 0).unwrap();
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        match punch_hole(&file, 4096, 32 << 10) {
            Ok(()) => assert!(file.metadata().unwrap().blocks() < before),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        }
        if let Err(error) = zero_range(&file, 60 << 10, 8 << 10) {
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        }
        assert_eq!(file.metadata().unwrap().len(), 64 << 10, "neither changes the size");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn data_is_found_behind_a_hole() {
        let path = scratch("data");
        let file = open(&path);
        file.set_len(8 << 20).unwrap();
        assert!(next_data(&file, 0).unwrap().is_none_or(|all| all == (0..8 << 20)));
        file.write_all_at(b"data", 5 << 20).unwrap();
        let found = next_data(&file, 0).unwrap().unwrap();
        assert!(found.contains(&(5 << 20)), "{found:?}");
        assert!(found.end <= 8 << 20, "{found:?}");
        assert_eq!(next_data(&file, 8 << 20).unwrap(), None);
        std::fs::remove_file(path).unwrap();
    }
}
