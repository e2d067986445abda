use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::guest::*;
use crate::share::nodes::ROOT;
use crate::share::wire::opcode;

#[test]
fn a_name_leads_to_a_number_and_its_attributes() {
    let mut guest = Shared::new();
    fs::write(guest.path("file"), "hello").unwrap();
    let entry = guest.lookup(ROOT, "file").unwrap();
    let metadata = fs::metadata(guest.path("file")).unwrap();
    let expected = Attributes {
        ino: metadata.ino(),
        size: 5,
        mtime: (metadata.mtime() as u64, metadata.mtime_nsec() as u32),
        mode: metadata.mode(),
        nlink: 1,
        uid: metadata.uid(),
        gid: metadata.gid(),
    };
    assert_eq!(entry.attributes, expected);
    assert_eq!(guest.attributes(entry.node), Ok(expected));
    assert_eq!(guest.lookup(ROOT, "file").unwrap().node, entry.node);
    assert_eq!(guest.lookup(ROOT, "none"), Err(ENOENT));
    assert_eq!(guest.lookup(entry.node, "x"), Err(ENOTDIR));
}

#[test]
fn what_is_forgotten_is_gone() {
    let mut guest = Shared::new();
    fs::write(guest.path("file"), "").unwrap();
    let node = guest.lookup(ROOT, "file").unwrap().node;
    guest.lookup(ROOT, "file").unwrap();
    guest.forget(node, 1);
    assert!(guest.attributes(node).is_ok());
    guest.forget(node, 1);
    assert_eq!(guest.attributes(node), Err(ESTALE));
    let again = guest.lookup(ROOT, "file").unwrap().node;
    assert_ne!(again, node, "a number is not used twice");
    guest.forget(ROOT, u64::MAX);
    assert!(guest.attributes(ROOT).is_ok());
    // Two at once, one of them a number that means nothing.
    let body = Body::default().u32(2).u32(0).u64(node).u64(1).u64(again).u64(9);
    let request = guest.request(opcode::BATCH_FORGET, 0, body);
    assert_eq!(guest.raw(&request, 4096), []);
    assert_eq!(guest.attributes(again), Err(ESTALE));
}

#[test]
fn folders_are_made_and_removed() {
    let mut guest = Shared::new();
    let folder = guest.make_folder(ROOT, "folder", 0o1777).unwrap();
    assert_eq!(folder.attributes.mode, 0o41777, "no mask but the guest's");
    assert_eq!(guest.make_folder(ROOT, "folder", 0o700), Err(EEXIST));
    guest.make_folder(folder.node, "inner", 0o700).unwrap();
    let remove = |guest: &mut Guest, name: &str| guest.call(opcode::RMDIR, ROOT, Body::default().name(name));
    assert_eq!(remove(&mut guest, "folder"), Err(ENOTEMPTY));
    fs::remove_dir(guest.path("folder/inner")).unwrap();
    assert_eq!(remove(&mut guest, "folder"), Ok(vec![]));
    assert!(!guest.path("folder").exists());
    assert_eq!(remove(&mut guest, "folder"), Err(ENOENT));
}

#[test]
fn files_of_all_types_are_made_but_devices() {
    let mut guest = Shared::new();
    let mut make = |name: &str, mode: u32, rdev: u32| {
        let body = Body::default().u32(mode).u32(rdev).u32(0).u32(0).name(name);
        guest.call(opcode::MKNOD, ROOT, body).map(|answer| Entry::of(&answer).attributes.mode)
    };
    for mode in [0o100_666, 0o010_622, 0o140_777] {
        assert_eq!(make(&format!("{mode:o}"), mode, 0), Ok(mode));
    }
    for (mode, rdev) in [(0o020_666, 0x103), (0o060_666, 0x800), (0o120_777, 0), (0o040_700, 0), (0, 0)] {
        assert_eq!(make("bad", mode, rdev), Err(EPERM), "{mode:o}");
    }
}

#[test]
fn links_are_text() {
    let mut guest = Shared::new();
    let make = |guest: &mut Guest, name: &str, target: &str| {
        let body = Body::default().name(name).name(target);
        guest.call(opcode::SYMLINK, ROOT, body).map(|answer| Entry::of(&answer))
    };
    let link = make(&mut guest, "link", "../../etc/passwd").unwrap();
    assert_eq!(link.attributes.mode & 0o170_000, 0o120_000);
    assert_eq!(guest.call(opcode::READLINK, link.node, Body::default()), Ok(b"../../etc/passwd".to_vec()));
    assert_eq!(fs::read_link(guest.path("link")).unwrap().to_str(), Some("../../etc/passwd"));
    assert_eq!(guest.call(opcode::READLINK, ROOT, Body::default()), Err(ENOENT));
    let long = "x".repeat(4095);
    let link = make(&mut guest, "long", &long).unwrap();
    assert_eq!(guest.call(opcode::READLINK, link.node, Body::default()), Ok(long.into_bytes()));
}

#[test]
fn a_file_has_several_names() {
    let mut guest = Shared::new();
    fs::write(guest.path("a"), "text").unwrap();
    symlink("nowhere", guest.path("link")).unwrap();
    let link = |guest: &mut Guest, node: u64, name: &str| {
        let body = Body::default().u64(node).name(name);
        guest.call(opcode::LINK, ROOT, body).map(|answer| Entry::of(&answer))
    };
    let file = guest.lookup(ROOT, "a").unwrap();
    let second = link(&mut guest, file.node, "b").unwrap();
    assert_eq!((second.node, second.attributes.nlink), (file.node, 2));
    assert_eq!(link(&mut guest, file.node, "b"), Err(EEXIST));
    // A name for the link, not for what it would lead to.
    let of_link = guest.lookup(ROOT, "link").unwrap();
    let second = link(&mut guest, of_link.node, "link2").unwrap();
    assert_eq!(second.node, of_link.node);
    guest.remove(ROOT, "a").unwrap();
    assert_eq!(guest.attributes(file.node).unwrap().nlink, 1);
    assert_eq!(fs::read(guest.path("b")).unwrap(), b"text");
}

#[test]
fn renaming_keeps_numbers_and_holds_to_its_flags() {
    const NOREPLACE: u32 = 1;
    const EXCHANGE: u32 = 2;
    const WHITEOUT: u32 = 4;
    let mut guest = Shared::new();
    for (name, text) in [("a", "A"), ("b", "B")] {
        fs::write(guest.path(name), text).unwrap();
    }
    let folder = guest.make_folder(ROOT, "folder", 0o700).unwrap().node;
    let (a, b) = (guest.lookup(ROOT, "a").unwrap().node, guest.lookup(ROOT, "b").unwrap().node);
    assert_eq!(guest.rename((ROOT, "a"), (ROOT, "b"), NOREPLACE), Err(EEXIST));
    assert_eq!(guest.rename((ROOT, "a"), (ROOT, "c"), WHITEOUT), Err(EINVAL));
    assert_eq!(guest.rename((ROOT, "a"), (ROOT, "b"), EXCHANGE), Ok(()));
    assert_eq!((guest.lookup(ROOT, "a").unwrap().node, guest.lookup(ROOT, "b").unwrap().node), (b, a));
    assert_eq!(guest.rename((ROOT, "b"), (folder, "moved"), 0), Ok(()));
    assert_eq!(guest.lookup(folder, "moved").unwrap().node, a);
    assert_eq!(fs::read(guest.path("folder/moved")).unwrap(), b"A");
    assert_eq!(guest.rename((ROOT, "folder"), (folder, "itself"), 0), Err(EINVAL));
    // The old request, without flags.
    let body = Body::default().u64(ROOT).name("a").name("b");
    assert_eq!(guest.call(opcode::RENAME, ROOT, body), Ok(vec![]));
    assert_eq!(fs::read(guest.path("b")).unwrap(), b"B");
}

#[test]
fn few_descriptors_serve_many_files() {
    // 64 for files that are known.
    let mut guest = Shared::with(false, 128);
    let mut nodes = Vec::new();
    for folder in 0..20 {
        let name = format!("folder{folder}");
        let parent = guest.make_folder(ROOT, &name, 0o755).unwrap().node;
        for file in 0..20 {
            let name = format!("file{file}");
            let (entry, handle) = guest.create(parent, &name, O_WRONLY, 0o644).unwrap();
            guest.write(handle, 0, format!("{folder} {file}").as_bytes()).unwrap();
            guest.release(handle).unwrap();
            nodes.push((entry.node, format!("{folder} {file}")));
        }
    }
    assert!(guest.share.0.nodes.open() <= 64);
    // Through a folder that the guest has renamed.
    let moved = guest.walk("folder3").unwrap().node;
    guest.rename((ROOT, "folder3"), (ROOT, "moved"), 0).unwrap();
    guest.rename((moved, "file5"), (ROOT, "file"), 0).unwrap();
    for (node, text) in &nodes {
        let handle = guest.open(*node, 0).unwrap();
        assert_eq!(guest.read(handle, 0, 100).unwrap(), text.as_bytes());
        guest.release(handle).unwrap();
    }
    assert!(guest.share.0.nodes.open() <= 64);
}

#[test]
fn another_file_of_the_name_is_not_taken_for_it() {
    let mut guest = Shared::with(false, 128);
    fs::write(guest.path("file"), "first").unwrap();
    let node = guest.lookup(ROOT, "file").unwrap().node;
    let crowd = |guest: &mut Shared| {
        for index in 0..200 {
            let name = format!("{index}");
            fs::write(guest.path(&name), "").unwrap();
            guest.lookup(ROOT, &name).unwrap();
        }
    };
    crowd(&mut guest);
    fs::rename(guest.path("file"), guest.path("old")).unwrap();
    fs::write(guest.path("file"), "second").unwrap();
    assert_eq!(guest.attributes(node), Err(ESTALE));
    assert_ne!(guest.lookup(ROOT, "file").unwrap().node, node);
    // By its new name it is the old file.
    assert_eq!(guest.lookup(ROOT, "old").unwrap().node, node);
    assert_eq!(guest.attributes(node).unwrap().size, 5);
}

#[test]
fn an_open_file_that_is_gone_stays() {
    let mut guest = Shared::with(false, 128);
    let (entry, handle) = guest.create(ROOT, "file", O_RDWR, 0o600).unwrap();
    guest.write(handle, 0, b"kept").unwrap();
    guest.remove(ROOT, "file").unwrap();
    for index in 0..200 {
        let (_, other) = guest.create(ROOT, &format!("{index}"), O_RDWR, 0o600).unwrap();
        guest.release(other).unwrap();
    }
    assert_eq!(guest.attributes(entry.node).unwrap().nlink, 0);
    assert_eq!(guest.read(handle, 0, 10).unwrap(), b"kept");
    assert_eq!(guest.lookup(ROOT, "file"), Err(ENOENT));
}
