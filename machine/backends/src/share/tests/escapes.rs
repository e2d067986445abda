//! Attempts to get out of the folder, and to change one that is read-only.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::guest::*;
use crate::share::nodes::ROOT;
use crate::share::wire::opcode;

/// A folder in a folder with a secret beside it.
struct Outside {
    outside: tempfile::TempDir,
    guest: Guest,
}

fn outside() -> Outside {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let inside = outside.path().join("inside");
    fs::create_dir(&inside).unwrap();
    symlink(outside.path().join("secret"), inside.join("absolute")).unwrap();
    symlink("../secret", inside.join("relative")).unwrap();
    symlink("..", inside.join("up")).unwrap();
    symlink("/proc/self/root", inside.join("magic")).unwrap();
    Outside { guest: Guest::of(&inside, false, 4096), outside }
}

#[test]
fn names_that_are_paths_are_refused() {
    let Outside { mut guest, outside } = outside();
    for name in ["..", ".", "", "../secret", "/etc/passwd", "up/secret", "./absolute", "x/"] {
        assert_eq!(guest.lookup(ROOT, name), Err(EINVAL), "{name:?}");
        assert_eq!(guest.create(ROOT, name, O_RDWR, 0o600).unwrap_err(), EINVAL, "{name:?}");
        assert_eq!(guest.make_folder(ROOT, name, 0o700), Err(EINVAL), "{name:?}");
        assert_eq!(guest.remove(ROOT, name), Err(EINVAL), "{name:?}");
        assert_eq!(guest.rename((ROOT, name), (ROOT, "x"), 0), Err(EINVAL), "{name:?}");
        assert_eq!(guest.rename((ROOT, "absolute"), (ROOT, name), 0), Err(EINVAL), "{name:?}");
        let link = Body::default().name(name).name("target");
        assert_eq!(guest.call(opcode::SYMLINK, ROOT, link), Err(EINVAL), "{name:?}");
        let add = Body::default().u64(ROOT).name(name);
        assert_eq!(guest.call(opcode::LINK, ROOT, add), Err(EINVAL), "{name:?}");
        let node = Body::default().u32(0o100_600).u32(0).u32(0).u32(0).name(name);
        assert_eq!(guest.call(opcode::MKNOD, ROOT, node), Err(EINVAL), "{name:?}");
    }
    assert_eq!(guest.lookup(ROOT, &"x".repeat(256)), Err(ENAMETOOLONG));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
}

#[test]
fn links_lead_nowhere_on_the_host() {
    let Outside { mut guest, outside } = outside();
    for name in ["absolute", "relative", "up", "magic"] {
        let link = guest.lookup(ROOT, name).unwrap();
        assert_eq!(link.attributes.mode >> 12, 0o12, "{name} itself");
        assert_eq!(guest.open(link.node, 0), Err(ENXIO), "{name}");
        assert_eq!(guest.open(link.node, O_WRONLY | O_TRUNC), Err(ENXIO), "{name}");
        assert_eq!(guest.open_folder(link.node), Err(ENOTDIR), "{name}");
        assert_eq!(guest.lookup(link.node, "secret"), Err(ENOTDIR), "{name}");
        assert_eq!(guest.make_folder(link.node, "new", 0o700), Err(ENOTDIR), "{name}");
        assert_eq!(guest.create(link.node, "new", O_RDWR, 0o600).unwrap_err(), ENOTDIR, "{name}");
        // By its name, which is taken.
        assert!(guest.create(ROOT, name, O_RDWR | O_TRUNC, 0o600).is_err(), "{name}");
        // chmod, truncate and a further name touch the link or nothing.
        let mode = Body::default().u32(1).bytes([0; 64]).u32(0o777).bytes([0; 16]);
        assert!(guest.call(opcode::SETATTR, link.node, mode).is_err(), "{name}");
        let size = Body::default().u32(8).bytes([0; 84]);
        assert!(guest.call(opcode::SETATTR, link.node, size).is_err(), "{name}");
        let add = Body::default().u64(link.node).name(format!("{name}-2"));
        let second = guest.call(opcode::LINK, ROOT, add).map(|answer| Entry::of(&answer)).unwrap();
        assert_eq!(second.node, link.node);
    }
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn numbers_are_each_shares_own() {
    let (mut one, mut other) = (Shared::new(), Shared::new());
    fs::write(other.path("file"), "text").unwrap();
    let node = other.lookup(ROOT, "file").unwrap().node;
    assert_eq!(one.attributes(node), Err(ESTALE));
}

#[test]
fn the_processes_files_are_not_shared() {
    let mut guest = Guest::of(Path::new("/"), true, 4096);
    assert_eq!(guest.lookup(ROOT, "proc"), Err(EACCES));
    let listed = guest.list(ROOT, 1 << 16, true);
    let proc = listed.iter().find(|entry| entry.name == "proc").unwrap();
    assert_eq!(proc.entry.unwrap().node, 0, "seen, and nothing told of it");
}

#[test]
fn files_of_other_file_systems_have_other_numbers() {
    let mut guest = Guest::of(Path::new("/"), true, 4096);
    let root = guest.attributes(ROOT).unwrap();
    let device = guest.lookup(ROOT, "dev").unwrap();
    assert_eq!(root.ino >> 48, 0);
    // Where /dev is mounted, as it is everywhere but in the barest container.
    use std::os::unix::fs::MetadataExt;
    let mounted = fs::metadata("/dev").unwrap().dev() != fs::metadata("/").unwrap().dev();
    assert_eq!(device.attributes.ino >> 48 != 0, mounted);
    // A device is seen, not opened.
    let null = guest.lookup(device.node, "null").unwrap();
    assert_eq!(guest.open(null.node, 0), Err(ENXIO));
}

#[test]
fn a_race_of_names_stays_inside() {
    let Outside { mut guest, outside } = outside();
    let inside = outside.path().join("inside");
    let folder = inside.join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("secret"), "inside").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Somebody on the host swaps the folder and a link to the outside, as fast as they can.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fs::rename(&folder, inside.join("aside")).unwrap();
                symlink("..", &folder).unwrap();
                fs::remove_file(&folder).unwrap();
                fs::rename(inside.join("aside"), &folder).unwrap();
            }
        });
        for _ in 0..2000 {
            let Ok(entry) = guest.lookup(ROOT, "folder") else { continue };
            if let Ok(secret) = guest.lookup(entry.node, "secret") {
                let handle = guest.open(secret.node, 0).unwrap();
                assert_eq!(guest.read(handle, 0, 10).unwrap(), b"inside");
                guest.release(handle).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_read_only_share_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "text").unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    let mut guest = Guest::of(folder.path(), true, 4096);
    let node = guest.lookup(ROOT, "file").unwrap().node;
    for flags in [O_WRONLY, O_RDWR, O_TRUNC, O_RDWR | O_APPEND] {
        assert_eq!(guest.open(node, flags), Err(EROFS), "{flags:o}");
        assert_eq!(guest.create(ROOT, "file", flags, 0o600).unwrap_err(), EROFS, "{flags:o}");
    }
    assert_eq!(guest.create(ROOT, "new", 0, 0o600).unwrap_err(), EROFS);
    assert_eq!(guest.make_folder(ROOT, "new", 0o700), Err(EROFS));
    assert_eq!(guest.remove(ROOT, "file"), Err(EROFS));
    assert_eq!(guest.rename((ROOT, "file"), (ROOT, "new"), 0), Err(EROFS));
    let handle = guest.open(node, 0).unwrap();
    assert_eq!(guest.write(handle, 0, b"x"), Err(EROFS));
    let changing: [(u32, Body); 8] = [
        (opcode::RMDIR, Body::default().name("folder")),
        (opcode::SYMLINK, Body::default().name("new").name("x")),
        (opcode::MKNOD, Body::default().u32(0o100_600).u32(0).u32(0).u32(0).name("new")),
        (opcode::LINK, Body::default().u64(node).name("new")),
        (opcode::SETATTR, Body::default().u32(1).bytes([0; 84])),
        (opcode::SETXATTR, Body::default().u32(1).u32(0).name("user.x").bytes("x")),
        (opcode::REMOVEXATTR, Body::default().name("user.x")),
        (opcode::FALLOCATE, Body::default().u64(handle).u64(0).u64(100).u32(0).u32(0)),
    ];
    for (opcode, body) in changing {
        assert_eq!(guest.call(opcode, ROOT, body), Err(EROFS), "{opcode}");
    }
    assert_eq!(guest.read(handle, 0, 10).unwrap(), b"text");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn no_file_is_moved_to_another_file_system() {
    let mut guest = Guest::of(Path::new("/"), false, 4096);
    let (Ok(dev), Ok(tmp)) = (guest.walk("dev/shm"), guest.walk("tmp")) else { return };
    let name = format!("popf-share-{}", std::process::id());
    let path = Path::new("/dev/shm").join(&name);
    if fs::write(&path, "").is_err() {
        return;
    }
    let result = guest.rename((dev.node, &name), (tmp.node, &name), 0);
    fs::remove_file(&path).unwrap();
    assert_eq!(result, Err(EXDEV));
}
