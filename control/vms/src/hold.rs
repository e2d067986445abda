//! Directories of names, each name locked by the process it belongs to.
//!
//! Locks are flock(2)'s: they fall with the process that holds them, however it ends. Two kinds keep each other in
//! order. A *hold* is on one name's directory and lasts as long as its VM. The *guard* is on the directory of all of
//! them; it is taken for a moment by whoever makes, removes or looks at a hold, so that a look, which has to try the
//! lock, never keeps a VM from starting, and nobody locks a file that is being removed.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{At, Error, Result};
use crate::name::Name;

const GUARD: &str = ".lock";
const LOCK: &str = "lock";

/// A directory of names.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    path: PathBuf,
}

/// The guard's file, with the guard or without.
#[derive(Debug)]
struct Guard(File);

impl Guard {
    fn open(base: &Path) -> Result<Self> {
        make_private(base)?;
        let path = base.join(GUARD);
        File::options().create(true).append(true).open(&path).at("open", &path).map(Self)
    }

    /// Runs `work` under the guard.
    fn during<T>(&self, base: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.0.lock().at("lock", &base.join(GUARD))?;
        let result = work();
        self.0.unlock().at("unlock", &base.join(GUARD))?;
        result
    }
}

impl Base {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn directory(&self, name: &Name) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// Takes a name, unless another process has it. `claim` says whether the directory, which may be there already,
    /// is to be taken at all.
    pub(crate) fn take(&self, name: &Name, claim: impl FnOnce(&Path) -> bool) -> Result<Option<Hold>> {
        let guard = Guard::open(&self.path)?;
        let directory = self.directory(name);
        let lock = guard.during(&self.path, || {
            if !claim(&directory) {
                return Ok(None);
            }
            make_private(&directory)?;
            let path = directory.join(LOCK);
            let lock = File::options().create(true).append(true).open(&path).at("open", &path)?;
            match lock.try_lock() {
                Ok(()) => Ok(Some(lock)),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, error)),
            }
        })?;
        Ok(lock.map(|lock| Hold { base: self.path.clone(), directory, guard, lock }))
    }

    /// Every name here, and whether it is held.
    pub(crate) fn names(&self) -> Result<Vec<(Name, bool)>> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        let guard = Guard::open(&self.path)?;
        guard.during(&self.path, || {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.path).at("read", &self.path)? {
                let entry = entry.at("read", &self.path)?;
                // What has another kind of name is not ours.
                if let Some(name) = entry.file_name().to_str().and_then(|name| name.parse::<Name>().ok()) {
                    let held = is_held(&entry.path())?;
                    names.push((name, held));
                }
            }
            names.sort();
            Ok(names)
        })
    }

    /// Whether a name is held; `None` if it is not there at all.
    pub(crate) fn look(&self, name: &Name) -> Result<Option<bool>> {
        let directory = self.directory(name);
        if !directory.exists() {
            return Ok(None);
        }
        let guard = Guard::open(&self.path)?;
        guard.during(&self.path, || is_held(&directory).map(Some))
    }

    /// Removes a name's directory if `doomed` and nobody holds it; says whether it is gone.
    pub(crate) fn remove(&self, name: &Name, doomed: impl FnOnce(&Path) -> bool) -> Result<bool> {
        let guard = Guard::open(&self.path)?;
        let directory = self.directory(name);
        guard.during(&self.path, || {
            let gone = !is_held(&directory)? && doomed(&directory);
            if gone {
                remove_tree(&directory)?;
            }
            Ok(gone)
        })
    }
}

/// A name of which this process says what happens to it.
#[derive(Debug)]
pub(crate) struct Hold {
    base: PathBuf,
    directory: PathBuf,
    guard: Guard,
    lock: File,
}

impl Hold {
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Removes whatever lies in the directory: an earlier process's sockets.
    pub(crate) fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.directory).at("read", &self.directory)? {
            let entry = entry.at("read", &self.directory)?;
            if entry.file_name() != LOCK {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Gives the name up, and removes its directory.
    ///
    /// Nothing is opened for it but the directory itself: a process that has locked itself in can still tidy up.
    pub(crate) fn remove(self) -> Result<()> {
        self.guard.during(&self.base, || remove_tree(&self.directory))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Closing is not enough: a process that another thread is just starting has the file too, until it execs.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!("{} stays locked until this program ends: {error}", self.directory.display());
        }
    }
}

fn is_held(directory: &Path) -> Result<bool> {
    let path = directory.join(LOCK);
    let lock = match File::options().append(true).open(&path) {
        Ok(lock) => lock,
        // Something that was left half-made or half-removed.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        Err(error) => return Err(Error::io("open", &path, error)),
    };
    match lock.try_lock() {
        Ok(()) => lock.unlock().at("unlock", &path).map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, error)),
    }
}

/// A directory that nobody else can look into or put something into. Its parents are made too, but not judged.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    let made = match path.parent() {
        Some(parent) => fs::create_dir_all(parent).and_then(|()| DirBuilder::new().mode(0o700).create(path)),
        None => DirBuilder::new().mode(0o700).create(path),
    };
    match made {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io("create", path, error)),
    }
    // In /tmp, anybody could have made it before us, or a link to somewhere.
    let metadata = fs::symlink_metadata(path).at("look at", path)?;
    let ours =
        metadata.is_dir() && metadata.uid() == host::process::user_id() && metadata.mode() & 0o077 == 0;
    if ours { Ok(()) } else { Err(Error::NotOurs { path: path.to_owned() }) }
}

/// Removes a directory or file; one that is not there is as good.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_has_one_holder() {
        let root = tempfile::tempdir().unwrap();
        let base = Base::new(root.path().join("a/b"));
        assert_eq!(base.names().unwrap(), []);
        let hold = base.take(&name("web"), |_| true).unwrap().unwrap();
        assert!(base.take(&name("web"), |_| true).unwrap().is_none());
        let other = base.take(&name("db"), |_| true).unwrap().unwrap();
        assert_eq!(base.names().unwrap(), [(name("db"), true), (name("web"), true)]);
        assert!(!base.remove(&name("web"), |_| true).unwrap());
        drop(other);
        hold.remove().unwrap();
        assert_eq!(base.names().unwrap(), [(name("db"), false)]);
        assert_eq!((base.look(&name("db")).unwrap(), base.look(&name("web")).unwrap()), (Some(false), None));
        assert!(base.take(&name("web"), |_| false).unwrap().is_none());
        assert!(base.remove(&name("db"), |_| true).unwrap());
        assert!(base.take(&name("web"), |_| true).unwrap().is_some());
    }

    #[test]
    fn what_was_left_can_be_cleared_and_what_is_not_ours_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let base = Base::new(root.path().join("base"));
        let web = base.directory(&name("web"));
        fs::create_dir_all(web.join("deep/er")).unwrap();
        fs::write(web.join("control.sock"), "").unwrap();
        // Others may look into what create_dir_all has made.
        assert!(matches!(base.take(&name("web"), |_| true), Err(Error::NotOurs { .. })));
        for path in [root.path().join("base"), web.clone()] {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        }
        let hold = base.take(&name("web"), |_| true).unwrap().unwrap();
        hold.clear().unwrap();
        let left: Vec<_> = fs::read_dir(&web).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [LOCK]);
        fs::create_dir(root.path().join("base/.other")).unwrap();
        assert_eq!(base.names().unwrap(), [(name("web"), true)]);
        std::os::unix::fs::symlink(root.path(), root.path().join("link")).unwrap();
        let link = Base::new(root.path().join("link"));
        assert!(matches!(link.take(&name("web"), |_| true), Err(Error::NotOurs { .. })));
    }
}
