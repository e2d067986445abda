//! Who may use an image at the same time.

use backends::disk::{Access, Format, create, create_overlay};

use crate::{Folder, MIB, open_as, story, text, try_qemu_img};

#[test]
fn two_machines_cannot_write_one_image() {
    let folder = Folder::new();
    let path = folder.file("a.img", &[0; 4096]);
    let writer = open_as(&path, None, Access::ReadWrite).unwrap();
    for access in [Access::ReadWrite, Access::ReadOnly, Access::Snapshot] {
        let error = story(&open_as(&path, None, access).unwrap_err());
        let how = if access == Access::ReadWrite { "in use" } else { "written" };
        assert!(error.contains(&format!("a.img is {how} by another virtual machine")), "{error}");
    }
    drop(writer);
    let _reader = open_as(&path, None, Access::ReadOnly).unwrap();
    let _another = open_as(&path, None, Access::Snapshot).unwrap();
    open_as(&path, None, Access::ReadWrite).unwrap_err();
}

#[test]
fn overlays_share_what_they_stand_on() {
    let folder = Folder::new();
    let [base, one, two] = ["base.img", "one.qcow2", "two.qcow2"].map(|name| folder.path(name));
    folder.file("base.img", &vec![7; MIB as usize]);
    create_overlay(&one, &base, Format::Raw).unwrap();
    create_overlay(&two, &base, Format::Raw).unwrap();
    let first = open_as(&one, None, Access::ReadWrite).unwrap();
    let second = open_as(&two, None, Access::ReadWrite).unwrap();
    open_as(&base, None, Access::ReadOnly).unwrap();
    let error = story(&open_as(&base, None, Access::ReadWrite).unwrap_err());
    assert!(error.contains("base.img is in use"), "{error}");
    drop((first, second));
    let _writer = open_as(&base, None, Access::ReadWrite).unwrap();
    let error = story(&open_as(&one, None, Access::ReadWrite).unwrap_err());
    assert!(error.contains("stands on another image") && error.contains("base.img is written"), "{error}");
}

#[test]
fn qemu_and_popf_keep_off_each_others_images() {
    let folder = Folder::new();
    let path = folder.path("a.qcow2");
    create(&path, MIB).unwrap();
    let writer = open_as(&path, None, Access::ReadWrite).unwrap();
    let Some(refused) = try_qemu_img(&["check", text(&path)]) else {
        return;
    };
    assert!(refused.as_ref().is_err_and(|text| text.contains("lock")), "{refused:?}");
    drop(writer);
    let _reader = open_as(&path, None, Access::ReadOnly).unwrap();
    try_qemu_img(&["check", text(&path)]).unwrap().unwrap();
    let refused = try_qemu_img(&["resize", text(&path), "2M"]).unwrap();
    assert!(refused.as_ref().is_err_and(|text| text.contains("lock")), "{refused:?}");
}
