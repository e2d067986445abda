//! Unix sockets that programs connect to.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Listens at `path`, without blocking. A socket that a process left behind there when it was killed is replaced.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    bind_by(|path| UnixListener::bind(path), path)
}

/// The same, for nobody but the user.
pub fn listen_privately(path: &Path) -> io::Result<UnixListener> {
    bind_by(host::socket::listen_privately, path)
}

fn bind_by(bind: fn(&Path) -> io::Result<UnixListener>, path: &Path) -> io::Result<UnixListener> {
    let listener = match bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            fs::remove_file(path)?;
            bind(path)?
        }
        result => result?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether a socket lies there on which nobody listens.
fn is_abandoned(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
