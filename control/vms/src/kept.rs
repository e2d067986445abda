//! What outlives VMs: what they have written, and apart from it what later runs believe of them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{At, Result};
use crate::hold::{Base, remove_tree};
use crate::name::Name;
use crate::record::Record;

/// The directories of what is kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// What VMs write, by name.
    pub(crate) state: Base,
    /// What they must not, by name; a directory is its VM's for as long as there is one in `state`.
    settings: PathBuf,
}

impl Kept {
    pub(crate) fn new(state: PathBuf) -> Self {
        let settings = state.with_file_name("settings");
        Self { state: Base::new(state), settings }
    }

    pub(crate) fn settings(&self, name: &Name) -> PathBuf {
        self.settings.join(name.as_str())
    }

    /// Removes a name if `doomed` and nobody holds it; says whether it is gone.
    pub(crate) fn remove(&self, name: &Name, doomed: impl FnOnce(&Path) -> bool) -> Result<bool> {
        Ok(self.state.remove(name, doomed)? && remove_tree(&self.settings(name)).map(|()| true)?)
    }

    /// Removes what killed processes left.
    pub(crate) fn tidy(&self) -> Result<()> {
        for (name, held) in self.state.names()? {
            if !held {
                self.remove(&name, |path| Record::load(path).is_none_or(|record| !record.kept))?;
            }
        }
        let entries = match fs::read_dir(&self.settings) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.at("read", &self.settings)?,
        };
        for entry in entries {
            let entry = entry.at("read", &self.settings)?;
            let name = entry.file_name().to_str().and_then(|name| name.parse::<Name>().ok());
            if name.is_some_and(|name| !self.state.directory(&name).exists()) {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }
}
