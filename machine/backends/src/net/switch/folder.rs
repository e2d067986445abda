//! Where the VMs of a switch find each other: a folder with a socket of each.
//!
//! A socket gets its name only once it listens, so whoever finds it can connect, and one that refuses belonged to a
//! process that has ended. Every VM puts its own socket there before it looks for the others': of two that join at
//! once, at least one sees the other.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::HostError;
use host::seqpacket::{Connection, Listener};

use super::members::{Id, MAX_PEERS};
use crate::net::NetError;

/// What a socket without its final name may be old until it is taken for a dead process's.
const UNNAMED: Duration = Duration::from_secs(60);

/// Our place in the folder; the socket goes with it.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    pub(super) listener: Listener,
}

impl Place {
    /// Takes a place.
    pub(super) fn take(folder: &Path, own: Id) -> Result<Self, NetError> {
        make(folder)?;
        let unnamed = folder.join(format!(".{:016x}", own.0));
        let path = folder.join(name(own));
        let listener = Listener::bind(&unnamed)?;
        if let Err(source) = fs::rename(&unnamed, &path) {
            let _ = fs::remove_file(&unnamed);
            return Err(NetError::Folder { path, source });
        }
        Ok(Self { path, listener })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Whoever comes next would remove it too.
        let _ = fs::remove_file(&self.path);
    }
}

/// The folder, this user's and closed to others.
fn make(folder: &Path) -> Result<(), NetError> {
    let refuse = |source| NetError::Folder { path: folder.into(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(refuse)?;
    let own = fs::metadata("/proc/self").map_err(refuse)?.uid();
    let found = fs::symlink_metadata(folder).map_err(refuse)?;
    if !found.is_dir() || found.uid() != own || found.mode() & 0o022 != 0 {
        return Err(NetError::Strangers { path: folder.into() });
    }
    Ok(())
}

fn name(id: Id) -> String {
    format!("{:016x}", id.0)
}

/// Connects to everybody in the folder but `own`, and removes what dead processes have left.
pub(super) fn connect_to_all(folder: &Path, own: Id) -> Result<Vec<(Id, Connection)>, NetError> {
    let refuse = |source| NetError::Folder { path: folder.into(), source };
    let mut others = Vec::new();
    for entry in fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(id) = parse(name)
            && id != own
        {
            match Connection::connect(&entry.path()) {
                Ok(connection) => others.push((id, connection)),
                Err(error) if is_dead(&error) => drop(fs::remove_file(entry.path())),
                // One that has just left, or is too busy to be asked, is not there.
                Err(error) => tracing::debug!("no connection to {name} on the switch: {error}"),
            }
        } else if name.starts_with('.') && age(&entry).is_some_and(|age| age > UNNAMED) {
            let _ = fs::remove_file(entry.path());
        }
    }
    if others.len() > MAX_PEERS {
        return Err(NetError::Full { limit: MAX_PEERS });
    }
    Ok(others)
}

fn parse(name: &str) -> Option<Id> {
    let digits = name.len() == 16 && name.bytes().all(|c| c.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(name, 16).ok()).flatten().map(Id)
}

/// Nobody listens.
fn is_dead(error: &HostError) -> bool {
    matches!(error, HostError::Call { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
}

fn age(entry: &fs::DirEntry) -> Option<Duration> {
    entry.metadata().ok()?.modified().ok()?.elapsed().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_living_are_found_and_the_dead_removed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("lab");
        let first = Place::take(&folder, Id(1)).unwrap();
        let second = Place::take(&folder, Id(2)).unwrap();
        // As a killed process leaves it.
        drop(Listener::bind(&folder.join(name(Id(3)))).unwrap());
        fs::write(folder.join("notes"), "not a socket's name").unwrap();
        let others = connect_to_all(&folder, Id(2)).unwrap();
        assert_eq!(others.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [Id(1)]);
        assert!(first.listener.accept().unwrap().is_some());
        drop(second);
        let mut names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0000000000000001", "notes"]);
    }

    #[test]
    fn a_folder_that_others_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let refused = Place::take(folder.path(), Id(1)).unwrap_err();
        assert!(matches!(refused, NetError::Strangers { .. }), "{refused}");
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Place::take(&file, Id(1)).unwrap_err(), NetError::Folder { .. }));
    }
}
