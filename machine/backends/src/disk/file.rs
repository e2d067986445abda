//! One file or block device of the host's, opened and locked. A disk may need several.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use host::FileLock;

use super::DiskError;

/// Opens and locks a file.
pub(super) fn open_file(path: &Path, write: bool) -> Result<File, DiskError> {
    let told = |source: io::Error| {
        let hint = match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem if write => {
                " for writing; add readonly or snapshot if the guest need not keep anything"
            }
            ErrorKind::ResourceBusy => "; the host has it mounted",
            _ => "",
        };
        DiskError::Open { path: path.to_owned(), hint, source }
    };
    let kind = path.metadata().map_err(told)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(DiskError::Kind(path.to_owned()));
    }
    let file = host::file::open(path, write).map_err(told)?;
    match host::file::try_lock(&file, if write { FileLock::Exclusive } else { FileLock::Shared }) {
        Ok(true) => Ok(file),
        Ok(false) => Err(DiskError::InUse { path: path.to_owned(), writing: write }),
        Err(error) => {
            tracing::warn!(
                "{} cannot be locked ({error}); see to it that nothing else writes it",
                path.display()
            );
            Ok(file)
        }
    }
}
