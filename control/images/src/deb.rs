//! Takes single files out of a Debian package (deb(5), format 2.0), as a stream.
//!
//! apt has checked the package's signature and digest; sizes are limited all the same, and a damaged file gives
//! an error. Not modelled: the control archive, maintainer scripts, formats before 2.0, and tar's extensions for
//! long names (no wanted name is that long, and without them no header can ask for memory).

use crate::ar;
use crate::error::PackageError;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// More than any kernel package unpacks to.
const PAYLOAD_LIMIT: u64 = 4 << 30;
/// What a decompressor may use; packages are made with dictionaries of at most 64 MiB.
const DICTIONARY_LIMIT: u64 = 256 << 20;

/// A file to take out of a package.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// For messages.
    pub what: &'static str,
    /// Whether a path within the package, without a leading `./`, is the one.
    pub is: fn(&str) -> bool,
    /// The most bytes it may have.
    pub limit: u64,
    /// Where it is put.
    pub to: &'a Path,
}

/// Takes the wanted files out of the package file, and stops when it has them.
pub fn extract(package: &Path, wanted: &[Wanted<'_>]) -> Result<(), PackageError> {
    let file = File::open(package).map_err(PackageError::Read)?;
    extract_from(BufReader::with_capacity(1 << 16, file), wanted)
}

fn extract_from(package: impl Read, wanted: &[Wanted<'_>]) -> Result<(), PackageError> {
    let mut archive = ar::Archive::new(package).map_err(PackageError::Read)?;
    let first = archive.next_member().map_err(PackageError::Read)?;
    let Some(first) = first.filter(|member| member.name == "debian-binary") else {
        return Err(PackageError::Format("it is no Debian package"));
    };
    let mut version = String::new();
    first.take(16).read_to_string(&mut version).map_err(PackageError::Read)?;
    if !version.starts_with("2.") {
        return Err(PackageError::Format("it is a Debian package of an unknown format"));
    }
    while let Some(member) = archive.next_member().map_err(PackageError::Read)? {
        if member.name == "data.tar" || member.name.starts_with("data.tar.") {
            let name = member.name.clone();
            return unpack(decompressor(&name, member)?, wanted);
        }
    }
    Err(PackageError::Format("it has no payload"))
}

fn decompressor<'a>(name: &str, member: impl Read + 'a) -> Result<Box<dyn Read + 'a>, PackageError> {
    let suffix = name.strip_prefix("data.tar").unwrap_or_default();
    Ok(match suffix {
        "" => Box::new(member),
        ".gz" => Box::new(flate2::read::GzDecoder::new(member)),
        ".xz" => {
            let limit_kib = u32::try_from(DICTIONARY_LIMIT >> 10).unwrap_or(u32::MAX);
            Box::new(lzma_rust2::XzReader::new_mem_limit(member, true, limit_kib))
        }
        ".zst" => Box::new(
            ruzstd::decoding::StreamingDecoder::new_with_max_window_size(member, DICTIONARY_LIMIT)
                .map_err(|error| PackageError::Read(io::Error::new(io::ErrorKind::InvalidData, error)))?,
        ),
        _ => return Err(PackageError::Compression(name.to_owned())),
    })
}

fn unpack(payload: impl Read, wanted: &[Wanted<'_>]) -> Result<(), PackageError> {
    let mut archive = tar::Archive::new(payload.take(PAYLOAD_LIMIT));
    let mut missing: Vec<&Wanted<'_>> = wanted.iter().collect();
    for entry in archive.entries().map_err(PackageError::Read)?.raw(true) {
        let mut entry = entry.map_err(PackageError::Read)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path_bytes();
        let path = String::from_utf8_lossy(&path);
        let path = path.strip_prefix("./").unwrap_or(&path);
        let Some(index) = missing.iter().position(|wanted| (wanted.is)(path)) else {
            continue;
        };
        let found = missing.swap_remove(index);
        let size = entry.header().entry_size().map_err(PackageError::Read)?;
        if size > found.limit {
            return Err(PackageError::TooLarge { name: found.what, size, limit: found.limit });
        }
        copy(&mut entry, size, found.to)?;
        if missing.is_empty() {
            return Ok(());
        }
    }
    match missing.first() {
        Some(wanted) => Err(PackageError::Missing(wanted.what)),
        None => Ok(()),
    }
}

/// Copies with the two sides' errors kept apart: one is the package's, the other the host's.
fn copy(from: &mut impl Read, size: u64, path: &Path) -> Result<(), PackageError> {
    let write_error = |error| PackageError::Write(PathBuf::from(path), error);
    let mut to = File::create(path).map_err(write_error)?;
    let mut buffer = vec![0; 1 << 16];
    let mut copied = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(PackageError::Read(error)),
        };
        to.write_all(&buffer[..count]).map_err(write_error)?;
        copied += count as u64;
    }
    if copied != size {
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the payload ends in the middle of a file");
        return Err(PackageError::Read(error));
    }
    Ok(())
}

#[cfg(test)]
#[path = "deb_tests.rs"]
mod tests;
