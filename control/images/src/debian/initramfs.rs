//! The initramfs of the Debian image: its first process, the agent, and the modules that lead to the disk.

use crate::newc::Writer;
use crate::overlay::append;
use std::io;

/// The guest's first process, built from `guest/debian.rs`.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/debian"));

/// Writes it, with the archive of modules behind our own.
pub(super) fn write(modules: &[u8]) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new(Vec::new());
    for (name, permissions) in [("dev", 0o755), ("popf", 0o755), ("proc", 0o555), ("root", 0o755)] {
        writer.directory(name, permissions)?;
    }
    // The kernel opens the console before anything can mount /dev.
    writer.character_device("dev/console", 0o600, 5, 1)?;
    writer.character_device("dev/null", 0o666, 1, 3)?;
    writer.file("init", 0o755, INIT)?;
    writer.file("popf/agent", 0o755, crate::AGENT)?;
    let mut archive = writer.finish()?;
    append(&mut archive, modules);
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::newc::tests::read;

    #[test]
    fn it_has_what_the_kernel_starts_from() {
        let entries = read(&write(&[]).unwrap());
        let entry = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
        for name in ["init", "popf/agent"] {
            assert_eq!((entry(name).mode, &entry(name).content[..4]), (0o100_755, b"\x7fELF".as_slice()));
        }
        assert_eq!((entry("dev/console").mode, entry("dev/console").device), (0o020_600, (5, 1)));
    }

    #[test]
    fn modules_lie_behind_it() {
        let own = write(&[]).unwrap();
        let whole = write(b"070701modules").unwrap();
        assert_eq!(whole, [own.as_slice(), b"070701modules"].concat());
    }
}
