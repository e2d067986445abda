//! From a request's header to who carries it out.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use host::tree::errno::{EINVAL, EIO, ENOSYS, EPROTO, EROFS};
use host::tree::{Node, Status, error};

use super::handles::Handles;
use super::nodes::Nodes;
use super::wire::{Arguments, Header, Reply, opcode};
use super::{MAX_DATA, MAX_REPLY, MAX_REQUEST};

/// The version spoken here. A kernel whose minor version is higher does without what is newer.
const MAJOR: u32 = 7;
const MINOR: u32 = 38;
/// That of Linux 5.4, the first with virtio-fs.
const LEAST_MINOR: u32 = 31;

/// Flags of INIT: what the kernel can do, and what of that we want.
#[rustfmt::skip]
mod init {
    pub const ASYNC_READ: u32          = 1 << 0;
    pub const ATOMIC_O_TRUNC: u32      = 1 << 3;
    pub const BIG_WRITES: u32          = 1 << 5;
    pub const AUTO_INVAL_DATA: u32     = 1 << 12;
    pub const DO_READDIRPLUS: u32      = 1 << 13;
    pub const READDIRPLUS_AUTO: u32    = 1 << 14;
    pub const PARALLEL_DIROPS: u32     = 1 << 18;
    pub const MAX_PAGES: u32           = 1 << 22;
    pub const CACHE_SYMLINKS: u32      = 1 << 23;
    pub const HANDLE_KILLPRIV_V2: u32  = 1 << 28;
    /// Not among them: writeback caching, since the host changes files, too; locks, which the guest's kernel then
    /// keeps among its own processes; access control lists and DONT_MASK, for the guest's kernel applies its masks.
    pub const WANTED: u32 = ASYNC_READ | ATOMIC_O_TRUNC | BIG_WRITES | AUTO_INVAL_DATA | DO_READDIRPLUS
        | READDIRPLUS_AUTO | PARALLEL_DIROPS | MAX_PAGES | CACHE_SYMLINKS | HANDLE_KILLPRIV_V2;
}

/// Requests the kernel has under way in the background at most, and from when on it slows down.
const BACKGROUND: (u16, u16) = (64, 48);

/// A folder, and what its guest knows and has open of it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) readonly: bool,
    /// New files are given to whom the guest says.
    pub(super) root_user: bool,
    pub(super) nodes: Nodes,
    pub(super) handles: Handles,
}

impl Server {
    pub(super) fn new(root: Node, status: &Status, readonly: bool, descriptors: usize) -> Self {
        Self {
            readonly,
            root_user: host::tree::acts_as_root(),
            nodes: Nodes::new(root, status, descriptors / 2),
            handles: Handles::new(descriptors / 2),
        }
    }

    pub(super) fn reset(&self) {
        self.handles.reset();
        self.nodes.reset();
    }

    fn dispatch(&self, header: &Header, arguments: Arguments, reply: &mut Reply) -> io::Result<()> {
        if self.readonly && changes(header.opcode) {
            return Err(error(EROFS));
        }
        match header.opcode {
            opcode::INIT => self.init(arguments, reply),
            opcode::DESTROY => {
                self.reset();
                Ok(())
            }
            opcode::LOOKUP => self.lookup(header, arguments, reply),
            opcode::READLINK => self.read_link(header, reply),
            opcode::SYMLINK => self.make_link(header, arguments, reply),
            opcode::MKNOD => self.make_node(header, arguments, reply),
            opcode::MKDIR => self.make_folder(header, arguments, reply),
            opcode::UNLINK => self.remove(header, arguments),
            opcode::RMDIR => self.remove_folder(header, arguments),
            opcode::RENAME => self.rename(header, arguments, false),
            opcode::RENAME2 => self.rename(header, arguments, true),
            opcode::LINK => self.add_name(header, arguments, reply),
            opcode::GETATTR => self.get_attributes(header, arguments, reply),
            opcode::SETATTR => self.set_attributes(header, arguments, reply),
            opcode::STATFS => self.file_system(header, reply),
            opcode::ACCESS => self.access(header, arguments),
            opcode::GETXATTR => self.get_extended(header, arguments, reply),
            opcode::LISTXATTR => self.list_extended(header, arguments, reply),
            opcode::SETXATTR => self.set_extended(header, arguments),
            opcode::REMOVEXATTR => self.remove_extended(header, arguments),
            opcode::OPEN => self.open(header, arguments, reply),
            opcode::CREATE => self.create(header, arguments, reply),
            opcode::READ => self.read(arguments, reply),
            opcode::WRITE => self.write(arguments, reply),
            opcode::FLUSH => self.flush(arguments),
            opcode::FSYNC => self.sync(arguments),
            opcode::LSEEK => self.seek(arguments, reply),
            opcode::FALLOCATE => self.allocate(arguments),
            opcode::COPY_FILE_RANGE => self.copy(arguments, reply),
            opcode::SYNCFS => self.nodes.get(header.node)?.sync_file_system(),
            opcode::OPENDIR => self.open_folder(header, reply),
            opcode::READDIR => self.list(header, arguments, reply, false),
            opcode::READDIRPLUS => self.list(header, arguments, reply, true),
            opcode::FSYNCDIR => self.sync_folder(arguments),
            opcode::RELEASE | opcode::RELEASEDIR => self.close(arguments),
            // The kernel takes it as never to be asked for again.
            _ => Err(error(ENOSYS)),
        }
    }

    /// The session begins, and with it the guest knows nothing.
    fn init(&self, mut arguments: Arguments, reply: &mut Reply) -> io::Result<()> {
        let (major, minor) = (arguments.u32()?, arguments.u32()?);
        if major < MAJOR || major == MAJOR && minor < LEAST_MINOR {
            return Err(error(EPROTO));
        }
        self.reset();
        if major > MAJOR {
            // It asks again, in our words.
            reply.u32(MAJOR);
            reply.u32(MINOR);
            reply.zeros(56);
            return Ok(());
        }
        let (readahead, flags) = (arguments.u32()?, arguments.u32()?);
        for word in [MAJOR, MINOR, readahead, flags & init::WANTED] {
            reply.u32(word);
        }
        reply.u16(BACKGROUND.0);
        reply.u16(BACKGROUND.1);
        reply.u32(MAX_DATA as u32);
        reply.u32(1); // Times are exact to the nanosecond.
        reply.u16((MAX_DATA / host::PAGE_SIZE) as u16);
        reply.zeros(34);
        Ok(())
    }

    fn forget(&self, header: &Header, mut arguments: Arguments) -> io::Result<()> {
        if header.opcode == opcode::FORGET {
            self.nodes.forget(header.node, arguments.u64()?);
            return Ok(());
        }
        let count = arguments.u32()?;
        arguments.bytes(4)?;
        for _ in 0..count {
            let (node, times) = (arguments.u64()?, arguments.u64()?);
            self.nodes.forget(node, times);
        }
        Ok(())
    }
}

/// Whether a request would change the folder. OPEN, CREATE and what goes by a handle see to it themselves: a handle
/// can write only what was opened for that.
fn changes(opcode: u32) -> bool {
    matches!(
        opcode,
        opcode::SETATTR
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::LINK
            | opcode::CREATE
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::WRITE
            | opcode::FALLOCATE
            | opcode::COPY_FILE_RANGE
    )
}

/// A thread that answers requests. It cannot be sent to another: its creation mask is that thread's.
#[derive(Debug)]
pub struct Worker {
    server: Arc<Server>,
    thread: PhantomData<*const ()>,
}

impl Worker {
    pub(super) fn new(server: Arc<Server>) -> io::Result<Self> {
        // Modes come from the guest's kernel, which has applied its processes' masks.
        host::tree::clear_mask()?;
        Ok(Self { server, thread: PhantomData })
    }

    /// Carries out a request and puts the answer into `reply`, which the guest has left so much `room` for. Some
    /// requests have none, and what cannot be told from noise has none.
    pub fn handle(&self, request: &[u8], room: usize, reply: &mut Vec<u8>) {
        reply.clear();
        let Some((header, arguments)) = Arguments::of(request) else { return };
        match header.opcode {
            opcode::FORGET | opcode::BATCH_FORGET => {
                // What a malformed one does not say it does not forget.
                let _ = self.server.forget(&header, arguments);
                return;
            }
            // What is under way here ends soon by itself, and is answered when it does.
            opcode::INTERRUPT => return,
            _ => {}
        }
        let mut answer = Reply::new(reply, room.min(MAX_REPLY));
        let result = match request.len() {
            0..=MAX_REQUEST => self.server.dispatch(&header, arguments, &mut answer),
            _ => Err(error(EINVAL)),
        };
        if let Err(error) = &result
            && error.raw_os_error() == Some(EIO)
        {
            tracing::warn!("a file of a share cannot be read or written: {error}");
        }
        answer.finish(header.unique, result);
    }
}
