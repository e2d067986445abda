//! A file that what is written to it cannot fill the disk with: when it has reached its limit it becomes `NAME.1`, in
//! place of the one before, and a new one begins. So the last bytes are always there, and never more than twice the
//! limit.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// When a log begins anew.
pub const LOG_LIMIT: u64 = 4 << 20;

/// Where the earlier part of a log lies.
pub fn earlier(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    limit: u64,
}

impl Log {
    /// Goes on with the log that is there, if there is one.
    pub(crate) fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, length, limit })
    }

    /// Writes all of it, in one file if the limit allows.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length > 0 && self.length.saturating_add(bytes.len() as u64) > self.limit {
            fs::rename(&self.path, earlier(&self.path))?;
            *self = Self::open(&self.path, self.limit)?;
        }
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_begins_anew_and_keeps_its_last_part() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let mut log = Log::open(&path, 8).unwrap();
        for (bytes, before, now) in [
            ("one", "", "one"),
            ("five", "", "onefive"),
            ("!", "", "onefive!"),
            ("six", "onefive!", "six"),
            ("longer than that", "six", "longer than that"),
            ("x", "longer than that", "x"),
        ] {
            log.write(bytes.as_bytes()).unwrap();
            assert_eq!((read(&earlier(&path)).as_str(), read(&path).as_str()), (before, now));
        }
        let mut log = Log::open(&path, 8).unwrap();
        log.write(b"again").unwrap();
        assert_eq!(read(&path), "xagain");
    }
}
