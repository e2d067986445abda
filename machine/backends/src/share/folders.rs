//! Requests about what is in folders.

use std::io;
use std::sync::PoisonError;

use host::tree::errno::EINVAL;
use host::tree::{DirectoryEntry, Name, Node, Status, error};

use super::nodes::ROOT;
use super::server::Server;
use super::wire::{Arguments, ENTRY, Header, Reply};

/// Length of `struct fuse_dirent` without the name.
const DIRENT: usize = 24;
/// FSYNCDIR's flag: fdatasync(2).
const FSYNC_DATASYNC: u32 = 1 << 0;

impl Server {
    pub(super) fn open_folder(&self, header: &Header, reply: &mut Reply) -> io::Result<()> {
        let folder = self.nodes.get(header.node)?.list()?;
        reply.open_out(self.handles.add_folder(folder)?, 0);
        Ok(())
    }

    /// READDIR, or READDIRPLUS, by which the guest is told of the files as by LOOKUP.
    pub(super) fn list(
        &self,
        header: &Header,
        mut arguments: Arguments,
        reply: &mut Reply,
        plus: bool,
    ) -> io::Result<()> {
        let (handle, offset, size) = (arguments.u64()?, arguments.u64()?, arguments.u32()? as usize);
        let directory = self.handles.folder(handle)?;
        let mut directory = directory.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = self.nodes.get(header.node)?;
        let status = folder.status()?;
        let size = size.min(reply.room());
        let start = reply.len();
        directory.seek(offset)?;
        loop {
            let entry = match directory.peek() {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(()),
                // What has been listed is good.
                Err(_) if reply.len() > start => return Ok(()),
                Err(error) => return Err(error),
            };
            let length = (DIRENT + entry.name.count_bytes()).next_multiple_of(8);
            let length = if plus { ENTRY + length } else { length };
            if reply.len() - start + length > size {
                // Not even one: the guest would take no answer for the end.
                return if reply.len() > start { Ok(()) } else { Err(error(EINVAL)) };
            }
            if plus {
                self.tell_entry(header.node, &folder, &entry, reply);
            }
            // The parent of the folder itself is no business of the guest's.
            let hidden = header.node == ROOT && entry.name == c"..";
            let ino = if hidden { status.ino } else { entry.ino };
            dirent(&entry, self.nodes.ino(&Status { ino, ..status }), reply);
            directory.pass();
        }
    }

    /// The `struct fuse_entry_out` of an entry: all zero says nothing of it, as for `.` and `..`, and what has gone by
    /// now or cannot be looked at.
    fn tell_entry(&self, parent: u64, folder: &Node, entry: &DirectoryEntry, reply: &mut Reply) {
        let told = Name::new(entry.name).and_then(|name| {
            let (node, status) = folder.lookup(name)?;
            self.tell(parent, name, node, &status, reply)
        });
        if told.is_err() {
            reply.zeros(ENTRY);
        }
    }

    pub(super) fn sync_folder(&self, mut arguments: Arguments) -> io::Result<()> {
        let (handle, flags) = (arguments.u64()?, arguments.u32()?);
        let directory = self.handles.folder(handle)?;
        let directory = directory.lock().unwrap_or_else(PoisonError::into_inner);
        directory.sync(flags & FSYNC_DATASYNC != 0)
    }
}

/// `struct fuse_dirent`.
fn dirent(entry: &DirectoryEntry, ino: u64, reply: &mut Reply) {
    let name = entry.name.to_bytes();
    reply.u64(ino);
    reply.u64(entry.next);
    reply.u32(name.len() as u32);
    reply.u32(entry.kind.into());
    reply.bytes(name);
    reply.zeros(name.len().next_multiple_of(8) - name.len());
}
