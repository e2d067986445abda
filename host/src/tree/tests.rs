use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;

/// A folder that is removed in the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("popf-tree-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn node(&self) -> Node {
        Node::folder(&self.0).unwrap().0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn name(text: &CStr) -> Name<'_> {
    Name::new(text).unwrap()
}

fn refusal<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn names_are_single_components() {
    for good in [c"a", c"...", c"..a", c" ", c"\xff"] {
        assert!(Name::new(good).is_ok(), "{good:?}");
    }
    for bad in [c"", c".", c"..", c"/", c"a/b", c"a/", c"../x"] {
        assert_eq!(refusal(Name::new(bad)), libc::EINVAL, "{bad:?}");
    }
    let long = |length| CString::new(vec![b'a'; length]).unwrap();
    assert!(Name::new(&long(255)).is_ok());
    assert_eq!(refusal(Name::new(&long(256))), libc::ENAMETOOLONG);
}

#[test]
fn links_are_found_and_not_followed() {
    let folder = Temporary::new("links");
    symlink("/etc/passwd", folder.0.join("absolute")).unwrap();
    symlink("..", folder.0.join("up")).unwrap();
    let root = folder.node();
    let (link, status) = root.lookup(name(c"absolute")).unwrap();
    assert_eq!((link.kind(), status.mode & S_IFMT), (S_IFLNK, S_IFLNK));
    assert_eq!(link.read_link().unwrap(), b"/etc/passwd");
    assert_eq!(refusal(link.open(OpenHow { read: true, ..OpenHow::default() })), libc::ENXIO);
    let up = root.lookup(name(c"up")).unwrap().0;
    assert_eq!(refusal(up.lookup(name(c"etc"))), libc::ENOTDIR);
    assert_eq!(refusal(up.list()), libc::ENOTDIR);
    assert_eq!(refusal(root.create(name(c"absolute"), OpenHow::default(), 0o600)), libc::EEXIST);
}

#[test]
fn no_way_leads_into_the_processes_files() {
    let root = Node::folder(std::path::Path::new("/")).unwrap().0;
    assert_eq!(refusal(root.lookup(name(c"proc"))), libc::EACCES);
    assert!(root.lookup(name(c"etc")).is_ok());
}

#[test]
fn pipes_are_not_opened() {
    let folder = Temporary::new("pipes");
    let root = folder.node();
    root.make_node(name(c"pipe"), S_IFIFO | 0o600).unwrap();
    let pipe = root.lookup(name(c"pipe")).unwrap().0;
    // Would wait for a writer.
    assert_eq!(refusal(pipe.open(OpenHow { read: true, ..OpenHow::default() })), libc::ENXIO);
}

#[test]
fn a_node_outlives_its_name() {
    let folder = Temporary::new("outlives");
    fs::write(folder.0.join("file"), "first").unwrap();
    let (node, before) = folder.node().lookup(name(c"file")).unwrap();
    fs::rename(folder.0.join("file"), folder.0.join("moved")).unwrap();
    fs::write(folder.0.join("file"), "second").unwrap();
    assert_eq!(node.status().unwrap().ino, before.ino);
    let open = node.open(OpenHow { read: true, write: true, ..OpenHow::default() }).unwrap();
    let mut buffer = [0; 16];
    assert_eq!(open.read(&mut buffer, 0).unwrap(), 5);
    assert_eq!(&buffer[..5], b"first");
    assert_eq!(open.append(b", again").unwrap(), 7);
    assert_eq!(open.write(b"F", 0).unwrap(), 1);
    assert_eq!(fs::read(folder.0.join("moved")).unwrap(), b"First, again");
}

#[test]
fn the_status_is_what_std_says() {
    let folder = Temporary::new("status");
    let path = folder.0.join("file");
    fs::write(&path, "text").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
    let (node, status) = folder.node().lookup(name(c"file")).unwrap();
    let std = fs::metadata(&path).unwrap();
    assert_eq!((status.dev, status.ino, status.mode), (std.dev(), std.ino(), std.mode()));
    assert_eq!((status.nlink, status.uid, status.gid), (1, std.uid(), std.gid()));
    assert_eq!((status.size, status.blocks), (4, std.blocks()));
    assert_eq!(status.mtime, std.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap());
    let time = Duration::new(1_000_000_000, 7);
    node.set_times(SetTime::Keep, SetTime::To(time)).unwrap();
    let after = node.status().unwrap();
    assert_eq!((after.atime, after.mtime), (status.atime, time));
}

#[test]
fn a_folder_is_listed_from_anywhere() {
    let folder = Temporary::new("listed");
    for index in 0..2000 {
        fs::write(folder.0.join(format!("a-rather-long-name-{index}")), "").unwrap();
    }
    let mut listing = folder.node().list().unwrap();
    let mut found = Vec::new();
    while let Some(entry) = listing.peek().unwrap() {
        found.push((entry.name.to_owned(), entry.next));
        listing.pass();
    }
    assert_eq!(found.len(), 2002);
    for index in [1999, 0, 700, 701, 5] {
        listing.seek(found[index].1).unwrap();
        for (expected, _) in found.iter().skip(index + 1).take(3) {
            assert_eq!(listing.peek().unwrap().unwrap().name, expected.as_c_str());
            listing.pass();
        }
    }
    listing.seek(0).unwrap();
    assert_eq!(listing.peek().unwrap().unwrap().name, found[0].0.as_c_str());
}

#[test]
fn a_threads_mask_is_its_own() {
    let folder = Temporary::new("mask");
    let make = |text: &CStr| {
        folder.node().make_folder(name(text), 0o777).unwrap();
        fs::metadata(folder.0.join(text.to_str().unwrap())).unwrap().mode() & 0o777
    };
    std::thread::scope(|scope| {
        let mode = scope.spawn(|| {
            clear_mask().unwrap();
            make(c"open")
        });
        assert_eq!(mode.join().unwrap(), 0o777);
    });
    assert_ne!(make(c"masked"), 0o777, "the tests are run with a mask, as is usual");
}
