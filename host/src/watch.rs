//! Being told that a directory's files change (inotify(7)).
#![allow(unsafe_code)] // System calls.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::HostError;

/// Readable when something was written to, made in or moved into a directory.
#[derive(Debug)]
pub struct Watch {
    file: File,
}

impl Watch {
    /// Watches from now on.
    pub fn directory(path: &Path) -> Result<Self, HostError> {
        let invalid = |_| HostError::Call {
            call: "inotify_add_watch",
            source: std::io::ErrorKind::InvalidFilename.into(),
        };
        let path = CString::new(path.as_os_str().as_bytes()).map_err(invalid)?;
        // SAFETY: a plain call; the descriptor is new and ours alone.
        let file = unsafe {
            let fd = libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK);
            if fd < 0 {
                return Err(HostError::last("inotify_init1"));
            }
            File::from_raw_fd(fd)
        };
        let events = libc::IN_MODIFY | libc::IN_CREATE | libc::IN_MOVED_TO | libc::IN_ONLYDIR;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: the path is a C string that outlives the call.
        if unsafe { libc::inotify_add_watch(fd, path.as_ptr(), events) } < 0 {
            return Err(HostError::last("inotify_add_watch"));
        }
        Ok(Self { file })
    }

    /// Forgets what has happened, so that it is readable at the next change only.
    pub fn clear(&self) {
        // An error is that nothing more is there; what is told is not looked at.
        let mut events = [0; 4096];
        while (&self.file).read(&mut events).is_ok_and(|count| count > 0) {}
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Wait, poll};
    use std::time::Duration;

    #[test]
    fn writes_and_new_files_are_told() {
        let directory = std::env::temp_dir().join(format!("popf-watch-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let watch = Watch::directory(&directory).unwrap();
        let told = |timeout| poll(&mut [Wait::readable(&watch)], Some(timeout)).unwrap();
        assert!(!told(Duration::ZERO));
        for content in ["first", "second"] {
            std::fs::write(directory.join("file"), content).unwrap();
            assert!(told(Duration::from_secs(60)), "{content}");
            watch.clear();
            assert!(!told(Duration::ZERO));
        }
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(Watch::directory(&directory).is_err());
    }
}
