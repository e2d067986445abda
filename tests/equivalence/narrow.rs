//! 32-bit kernels and what they tell programs: the checks of `selfcheck::narrow` in guests, held against the host.

use selfcheck::narrow::{Script, checks, program};

use crate::harness::{build, guest_of, host_program};

/// What differs, and why: see `docs/equivalence.md`.
const KNOWN: [(&str, &str); 2] = [
    ("faults: pusha: ", "all that it touches is checked first, from the lowest address on"),
    ("faults: popa: ", "registers before the fault are as they were"),
];

/// The answers of the program in a guest of this image, which comes before its commands on standard input.
fn in_guest(image: &str, script: &Script) -> Vec<u8> {
    let program = program();
    let bytes = program.len();
    let shell =
        format!("dd bs=1 count={bytes} of=/tmp/probe 2>/dev/null && chmod +x /tmp/probe && exec /tmp/probe");
    let ended = guest_of(&[image], &["sh", "-c", &shell], &[&program, script.input()].concat());
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{image}");
    ended.stdout
}

#[test]
fn checks_come_out_as_on_the_host() {
    let script = checks();
    let Some(expected) = host_program(&program(), script.input()) else {
        eprintln!("skipped: this host runs no 32-bit programs (CONFIG_IA32_EMULATION)");
        return;
    };
    let expected = script.answers(&expected).unwrap_or_else(|error| panic!("the host: {error}"));
    for image in ["busybox-686-pae", "busybox-686"].into_iter().inspect(|image| build(image)) {
        let found = in_guest(image, &script);
        let found = script.answers(&found).unwrap_or_else(|error| panic!("{image}: {error}"));
        let pairs = expected.iter().zip(&found);
        let differ = pairs.filter_map(|((label, host), (_, guest))| Some((label, host.differs(guest)?)));
        let lines: Vec<_> = differ.map(|(label, how)| format!("{label}: {how}")).collect();
        let (known, others): (Vec<_>, Vec<_>) =
            lines.iter().partition(|line| KNOWN.iter().any(|(label, _)| line.starts_with(label)));
        assert!(others.is_empty(), "{image}, the host and the guest: {others:#?}");
        assert_eq!(known.len(), KNOWN.len(), "{image}: what is known to differ and does: {known:#?}");
    }
}
