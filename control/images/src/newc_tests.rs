//! Tests of the archive writer, against a reader of their own and the host's `cpio`.

use super::*;
use std::process::{Command, Stdio};

/// An entry as read back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) mode: u32,
    pub(crate) device: (u32, u32),
    pub(crate) content: Vec<u8>,
}

/// Reads concatenated archives as the kernel does: zeros between them are skipped.
pub(crate) fn read(mut bytes: &[u8]) -> Vec<Entry> {
    let whole = bytes.len();
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        if bytes[0] == 0 {
            bytes = &bytes[1..];
            continue;
        }
        assert_eq!((whole - bytes.len()) % 4, 0, "an archive starts at a multiple of 4");
        assert_eq!(&bytes[..6], MAGIC.as_bytes());
        let field = |index: usize| {
            let at = 6 + 8 * index;
            u32::from_str_radix(std::str::from_utf8(&bytes[at..at + 8]).unwrap(), 16).unwrap()
        };
        let (size, name_size) = (field(6) as usize, field(11) as usize);
        let name = std::str::from_utf8(&bytes[HEADER_SIZE..HEADER_SIZE + name_size]).unwrap();
        let name = name.strip_suffix('\0').expect("a name ends with NUL").to_owned();
        let content_at = (HEADER_SIZE + name_size).next_multiple_of(4);
        let content = bytes[content_at..content_at + size].to_vec();
        let entry = Entry { name, mode: field(1), device: (field(9), field(10)), content };
        bytes = &bytes[(content_at + size).next_multiple_of(4)..];
        if entry.name != TRAILER {
            entries.push(entry);
        }
    }
    entries
}

fn sample() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.directory("dev", 0o755).unwrap();
    writer.character_device("dev/console", 0o600, 5, 1).unwrap();
    writer.file("init", 0o755, b"#!/bin/sh\n").unwrap();
    writer.file("empty", 0o644, b"").unwrap();
    writer.directory("a", 0o1777).unwrap();
    writer.directory("a/b", 0o700).unwrap();
    writer.file("a/b/c", 0o4755, &[0, 0xff, 10, 13, 7]).unwrap();
    writer.symlink("a/link", "../init").unwrap();
    writer.finish().unwrap()
}

#[test]
fn what_is_written_reads_back() {
    let entry = |name: &str, mode, device, content: &[u8]| Entry {
        name: name.to_owned(),
        mode,
        device,
        content: content.to_vec(),
    };
    let expected = vec![
        entry("dev", 0o040_755, (0, 0), b""),
        entry("dev/console", 0o020_600, (5, 1), b""),
        entry("init", 0o100_755, (0, 0), b"#!/bin/sh\n"),
        entry("empty", 0o100_644, (0, 0), b""),
        entry("a", 0o041_777, (0, 0), b""),
        entry("a/b", 0o040_700, (0, 0), b""),
        entry("a/b/c", 0o104_755, (0, 0), &[0, 0xff, 10, 13, 7]),
        entry("a/link", 0o120_777, (0, 0), b"../init"),
    ];
    let archive = sample();
    assert_eq!(archive.len() % BLOCK as usize, 0);
    assert_eq!(read(&archive), expected);
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    assert_eq!(sample(), sample());
}

#[test]
fn the_hosts_cpio_lists_it() {
    let Ok(mut child) = Command::new("cpio")
        .args(["--quiet", "-tv"])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    else {
        eprintln!("skipped: this host has no cpio");
        return;
    };
    child.stdin.take().unwrap().write_all(&sample()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 8, "{text}");
    for (line, start) in
        text.lines().zip(["drwx", "crw-------", "-rwx", "-rw-", "drwxrwxrwt", "drwx------", "-rws", "l"])
    {
        assert!(line.starts_with(start), "{line} does not start with {start}");
    }
    assert!(text.contains("a/link -> ../init"), "{text}");
    assert!(text.contains("5,   1"), "{text}");
}

#[test]
fn names_that_the_kernel_would_misread_are_refused() {
    for name in ["", "/init", "a/", "a//b", "./a", "a/../b", "..", "a\0b", "TRAILER!!!", &"n".repeat(4096)] {
        let mut writer = Writer::new(Vec::new());
        writer.directory("a", 0o755).unwrap();
        assert!(writer.file(name, 0o644, b"").is_err(), "{name:?}");
    }
    let mut writer = Writer::new(Vec::new());
    assert!(writer.file("a/b", 0o644, b"").unwrap_err().to_string().contains("before its directory"));
    writer.file("a", 0o644, b"").unwrap();
    assert!(writer.file("a", 0o644, b"").unwrap_err().to_string().contains("twice"));
    assert!(writer.file("a/b", 0o644, b"").is_err(), "a file is no directory");
    assert!(writer.symlink("l", "").is_err());
    assert!(writer.symlink("l", "x\0y").is_err());
}
