//! qcow2 images: contents, soundness, and what is left when their writer is killed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::thread;

use backends::disk::{Access, Format, create, create_overlay};

use crate::{Folder, MIB, contents, exercise, open_as, pattern, qemu_img, read_write, story, text};

/// `qemu-img check` has nothing to find, leaks among it.
fn assert_sound(path: &Path) {
    if let Some(output) = qemu_img(&["check", text(path)]) {
        assert!(output.contains("No errors were found"), "{output}");
    }
}

/// QEMU reads what we do.
fn assert_reads_as(folder: &Folder, path: &Path, bytes: &[u8]) {
    let raw = folder.path("converted.img");
    if qemu_img(&["convert", "-O", "raw", text(path), text(&raw)]).is_some() {
        assert!(fs::read(&raw).unwrap() == bytes);
    }
}

#[test]
fn what_is_written_is_there_and_sound() {
    let folder = Folder::new();
    let path = folder.path("a.qcow2");
    create(&path, 8 * MIB).unwrap();
    assert_sound(&path);
    let mut model = vec![0; 8 << 20];
    for seed in 0..4 {
        let disk = read_write(&path);
        assert_eq!(disk.size(), 8 * MIB);
        exercise(&*disk, &mut model, seed, 200);
        drop(disk);
        assert_sound(&path);
    }
    assert!(contents(&*open_as(&path, None, Access::ReadOnly).unwrap()) == model);
    assert_reads_as(&folder, &path, &model);
}

#[test]
fn an_overlay_keeps_what_it_stands_on() {
    let folder = Folder::new();
    let base = folder.path("base.img");
    let bytes = pattern(4 * MIB, 11);
    folder.file("base.img", &bytes);
    let middle = folder.path("middle.qcow2");
    create_overlay(&middle, &base, Format::Raw).unwrap();
    let mut model = bytes.clone();
    exercise(&*read_write(&middle), &mut model, 12, 100);
    let below = fs::read(&middle).unwrap();
    let top = folder.path("top.qcow2");
    create_overlay(&top, &middle, Format::Qcow2).unwrap();
    assert!(contents(&*open_as(&top, None, Access::ReadOnly).unwrap()) == model);
    exercise(&*read_write(&top), &mut model, 13, 200);
    assert_sound(&top);
    assert_reads_as(&folder, &top, &model);
    assert!(fs::read(&base).unwrap() == bytes && fs::read(&middle).unwrap() == below);
}

#[test]
fn qemus_images_are_read_and_written() {
    let folder = Folder::new();
    let bytes = pattern(4 * MIB, 21);
    let raw = folder.file("a.img", &bytes);
    for (name, options) in [
        ("plain", vec!["-o", "cluster_size=4k,refcount_bits=1"]),
        ("large", vec!["-o", "cluster_size=2M,lazy_refcounts=on"]),
        ("packed", vec!["-c"]),
    ] {
        let path = folder.path(name);
        let mut arguments = vec!["convert", "-O", "qcow2"];
        arguments.extend(options);
        arguments.extend([text(&raw), text(&path)]);
        if qemu_img(&arguments).is_none() {
            return;
        }
        let mut model = bytes.clone();
        let disk = read_write(&path);
        assert!(contents(&*disk) == model, "{name}");
        exercise(&*disk, &mut model, 22, 200);
        drop(disk);
        assert_sound(&path);
        assert_reads_as(&folder, &path, &model);
    }
}

#[test]
fn many_threads_may_use_one_image() {
    let folder = Folder::new();
    let path = folder.path("a.qcow2");
    create(&path, 16 * MIB).unwrap();
    let disk = read_write(&path);
    const THREADS: u64 = 8;
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (disk, start) = (&disk, &start);
            // Sectors of all threads lie in every cluster.
            scope.spawn(move || {
                start.wait();
                for sector in (thread..16 * MIB / 512).step_by(THREADS as usize * 5) {
                    disk.write(sector * 512, &pattern(512, sector)).unwrap();
                    if sector % 1024 == thread {
                        disk.discard(15 * MIB + thread * 128 * 1024, 128 * 1024).unwrap();
                        disk.flush().unwrap();
                    }
                }
            });
        }
    });
    for sector in (0..15 * MIB / 512).filter(|sector| sector % (THREADS * 5) < THREADS) {
        let mut bytes = [0; 512];
        disk.read(sector * 512, &mut bytes).unwrap();
        assert!(bytes[..] == pattern(512, sector), "sector {sector}");
    }
    drop(disk);
    assert_sound(&path);
}

/// Copying the file while the image is in use leaves the copy as a kill would leave the image.
#[test]
fn an_image_outlives_its_writer() {
    let folder = Folder::new();
    for seed in 0..6 {
        let (path, copy) =
            (folder.path(&format!("{seed}.qcow2")), folder.path(&format!("{seed}-killed.qcow2")));
        // Of small files a second table is needed soon; the first level is written at once, the counts are not.
        create(&path, 2048 * MIB).unwrap();
        let disk = read_write(&path);
        for (place, index) in [0, 600 * MIB, 1200 * MIB].into_iter().zip(1..) {
            disk.write(place, &[index; 4096]).unwrap();
        }
        disk.discard(0, MIB).unwrap();
        if seed % 2 == 0 {
            disk.flush().unwrap();
        }
        disk.write(1800 * MIB, &[4; 4096]).unwrap();
        for extra in 0..seed {
            disk.write(100 * MIB * extra, &[5; 512]).unwrap();
        }
        fs::copy(&path, &copy).unwrap();
        drop(disk);
        assert_sound(&path);

        let disk = read_write(&copy);
        let mut bytes = [0; 4096];
        if seed % 2 == 0 {
            for (place, index) in [(600 * MIB, 2), (1200 * MIB, 3)] {
                disk.read(place + 512, &mut bytes[512..]).unwrap();
                assert_eq!(bytes[512..], [index; 4096 - 512], "what was flushed is there");
            }
        }
        disk.write(1900 * MIB, &[6; 4096]).unwrap();
        disk.read(1900 * MIB, &mut bytes).unwrap();
        assert_eq!(bytes, [6; 4096]);
        drop(disk);
        assert_sound(&copy);
    }
}

#[test]
fn a_killed_image_is_repaired_for_readers_too() {
    let folder = Folder::new();
    let (path, copy) = (folder.path("a.qcow2"), folder.path("b.qcow2"));
    create(&path, 64 * MIB).unwrap();
    let disk = read_write(&path);
    disk.write(5 * MIB, &[8; 512]).unwrap();
    disk.flush().unwrap();
    fs::copy(&path, &copy).unwrap();
    for access in [Access::ReadOnly, Access::Snapshot] {
        let disk = open_as(&copy, None, access).unwrap();
        let mut bytes = [0; 512];
        disk.read(5 * MIB, &mut bytes).unwrap();
        assert_eq!(bytes, [8; 512]);
    }
    assert_sound(&copy);
}

#[test]
fn nothing_is_overwritten() {
    let folder = Folder::new();
    let path = folder.file("there", b"precious");
    for result in [create(&path, MIB), create_overlay(&path, &path, Format::Raw)] {
        let error = story(&result.unwrap_err());
        assert!(error.contains("cannot create") && error.contains("exists"), "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

/// A mounted file system, for as long as it is needed.
struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_host_disk_costs_the_write_that_found_it_full() {
    let folder = Folder::new();
    let mount = folder.path("small");
    fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&mount).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: needs the right to mount a tmpfs");
        return;
    }
    let mount = Mount(&mount);
    let path = mount.0.join("a.qcow2");
    create(&path, 64 * MIB).unwrap();
    let disk = read_write(&path);
    let mut written = Vec::new();
    let error = loop {
        let place = written.len() as u64 * 128 * 1024;
        match disk.write(place, &pattern(64 << 10, place)) {
            Ok(()) => written.push(place),
            Err(error) => break error,
        }
        assert!(place < 8 * MIB, "4 MiB hold no more than 4 MiB");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    disk.flush().unwrap();
    for _ in 0..2 {
        for place in &written {
            let mut bytes = vec![0; 64 << 10];
            disk.read(*place, &mut bytes).unwrap();
            assert!(bytes == pattern(64 << 10, *place), "what was written is there: {place:#x}");
        }
        // Given room, it goes on.
        disk.discard(written[0], 64 << 10).unwrap();
        written.remove(0);
        let place = 32 * MIB + written[0];
        disk.write(place, &pattern(64 << 10, place)).unwrap();
        written.push(place);
    }
    drop(disk);
    assert_sound(&path);
}
