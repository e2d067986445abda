//! The user's VMs.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::control::Client;
use crate::error::{At, Error, Result};
use crate::hold::{Base, Hold, make_private, remove_tree};
use crate::kept::Kept;
use crate::name::Name;
use crate::record::{self, End, Record};

/// How often a generated name may turn out to be in use.
const TRIES: usize = 64;

/// The directories in which VMs are known.
#[derive(Clone, Debug)]
pub struct Registry {
    runtime: Base,
    /// Absent where there is no home: VMs run there, and leave nothing.
    kept: Option<Kept>,
}

/// A VM that is known.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is; how it ended, if it is stopped.
    pub record: Record,
    /// Whether it runs.
    pub running: bool,
}

/// A VM that runs, in some other process.
#[derive(Clone, Debug)]
pub struct Running {
    name: Name,
    directory: PathBuf,
}

impl Running {
    /// What it is called.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// A file or socket of its runtime directory, such as [`crate::VSOCK_SOCKET`].
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// Speaks to its process.
    pub fn control(&self) -> Result<Client> {
        Client::connect(&self.path(crate::CONTROL_SOCKET))
            .map_err(|source| Error::NoAnswer { name: self.name.clone(), source })
    }
}

impl Registry {
    /// The user's.
    pub fn of_user() -> Result<Self> {
        Ok(Self::from_environment(|name| std::env::var_os(name)))
    }

    /// In these directories, which need not exist yet.
    pub fn at(runtime: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self { runtime: Base::new(runtime.into()), kept: Some(Kept::new(state.into())) }
    }

    /// The XDG Base Directory Specification wants relative paths ignored.
    fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let directory = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let runtime = directory("XDG_RUNTIME_DIR").map_or_else(
            || PathBuf::from(format!("/tmp/popf-{}", host::process::user_id())),
            |base| base.join("popf"),
        );
        let data = directory("XDG_DATA_HOME")
            .or_else(|| directory("HOME").map(|home| home.join(".local/share")))
            .map(|base| Kept::new(base.join("popf/vms")));
        Self { runtime: Base::new(runtime), kept: data }
    }

    /// Takes a name for a VM that this process is about to run. What an earlier one left in its runtime directory is
    /// removed; what is kept of it stays.
    pub fn claim(&self, name: &Name) -> Result<Claim> {
        self.tidy()?;
        let taken = || Error::Taken { name: name.clone() };
        let runtime = self.runtime.take(name, |_| true)?.ok_or_else(taken)?;
        self.claimed(name.clone(), runtime)
    }

    /// Takes a name that nobody has, for a VM that was given none.
    pub fn claim_generated(&self, stem: &str) -> Result<Claim> {
        self.tidy()?;
        let mut name = Name::generate(stem);
        for _ in 0..TRIES {
            let kept = self.kept.as_ref().is_some_and(|kept| kept.state.directory(&name).exists());
            if !kept && let Some(hold) = self.runtime.take(&name, |directory| !directory.exists())? {
                return self.claimed(name, hold);
            }
            name = Name::generate(stem);
        }
        Err(Error::Taken { name })
    }

    fn claimed(&self, name: Name, runtime: Hold) -> Result<Claim> {
        runtime.clear()?;
        let mut claim = Claim {
            name,
            runtime: Some(runtime),
            state: None,
            base: self.kept.clone(),
            keep: false,
            old: false,
        };
        // The lock here counts too: a session elsewhere may have another runtime directory and the same home.
        if claim.base.as_ref().is_some_and(|kept| kept.state.directory(&claim.name).exists()) {
            (claim.keep, claim.old) = (true, true);
            claim.state()?;
        }
        Ok(claim)
    }

    /// The running VM of a name.
    pub fn running(&self, name: &Name) -> Result<Running> {
        if self.runtime.look(name)? == Some(true) {
            return Ok(Running { name: name.clone(), directory: self.runtime.directory(name) });
        }
        self.tidy()?;
        match self.kept(name) {
            Ok(_) => Err(Error::Stopped { name: name.clone() }),
            Err(error) => Err(error),
        }
    }

    /// The directory in which something is kept of this VM, running or not.
    pub fn kept(&self, name: &Name) -> Result<PathBuf> {
        let directory = self.kept.as_ref().map(|kept| kept.state.directory(name));
        directory.filter(|path| path.exists()).ok_or_else(|| Error::Unknown { name: name.clone() })
    }

    /// A file that [`Claim::write`] has written for a VM of which something is kept.
    pub fn setting(&self, name: &Name, file: &str) -> Result<PathBuf> {
        self.kept(name)?;
        let kept = self.kept.as_ref().ok_or(Error::NoDataDirectory)?;
        Ok(kept.settings(name).join(file))
    }

    /// Every VM that runs, and every stopped one of which something is kept; by name.
    pub fn list(&self) -> Result<Vec<Entry>> {
        self.tidy()?;
        let mut entries = Vec::new();
        for (name, held) in self.runtime.names()? {
            // One that has only just begun has no record yet.
            if held && let Some(record) = Record::load(&self.runtime.directory(&name)) {
                entries.push(Entry { record, running: true });
            }
        }
        let Some(kept) = &self.kept else { return Ok(entries) };
        for (name, held) in kept.state.names()? {
            if held || entries.iter().any(|entry| entry.record.name == name) {
                continue;
            }
            if let Some(record) = Record::load(&kept.state.directory(&name)) {
                entries.push(Entry { record, running: false });
            }
        }
        entries.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok(entries)
    }

    /// Removes what is kept of a stopped VM.
    pub fn remove(&self, name: &Name) -> Result<()> {
        self.kept(name)?;
        let kept = self.kept.as_ref().ok_or(Error::NoDataDirectory)?;
        if self.runtime.look(name)? == Some(true) || !kept.remove(name, |_| true)? {
            return Err(Error::Taken { name: name.clone() });
        }
        Ok(())
    }

    /// Removes what killed processes left: runtime directories, and state that was not to be kept.
    fn tidy(&self) -> Result<()> {
        for (name, held) in self.runtime.names()? {
            if !held && self.runtime.remove(&name, |_| true)? {
                tracing::info!("removed what a killed popf left of {name}");
            }
        }
        self.kept.as_ref().map_or(Ok(()), Kept::tidy)
    }
}

/// A name that this process has; what it does not finish is undone when this is dropped.
#[derive(Debug)]
pub struct Claim {
    name: Name,
    /// Until it is dropped.
    runtime: Option<Hold>,
    state: Option<Hold>,
    base: Option<Kept>,
    /// Whether the state directory outlives this.
    keep: bool,
    /// Whether it was there before.
    old: bool,
}

impl Claim {
    /// What the VM is called.
    pub fn name(&self) -> &Name {
        &self.name
    }

    fn runtime(&self) -> &Path {
        self.runtime.as_ref().expect("held until dropped").directory()
    }

    /// Where sockets go.
    pub fn runtime_directory(&self) -> &Path {
        self.runtime()
    }

    /// A file or socket of the runtime directory.
    pub fn path(&self, file: &str) -> PathBuf {
        self.runtime().join(file)
    }

    /// The directory for what outlives a run, or is too large for the runtime directory; made now if need be.
    pub fn state(&mut self) -> Result<&Path> {
        if self.state.is_none() {
            let base = self.base.as_ref().ok_or(Error::NoDataDirectory)?;
            let taken = || Error::Taken { name: self.name.clone() };
            self.state = Some(base.state.take(&self.name, |_| true)?.ok_or_else(taken)?);
        }
        Ok(self.state.as_ref().expect("just made").directory())
    }

    /// The state directory, if there is one.
    pub fn state_directory(&self) -> Option<&Path> {
        self.state.as_ref().map(Hold::directory)
    }

    /// Writes down what runs, for others to see. A record that is to be kept makes the state directory, and that
    /// stays.
    pub fn publish(&mut self, record: &Record) -> Result<()> {
        if record.kept {
            self.state()?;
        }
        if let Some(state) = &self.state {
            record.store(state.directory())?;
        }
        self.keep |= record.kept;
        record.store(self.runtime())
    }

    /// Says that it came to nothing: a name that was new is forgotten again.
    pub fn undo(&mut self) {
        self.keep = self.old;
    }

    /// Writes down how it ended.
    pub fn ended(&mut self, record: &Record, end: End) -> Result<()> {
        let record = Record { ended: Some(end), ..record.clone() };
        match &self.state {
            Some(state) if self.keep => record.store(state.directory()),
            _ => Ok(()),
        }
    }

    /// The directory for what later runs believe of this VM, and its guest, should it break out, must not change;
    /// made now if need be.
    pub fn settings(&mut self) -> Result<PathBuf> {
        // Held for as long as anything is there.
        self.state()?;
        let directory = self.settings_directory().ok_or(Error::NoDataDirectory)?;
        make_private(&directory)?;
        Ok(directory)
    }

    /// The same, made or not.
    pub fn settings_directory(&self) -> Option<PathBuf> {
        self.base.as_ref().map(|base| base.settings(&self.name))
    }

    /// Writes a file of the settings, in one step.
    pub fn write(&mut self, file: &str, content: &[u8]) -> Result<()> {
        record::replace(&self.settings()?, file, content)
    }

    /// Reads a file of the settings, if it is there.
    pub fn read(&self, file: &str) -> Result<Option<String>> {
        let Some(path) = self.settings_directory().map(|directory| directory.join(file)) else {
            return Ok(None);
        };
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.at("read", &path).map(Some),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let state = self.state.take().filter(|_| !self.keep);
        // First, as long as the name is held.
        let settings = self.settings_directory().filter(|_| state.is_some());
        let settings = settings.map_or(Ok(()), |directory| remove_tree(&directory));
        let removed = [state, self.runtime.take()].into_iter().flatten().map(Hold::remove);
        for error in std::iter::once(settings).chain(removed).filter_map(Result::err) {
            tracing::warn!("cannot tidy up after {}: {error}", self.name);
        }
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
