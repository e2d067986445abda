use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::guest::*;
use crate::share::nodes::ROOT;
use crate::share::wire::opcode;

const MODE: u32 = 1 << 0;
const UID: u32 = 1 << 1;
const GID: u32 = 1 << 2;
const SIZE: u32 = 1 << 3;
const ATIME: u32 = 1 << 4;
const MTIME: u32 = 1 << 5;
const FH: u32 = 1 << 6;
const MTIME_NOW: u32 = 1 << 8;
const KILL_SUIDGID: u32 = 1 << 11;

/// `struct fuse_setattr_in`.
#[derive(Clone, Copy, Default)]
struct Set {
    valid: u32,
    handle: u64,
    size: u64,
    times: (u64, u32),
    mode: u32,
    owner: (u32, u32),
}

impl Set {
    fn on(self, guest: &mut Guest, node: u64) -> Result<(), i32> {
        let body = Body::default().u32(self.valid).u32(0).u64(self.handle).u64(self.size).u64(0);
        let body = body.u64(self.times.0).u64(self.times.0).u64(0);
        let body = body.u32(self.times.1).u32(self.times.1).u32(0);
        let body = body.u32(self.mode).u32(0).u32(self.owner.0).u32(self.owner.1).u32(0);
        guest.call(opcode::SETATTR, node, body).map(|answer| assert_eq!(answer.len(), 104))
    }
}

#[test]
fn attributes_are_set() {
    let mut guest = Shared::new();
    fs::write(guest.path("file"), "text").unwrap();
    let node = guest.lookup(ROOT, "file").unwrap().node;
    let metadata = |guest: &Shared| fs::metadata(guest.path("file")).unwrap();
    Set { valid: MODE, mode: 0o100_751, ..Set::default() }.on(&mut guest, node).unwrap();
    assert_eq!(metadata(&guest).mode(), 0o100_751);
    Set { valid: SIZE, size: 2, ..Set::default() }.on(&mut guest, node).unwrap();
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"te");
    Set { valid: MTIME, times: (1_000, 999_999_999), ..Set::default() }.on(&mut guest, node).unwrap();
    assert_eq!((metadata(&guest).mtime(), metadata(&guest).mtime_nsec()), (1_000, 999_999_999));
    assert_ne!(metadata(&guest).atime(), 1_000);
    Set { valid: ATIME, times: (7, 0), ..Set::default() }.on(&mut guest, node).unwrap();
    assert_eq!((metadata(&guest).atime(), metadata(&guest).mtime()), (7, 1_000));
    Set { valid: MTIME | MTIME_NOW, ..Set::default() }.on(&mut guest, node).unwrap();
    assert!(metadata(&guest).mtime() > 1_000_000_000);
    assert_eq!(
        Set { valid: MTIME, times: (1, 1_000_000_000), ..Set::default() }.on(&mut guest, node),
        Err(EINVAL)
    );
    assert!(Set { valid: SIZE, size: u64::MAX, ..Set::default() }.on(&mut guest, node).is_err());
    assert_eq!(Set { valid: SIZE, ..Set::default() }.on(&mut guest, ROOT), Err(EISDIR));
}

#[test]
fn an_open_file_is_changed_by_its_handle() {
    let mut guest = Shared::new();
    let (entry, handle) = guest.create(ROOT, "file", O_RDWR, 0o600).unwrap();
    guest.remove(ROOT, "file").unwrap();
    Set { valid: SIZE | FH, handle, size: 9, ..Set::default() }.on(&mut guest, 0).unwrap();
    Set { valid: MODE, mode: 0o640, ..Set::default() }.on(&mut guest, entry.node).unwrap();
    let found = guest.attributes_of(handle).unwrap();
    assert_eq!((found.size, found.mode, found.nlink), (9, 0o100_640, 0));
    assert_eq!(Set { valid: SIZE | FH, handle: 77, ..Set::default() }.on(&mut guest, entry.node), Err(EBADF));
}

#[test]
fn a_change_by_others_takes_special_rights_away() {
    let mut guest = Shared::new();
    let (entry, handle) = guest.create(ROOT, "file", O_RDWR, 0o6755).unwrap();
    guest.write_with(handle, 0, b"by root of the guest", 0, 0).unwrap();
    guest.write_with(handle, 0, b"by another", 4, 0).unwrap();
    assert_eq!(guest.attributes(entry.node).unwrap().mode, 0o100_755);
    Set { valid: MODE, mode: 0o6755, ..Set::default() }.on(&mut guest, entry.node).unwrap();
    Set { valid: SIZE | KILL_SUIDGID, ..Set::default() }.on(&mut guest, entry.node).unwrap();
    assert_eq!(guest.attributes(entry.node).unwrap().mode, 0o100_755);
}

#[test]
fn owners_are_the_hosts() {
    let mut guest = Shared::new();
    guest.uid = 1234;
    guest.gid = 2345;
    let (entry, _) = guest.create(ROOT, "file", O_RDWR, 0o4755).unwrap();
    let folder = guest.make_folder(ROOT, "folder", 0o755).unwrap();
    let owner = |entry: &Entry| (entry.attributes.uid, entry.attributes.gid);
    let set = |guest: &mut Guest, uid: u32| {
        let owner = (uid, 4567);
        Set { valid: UID | GID, owner, ..Set::default() }.on(guest, entry.node)
    };
    if !host::tree::acts_as_root() {
        let own = fs::metadata(guest.path("file")).unwrap();
        assert_eq!(owner(&entry), (own.uid(), own.gid()));
        assert_eq!(set(&mut guest, own.uid() + 1), Err(EPERM));
        return;
    }
    // Root's files go to whom the guest says.
    assert_eq!((owner(&entry), owner(&folder)), ((1234, 2345), (1234, 2345)));
    assert_eq!((entry.attributes.mode, folder.attributes.mode), (0o104_755, 0o40755));
    set(&mut guest, 3456).unwrap();
    let own = fs::metadata(guest.path("file")).unwrap();
    assert_eq!((own.uid(), own.gid()), (3456, 4567));
    // A folder that gives its group.
    Set { valid: MODE, mode: 0o2755, ..Set::default() }.on(&mut guest, folder.node).unwrap();
    guest.gid = 1;
    let (inner, _) = guest.create(folder.node, "file", O_RDWR, 0o644).unwrap();
    assert_eq!(owner(&inner), (1234, 2345));
}

#[test]
fn extended_attributes_are_kept() {
    let mut guest = Shared::new();
    fs::write(guest.path("file"), "").unwrap();
    symlink("file", guest.path("link")).unwrap();
    let node = guest.lookup(ROOT, "file").unwrap().node;
    let set = |guest: &mut Guest, node: u64, value: &[u8], flags: u32| {
        let body = Body::default().u32(value.len() as u32).u32(flags).name("user.note").bytes(value);
        guest.call(opcode::SETXATTR, node, body).map(drop)
    };
    let get = |guest: &mut Guest, node: u64, size: u32| {
        guest.call(opcode::GETXATTR, node, Body::default().u32(size).u32(0).name("user.note"))
    };
    assert_eq!(get(&mut guest, node, 0), Err(ENODATA));
    const REPLACE: u32 = 2;
    assert_eq!(set(&mut guest, node, b"x", REPLACE), Err(ENODATA));
    assert_eq!(set(&mut guest, node, b"a value", 0), Ok(()));
    assert_eq!(get(&mut guest, node, 0).map(|answer| u32_at(&answer, 0)), Ok(7));
    assert_eq!(get(&mut guest, node, 100), Ok(b"a value".to_vec()));
    const ERANGE: i32 = 34;
    assert_eq!(get(&mut guest, node, 3), Err(ERANGE));
    let list = guest.call(opcode::LISTXATTR, node, Body::default().u32(1000).u32(0)).unwrap();
    assert!(list.split(|byte| *byte == 0).any(|name| name == b"user.note"));
    let remove = Body::default().name("user.note");
    assert_eq!(guest.call(opcode::REMOVEXATTR, node, remove), Ok(vec![]));
    assert_eq!(get(&mut guest, node, 0), Err(ENODATA));
    // A link's are not those of what it leads to.
    let link = guest.lookup(ROOT, "link").unwrap().node;
    assert!(set(&mut guest, link, b"x", 0).is_err());
    assert_eq!(get(&mut guest, node, 0), Err(ENODATA));
    // A value of a length that lies.
    let body = Body::default().u32(1 << 30).u32(0).name("user.note").bytes("x");
    assert!(guest.call(opcode::SETXATTR, node, body).is_err());
    let body = Body::default().u32(5).u32(0).name("user.note").bytes("x");
    assert_eq!(guest.call(opcode::SETXATTR, node, body), Err(EINVAL));
}

#[test]
fn the_file_system_is_the_hosts() {
    let mut guest = Shared::new();
    let answer = guest.call(opcode::STATFS, ROOT, Body::default()).unwrap();
    assert_eq!(answer.len(), 80);
    let (blocks, free) = (u64_at(&answer, 0), u64_at(&answer, 8));
    assert!(blocks >= free && blocks > 0);
    assert_eq!(u32_at(&answer, 44), 255, "the longest name");
    let access =
        |guest: &mut Guest, mask: u32| guest.call(opcode::ACCESS, ROOT, Body::default().u32(mask).u32(0));
    assert_eq!(access(&mut guest, 7), Ok(vec![]));
    assert_eq!(access(&mut guest, 8), Err(EINVAL));
}
