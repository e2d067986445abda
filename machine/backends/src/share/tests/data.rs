use std::fs;
use std::io::Write;
use std::time::{Duration, SystemTime};

use super::guest::*;
use crate::share::MAX_DATA;
use crate::share::nodes::ROOT;
use crate::share::wire::opcode;

const KEEP_CACHE: u32 = 2;

#[test]
fn data_comes_back_and_is_on_the_host() {
    let mut guest = Shared::new();
    let (_, handle) = guest.create(ROOT, "file", O_RDWR, 0o640).unwrap();
    let data: Vec<u8> = (0..MAX_DATA).map(|index| (index * 7 / 3) as u8).collect();
    assert_eq!(guest.write(handle, 0, &data), Ok(MAX_DATA as u32));
    assert_eq!(guest.write(handle, MAX_DATA as u64 + 10, b"behind a hole"), Ok(13));
    assert_eq!(guest.read(handle, 0, MAX_DATA as u32).unwrap(), data);
    assert_eq!(guest.read(handle, 5, 100).unwrap(), data[5..105]);
    let end = [&[0; 10][..], b"behind a hole"].concat();
    assert_eq!(guest.read(handle, MAX_DATA as u64, 4096).unwrap(), end);
    assert_eq!(guest.read(handle, 1 << 40, 10).unwrap(), []);
    assert_eq!(fs::read(guest.path("file")).unwrap(), [data, end].concat());
    // More than one request carries, and more than there is room for.
    assert_eq!(guest.read(handle, 0, u32::MAX).unwrap().len(), MAX_DATA);
    let body = Body::default().u64(handle).u64(0).u32(4096).u32(0).u64(0).u32(0).u32(0);
    assert_eq!(guest.call_with(opcode::READ, 0, body, 16 + 100).unwrap().len(), 100);
    assert_eq!(guest.release(handle), Ok(()));
    assert_eq!(guest.release(handle), Err(EBADF));
    assert_eq!(guest.read(handle, 0, 10), Err(EBADF));
}

#[test]
fn a_handle_can_do_what_it_was_opened_for() {
    let mut guest = Shared::new();
    fs::write(guest.path("file"), "text").unwrap();
    let node = guest.lookup(ROOT, "file").unwrap().node;
    let (reader, writer) = (guest.open(node, 0).unwrap(), guest.open(node, O_WRONLY).unwrap());
    assert_eq!(guest.write(reader, 0, b"x"), Err(EBADF));
    assert_eq!(guest.read(writer, 0, 1), Err(EBADF));
    assert_eq!(guest.open(node, 3), Err(EINVAL));
    assert_eq!(guest.open(ROOT, 0), Err(EISDIR));
    guest.open(node, O_WRONLY | O_TRUNC).unwrap();
    assert_eq!(guest.attributes(node).unwrap().size, 0);
}

#[test]
fn creating_what_is_there_opens_it() {
    let mut guest = Shared::new();
    fs::write(guest.path("file"), "text").unwrap();
    let node = guest.lookup(ROOT, "file").unwrap().node;
    assert_eq!(guest.create(ROOT, "file", O_RDWR | O_EXCL, 0o600).unwrap_err(), EEXIST);
    let (entry, handle) = guest.create(ROOT, "file", O_RDWR, 0o600).unwrap();
    assert_eq!((entry.node, entry.attributes.size), (node, 4));
    assert_eq!(guest.read(handle, 0, 10).unwrap(), b"text");
    // The mode does not hinder the handle that comes with it.
    let (entry, handle) = guest.create(ROOT, "new", O_RDWR, 0o6444).unwrap();
    assert_eq!(entry.attributes.mode, 0o106_444);
    assert_eq!(guest.write(handle, 0, b"x"), Ok(1));
    guest.make_folder(ROOT, "folder", 0o700).unwrap();
    assert_eq!(guest.create(ROOT, "folder", O_RDWR, 0o600).unwrap_err(), EISDIR);
}

#[test]
fn appends_go_to_the_end_that_there_is() {
    let mut guest = Shared::new();
    let (_, handle) = guest.create(ROOT, "file", O_WRONLY | O_APPEND, 0o600).unwrap();
    guest.write_with(handle, 0, b"one ", 0, O_APPEND).unwrap();
    let mut host = fs::OpenOptions::new().append(true).open(guest.path("file")).unwrap();
    host.write_all(b"host ").unwrap();
    // The guest thinks that the file ends where it has written.
    guest.write_with(handle, 4, b"two", 0, O_APPEND).unwrap();
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"one host two");
    // Its flags are changed by fcntl(2), of which nobody hears; and its pages have their place.
    guest.write_with(handle, 0, b"ONE", 0, 0).unwrap();
    guest.write_with(handle, 4, b"HOST", 1, O_APPEND).unwrap();
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"ONE HOST two");
}

#[test]
fn pages_are_kept_while_a_file_rests() {
    let mut guest = Shared::new();
    fs::write(guest.path("file"), "text").unwrap();
    let node = guest.lookup(ROOT, "file").unwrap().node;
    let mut kept = || guest.open_with(node, 0).unwrap().1 & KEEP_CACHE != 0;
    assert!(!kept(), "never opened");
    assert!(!kept(), "changed just now");
    // A change of the past is one whose time no other change can have any more. The time of the change itself cannot
    // be set, so it is waited for.
    let start = SystemTime::now();
    while start.elapsed().unwrap() < Duration::from_millis(1100) {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!kept(), "seen at rest for the first time");
    assert!(kept());
    assert!(kept());
    fs::write(guest.path("file"), "TEXT").unwrap();
    let node = guest.lookup(ROOT, "file").unwrap().node;
    assert_eq!(guest.open_with(node, 0).unwrap().1 & KEEP_CACHE, 0, "changed since");
}

#[test]
fn holes_are_found_and_made() {
    let mut guest = Shared::new();
    let (_, handle) = guest.create(ROOT, "file", O_RDWR, 0o600).unwrap();
    let block = vec![1; 1 << 16];
    guest.write(handle, 1 << 20, &block).unwrap();
    let seek = |guest: &mut Guest, offset: u64, whence: u32| {
        let body = Body::default().u64(handle).u64(offset).u32(whence).u32(0);
        guest.call(opcode::LSEEK, 0, body).map(|answer| u64_at(&answer, 0))
    };
    assert_eq!(seek(&mut guest, 0, 3), Ok(1 << 20));
    assert_eq!(seek(&mut guest, 1 << 20, 4), Ok((1 << 20) + (1 << 16)));
    assert_eq!(seek(&mut guest, 1 << 30, 3), Err(ENXIO));
    assert_eq!(seek(&mut guest, 0, 0), Err(EINVAL));
    const PUNCH_HOLE: u32 = 3; // And KEEP_SIZE.
    let allocate = |guest: &mut Guest, offset: u64, length: u64, mode: u32| {
        let body = Body::default().u64(handle).u64(offset).u64(length).u32(mode).u32(0);
        guest.call(opcode::FALLOCATE, 0, body).map(drop)
    };
    assert_eq!(allocate(&mut guest, 1 << 20, 4096, PUNCH_HOLE), Ok(()));
    assert_eq!(seek(&mut guest, 0, 3), Ok((1 << 20) + 4096));
    assert_eq!(allocate(&mut guest, 0, 2 << 20, 0), Ok(()));
    assert_eq!(guest.attributes_of(handle).unwrap().size, 2 << 20);
    assert!(allocate(&mut guest, 0, u64::MAX, 0).is_err());
    assert!(allocate(&mut guest, 0, 4096, 1 << 31).is_err());
}

#[test]
fn the_host_copies() {
    let mut guest = Shared::new();
    let (_, from) = guest.create(ROOT, "from", O_RDWR, 0o600).unwrap();
    let (_, to) = guest.create(ROOT, "to", O_RDWR, 0o600).unwrap();
    guest.write(from, 0, b"0123456789").unwrap();
    let copy = |guest: &mut Guest, to: u64, length: u64, flags: u64| {
        let body = Body::default().u64(from).u64(2).u64(0).u64(to).u64(1).u64(length).u64(flags);
        guest.call(opcode::COPY_FILE_RANGE, 0, body).map(|answer| u32_at(&answer, 0))
    };
    assert_eq!(copy(&mut guest, to, 5, 0), Ok(5));
    assert_eq!(guest.read(to, 0, 100).unwrap(), b"\x0023456");
    assert_eq!(copy(&mut guest, to, u64::MAX, 0), Ok(8));
    assert_eq!(copy(&mut guest, to, 1, 1), Err(EINVAL));
    assert_eq!(copy(&mut guest, 99, 1, 0), Err(EBADF));
}

#[test]
fn files_are_flushed_and_synced() {
    let mut guest = Shared::new();
    let (_, handle) = guest.create(ROOT, "file", O_RDWR, 0o600).unwrap();
    let flush = Body::default().u64(handle).u32(0).u32(0).u64(0);
    assert_eq!(guest.call(opcode::FLUSH, 0, flush), Ok(vec![]));
    for flags in [0, 1] {
        let sync = Body::default().u64(handle).u32(flags).u32(0);
        assert_eq!(guest.call(opcode::FSYNC, 0, sync), Ok(vec![]));
    }
    let folder = guest.open_folder(ROOT).unwrap();
    let sync = |handle: u64| Body::default().u64(handle).u32(0).u32(0);
    assert_eq!(guest.call(opcode::FSYNCDIR, 0, sync(folder)), Ok(vec![]));
    // A handle is of one kind.
    assert_eq!(guest.call(opcode::FSYNCDIR, 0, sync(handle)), Err(EBADF));
    assert_eq!(guest.call(opcode::FSYNC, 0, sync(folder)), Err(EBADF));
    assert_eq!(guest.call(opcode::SYNCFS, ROOT, Body::default().u64(0)), Ok(vec![]));
}
