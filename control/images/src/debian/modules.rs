//! The kernel modules that lead to the disk, in the order in which they are loaded (modules.dep(5)).

use crate::error::{Error, IoContext, Result};
use crate::newc::Writer;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What the disk needs; a kernel may have some of it built in.
pub(super) const WANTED: &[&str] = &["virtio_pci", "virtio_blk", "ext4"];

/// The modules of a kernel, with a list for the guest's first process.
pub(super) fn archive(directory: &Path) -> Result<Vec<u8>> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).at("read", &path)
    };
    let (dependencies, built_in) = (read("modules.dep")?, read("modules.builtin")?);
    let order = order(&dependencies, &built_in)
        .map_err(|missing| Error::Incomplete(format!("kernel module {missing}")))?;
    let mut modules = Vec::new();
    for path in order {
        let file = directory.join(path);
        modules.push((name(path), fs::read(&file).at("read", &file)?));
    }
    write(&modules).map_err(Error::Archive)
}

fn write(modules: &[(String, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let mut writer = Writer::new(Vec::new());
    let mut list = String::new();
    writer.directory("modules", 0o755)?;
    for (name, content) in modules {
        list += &format!("/modules/{name}.ko\n");
        writer.file(&format!("modules/{name}.ko"), 0o644, content)?;
    }
    writer.file("modules/order", 0o644, list.as_bytes())?;
    writer.finish()
}

/// Paths as `modules.dep` has them; each module behind what it depends on.
fn order<'a>(dependencies: &'a str, built_in: &str) -> std::result::Result<Vec<&'a str>, &'static str> {
    let mut by_name = BTreeMap::new();
    for line in dependencies.lines() {
        if let Some((path, needs)) = line.split_once(':') {
            by_name.insert(name(path), (path, needs));
        }
    }
    let mut order = Vec::new();
    for wanted in WANTED {
        let Some((path, needs)) = by_name.get(*wanted) else {
            if built_in.lines().any(|path| name(path) == *wanted) {
                continue;
            }
            return Err(wanted);
        };
        // The file lists a module's needs before what those need in turn.
        for module in needs.split_whitespace().rev().chain([*path]) {
            if !order.contains(&module) {
                order.push(module);
            }
        }
    }
    Ok(order)
}

/// A module's name; in file names a dash may stand for its underscore.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::newc::tests::read;

    const DEPENDENCIES: &str = "\
kernel/virtio/virtio_pci.ko: kernel/virtio/virtio_pci_legacy_dev.ko kernel/virtio/virtio.ko kernel/virtio/virtio_ring.ko
kernel/block/virtio-blk.ko: kernel/virtio/virtio.ko kernel/virtio/virtio_ring.ko
kernel/fs/xfs.ko: kernel/lib/libcrc32c.ko
";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        assert_eq!(
            order(DEPENDENCIES, "kernel/fs/ext4/ext4.ko\n").unwrap(),
            [
                "kernel/virtio/virtio_ring.ko",
                "kernel/virtio/virtio.ko",
                "kernel/virtio/virtio_pci_legacy_dev.ko",
                "kernel/virtio/virtio_pci.ko",
                "kernel/block/virtio-blk.ko",
            ]
        );
    }

    #[test]
    fn a_kernel_that_cannot_reach_the_disk_is_told() {
        assert_eq!(order(DEPENDENCIES, "kernel/fs/ext40.ko\n"), Err("ext4"));
        assert_eq!(order("", ""), Err("virtio_pci"));
    }

    #[test]
    fn the_archive_lists_what_it_has() {
        let modules = [("one".to_owned(), b"1".to_vec()), ("two".to_owned(), b"2".to_vec())];
        let entries = read(&write(&modules).unwrap());
        let content = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap().content.clone();
        assert_eq!(content("modules/order"), b"/modules/one.ko\n/modules/two.ko\n");
        assert_eq!((content("modules/one.ko"), content("modules/two.ko")), (b"1".to_vec(), b"2".to_vec()));
    }
}
