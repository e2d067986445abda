//! Images that contradict themselves.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use backends::disk::{Access, Format, create, create_overlay};

use crate::{Folder, MIB, Random, contents, open_as, pattern, qemu_img, read_write, story, text};

/// Opening it fails, for reading and for writing, with a word of why.
fn assert_refused(path: &Path, format: Option<Format>, told: &str) {
    for access in [Access::ReadWrite, Access::ReadOnly, Access::Snapshot] {
        let error = story(&open_as(path, format, access).unwrap_err());
        assert!(error.contains(told), "{access:?}: {error}");
    }
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn what_is_no_image_is_told() {
    let folder = Folder::new();
    assert_refused(&folder.path("missing.img"), None, "No such file");
    assert_refused(folder.0.path(), None, "neither a file nor a block device");
    assert_refused(Path::new("/dev/null"), None, "neither a file nor a block device");
    assert_refused(&folder.file("short", b"QFI\xfb"), None, "does not begin like one");
    assert_refused(&folder.file("text", b"hello"), Some(Format::Qcow2), "does not begin like one");
    let empty = open_as(&folder.file("empty", b""), None, Access::ReadWrite).unwrap();
    assert_eq!(empty.size(), 0);
}

#[test]
fn a_header_that_lies_is_refused() {
    let folder = Folder::new();
    for (at, bytes, told) in [
        (4, &[0, 0, 0, 9][..], "neither version 2 nor 3"),
        (20, &[0, 0, 0, 40], "clusters have an impossible size"),
        (24, &[0xff; 8], "does not cover the disk"),
        (32, &[0, 0, 0, 1], "encrypted"),
        (36, &[0x0f, 0xff, 0xff, 0xff], "larger than any"),
        (36, &[0, 0x10, 0, 0], "outside the file"),
        (40, &[0, 0, 0, 0, 0, 0, 0, 1], "outside the file"),
        (48, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], "outside the file"),
        (56, &[0, 0, 0xff, 0xff], "larger than any"),
        (56, &[0, 0, 0, 0], "outside the file"),
        (72, &[0x80, 0, 0, 0, 0, 0, 0, 0], "features that popf does not support"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 2], "marked as corrupt"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 4], "in a second file"),
        (8, &[0, 0, 0, 0, 0, 1, 0, 0], "backing file is not where"),
    ] {
        let path = folder.path("a.qcow2");
        create(&path, MIB).unwrap();
        patch(&path, at, bytes);
        assert_refused(&path, None, told);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_truncated_image_gives_errors_where_it_ends() {
    let folder = Folder::new();
    let path = folder.path("a.qcow2");
    create(&path, 8 * MIB).unwrap();
    let disk = read_write(&path);
    disk.write(0, &pattern(4 * MIB, 1)).unwrap();
    drop(disk);
    let length = fs::metadata(&path).unwrap().len();
    for keep in [200, 70_000, 200_000, length / 2] {
        let cut = folder.path("cut.qcow2");
        fs::copy(&path, &cut).unwrap();
        File::options().write(true).open(&cut).unwrap().set_len(keep).unwrap();
        match open_as(&cut, None, Access::ReadOnly) {
            Err(error) => assert!(story(&error).contains("cut.qcow2"), "{}", story(&error)),
            // Clusters that are gone read as zeroes or fail; either way nothing worse happens.
            Ok(disk) => {
                let mut bytes = vec![0; 4 << 20];
                let _ = disk.read(0, &mut bytes);
            }
        }
    }
}

#[test]
fn chains_that_do_not_end_are_refused() {
    let folder = Folder::new();
    let [base, one, two] = ["base.img", "one.qcow2", "two.qcow2"].map(|name| folder.path(name));
    folder.file("base.img", &[0; 65536]);
    create_overlay(&one, &base, Format::Raw).unwrap();
    create_overlay(&two, &one, Format::Qcow2).unwrap();
    fs::remove_file(&one).unwrap();
    assert_refused(&two, None, "stands on another image, which cannot be used");
    assert_refused(&two, None, "No such file");
    create_overlay(&one, &base, Format::Raw).unwrap();
    fs::copy(&two, &one).unwrap();
    assert_refused(&two, None, "leads back to an image that stands on it");
    assert_refused(&one, None, "leads back to an image that stands on it");
}

#[test]
fn a_backing_file_without_a_format_is_refused() {
    let folder = Folder::new();
    let [base, path] = ["base.img", "a.qcow2"].map(|name| folder.path(name));
    folder.file("base.img", &[0; 65536]);
    create_overlay(&path, &base, Format::Raw).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let name = 0xe279_2aca_u32.to_be_bytes();
    let at = bytes.windows(4).position(|window| window == name).unwrap();
    bytes[at..at + 4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
    fs::write(&path, bytes).unwrap();
    assert_refused(&path, None, "the format of its backing file is not written in it");
}

#[test]
fn what_we_could_damage_is_only_read() {
    let folder = Folder::new();
    let path = folder.path("old.qcow2");
    if qemu_img(&["create", "-f", "qcow2", "-o", "compat=0.10", text(&path), "1M"]).is_none() {
        return;
    }
    let error = story(&open_as(&path, None, Access::ReadWrite).unwrap_err());
    assert!(error.contains("version 2") && error.contains("qemu-img amend"), "{error}");
    assert_eq!(contents(&*open_as(&path, None, Access::Snapshot).unwrap()), vec![0; 1 << 20]);

    let path = folder.path("snapshots.qcow2");
    create(&path, MIB).unwrap();
    qemu_img(&["snapshot", "-c", "one", text(&path)]).unwrap();
    let error = story(&open_as(&path, None, Access::ReadWrite).unwrap_err());
    assert!(error.contains("internal snapshots"), "{error}");
    open_as(&path, None, Access::ReadOnly).unwrap();
}

#[test]
fn a_repair_does_not_trust_what_it_repairs() {
    let folder = Folder::new();
    let (path, hurt) = (folder.path("a.qcow2"), folder.path("hurt.qcow2"));
    create(&path, 8 * MIB).unwrap();
    let disk = read_write(&path);
    disk.write(0, &pattern(MIB, 1)).unwrap();
    disk.flush().unwrap();
    fs::copy(&path, &hurt).unwrap();
    let bytes = fs::read(&hurt).unwrap();
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let offset = |entry: u64| entry & 0x00ff_ffff_ffff_fe00;
    let l1 = word(40);
    let l2 = offset(word(l1 as usize));
    for (at, entry, told) in [
        (l1, l1, "use the same cluster"),
        (l1, 1 << 50, "points out of the file"),
        (l1, l2 + 512, "into the middle of a cluster"),
        (l2, l2, "use the same cluster"),
        (l2, word(l2 as usize + 8), "use the same cluster"),
        (l2, 1 << 55, "points out of the file"),
        (l2, 1 << 62 | 1 << 50, "points out of the file"),
    ] {
        patch(&hurt, at, &entry.to_be_bytes());
        let error = story(&open_as(&hurt, None, Access::ReadWrite).unwrap_err());
        assert!(error.contains(told), "{at:#x} = {entry:#x}: {error}");
        fs::write(&hurt, &bytes).unwrap();
    }
    open_as(&hurt, None, Access::ReadWrite).unwrap();
}

/// What the fuzz target `images` does at length.
#[test]
fn bytes_changed_at_random_do_no_harm() {
    let folder = Folder::new();
    let [base, path, hurt] = ["base.img", "a.qcow2", "hurt.qcow2"].map(|name| folder.path(name));
    folder.file("base.img", &pattern(300_000, 1));
    create_overlay(&path, &base, Format::Raw).unwrap();
    let disk = read_write(&path);
    disk.write(70_000 / 512 * 512, &pattern(100 * 512, 2)).unwrap();
    // In use, so that it bears the dirty bit and is repaired.
    disk.flush().unwrap();
    let dirty = fs::read(&path).unwrap();
    drop(disk);
    let sound = fs::read(&path).unwrap();
    let mut opened = 0;
    for seed in 0..600 {
        let mut random = Random(seed);
        let mut image = if seed % 2 == 0 { sound.clone() } else { dirty.clone() };
        for _ in 0..1 + random.below(4) {
            // The header, or a table's first entries.
            let cluster = random.below(image.len() as u64 / 65536) * 65536;
            let at = (cluster + random.below(if cluster == 0 { 128 } else { 64 })) as usize;
            image[at] = random.next() as u8;
        }
        fs::write(&hurt, &image).unwrap();
        for access in [Access::ReadWrite, Access::ReadOnly] {
            let Ok(disk) = open_as(&hurt, Some(Format::Qcow2), access) else { continue };
            opened += 1;
            let mut bytes = vec![0; 70_000];
            for offset in [0, 65_536 - 512, disk.size() / 2, disk.size().saturating_sub(70_000)] {
                let _ = disk.read(offset, &mut bytes);
                let _ = disk.write(offset, &bytes[..1024]);
            }
            let _ = disk.write_zeroes(0, 65_536, true);
            let _ = disk.discard(65_536, 131_072);
            let _ = disk.flush();
        }
    }
    assert!(opened > 100, "most of them are still images: {opened}");
}
