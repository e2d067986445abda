//! A folder of the host, served to a guest: a FUSE server (protocol 7.38, linux/fuse.h) behind the file system device
//! of Virtio 1.2 (5.11).
//!
//! # Why virtio-fs, and why a server of our own
//! Of the two ways to share a folder, 9p is not in Debian's cloud kernel at all (`CONFIG_NET_9P` is not set), where
//! virtio-fs is a module of both that kernel and the usual one. It also keeps what programs expect of a file system:
//! a file that is unlinked stays as long as it is open, appends are atomic, shared mappings work with the guest's page
//! cache, reads are many and large. A DAX window would spare the guest its cache, and cost page faults of ours.
//!
//! The crate fuse-backend-rs would serve (0.14 builds without a C compiler), but brings rust-vmm's set in another
//! version than ours, mio, nix and capability juggling for servers that are root, and does its system calls itself,
//! with `unsafe` that [`host`] exists to gather. What of it we would use is about what stands here.
//!
//! # What a guest can do
//! It gives requests; [`Worker::handle`] answers each, within bounds whatever is in it. A file is known to the guest by
//! a number (`nodes`), which stands for a descriptor of ours; from a folder it gets on by single names
//! ([`host::tree`]), which no link, `..` or renaming turns into a way out. Pipes, sockets and devices in the folder are
//! seen and not opened: the guest's own kernel makes something of them.
//!
//! Descriptors are bounded: those of files that are only known are closed when there are too many, and the file is
//! found again by its name when it is asked for, if it is the same file. Only open files count for good, and too many
//! of those are ENFILE.
//!
//! # Who owns what
//! The server acts as the user that popf runs as, and as nobody else. Owners and modes are shown as they are on the
//! host; the guest's kernel holds its users to them, and the host's kernel holds popf to them. What the guest makes
//! belongs to popf's user; to give it to somebody else is refused, as chown(2) is to any user. Only where popf's user
//! is root, which may, does a new file belong to the user in the guest that made it.
//!
//! # What each side sees of the other's changes
//! The guest believes what it knows of names and attributes for a second ([`VALID`]), and asks at every open(2): pages
//! it has of a file that has changed since it was last opened are dropped then. Its writes go through at once.
//!
//! # What does not survive
//! Numbers of files and of what is open are good for one session. A guest that is reset begins another; one that goes on
//! from saved state is told that its numbers mean nothing (ESTALE, EBADF), on which its kernel finds files anew by their
//! paths. What it had open is lost. No number of one session is one of another's, so it never gets the wrong file.
//!
//! Not modelled: DAX, locks between guest and host (the guest's own work), ioctl and poll, O_TMPFILE, writing to
//! append-only files, access control lists that name users of the guest.

mod attributes;
mod data;
mod folders;
mod handles;
mod names;
mod nodes;
mod pool;
mod server;
mod slots;
mod wire;

pub use pool::{Pool, PoolBell, Requests, Ticket};
pub use server::Worker;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use host::tree::Node;

use server::Server;

/// For how long the guest may believe what it was told.
const VALID: Duration = Duration::from_secs(1);
/// The most that one read or write carries.
const MAX_DATA: usize = 1 << 20;
/// The longest request: a write with its headers, or a name and an attribute's value.
pub const MAX_REQUEST: usize = MAX_DATA + 4096;
/// The longest answer: what was read, with its header.
pub const MAX_REPLY: usize = MAX_DATA + 4096;

/// Files the guest may know of at a time, at about 200 bytes of ours each; its kernel forgets them when it needs room.
const MAX_NODES: usize = 1 << 20;
/// Descriptors that a share has use for, if it may have so many.
const DESCRIPTORS: usize = 1 << 15;
/// It does not work with fewer.
const LEAST_DESCRIPTORS: usize = 64;

/// What is served.
#[derive(Clone, Debug)]
pub struct ShareConfig {
    /// The folder.
    pub path: PathBuf,
    /// Whatever would change it is refused with EROFS.
    pub readonly: bool,
}

/// A folder cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It is not there, no folder, or not ours to enter.
    #[error("cannot share the folder {path}", path = path.display())]
    Folder {
        /// The path as it was given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This process may not have enough descriptors.
    #[error("this process may have {0} open files, too few to share a folder; raise the limit (ulimit -n)")]
    Descriptors(usize),
    /// No threads to serve it.
    #[error("no thread to share a folder with")]
    Thread(#[source] io::Error),
}

/// A folder that is served.
#[derive(Clone, Debug)]
pub struct Share(Arc<Server>);

impl Share {
    /// Opens the folder. It stays the one, whatever its path leads to later.
    pub fn open(config: &ShareConfig) -> Result<Self, ShareError> {
        // Half of what there is, for all that popf has open besides.
        let limit = host::tree::raise_descriptor_limit().unwrap_or(1024) / 2;
        if limit < LEAST_DESCRIPTORS {
            return Err(ShareError::Descriptors(2 * limit));
        }
        Self::with_limit(config, limit.min(DESCRIPTORS))
    }

    /// The same with at most about so many descriptors.
    pub(crate) fn with_limit(config: &ShareConfig, descriptors: usize) -> Result<Self, ShareError> {
        let (root, status) = Node::folder(&config.path)
            .map_err(|source| ShareError::Folder { path: config.path.clone(), source })?;
        Ok(Self(Arc::new(Server::new(root, &status, config.readonly, descriptors))))
    }

    /// Makes this thread one that serves the folder.
    pub fn worker(&self) -> io::Result<Worker> {
        Worker::new(self.0.clone())
    }

    /// Forgets the guest: closes what it has open.
    pub fn reset(&self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests;
