//! The root file system of the busybox images.

use crate::apt::Architecture;
use crate::newc::Writer;
use std::io;

/// The guest's first process, built from `guest/init.rs`.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// In its place where it cannot run: name, permissions, content.
#[rustfmt::skip]
const SHELL_INIT: &[(&str, u32, &[u8])] = &[
    ("init",        0o755, include_bytes!("../guest/shell/init")),
    ("etc/inittab", 0o644, include_bytes!("../guest/shell/inittab")),
    ("etc/session", 0o755, include_bytes!("../guest/shell/session")),
];

/// Parents come before their children.
#[rustfmt::skip]
const DIRECTORIES: &[(&str, u32)] = &[
    ("bin",      0o755),
    ("dev",      0o755),
    ("etc",      0o755),
    ("popf",     0o755),
    ("proc",     0o555),
    ("root",     0o700),
    ("run",      0o755),
    ("sbin",     0o755),
    ("sys",      0o555),
    ("tmp",      0o1777),
    ("usr",      0o755),
    ("usr/bin",  0o755),
    ("usr/sbin", 0o755),
    ("var",      0o755),
];

/// What programs look up to print names instead of numbers.
#[rustfmt::skip]
const FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group",  "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hosts",  "127.0.0.1 localhost popf\n::1 localhost\n"),
];

const BUSYBOX: &str = "bin/busybox";

/// Writes the archive. It stays uncompressed: the guest would spend more on unpacking than the host on reading.
pub(crate) fn write(architecture: Architecture, busybox: &[u8], links: &[String]) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new(Vec::with_capacity(busybox.len() + (1 << 18)));
    for (name, permissions) in DIRECTORIES {
        writer.directory(name, *permissions)?;
    }
    // The kernel opens the console before anything can mount /dev.
    writer.character_device("dev/console", 0o600, 5, 1)?;
    writer.character_device("dev/null", 0o666, 1, 3)?;
    match architecture {
        Architecture::Amd64 => writer.file("init", 0o755, INIT)?,
        Architecture::I386 => {
            for (name, permissions, content) in SHELL_INIT {
                writer.file(name, *permissions, content)?;
            }
            writer.symlink("linuxrc", "/bin/busybox")?;
        }
    }
    for (name, content) in FILES {
        writer.file(name, 0o644, content.as_bytes())?;
    }
    writer.file(BUSYBOX, 0o755, busybox)?;
    for link in links {
        writer.symlink(link, "/bin/busybox")?;
    }
    writer.finish()
}

/// The links to make, by the answer of `busybox --list-full`: paths in the directories above, each once.
pub(crate) fn links(list: &str) -> Vec<String> {
    let mut links: Vec<String> = list
        .lines()
        .filter(|path| *path != BUSYBOX)
        .filter(|path| {
            path.rsplit_once('/').is_some_and(|(directory, name)| is_directory(directory) && is_applet(name))
        })
        .map(str::to_owned)
        .collect();
    links.sort();
    links.dedup();
    links
}

fn is_directory(path: &str) -> bool {
    DIRECTORIES.iter().any(|(name, _)| *name == path)
}

fn is_applet(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"[._+-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::newc::tests::read;

    #[test]
    fn it_has_what_the_kernel_starts_from() {
        let links = ["bin/sh".to_owned(), "usr/bin/[".to_owned()];
        let archive = write(Architecture::Amd64, b"program", &links).unwrap();
        let entries = read(&archive);
        let entry = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
        assert_eq!((entry("init").mode, &entry("init").content[..4]), (0o100_755, b"\x7fELF".as_slice()));
        assert_eq!((entry("dev/console").mode, entry("dev/console").device), (0o020_600, (5, 1)));
        assert_eq!((entry("dev/null").mode, entry("dev/null").device), (0o020_666, (1, 3)));
        assert_eq!(
            (entry("bin/busybox").mode, entry("bin/busybox").content.as_slice()),
            (0o100_755, b"program".as_slice())
        );
        assert_eq!(
            (entry("usr/bin/[").mode, entry("usr/bin/[").content.as_slice()),
            (0o120_777, b"/bin/busybox".as_slice())
        );
        assert_eq!(entry("tmp").mode, 0o041_777);
    }

    #[test]
    fn a_guest_of_32_bits_starts_with_busybox() {
        let entries = read(&write(Architecture::I386, b"program", &[]).unwrap());
        let entry = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
        for script in ["init", "etc/session"] {
            assert!(entry(script).content.starts_with(b"#!/bin/busybox sh\n"), "{script}");
            assert_eq!(entry(script).mode, 0o100_755);
        }
        // What the table starts, and what the first program becomes, is there.
        let text = |name: &str| String::from_utf8(entry(name).content.clone()).unwrap();
        assert!(text("etc/inittab").lines().last().unwrap().ends_with(":-/etc/session"));
        assert!(text("init").ends_with("exec /linuxrc\n"));
        assert_eq!(entry("linuxrc").mode, 0o120_777);
    }

    #[test]
    fn the_first_process_is_static_and_small() {
        assert!(INIT.len() < 64 << 10, "{} bytes", INIT.len());
        // No program header asks for an interpreter: type 3 in the table that e_phoff, e_phentsize and e_phnum give.
        let half = |at: usize| usize::from(u16::from_le_bytes([INIT[at], INIT[at + 1]]));
        let (offset, size, count) = (half(32), half(54), half(56));
        assert!(count > 0);
        assert!((0..count).all(|index| half(offset + index * size) != 3));
    }

    #[test]
    fn only_sane_links_are_made() {
        let list = "bin/ash\nbin/busybox\nusr/bin/[\nusr/bin/[[\nbin/ash\nlinuxrc\n../etc/passwd\n/bin/x\nopt/x\nbin/..\nbin/\nbin/a b\n";
        assert_eq!(links(list), ["bin/ash", "usr/bin/[", "usr/bin/[["]);
        assert!(links("").is_empty());
    }
}
