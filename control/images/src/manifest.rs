//! The description that lies beside a cached image, `manifest.json`.
//!
//! The cache is the user's own, but disks fill up and files get edited, so nothing in it is believed unchecked:
//! file names are fixed here rather than read, and sizes and digests are recorded.

use crate::error::{Error, IoContext, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// The kernel, as the package has it.
pub(crate) const KERNEL: &str = "vmlinuz";
/// The busybox program, kept so that a newer popf can make a newer initramfs without the network.
pub(crate) const BUSYBOX: &str = "busybox";
/// The initramfs.
pub(crate) const INITRD: &str = "initrd";
const NAME: &str = "manifest.json";

const FORMAT: u32 = 1;
const SIZE_LIMIT: u64 = 64 << 10;

/// A Debian package that went into an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What a file of an image must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) size: u64,
    pub(crate) sha256: String,
}

/// The files of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Files {
    pub(crate) vmlinuz: Record,
    pub(crate) busybox: Record,
    pub(crate) initrd: Record,
}

impl Files {
    pub(crate) fn each(&self) -> [(&'static str, &Record); 3] {
        let Self { vmlinuz, busybox, initrd } = self;
        [(KERNEL, vmlinuz), (BUSYBOX, busybox), (INITRD, initrd)]
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Changes when the meaning of a field does; a manifest of another format is made anew.
    pub(crate) format: u32,
    pub(crate) name: String,
    /// Digest of everything that popf itself puts into the image.
    pub(crate) recipe: String,
    pub(crate) packages: Vec<Package>,
    pub(crate) files: Files,
}

impl Manifest {
    pub(crate) fn new(name: &str, recipe: String, packages: Vec<Package>, files: Files) -> Self {
        Self { format: FORMAT, name: name.to_owned(), recipe, packages, files }
    }

    /// What the image consists of, as the name of its directory.
    pub(crate) fn content_digest(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(&self.recipe);
        for (_, record) in self.files.each() {
            digest.update(&record.sha256);
        }
        for Package { name, version } in &self.packages {
            digest.update(format!("{name}={version}\n"));
        }
        hex(&digest.finalize())
    }

    /// Reads a directory's manifest and holds the files' sizes against it.
    pub(crate) fn load(directory: &Path, name: &str) -> Result<Self> {
        let damaged = |reason: String| Error::Damaged { path: directory.to_owned(), reason };
        let path = directory.join(NAME);
        let mut text = String::new();
        let file = File::open(&path).map_err(|error| damaged(format!("{NAME}: {error}")))?;
        file.take(SIZE_LIMIT)
            .read_to_string(&mut text)
            .map_err(|error| damaged(format!("{NAME}: {error}")))?;
        let manifest: Self =
            serde_json::from_str(&text).map_err(|error| damaged(format!("{NAME}: {error}")))?;
        if manifest.format != FORMAT {
            return Err(damaged(format!("{NAME} has format {}, not {FORMAT}", manifest.format)));
        }
        if manifest.name != name {
            return Err(damaged(format!("it is the image {:?}, not {name:?}", manifest.name)));
        }
        for (file, record) in manifest.files.each() {
            let metadata =
                directory.join(file).metadata().map_err(|error| damaged(format!("{file}: {error}")))?;
            if !metadata.is_file() || metadata.len() != record.size {
                return Err(damaged(format!("{file} has {} bytes, not {}", metadata.len(), record.size)));
            }
        }
        Ok(manifest)
    }

    pub(crate) fn store(&self, directory: &Path) -> Result<()> {
        let path = directory.join(NAME);
        let text = serde_json::to_string_pretty(self).map_err(io::Error::from).at("describe", &path)?;
        let mut file = File::create(&path).at("create", &path)?;
        file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).at("write", &path)
    }

    /// Holds the files' contents against their digests.
    pub(crate) fn verify(&self, directory: &Path, files: &[&str]) -> Result<()> {
        for (file, record) in self.files.each().into_iter().filter(|(file, _)| files.contains(file)) {
            let found = Record::of(&directory.join(file))?;
            if found != *record {
                let reason = format!("the content of {file} is not what was written");
                return Err(Error::Damaged { path: directory.to_owned(), reason });
            }
        }
        Ok(())
    }
}

impl Record {
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let mut file = File::open(path).at("open", path)?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut size = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => {
                    return Ok(Self { size, sha256: hex(&digest.finalize()) });
                }
                Ok(count) => {
                    digest.update(&buffer[..count]);
                    size += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).at("read", path),
            }
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
