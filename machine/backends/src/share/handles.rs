//! What a guest has open.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host::tree::errno::{EBADF, ENFILE};
use host::tree::{Directory, Node, OpenFile, error};

use super::slots::Slots;

/// An open file. It keeps its node's descriptor from being closed, by which the guest may still get at it when its
/// name is gone.
#[derive(Debug)]
pub(super) struct FileHandle {
    pub(super) file: OpenFile,
    pub(super) node: Arc<Node>,
}

#[derive(Clone, Debug)]
enum Handle {
    File(Arc<FileHandle>),
    Folder(Arc<Mutex<Directory>>),
}

/// The table.
#[derive(Debug)]
pub(super) struct Handles {
    limit: usize,
    slots: Mutex<Slots<Handle>>,
}

impl Handles {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, slots: Mutex::new(Slots::new(limit).scatter()) }
    }

    fn lock(&self) -> MutexGuard<'_, Slots<Handle>> {
        // No code that holds this lock can panic half-way.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes all.
    pub(super) fn reset(&self) {
        *self.lock() = Slots::new(self.limit).scatter();
    }

    pub(super) fn add_file(&self, file: OpenFile, node: Arc<Node>) -> io::Result<u64> {
        self.add(Handle::File(Arc::new(FileHandle { file, node })))
    }

    pub(super) fn add_folder(&self, folder: Directory) -> io::Result<u64> {
        self.add(Handle::Folder(Arc::new(Mutex::new(folder))))
    }

    fn add(&self, handle: Handle) -> io::Result<u64> {
        self.lock().insert(handle).ok_or_else(|| error(ENFILE))
    }

    pub(super) fn file(&self, number: u64) -> io::Result<Arc<FileHandle>> {
        match self.lock().get(number) {
            Some(Handle::File(file)) => Ok(file.clone()),
            _ => Err(error(EBADF)),
        }
    }

    pub(super) fn folder(&self, number: u64) -> io::Result<Arc<Mutex<Directory>>> {
        match self.lock().get(number) {
            Some(Handle::Folder(folder)) => Ok(folder.clone()),
            _ => Err(error(EBADF)),
        }
    }

    /// Closes one, when nobody is at work on it any more.
    pub(super) fn close(&self, number: u64) -> io::Result<()> {
        // Closed without the lock: that may take long.
        let handle = self.lock().remove(number);
        handle.map(drop).ok_or_else(|| error(EBADF))
    }
}
