//! Why a serial line has no far end.

use std::io;
use std::path::PathBuf;

/// A serial back-end could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SerialError {
    /// The text names no kind of back-end.
    #[error("unknown serial back-end {0:?}; known are stdio, stderr, null and file:PATH")]
    Kind(String),
    /// The file cannot be written.
    #[error("cannot create {path} for the serial port's output", path = path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A standard stream is not usable.
    #[error("standard input or output is not usable")]
    Stream(#[source] io::Error),
    /// The terminal refuses raw mode, or the host its help.
    #[error("the serial port cannot be set up")]
    Host(#[from] host::HostError),
    /// No thread.
    #[error("no thread for the serial port")]
    Thread(#[source] io::Error),
}
