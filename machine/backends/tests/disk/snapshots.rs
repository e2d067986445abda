//! Writes that are forgotten.

use backends::disk::{Access, create};

use crate::{Folder, MIB, contents, exercise, open_as, pattern, read_write};

#[test]
fn a_snapshot_is_written_and_forgotten() {
    let folder = Folder::new();
    let bytes = pattern(3 * MIB + 512, 3);
    let path = folder.file("a.img", &bytes);
    for seed in 0..4 {
        let disk = open_as(&path, None, Access::Snapshot).unwrap();
        assert!(!disk.read_only());
        exercise(&*disk, &mut bytes.clone(), seed, 300);
    }
    assert!(std::fs::read(&path).unwrap() == bytes);
}

#[test]
fn a_snapshot_stands_on_any_format() {
    let folder = Folder::new();
    let path = folder.path("a.qcow2");
    create(&path, 2 * MIB).unwrap();
    let disk = read_write(&path);
    disk.write(MIB - 512, &[9; 1024]).unwrap();
    let mut model = contents(&*disk);
    drop(disk);
    let before = std::fs::read(&path).unwrap();
    let disk = open_as(&path, None, Access::Snapshot).unwrap();
    exercise(&*disk, &mut model, 5, 200);
    drop(disk);
    assert!(std::fs::read(&path).unwrap() == before);
}
