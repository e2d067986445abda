//! The description that lies beside a cached image, `manifest.json`.
//!
//! The cache is the user's own, but disks fill up and files get edited, so nothing in it is believed unchecked:
//! file names are the recipe's rather than read, and sizes and digests are recorded.

use crate::error::{Error, IoContext, Result};
use crate::package::Package;
use crate::recipe::Recipe;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The kernel, as the package has it; every image has one.
pub(crate) const KERNEL: &str = "vmlinuz";
/// The initramfs; every image has one.
pub(crate) const INITRD: &str = "initrd";
const NAME: &str = "manifest.json";

const FORMAT: u32 = 2;
const SIZE_LIMIT: u64 = 64 << 10;
/// So much of a file is read at a time.
const CHUNK: u64 = 64 << 10;
/// Blocks of zeros of this size are left out of a digest.
const BLOCK: usize = 4096;

/// What a file of an image must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) size: u64,
    /// Of the content but for blocks of zeros, behind which the next block's position is put in. So a disk's holes
    /// are not read, and holes and zeros are the same.
    pub(crate) sha256: String,
}

/// The files of an image, by name.
pub(crate) type Files = BTreeMap<String, Record>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Changes when the meaning of a field does; a manifest of another format is made anew.
    pub(crate) format: u32,
    pub(crate) name: String,
    /// Digest of how the fetched files are made.
    pub(crate) base: String,
    /// Digest of everything that popf itself puts into the image's initramfs.
    pub(crate) recipe: String,
    pub(crate) packages: Vec<Package>,
    pub(crate) files: Files,
}

impl Manifest {
    /// Of an image whose files lie in `directory`.
    pub(crate) fn describe(recipe: &dyn Recipe, packages: Vec<Package>, directory: &Path) -> Result<Self> {
        let mut files = Files::new();
        for file in names(recipe) {
            files.insert(file.to_owned(), Record::of(&directory.join(file))?);
        }
        Ok(Self {
            format: FORMAT,
            name: recipe.name().to_owned(),
            base: recipe.base(),
            recipe: recipe.finish()?,
            packages,
            files,
        })
    }

    /// Whether the image is the one that this popf would make.
    pub(crate) fn is_current(&self, recipe: &dyn Recipe) -> Result<bool> {
        Ok(self.base == recipe.base() && self.recipe == recipe.finish()?)
    }

    /// What the image consists of, as the name of its directory.
    pub(crate) fn content_digest(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(&self.base);
        digest.update(&self.recipe);
        for record in self.files.values() {
            digest.update(&record.sha256);
        }
        for Package { name, version } in &self.packages {
            digest.update(format!("{name}={version}\n"));
        }
        hex(&digest.finalize())
    }

    /// Reads a directory's manifest and holds the files' sizes against it.
    pub(crate) fn load(directory: &Path, recipe: &dyn Recipe) -> Result<Self> {
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
        if manifest.name != recipe.name() {
            return Err(damaged(format!("it is the image {:?}, not {:?}", manifest.name, recipe.name())));
        }
        if !manifest.files.keys().map(String::as_str).eq(names(recipe)) {
            return Err(damaged(format!("{NAME} lists other files than the image has")));
        }
        for (file, record) in &manifest.files {
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

    /// Holds the contents of some of its files against their digests.
    pub(crate) fn verify(&self, directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
        for (file, record) in self.files.iter().filter(|(file, _)| wanted(file)) {
            let found = Record::of(&directory.join(file))?;
            if found != *record {
                let reason = format!("the content of {file} is not what was written");
                return Err(Error::Damaged { path: directory.to_owned(), reason });
            }
        }
        Ok(())
    }
}

/// The files of an image, in the manifest's order.
fn names(recipe: &dyn Recipe) -> BTreeSet<&'static str> {
    recipe.fetched().iter().copied().chain([INITRD]).collect()
}

impl Record {
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let file = File::open(path).at("open", path)?;
        let size = file.metadata().at("look at", path)?.len();
        let mut digest = Sha256::new();
        // Where the next block would lie if there were none of zeros.
        let mut expected = 0;
        let mut at = 0;
        let mut buffer = vec![0; CHUNK as usize];
        while let Some(data) = host::file::next_data(&file, at).at("read", path)? {
            at = data.start - data.start % CHUNK;
            while at < data.end {
                let chunk = &mut buffer[..(size - at).min(CHUNK) as usize];
                file.read_exact_at(chunk, at).at("read", path)?;
                for block in chunk.chunks(BLOCK) {
                    if block.iter().any(|byte| *byte != 0) {
                        if at != expected {
                            digest.update(at.to_le_bytes());
                        }
                        digest.update(block);
                        expected = at + block.len() as u64;
                    }
                    at += block.len() as u64;
                }
            }
        }
        Ok(Self { size, sha256: hex(&digest.finalize()) })
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(bytes: &[u8]) -> String {
        hex(&Sha256::digest(bytes))
    }

    #[test]
    fn holes_are_zeros() {
        let directory = tempfile::tempdir().unwrap();
        let [plain, sparse] = ["plain", "sparse"].map(|name| directory.path().join(name));
        let content = |tail: &[u8]| [vec![1; BLOCK], vec![0; 100 * BLOCK], tail.to_vec()].concat();
        std::fs::write(&plain, content(b"tail")).unwrap();
        let file = File::create(&sparse).unwrap();
        file.write_all_at(&[1; BLOCK], 0).unwrap();
        file.write_all_at(b"tail", 101 * BLOCK as u64).unwrap();
        let record = Record::of(&plain).unwrap();
        assert_eq!(Record::of(&sparse).unwrap(), record);
        assert_eq!(record.size, 101 * BLOCK as u64 + 4);
        // The position counts, and the size.
        file.set_len(200 * BLOCK as u64).unwrap();
        assert_ne!(Record::of(&sparse).unwrap(), record);
        std::fs::write(&plain, [vec![0; BLOCK], content(b"tail")].concat()).unwrap();
        assert_ne!(Record::of(&plain).unwrap().sha256, record.sha256);
    }

    #[test]
    fn a_file_without_zeros_has_its_plain_digest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for length in [0, 1, BLOCK, CHUNK as usize, CHUNK as usize + 1, 3 * CHUNK as usize - 1] {
            let content = vec![7; length];
            std::fs::write(&path, &content).unwrap();
            let record = Record::of(&path).unwrap();
            assert_eq!((record.size, record.sha256), (length as u64, digest(&content)));
        }
    }
}
