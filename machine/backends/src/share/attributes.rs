//! Requests about what is said of files.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use host::tree::errno::{E2BIG, EINVAL, ERANGE};
use host::tree::{Node, SetTime, Status, error};

use super::handles::FileHandle;
use super::server::Server;
use super::wire::{Arguments, Header, Reply};

/// GETATTR's flag: by handle.
const GETATTR_FH: u32 = 1 << 0;

/// What SETATTR is to set.
#[rustfmt::skip]
mod fattr {
    pub const MODE: u32          = 1 << 0;
    pub const UID: u32           = 1 << 1;
    pub const GID: u32           = 1 << 2;
    pub const SIZE: u32          = 1 << 3;
    pub const ATIME: u32         = 1 << 4;
    pub const MTIME: u32         = 1 << 5;
    pub const FH: u32            = 1 << 6;
    pub const ATIME_NOW: u32     = 1 << 7;
    pub const MTIME_NOW: u32     = 1 << 8;
    pub const KILL_SUIDGID: u32  = 1 << 11;
}

/// The longest value of an extended attribute, and of the list of them (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const XATTR: usize = 64 << 10;

impl Server {
    pub(super) fn get_attributes(
        &self,
        header: &Header,
        mut arguments: Arguments,
        reply: &mut Reply,
    ) -> io::Result<()> {
        let (flags, _dummy, handle) = (arguments.u32()?, arguments.u32()?, arguments.u64()?);
        let status = match flags & GETATTR_FH != 0 {
            true => self.handles.file(handle)?.file.status()?,
            false => self.nodes.get(header.node)?.status()?,
        };
        reply.attr_out(&status, self.nodes.ino(&status));
        Ok(())
    }

    pub(super) fn set_attributes(
        &self,
        header: &Header,
        mut arguments: Arguments,
        reply: &mut Reply,
    ) -> io::Result<()> {
        let change = Change::read(&mut arguments)?;
        let handle = match change.valid & fattr::FH != 0 {
            true => Some(self.handles.file(change.handle)?),
            false => None,
        };
        let node = match &handle {
            Some(handle) => handle.node.clone(),
            None => self.nodes.get(header.node)?,
        };
        change.apply(&node, handle.as_ref())?;
        let status = node.status()?;
        reply.attr_out(&status, self.nodes.ino(&status));
        Ok(())
    }

    pub(super) fn file_system(&self, header: &Header, reply: &mut Reply) -> io::Result<()> {
        let found = self.nodes.get(header.node)?.file_system()?;
        for field in [found.blocks, found.bfree, found.bavail, found.files, found.ffree] {
            reply.u64(field);
        }
        for field in [found.bsize, found.namelen, found.frsize] {
            reply.u32(u32::try_from(field).unwrap_or(u32::MAX));
        }
        reply.zeros(28);
        Ok(())
    }

    pub(super) fn access(&self, header: &Header, mut arguments: Arguments) -> io::Result<()> {
        self.nodes.get(header.node)?.access(arguments.u32()?)
    }

    pub(super) fn get_extended(
        &self,
        header: &Header,
        mut arguments: Arguments,
        reply: &mut Reply,
    ) -> io::Result<()> {
        let (size, _padding, name) = (arguments.u32()?, arguments.u32()?, arguments.string()?);
        let node = self.nodes.get(header.node)?;
        extended(size, reply, |buffer| node.attribute(name, buffer))
    }

    pub(super) fn list_extended(
        &self,
        header: &Header,
        mut arguments: Arguments,
        reply: &mut Reply,
    ) -> io::Result<()> {
        let (size, _padding) = (arguments.u32()?, arguments.u32()?);
        let node = self.nodes.get(header.node)?;
        extended(size, reply, |buffer| node.attributes(buffer))
    }

    pub(super) fn set_extended(&self, header: &Header, mut arguments: Arguments) -> io::Result<()> {
        let (size, flags, name) = (arguments.u32()? as usize, arguments.u32()?, arguments.string()?);
        if size > XATTR {
            return Err(error(E2BIG));
        }
        self.nodes.get(header.node)?.set_attribute(name, arguments.bytes(size)?, flags)
    }

    pub(super) fn remove_extended(&self, header: &Header, mut arguments: Arguments) -> io::Result<()> {
        self.nodes.get(header.node)?.remove_attribute(arguments.string()?)
    }
}

/// Answers with what `get` yields, or with its length if the guest asks for no bytes of it.
fn extended(
    size: u32,
    reply: &mut Reply,
    get: impl FnOnce(&mut [u8]) -> io::Result<usize>,
) -> io::Result<()> {
    if size == 0 {
        reply.size_out(get(&mut [])?);
        return Ok(());
    }
    let size = (size as usize).min(XATTR);
    // An empty buffer would ask for the length.
    if reply.room() == 0 {
        return Err(error(ERANGE));
    }
    reply.fill(size, get)
}

/// `struct fuse_setattr_in`.
struct Change {
    valid: u32,
    handle: u64,
    size: u64,
    atime: Duration,
    mtime: Duration,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Change {
    fn read(arguments: &mut Arguments) -> io::Result<Self> {
        let (valid, _padding) = (arguments.u32()?, arguments.u32()?);
        let (handle, size, _lock_owner) = (arguments.u64()?, arguments.u64()?, arguments.u64()?);
        let [atime, mtime, _ctime] = [arguments.u64()?, arguments.u64()?, arguments.u64()?];
        let [atime_nsec, mtime_nsec, _ctime_nsec] = [arguments.u32()?, arguments.u32()?, arguments.u32()?];
        let [mode, _unused, uid, gid] =
            [arguments.u32()?, arguments.u32()?, arguments.u32()?, arguments.u32()?];
        let time = |seconds: u64, nanoseconds: u32| match nanoseconds {
            0..1_000_000_000 => Ok(Duration::new(seconds, nanoseconds)),
            _ => Err(error(EINVAL)),
        };
        let (atime, mtime) = (time(atime, atime_nsec)?, time(mtime, mtime_nsec)?);
        Ok(Self { valid, handle, size, atime, mtime, mode, uid, gid })
    }

    /// In the order in which none undoes another: a change of owner or length clears bits of the mode, and every one
    /// but the last touches the times.
    fn apply(&self, node: &Node, handle: Option<&Arc<FileHandle>>) -> io::Result<()> {
        let has = |bit: u32| self.valid & bit != 0;
        if has(fattr::UID | fattr::GID) {
            node.set_owner(has(fattr::UID).then_some(self.uid), has(fattr::GID).then_some(self.gid))?;
        }
        if has(fattr::SIZE) {
            match handle {
                Some(handle) => handle.file.set_length(self.size)?,
                None => node.set_length(self.size)?,
            }
        }
        if has(fattr::MODE) {
            node.set_mode(self.mode)?;
        }
        if has(fattr::KILL_SUIDGID) && !has(fattr::MODE) {
            kill_set_id(node, node.status()?)?;
        }
        let set = |bit: u32, now: u32, time: Duration| match (has(bit), has(now)) {
            (_, true) => SetTime::Now,
            (true, false) => SetTime::To(time),
            (false, false) => SetTime::Keep,
        };
        let atime = set(fattr::ATIME, fattr::ATIME_NOW, self.atime);
        let mtime = set(fattr::MTIME, fattr::MTIME_NOW, self.mtime);
        if (atime, mtime) != (SetTime::Keep, SetTime::Keep) {
            node.set_times(atime, mtime)?;
        }
        Ok(())
    }
}

/// A file is changed by one who is not privileged in the guest, so it stops lending its owner's and group's rights.
/// Where popf is not root's, the host's kernel has seen to it.
pub(super) fn kill_set_id(node: &Node, status: Status) -> io::Result<()> {
    const SUID: u32 = 0o4000;
    const SGID_EXECUTABLE: u32 = 0o2010;
    let group = if status.mode & SGID_EXECUTABLE == SGID_EXECUTABLE { 0o2000 } else { 0 };
    match status.mode & (SUID | group) {
        0 => Ok(()),
        bits => node.set_mode(status.mode & !bits),
    }
}
