//! Programs that compute, fork and fault, in a guest and on the host: the same output to the last byte.

use std::collections::BTreeSet;

use selfcheck::PROGRAM;

use crate::harness::{guest_of, guest_script, host_script, image};

/// Checks that fail where the guest is translated so far, and why. One that passes again is to be taken off the list.
#[rustfmt::skip]
const KNOWN_FAILURES: &[(&str, &str)] = &[
    ("fault-frames-flags", "flags that the faulting instruction would have overwritten are not in the frame"),
];

/// Holds a script's output in a guest against the host's.
fn same(script: &str, input: &[u8]) -> String {
    let (expected, found) = (host_script(script, input), guest_script(script, input));
    assert_eq!(found, expected);
    found
}

#[test]
fn checksums_of_64_mib() {
    // The data are made by the program that arrives on standard input, in the guest and on the host.
    let script = "\
        cat > make && chmod +x make && ./make generate 67108864 > data || exit 1
        wc -c < data; sha256sum < data; md5sum < data; sha512sum < data
        gzip -1 < data > data.gz && gzip -t data.gz && echo sound; rm data
        wc -c < data.gz; zcat data.gz | sha1sum";
    let found = same(&format!("test -d /popf && cd /tmp; {script}"), PROGRAM);
    assert!(found.starts_with("67108864\n") && found.contains("\nsound\n"), "{found}");
}

#[test]
fn floating_point_to_the_last_digit() {
    // Debian's busybox leaves the mathematical library out, so a root is Newton's.
    let script = r#"awk 'BEGIN {
        for (i = 1; i <= 200000; i++) { s += 1 / i; a += (i % 2 ? 1 : -1) / (2 * i - 1) }
        printf "%.17g %.17g\n", s, 4 * a
        x = 1; for (i = 0; i < 100; i++) x = (x + 2 / x) / 2
        y = 0.5; for (i = 0; i < 100000; i++) { y = 3.9 * y * (1 - y); z += y / (i + 1) }
        printf "%.17g %.17g %.17g %g\n", x, y, z, z / 1e300 / 1e15
        print 0.1 + 0.2, 1e308 * 10, -1e308 * 10, int(-7.9), 10 % 3.3, 1e15 / 7
    }'"#;
    let found = same(script, &[]);
    // Each operation is correctly rounded, so another program computes the same.
    let (mut s, mut a) = (0.0_f64, 0.0_f64);
    for i in 1..=200_000_u32 {
        let x = f64::from(i);
        s += 1.0 / x;
        a += if i % 2 == 1 { 1.0 } else { -1.0 } / (2.0 * x - 1.0);
    }
    let first: Vec<f64> = found.lines().next().unwrap().split(' ').map(|x| x.parse().unwrap()).collect();
    assert_eq!(first, [s, 4.0 * a], "{found}");
}

#[test]
fn two_thousand_processes() {
    let script = "n=0; for i in $(seq 2000); do /bin/true && n=$((n + 1)); done; echo $n; \
                  seq 300 | xargs -n 1 sh -c 'echo $(($0 * $0))' | awk '{ s += $1 } END { print s }'; \
                  (exit 3) | cat; /bin/false || echo no";
    assert_eq!(guest_script(script, &[]), "2000\n9045050\nno\n");
}

#[test]
fn the_machine_checks_itself() {
    checks_itself(&[], KNOWN_FAILURES);
}

/// The same with each of its programs run as it is, in another process, wherever that is possible.
#[test]
fn the_machine_checks_itself_directly() {
    checks_itself(&["--direct", "always"], &[]);
}

fn checks_itself(options: &[&str], known_failures: &[(&str, &str)]) {
    let script = "cat > /tmp/check && chmod +x /tmp/check && exec /tmp/check";
    image();
    let ended = guest_of(&[options, &["busybox"]].concat(), &["sh", "-c", script], PROGRAM);
    let said = ended.text();
    let named = |word: &str| -> BTreeSet<&str> {
        let rows = said.lines().filter_map(|line| line.strip_prefix(word));
        rows.map(|row| row.split(':').next().unwrap()).collect()
    };
    let known: BTreeSet<&str> = known_failures.iter().map(|(name, _)| *name).collect();
    assert_eq!(named("FAIL "), known, "{said}{}", ended.stderr);
    assert!(named("ok ").len() >= 45, "{said}");
    // Debian's cloud kernel is built without modify_ldt, and has all else that they need.
    assert_eq!(named("skip "), BTreeSet::from(["compat-16-bit", "pages-four-levels"]), "{said}");
    assert_eq!(ended.status, i32::from(!known.is_empty()), "{said}");
}
