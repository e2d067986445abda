//! A guest's kernel, as far as the wire goes.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::share::nodes::ROOT;
use crate::share::wire::{REPLY_HEADER, opcode};
use crate::share::{Share, ShareConfig, Worker};

/// What a request got: the answer's body, or an error's number.
pub type Answer = Result<Vec<u8>, i32>;

pub const O_WRONLY: u32 = 0o1;
pub const O_RDWR: u32 = 0o2;
pub const O_EXCL: u32 = 0o200;
pub const O_TRUNC: u32 = 0o1000;
pub const O_APPEND: u32 = 0o2000;

pub const ENOENT: i32 = 2;
pub const EACCES: i32 = 13;
pub const ENOTDIR: i32 = 20;
pub const EISDIR: i32 = 21;
pub const EBADF: i32 = 9;
pub const EEXIST: i32 = 17;
pub const EXDEV: i32 = 18;
pub const EPERM: i32 = 1;
pub const ENXIO: i32 = 6;
pub const EINVAL: i32 = 22;
pub const ENFILE: i32 = 23;
pub const EROFS: i32 = 30;
pub const ENAMETOOLONG: i32 = 36;
pub const ENOSYS: i32 = 38;
pub const ENOTEMPTY: i32 = 39;
pub const ENODATA: i32 = 61;
pub const ESTALE: i32 = 116;

/// A body of a request that is being put together.
#[derive(Clone, Debug, Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend(bytes.as_ref());
        self
    }

    pub fn name(self, name: impl AsRef<[u8]>) -> Self {
        self.bytes(name).bytes([0])
    }
}

/// Numbers out of an answer.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// `struct fuse_attr`, of which tests look at this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub ino: u64,
    pub size: u64,
    pub mtime: (u64, u32),
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Attributes {
    fn of(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), 88);
        let [mode, nlink, uid, gid] = [60, 64, 68, 72].map(|at| u32_at(bytes, at));
        let mtime = (u64_at(bytes, 32), u32_at(bytes, 52));
        Self { ino: u64_at(bytes, 0), size: u64_at(bytes, 8), mtime, mode, nlink, uid, gid }
    }
}

/// What LOOKUP and its like say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub node: u64,
    pub attributes: Attributes,
}

impl Entry {
    pub fn of(bytes: &[u8]) -> Self {
        Self { node: u64_at(bytes, 0), attributes: Attributes::of(&bytes[40..128]) }
    }
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub ino: u64,
    pub next: u64,
    pub kind: u32,
    /// By READDIRPLUS.
    pub entry: Option<Entry>,
}

pub struct Guest {
    worker: Worker,
    pub share: Share,
    unique: u64,
    pub uid: u32,
    pub gid: u32,
}

impl Guest {
    pub fn of(path: &Path, readonly: bool, descriptors: usize) -> Self {
        let config = ShareConfig { path: path.to_owned(), readonly };
        let share = Share::with_limit(&config, descriptors).unwrap();
        let mut guest = Self { worker: share.worker().unwrap(), share, unique: 0, uid: 0, gid: 0 };
        let init = Body::default().u32(7).u32(37).u32(128 << 10).u32(u32::MAX);
        let answer = guest.call(opcode::INIT, 0, init).unwrap();
        assert_eq!((answer.len(), u32_at(&answer, 0)), (64, 7));
        guest
    }

    /// Hands the server bytes; the bytes it answers with.
    pub fn raw(&mut self, request: &[u8], room: usize) -> Vec<u8> {
        let mut reply = vec![0xaa; 3];
        self.worker.handle(request, room, &mut reply);
        assert!(reply.len() <= room);
        reply
    }

    pub fn request(&mut self, opcode: u32, node: u64, body: Body) -> Vec<u8> {
        self.unique += 2;
        let length = 40 + body.0.len() as u32;
        let header = Body::default().u32(length).u32(opcode).u64(self.unique).u64(node);
        header.u32(self.uid).u32(self.gid).u32(1).u32(0).bytes(body.0).0
    }

    pub fn call_with(&mut self, opcode: u32, node: u64, body: Body, room: usize) -> Answer {
        let request = self.request(opcode, node, body);
        let reply = self.raw(&request, room);
        assert_eq!(u32_at(&reply, 0) as usize, reply.len());
        assert_eq!(u64_at(&reply, 8), self.unique);
        match u32_at(&reply, 4) as i32 {
            0 => Ok(reply[REPLY_HEADER..].to_vec()),
            error => {
                assert_eq!(reply.len(), REPLY_HEADER);
                Err(-error)
            }
        }
    }

    pub fn call(&mut self, opcode: u32, node: u64, body: Body) -> Answer {
        self.call_with(opcode, node, body, 2 << 20)
    }

    pub fn lookup(&mut self, node: u64, name: &str) -> Result<Entry, i32> {
        self.call(opcode::LOOKUP, node, Body::default().name(name)).map(|answer| Entry::of(&answer))
    }

    /// Along a path of names.
    pub fn walk(&mut self, path: &str) -> Result<Entry, i32> {
        let mut found = None;
        for name in path.split('/') {
            found = Some(self.lookup(found.map_or(ROOT, |entry: Entry| entry.node), name)?);
        }
        Ok(found.unwrap())
    }

    pub fn forget(&mut self, node: u64, times: u64) {
        let request = self.request(opcode::FORGET, node, Body::default().u64(times));
        assert_eq!(self.raw(&request, 4096), []);
    }

    pub fn attributes(&mut self, node: u64) -> Result<Attributes, i32> {
        let answer = self.call(opcode::GETATTR, node, Body::default().u32(0).u32(0).u64(0))?;
        Ok(Attributes::of(&answer[16..]))
    }

    /// By an open file.
    pub fn attributes_of(&mut self, handle: u64) -> Result<Attributes, i32> {
        let answer = self.call(opcode::GETATTR, 0, Body::default().u32(1).u32(0).u64(handle))?;
        Ok(Attributes::of(&answer[16..]))
    }

    /// The handle, and the answer's flags.
    pub fn open_with(&mut self, node: u64, flags: u32) -> Result<(u64, u32), i32> {
        let answer = self.call(opcode::OPEN, node, Body::default().u32(flags).u32(0))?;
        Ok((u64_at(&answer, 0), u32_at(&answer, 8)))
    }

    pub fn open(&mut self, node: u64, flags: u32) -> Result<u64, i32> {
        self.open_with(node, flags).map(|(handle, _)| handle)
    }

    pub fn create(&mut self, node: u64, name: &str, flags: u32, mode: u32) -> Result<(Entry, u64), i32> {
        let body = Body::default().u32(flags).u32(mode).u32(0o22).u32(0).name(name);
        let answer = self.call(opcode::CREATE, node, body)?;
        assert_eq!(answer.len(), 128 + 16);
        Ok((Entry::of(&answer), u64_at(&answer, 128)))
    }

    pub fn read(&mut self, handle: u64, offset: u64, size: u32) -> Answer {
        let body = Body::default().u64(handle).u64(offset).u32(size).u32(0).u64(0).u32(0).u32(0);
        self.call(opcode::READ, 0, body)
    }

    pub fn write_with(
        &mut self,
        handle: u64,
        offset: u64,
        data: &[u8],
        write_flags: u32,
        flags: u32,
    ) -> Result<u32, i32> {
        let body = Body::default().u64(handle).u64(offset).u32(data.len() as u32).u32(write_flags);
        let body = body.u64(0).u32(flags).u32(0).bytes(data);
        self.call(opcode::WRITE, 0, body).map(|answer| u32_at(&answer, 0))
    }

    pub fn write(&mut self, handle: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        self.write_with(handle, offset, data, 0, 0)
    }

    pub fn release(&mut self, handle: u64) -> Result<(), i32> {
        let body = Body::default().u64(handle).u32(0).u32(0).u64(0);
        self.call(opcode::RELEASE, 0, body).map(|answer| assert!(answer.is_empty()))
    }

    pub fn make_folder(&mut self, node: u64, name: &str, mode: u32) -> Result<Entry, i32> {
        let body = Body::default().u32(mode).u32(0).name(name);
        self.call(opcode::MKDIR, node, body).map(|answer| Entry::of(&answer))
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Result<(), i32> {
        let body = Body::default().u64(to.0).u32(flags).u32(0).name(from.1).name(to.1);
        self.call(opcode::RENAME2, from.0, body).map(drop)
    }

    pub fn remove(&mut self, node: u64, name: &str) -> Result<(), i32> {
        self.call(opcode::UNLINK, node, Body::default().name(name)).map(drop)
    }

    pub fn open_folder(&mut self, node: u64) -> Result<u64, i32> {
        self.call(opcode::OPENDIR, node, Body::default().u32(0).u32(0)).map(|answer| u64_at(&answer, 0))
    }

    /// One READDIR or READDIRPLUS.
    pub fn list_once(
        &mut self,
        node: u64,
        handle: u64,
        offset: u64,
        size: u32,
        plus: bool,
    ) -> Result<Vec<Listed>, i32> {
        let body = Body::default().u64(handle).u64(offset).u32(size).u32(0).u64(0).u32(0).u32(0);
        let answer = self.call(if plus { opcode::READDIRPLUS } else { opcode::READDIR }, node, body)?;
        assert!(answer.len() <= size as usize);
        let (mut at, mut listed) = (0, Vec::new());
        while at < answer.len() {
            let entry = plus.then(|| Entry::of(&answer[at..]));
            at += if plus { 128 } else { 0 };
            let length = u32_at(&answer, at + 16) as usize;
            listed.push(Listed {
                ino: u64_at(&answer, at),
                next: u64_at(&answer, at + 8),
                kind: u32_at(&answer, at + 20),
                name: String::from_utf8(answer[at + 24..at + 24 + length].to_vec()).unwrap(),
                entry,
            });
            at += (24 + length).next_multiple_of(8);
        }
        Ok(listed)
    }

    /// All that is in a folder.
    pub fn list(&mut self, node: u64, size: u32, plus: bool) -> Vec<Listed> {
        let handle = self.open_folder(node).unwrap();
        let mut all: Vec<Listed> = Vec::new();
        loop {
            let offset = all.last().map_or(0, |entry| entry.next);
            let some = self.list_once(node, handle, offset, size, plus).unwrap();
            if some.is_empty() {
                break;
            }
            all.extend(some);
        }
        self.release(handle).unwrap();
        all
    }
}

/// A guest with a folder of its own.
pub struct Shared {
    folder: TempDir,
    guest: Guest,
}

impl Shared {
    pub fn new() -> Self {
        Self::with(false, 4096)
    }

    pub fn with(readonly: bool, descriptors: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let guest = Guest::of(folder.path(), readonly, descriptors);
        Self { folder, guest }
    }

    /// A path on the host.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Deref for Shared {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}

impl DerefMut for Shared {
    fn deref_mut(&mut self) -> &mut Guest {
        &mut self.guest
    }
}
