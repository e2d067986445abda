//! The programs of the host that images are made with.

use crate::error::{Error, Result};
use std::env;
use std::path::{Path, PathBuf};

/// Where they are: names, to be looked up along PATH and in /usr/sbin, or paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// Updates and downloads.
    pub apt_get: PathBuf,
    /// Describes packages.
    pub apt_cache: PathBuf,
    /// Tells apt's settings.
    pub apt_config: PathBuf,
    /// Makes a Debian root file system.
    pub mmdebstrap: PathBuf,
    /// Unpacks it.
    pub tar: PathBuf,
    /// Makes a disk of it.
    pub mke2fs: PathBuf,
    /// Lets the two believe that they are root.
    pub fakeroot: PathBuf,
    /// Gives mmdebstrap a user namespace with a range of users, where it is not root.
    pub newuidmap: PathBuf,
    /// What mmdebstrap can do with instead.
    pub fakechroot: PathBuf,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            apt_get: "apt-get".into(),
            apt_cache: "apt-cache".into(),
            apt_config: "apt-config".into(),
            mmdebstrap: "mmdebstrap".into(),
            tar: "tar".into(),
            mke2fs: "mke2fs".into(),
            fakeroot: "fakeroot".into(),
            newuidmap: "newuidmap".into(),
            fakechroot: "fakechroot".into(),
        }
    }
}

/// Finds each of the programs, given with the package it comes in; an error names all that are missing.
pub(crate) fn find<const N: usize>(programs: [(&Path, &'static str); N]) -> Result<[PathBuf; N]> {
    let found = programs.map(|(program, package)| (locate(program), program, package));
    let missing: Vec<_> = found.iter().filter(|(path, ..)| path.is_none()).collect();
    if missing.is_empty() {
        return Ok(found.map(|(path, ..)| path.unwrap_or_default()));
    }
    Err(Error::MissingTools {
        programs: missing.iter().map(|(_, program, _)| program.display().to_string()).collect(),
        packages: missing.iter().map(|(.., package)| *package).collect(),
    })
}

pub(crate) fn locate(program: &Path) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| path.metadata().is_ok_and(|metadata| metadata.is_file());
    if program.components().count() > 1 {
        return Some(program.to_owned()).filter(is_program);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    // Who is not root rarely has the administrators' programs on the path, and mke2fs is one.
    let administrators = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(administrators).map(|directory| directory.join(program)).find(is_program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_command_that_installs_it() {
        let [shell] = find([(Path::new("sh"), "dash")]).unwrap();
        assert!(shell.is_absolute(), "{}", shell.display());
        let (one, two) = (Path::new("popf-no-such-program"), Path::new("/nonexistent/mke2fs"));
        let error = find([(one, "package-one"), (Path::new("sh"), "dash"), (two, "e2fsprogs")]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("popf-no-such-program, /nonexistent/mke2fs"), "{text}");
        assert!(text.ends_with("sudo apt-get install package-one e2fsprogs"), "{text}");
    }
}
