//! Disks, held against QEMU's own tools: what we write they find sound, what they write we read.
//!
//! Where `qemu-img` is not installed, the tests that need it say so and pass.

mod broken;
mod formats;
mod locks;
mod qcow2;
mod snapshots;

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use backends::disk::{Access, Disk, DiskError, Format, OpenOptions, open};

const MIB: u64 = 1 << 20;

/// A folder for one test's images.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file with these bytes.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().write_all(bytes).unwrap();
        path
    }
}

fn open_as(path: &Path, format: Option<Format>, access: Access) -> Result<Arc<dyn Disk>, DiskError> {
    open(path, &OpenOptions { format, access })
}

fn read_write(path: &Path) -> Arc<dyn Disk> {
    open_as(path, None, Access::ReadWrite).unwrap()
}

fn contents(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.size() as usize];
    disk.read(0, &mut bytes).unwrap();
    bytes
}

/// The error with its sources, as users see it.
fn story(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// Runs `qemu-img`; `None` if there is none.
fn try_qemu_img(arguments: &[&str]) -> Option<Result<String, String>> {
    let output = match Command::new("qemu-img").args(arguments).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("skipped: qemu-img is not installed (apt-get install qemu-utils)");
            return None;
        }
        output => output.unwrap(),
    };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some(if output.status.success() { Ok(text) } else { Err(text) })
}

/// Runs `qemu-img`, which has to succeed; `None` if there is none.
fn qemu_img(arguments: &[&str]) -> Option<String> {
    let result = try_qemu_img(arguments)?;
    Some(result.unwrap_or_else(|text| panic!("qemu-img {arguments:?}: {text}")))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that differ from sector to sector.
fn pattern(len: u64, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(len as usize + 8);
    while (bytes.len() as u64) < len {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Does random things to a disk and to a copy of its contents, and compares all along.
fn exercise(disk: &dyn Disk, model: &mut [u8], seed: u64, steps: usize) {
    let mut random = Random(seed);
    let size = disk.size();
    for step in 0..steps {
        let offset = random.below(size / 512) * 512;
        // Mostly short, at times longer than any cluster.
        let limit = if random.below(4) == 0 { 512 << 10 } else { 16 << 10 };
        let len = (random.below(limit) / 512 * 512).min(size - offset);
        let range = offset as usize..(offset + len) as usize;
        match random.below(8) {
            0..3 => {
                let data = pattern(len, random.next());
                disk.write(offset, &data).unwrap();
                model[range].copy_from_slice(&data);
            }
            3 => {
                disk.write_zeroes(offset, len, random.below(2) == 0).unwrap();
                model[range].fill(0);
            }
            4 => {
                disk.discard(offset, len).unwrap();
                // Whatever it holds now.
                disk.read(offset, &mut model[range]).unwrap();
            }
            5 => disk.flush().unwrap(),
            _ => {
                let mut data = vec![0xee; len as usize];
                disk.read(offset, &mut data).unwrap();
                assert!(data == model[range], "seed {seed}, step {step}: {offset:#x}+{len:#x} differs");
            }
        }
    }
    assert!(contents(disk) == model, "seed {seed}: differs at the end");
}
