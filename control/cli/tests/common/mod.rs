//! Runs the popf that cargo has built, and makes files to give it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// popf with these arguments, no input, and caches of its own.
pub fn popf(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_popf"));
    command.args(arguments).stdin(Stdio::null()).env_remove("POPF_LOG");
    command
}

/// Its exit status, standard output and standard error.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // A death by signal is a failure of its own.
    (status.code().unwrap_or(-1), text(&stdout), text(&stderr))
}

/// A directory with files in it.
#[allow(dead_code, reason = "not every test has files")]
pub struct Files(tempfile::TempDir);

#[allow(dead_code, reason = "not every test has files")]
impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file; its path.
    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[allow(dead_code, reason = "not every test has such a guest")]
/// A multiboot kernel that is loaded at 1 MiB and runs this code, in 32-bit protected mode without interrupts.
pub fn multiboot(code: &[u8]) -> Vec<u8> {
    const BASE: u32 = 0x10_0000;
    const FLAGS: u32 = 1 << 16;
    const MAGIC: u32 = 0x1bad_b002;
    let checksum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(FLAGS);
    // Magic, flags, checksum, header, load, load end, bss end, entry.
    let words = [MAGIC, FLAGS, checksum, BASE, BASE, 0, 0, BASE + 32];
    let mut file: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.extend_from_slice(code);
    file
}
