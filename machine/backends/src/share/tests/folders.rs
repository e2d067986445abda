use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::guest::*;
use crate::share::nodes::ROOT;

fn names(listed: &[Listed]) -> BTreeSet<String> {
    listed.iter().map(|entry| entry.name.clone()).collect()
}

#[test]
fn many_names_are_listed_in_pieces() {
    let mut guest = Shared::new();
    for index in 0..3000 {
        fs::write(guest.path(&format!("a-name-of-some-length-{index}")), "").unwrap();
    }
    let host: BTreeSet<String> = fs::read_dir(guest.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for (size, plus) in [(512, false), (4096, false), (1 << 20, false), (4096, true)] {
        let listed = guest.list(ROOT, size, plus);
        assert_eq!(listed.len(), 3002, "each once");
        let mut found = names(&listed);
        assert!(found.remove(".") && found.remove(".."));
        assert_eq!(found, host);
    }
}

#[test]
fn listing_goes_on_from_any_entry() {
    let mut guest = Shared::new();
    for index in 0..100 {
        fs::write(guest.path(&format!("{index}")), "").unwrap();
    }
    let all = guest.list(ROOT, 4096, false);
    let handle = guest.open_folder(ROOT).unwrap();
    for index in [50, 3, 98, 0] {
        let some = guest.list_once(ROOT, handle, all[index].next, 128, false).unwrap();
        assert_eq!(some[0], all[index + 1]);
    }
    assert_eq!(guest.list_once(ROOT, handle, 0, 8, false), Err(EINVAL), "no room for one entry");
    // What no file system has said: anything but a failure of ours will do.
    for wild in [1, 12345, u64::MAX >> 1, u64::MAX] {
        let _ = guest.list_once(ROOT, handle, wild, 4096, false);
    }
    assert_eq!(guest.list_once(ROOT, handle, 0, 1 << 20, false).unwrap(), all);
}

#[test]
fn listing_tells_of_files_as_lookup_does() {
    let mut guest = Shared::new();
    fs::write(guest.path("file"), "text").unwrap();
    fs::create_dir(guest.path("folder")).unwrap();
    symlink("nowhere", guest.path("link")).unwrap();
    let listed = guest.list(ROOT, 4096, true);
    for Listed { name, ino, kind, entry, .. } in listed {
        let entry = entry.unwrap();
        if name == "." || name == ".." {
            // Not the number of what is outside.
            assert_eq!((entry.node, ino), (0, fs::metadata(guest.path("")).unwrap().ino()));
            continue;
        }
        assert_eq!(guest.lookup(ROOT, &name), Ok(entry));
        assert_eq!((entry.attributes.ino, entry.attributes.mode >> 12), (ino, kind));
        guest.forget(entry.node, 1);
        assert!(guest.attributes(entry.node).is_ok(), "told twice");
        guest.forget(entry.node, 1);
        assert_eq!(guest.attributes(entry.node), Err(ESTALE));
    }
}

#[test]
fn a_folder_below_says_where_it_is() {
    let mut guest = Shared::new();
    fs::create_dir(guest.path("folder")).unwrap();
    let folder = guest.lookup(ROOT, "folder").unwrap();
    let listed = guest.list(folder.node, 4096, false);
    let up = listed.iter().find(|entry| entry.name == "..").unwrap();
    assert_eq!(up.ino, guest.attributes(ROOT).unwrap().ino);
    assert_eq!(guest.open_folder(9999), Err(ESTALE));
    fs::write(guest.path("file"), "").unwrap();
    let file = guest.lookup(ROOT, "file").unwrap();
    assert_eq!(guest.open_folder(file.node), Err(ENOTDIR));
}
