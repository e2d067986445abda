//! Raw and VMDK images, and how formats are told apart.

use backends::disk::{Access, Format};

use crate::{Folder, MIB, contents, exercise, open_as, pattern, qemu_img, read_write, story, text};

#[test]
fn a_raw_image_is_its_bytes() {
    let folder = Folder::new();
    let mut model = pattern(4 * MIB, 1);
    let path = folder.file("a.img", &model);
    let disk = read_write(&path);
    assert_eq!((disk.size(), disk.read_only()), (4 * MIB, false));
    exercise(&*disk, &mut model, 2, 300);
    drop(disk);
    assert!(std::fs::read(&path).unwrap() == model);
}

#[test]
fn nothing_reaches_beyond_the_end() {
    let folder = Folder::new();
    // The last sector is not whole, so it is out of reach.
    let path = folder.file("a.img", &[1; 1000]);
    for access in [Access::ReadWrite, Access::Snapshot] {
        let disk = open_as(&path, None, access).unwrap();
        assert_eq!(disk.size(), 512);
        for (offset, len) in [(512, 1), (511, 2), (u64::MAX, 1), (u64::MAX, 2), (0, 513)] {
            disk.read(offset, &mut vec![0; len]).unwrap_err();
            disk.write(offset, &vec![0; len]).unwrap_err();
            disk.write_zeroes(offset, len as u64, true).unwrap_err();
            disk.discard(offset, len as u64).unwrap_err();
        }
        disk.read(512, &mut []).unwrap();
        assert_eq!(contents(&*disk), [1; 512]);
    }
    assert_eq!(std::fs::read(&path).unwrap(), [1; 1000]);
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let folder = Folder::new();
    let path = folder.file("a.img", &[1; 1024]);
    let disk = open_as(&path, None, Access::ReadOnly).unwrap();
    assert!(disk.read_only());
    disk.write(0, &[0; 512]).unwrap_err();
    disk.write_zeroes(0, 512, false).unwrap_err();
    disk.discard(0, 512).unwrap_err();
    disk.flush().unwrap();
    assert_eq!(contents(&*disk), [1; 1024]);
}

#[test]
fn a_guest_cannot_turn_its_raw_disk_into_another_format() {
    let folder = Folder::new();
    let path = folder.file("a.img", &[0; 4096]);
    let mut header = [0; 512];
    header[..4].copy_from_slice(b"QFI\xfb");
    let disk = read_write(&path);
    disk.write(0, &header).unwrap_err();
    // Nor bit by bit.
    disk.write(0, b"QFI").unwrap();
    disk.write(3, b"\xfb").unwrap_err();
    disk.write(0, b"# Disk DescriptorFile\n").unwrap_err();
    disk.write(0, b"KDMV").unwrap_err();
    drop(disk);
    // Who says that it is raw gets a raw disk, then and ever after.
    let disk = open_as(&path, Some(Format::Raw), Access::ReadWrite).unwrap();
    disk.write(0, &header).unwrap();
    drop(disk);
    let disk = open_as(&path, Some(Format::Raw), Access::ReadOnly).unwrap();
    assert_eq!(contents(&*disk)[..512], header);
}

#[test]
fn vmdk_images_of_every_kind_are_read() {
    let folder = Folder::new();
    let mut bytes = pattern(3 * MIB, 7);
    bytes[MIB as usize..2 * MIB as usize].fill(0);
    let raw = folder.file("a.img", &bytes);
    for kind in [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
    ] {
        let path = folder.path(&format!("{kind}.vmdk"));
        let option = format!("subformat={kind}");
        let convert = ["convert", "-O", "vmdk", "-o", &option, text(&raw), text(&path)];
        if qemu_img(&convert).is_none() {
            return;
        }
        let disk = open_as(&path, None, Access::ReadOnly).unwrap();
        assert!(contents(&*disk) == bytes, "{kind}");
        let mut middle = vec![0; 70_000];
        disk.read(MIB - 35_000, &mut middle).unwrap();
        assert!(middle == bytes[MIB as usize - 35_000..][..70_000], "{kind}");
        drop(disk);
        let error = open_as(&path, None, Access::ReadWrite).unwrap_err();
        assert!(story(&error).contains("add readonly or snapshot"), "{}", story(&error));
        // A snapshot of one can be written.
        let disk = open_as(&path, None, Access::Snapshot).unwrap();
        exercise(&*disk, &mut bytes.clone(), 9, 60);
    }
}
