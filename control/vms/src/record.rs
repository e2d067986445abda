//! What is written down of a VM.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{At, Result};
use crate::{Error, Name};

/// The file of that in a VM's directories.
const FILE: &str = "vm.json";
/// No record is longer; whoever wrote more did not write a record.
const LIMIT: u64 = 1 << 20;

/// A VM as `popf ps` shows it. Fields may be added: what reads an older or newer one ignores or defaults the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it is called.
    pub name: Name,
    /// The image or kernel it runs.
    pub image: String,
    /// Its memory in bytes.
    pub memory: u64,
    /// Its processors.
    pub cpus: u8,
    /// Its published ports, as they were written.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Its process, for people; whether that lives is told by the lock.
    pub pid: u32,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// Whether it runs on no terminal.
    #[serde(default)]
    pub detached: bool,
    /// Whether it was given a name, so that what it leaves is kept.
    #[serde(default)]
    pub kept: bool,
    /// How its last run ended. Absent while it runs, and if its process was killed.
    #[serde(default)]
    pub ended: Option<End>,
}

/// How a VM's run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When, in seconds since 1970.
    pub at: u64,
    /// In words.
    pub how: String,
    /// popf's exit status.
    pub status: u8,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl Record {
    /// The record in a VM's directory, if there is a sound one.
    pub(crate) fn load(directory: &Path) -> Option<Self> {
        let path = directory.join(FILE);
        let length = fs::metadata(&path).ok()?.len();
        if length > LIMIT {
            return None;
        }
        serde_json::from_slice(&fs::read(&path).ok()?).ok()
    }

    /// Writes it there, at once or not at all.
    pub(crate) fn store(&self, directory: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).expect("a record is plain data");
        replace(directory, FILE, &json)
    }
}

/// Replaces a file's content in one step.
pub(crate) fn replace(directory: &Path, name: &str, content: &[u8]) -> Result<()> {
    let new = directory.join(format!("{name}.new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &new, error)),
        _ => {}
    }
    let mut file = fs::File::create_new(&new).at("create", &new)?;
    file.write_all(content).and_then(|()| file.sync_all()).at("write", &new)?;
    fs::rename(&new, directory.join(name)).at("rename", &new)
}
