//! What can go wrong between a user and their VMs.

use std::io;
use std::path::{Path, PathBuf};

use crate::Name;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a VM cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else runs it.
    #[error("there is a running VM called {name}")]
    Taken {
        /// The name.
        name: Name,
    },
    /// Nothing is known of it.
    #[error("there is no VM called {name}")]
    Unknown {
        /// The name.
        name: Name,
    },
    /// It is known and does not run.
    #[error("{name} is not running")]
    Stopped {
        /// The name.
        name: Name,
    },
    /// Neither `XDG_DATA_HOME` nor `HOME` says where to keep what is to be kept.
    #[error("there is no directory to keep VMs in")]
    NoDataDirectory,
    /// A directory that others could have put there, or can look into.
    #[error("{} is not a directory of yours alone", path.display())]
    NotOurs {
        /// Which.
        path: PathBuf,
    },
    /// The host refused an operation on a file.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A running VM did not answer as it should.
    #[error("{name} does not answer")]
    NoAnswer {
        /// Which.
        name: Name,
        /// Why.
        source: crate::control::ClientError,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }
}

/// Says what was done to which file when it failed.
pub(crate) trait At<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::io(what, path, source))
    }
}
