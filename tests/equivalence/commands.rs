//! One command in a guest: its output, its errors and its status are popf's.

use crate::harness::{guest, image};

/// What a bzImage says about itself (`kernel_version` of the boot protocol).
fn version_of(kernel: &[u8]) -> String {
    let pointer = usize::from(u16::from_le_bytes([kernel[0x20e], kernel[0x20f]]));
    let text = &kernel[pointer + 0x200..];
    let end = text.iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(text[..end].to_vec()).unwrap()
}

#[test]
fn uname_prints_the_kernels_version() {
    let version = version_of(&std::fs::read(&image().kernel).unwrap());
    let (release, build) = version.split_once(' ').unwrap();
    let ended = guest(&["uname", "-a"], &[]);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
    let said = ended.text();
    assert!(said.starts_with(&format!("Linux popf {release} #")), "{said}: not {release}");
    assert!(said.ends_with(" x86_64 GNU/Linux\n"), "{said}");
    let (_, build) = build.split_once('#').unwrap();
    assert!(said.contains(build.trim_end()), "{said}: not {build}");
}

#[test]
fn the_commands_status_is_popfs() {
    let status = |command: &[&str]| guest(command, &[]).status;
    assert_eq!(status(&["sh", "-c", "exit 7"]), 7);
    // A signal's number is added to 128.
    assert_eq!(status(&["sh", "-c", "kill -KILL $$"]), 137);
    let missing = guest(&["no-such-program"], &[]);
    assert_eq!((missing.status, missing.stderr.as_str()), (127, "popf: no-such-program: not found\n"));
    let data = guest(&["/etc/passwd"], &[]);
    assert_eq!((data.status, data.stderr.as_str()), (126, "popf: /etc/passwd: cannot be executed\n"));
}

#[test]
fn streams_are_apart_and_carry_every_byte() {
    // Each byte value, next to each of 256 others, and then some.
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect();
    let script = "cat; md5sum < /popf/stdin >&2; printf 'a\\r\\n\\0\\377b' >&2";
    let ended = guest(&["sh", "-c", script], &bytes);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(ended.stdout == bytes, "{} bytes of {} are not what went in", ended.stdout.len(), bytes.len());
    let (sum, rest) = ended.stderr.split_once(' ').unwrap();
    assert_eq!((sum.len(), rest), (32, " -\na\r\n\0\u{fffd}b"));
}
