//! Requests about what is in files.

use std::io;
use std::time::SystemTime;

use host::tree::errno::{EEXIST, EINVAL, EROFS, ESTALE};
use host::tree::{Node, OpenFile, OpenHow, SeekTo, error};

use super::MAX_DATA;
use super::attributes::kill_set_id;
use super::server::Server;
use super::wire::{Arguments, Header, Reply, open};

/// OPEN's and CREATE's flag: as [`WRITE_KILL_SUIDGID`], for O_TRUNC.
const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// WRITE's flag: from the page cache.
const WRITE_CACHE: u32 = 1 << 0;
/// WRITE's flag: the file stops lending its owner's rights.
const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// FSYNC's flag: fdatasync(2).
const FSYNC_DATASYNC: u32 = 1 << 0;

/// What is copied for one request: it cannot be interrupted, and the guest asks for the rest.
const MAX_COPY: usize = 64 << 20;

/// The answer's flag: the pages that the guest has are good.
const KEEP_CACHE: u32 = 1 << 1;
/// The answer's flag: nothing is to be done at close(2).
const NOFLUSH: u32 = 1 << 5;

/// What a guest's flags of open(2) ask the host for. Pages are cached in the guest or not, appended to by each write,
/// waited for or not: the rest of the flags is the guest's kernel's business.
fn how(flags: u32) -> io::Result<OpenHow> {
    let (read, write) = match flags & open::ACCMODE {
        open::WRONLY => (false, true),
        open::RDWR => (true, true),
        0 => (true, false),
        _ => return Err(error(EINVAL)),
    };
    Ok(OpenHow { read, write, truncate: flags & open::TRUNC != 0, sync: flags & open::DSYNC != 0 })
}

impl Server {
    pub(super) fn open(
        &self,
        header: &Header,
        mut arguments: Arguments,
        reply: &mut Reply,
    ) -> io::Result<()> {
        let (flags, open_flags) = (arguments.u32()?, arguments.u32()?);
        let node = self.nodes.get(header.node)?;
        let how = how(flags)?;
        let file = self.open_node(&node, how, open_flags)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let keep = !how.truncate && self.nodes.keeps_pages(header.node, &file.status()?, now);
        let handle = self.handles.add_file(file, node)?;
        open_out(handle, how, keep, reply);
        Ok(())
    }

    fn open_node(&self, node: &Node, how: OpenHow, open_flags: u32) -> io::Result<OpenFile> {
        if self.readonly && (how.write || how.truncate) {
            return Err(error(EROFS));
        }
        let file = node.open(how)?;
        if how.truncate && open_flags & OPEN_KILL_SUIDGID != 0 {
            kill_set_id(node, file.status()?)?;
        }
        Ok(file)
    }

    /// A file that is there already is opened as by OPEN: only then is it certain to be a regular one.
    pub(super) fn create(
        &self,
        header: &Header,
        mut arguments: Arguments,
        reply: &mut Reply,
    ) -> io::Result<()> {
        let (flags, mode) = (arguments.u32()?, arguments.u32()?);
        let (_umask, open_flags) = (arguments.u32()?, arguments.u32()?);
        let name = arguments.name()?;
        let folder = self.nodes.get(header.node)?;
        let how = how(flags)?;
        let file = match folder.create(name, how, mode) {
            Ok(file) => Some(file),
            Err(error) if error.raw_os_error() == Some(EEXIST) && flags & open::EXCL == 0 => None,
            Err(error) => return Err(error),
        };
        let (node, mut status) = folder.lookup(name)?;
        if let Some(file) = &file {
            let made = file.status()?;
            if (made.dev, made.ino) != (status.dev, status.ino) {
                // Somebody on the host was faster; the guest's kernel looks again.
                return Err(error(ESTALE));
            }
            status = self.give(header, &folder, &node, status);
        }
        let told = self.tell(header.node, name, node, &status, reply)?;
        let opened = match file {
            Some(file) => Ok(file),
            None => self.open_node(&told.node, how, open_flags),
        };
        match opened.and_then(|file| self.handles.add_file(file, told.node)) {
            Ok(handle) => {
                open_out(handle, how, false, reply);
                Ok(())
            }
            Err(error) => {
                self.nodes.forget(told.number, 1);
                Err(error)
            }
        }
    }

    pub(super) fn read(&self, mut arguments: Arguments, reply: &mut Reply) -> io::Result<()> {
        let (handle, offset, size) = (arguments.u64()?, arguments.u64()?, arguments.u32()? as usize);
        let handle = self.handles.file(handle)?;
        reply.fill(size.min(MAX_DATA), |buffer| handle.file.read(buffer, offset))
    }

    pub(super) fn write(&self, mut arguments: Arguments, reply: &mut Reply) -> io::Result<()> {
        let (handle, offset, size) = (arguments.u64()?, arguments.u64()?, arguments.u32()? as usize);
        let (write_flags, _lock_owner, flags) = (arguments.u32()?, arguments.u64()?, arguments.u32()?);
        let _padding = arguments.u32()?;
        let data = arguments.bytes(size)?;
        let handle = self.handles.file(handle)?;
        // By the flags that the guest's file has now, which may not be those it was opened with. What comes from the
        // page cache has its place, whosever handle it is written by.
        let append = flags & open::APPEND != 0 && write_flags & WRITE_CACHE == 0;
        let written = match append {
            true => handle.file.append(data)?,
            false => handle.file.write(data, offset)?,
        };
        if write_flags & WRITE_KILL_SUIDGID != 0 {
            kill_set_id(&handle.node, handle.file.status()?)?;
        }
        reply.size_out(written);
        Ok(())
    }

    pub(super) fn flush(&self, mut arguments: Arguments) -> io::Result<()> {
        self.handles.file(arguments.u64()?)?.file.flush()
    }

    pub(super) fn sync(&self, mut arguments: Arguments) -> io::Result<()> {
        let (handle, flags) = (arguments.u64()?, arguments.u32()?);
        self.handles.file(handle)?.file.sync(flags & FSYNC_DATASYNC != 0)
    }

    pub(super) fn seek(&self, mut arguments: Arguments, reply: &mut Reply) -> io::Result<()> {
        let (handle, offset, whence) = (arguments.u64()?, arguments.u64()?, arguments.u32()?);
        // The rest the guest's kernel does by itself.
        let to = match whence {
            3 => SeekTo::Data,
            4 => SeekTo::Hole,
            _ => return Err(error(EINVAL)),
        };
        reply.u64(self.handles.file(handle)?.file.seek(offset, to)?);
        Ok(())
    }

    pub(super) fn allocate(&self, mut arguments: Arguments) -> io::Result<()> {
        let (handle, offset, length) = (arguments.u64()?, arguments.u64()?, arguments.u64()?);
        let mode = arguments.u32()?;
        self.handles.file(handle)?.file.allocate(mode, offset, length)
    }

    pub(super) fn copy(&self, mut arguments: Arguments, reply: &mut Reply) -> io::Result<()> {
        let (from, offset) = (arguments.u64()?, arguments.u64()?);
        let (_node, to, to_offset) = (arguments.u64()?, arguments.u64()?, arguments.u64()?);
        let (length, flags) = (arguments.u64()?, arguments.u64()?);
        if flags != 0 {
            return Err(error(EINVAL));
        }
        let (from, to) = (self.handles.file(from)?, self.handles.file(to)?);
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(MAX_COPY);
        reply.size_out(from.file.copy_to(offset, &to.file, to_offset, length)?);
        Ok(())
    }

    /// RELEASE and RELEASEDIR.
    pub(super) fn close(&self, mut arguments: Arguments) -> io::Result<()> {
        self.handles.close(arguments.u64()?)
    }
}

/// `struct fuse_open_out`.
fn open_out(handle: u64, how: OpenHow, keep: bool, reply: &mut Reply) {
    let keep = if keep { KEEP_CACHE } else { 0 };
    let flush = if how.write { 0 } else { NOFLUSH };
    reply.open_out(handle, keep | flush);
}
