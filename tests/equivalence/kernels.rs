//! Kernels of 32 bits: one with page tables of three levels (PAE), one with two. What runs in them is held against the
//! same programs on the host, as far as those do not print their own width.

use crate::harness::{build, guest_of, host_script};

const IMAGES: [&str; 2] = ["busybox-686-pae", "busybox-686"];

#[test]
fn they_are_what_they_say() {
    for image in IMAGES.into_iter().inspect(|image| build(image)) {
        let ended = guest_of(&[image], &["sh", "-c", "uname -rm; grep -ow pae /proc/cpuinfo; exit 7"], &[]);
        assert_eq!((ended.status, ended.stderr.as_str()), (7, ""), "{image}: {}", ended.text());
        let said = ended.text();
        let (kernel, rest) = said.split_once('\n').unwrap();
        let flavour = image.strip_prefix("busybox").unwrap();
        assert!(kernel.strip_suffix(" i686").and_then(|name| name.strip_suffix(flavour)).is_some(), "{said}");
        // Both are offered it; the second makes no use of it.
        assert_eq!(rest, "pae\n", "{image}");
    }
}

#[test]
fn streams_signals_and_words_arrive_as_in_the_other_images() {
    let bytes: Vec<u8> = (0..50_000_u32).map(|n| (n.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect();
    for image in IMAGES.into_iter().inspect(|image| build(image)) {
        // Words that a shell would take apart, and none at all.
        let script = "cat; printf '<%s>' \"$0\" \"$@\" >&2; kill -KILL $$";
        let ended = guest_of(&[image], &["sh", "-c", script, "a  b", "", "'\"$x\\\n*"], &bytes);
        assert!(ended.stdout == bytes, "{image}: {} bytes of {}", ended.stdout.len(), bytes.len());
        assert_eq!(ended.stderr.strip_prefix("<a  b><><'\"$x\\\n*>"), Some("Killed\n"), "{image}");
        assert_eq!(ended.status, 137, "{image}");
    }
}

/// System calls by the thousand, processes, pages and signals; arithmetic of 64 bits on registers of 32, and x87.
#[test]
fn programs_compute_what_they_do_on_the_host() {
    let script = r#"
        n=0; for i in $(seq 100); do env true && n=$((n + 1)); done 2>/dev/null; echo $n
        seq 50 | xargs -n 1 sh -c 'echo $(($0 * $0 * 4294967311))' | awk '{ s += $1 } END { printf "%.17g\n", s }'
        awk 'BEGIN { for (i = 1; i <= 20000; i++) { s += 1 / i; x = 3.9 * (x + 0.5) * (0.5 - x) } print (s > 10), int(x) }'
        dd if=/dev/zero bs=64k count=16 2>/dev/null | sha512sum
        seq 20000 | gzip -6 | gunzip | md5sum; seq 2000 | sort -r | sha1sum
        (sleep 60 & p=$!; kill -TERM $p; wait $p; echo $?); (exit 3) | cat; trap 'echo caught' USR1; kill -USR1 $$"#;
    let expected = host_script(script, &[]);
    for image in IMAGES.into_iter().inspect(|image| build(image)) {
        let ended = guest_of(&[image], &["sh", "-c", script], &[]);
        assert_eq!(
            (ended.status, ended.text().as_str()),
            (0, expected.as_str()),
            "{image}: {}",
            ended.stderr
        );
    }
}
