//! What popf says to input that it cannot use: a message that names what is wrong, and a status that tells kinds
//! of failure apart. Nothing here runs guest code.

mod common;

use common::{Files, multiboot, popf, run};

/// Runs popf, and expects this status and these words on standard error.
fn refused(arguments: &[&str], status: i32, words: &[&str]) {
    let (code, stdout, stderr) = run(&mut popf(arguments));
    assert_eq!(code, status, "{arguments:?}: {stderr}");
    assert_eq!(stdout, "", "{arguments:?}");
    for word in words {
        assert!(stderr.contains(word), "{arguments:?}: no {word:?} in {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// A Linux kernel as far as its header goes.
fn bz_image() -> Vec<u8> {
    let mut file = vec![0; 2 * 512 + 4096];
    let mut put = |offset: usize, field: &[u8]| file[offset..offset + field.len()].copy_from_slice(field);
    put(0x1f1, &[1]);
    put(0x1f4, &256_u32.to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &1_u16.to_le_bytes());
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x10_0000_u32.to_le_bytes());
    file
}

#[test]
fn files_that_are_not_there() {
    let files = Files::new();
    let missing = files.path("nothing");
    let missing = missing.to_str().unwrap();
    refused(&["run", "--kernel", missing], 66, &["cannot read", "nothing", "No such file"]);
    let kernel = files.write("kernel", &multiboot(&[]));
    refused(&["run", "--kernel", &kernel, "--initrd", missing], 66, &["cannot read", "nothing"]);
    refused(&["run", "--kernel", "/"], 66, &["not a regular file"]);
}

#[test]
fn files_that_are_no_kernels() {
    let files = Files::new();
    let text = files.write("text", b"#!/bin/sh\necho no kernel\n");
    refused(&["run", "--kernel", &text], 65, &["not a kernel", "bzImage"]);
    let empty = files.write("empty", b"");
    refused(&["run", "--kernel", &empty], 65, &["not a kernel"]);
    let program = env!("CARGO_BIN_EXE_popf");
    refused(&["run", "--kernel", program], 65, &["PVH note"]);
    let image = bz_image();
    let cut = files.write("cut", &image[..3000]);
    refused(&["run", "--kernel", &cut], 65, &["cut short"]);
    let mut old = image;
    old[0x206] = 3;
    let old = files.write("old", &old);
    refused(&["run", "--kernel", &old], 65, &["boot protocol", "2.10"]);
}

#[test]
fn what_does_not_fit_the_guest() {
    let files = Files::new();
    let kernel = files.write("kernel", &bz_image());
    let initrd = files.write("initrd", &vec![0; 40 << 20]);
    refused(
        &["run", "--kernel", &kernel, "--initrd", &initrd, "--memory", "32M"],
        65,
        &["initial RAM disk", "more memory"],
    );
    refused(&["run", "--kernel", &kernel, "--memory", "2M"], 65, &["kernel", "memory"]);
    let long = "x".repeat(3000);
    refused(&["run", "--kernel", &kernel, "--cmdline", &long], 65, &["command line", "3000", "2047"]);
}

#[test]
fn memory_sizes() {
    let files = Files::new();
    let kernel = files.write("kernel", &multiboot(&[]));
    let with = |size: &str, status, words: &[&str]| {
        refused(&["run", "--kernel", &kernel, "--memory", size], status, words);
    };
    with("0", 2, &["too few"]);
    with("1M", 2, &["too few"]);
    with("5000000", 2, &["page size"]);
    with("513G", 2, &["too many"]);
    with("16777216T", 2, &["2^64"]);
    with("lots", 2, &["512M"]);
    with("-5", 2, &[]);
    // No host that runs tests has so much.
    with("512G", 71, &["more than this host has"]);
}

#[test]
fn limits_of_the_host() {
    let files = Files::new();
    let kernel = files.write("kernel", &multiboot(&[]));
    let limited = format!("ulimit -v 600000; exec \"$0\" run --kernel {kernel}");
    let mut shell = std::process::Command::new("sh");
    let (code, _, stderr) = run(shell.args(["-c", &limited, env!("CARGO_BIN_EXE_popf")]));
    assert_eq!(code, 71, "{stderr}");
    assert!(stderr.contains("address space") && stderr.contains("ulimit"), "{stderr}");
}

#[test]
fn wrong_usage() {
    refused(&["run"], 2, &["Usage"]);
    refused(&["run", "--", "ls"], 125, &["Usage"]);
    refused(&["run", "busybox", "--cpus", "17"], 2, &["16 processors at most"]);
    refused(&["frob"], 2, &["frob"]);
}

#[test]
fn images_that_are_not_there() {
    refused(&["run", "nosuch"], 66, &["nosuch", "busybox"]);
    refused(&["run", "nosuch", "--", "ls"], 125, &["nosuch", "busybox"]);
    refused(&["image", "build", "nosuch"], 66, &["nosuch", "busybox"]);
    let files = Files::new();
    let (code, stdout, stderr) =
        run(popf(&["image", "rm", "busybox"]).env("XDG_CACHE_HOME", files.path("cache")));
    assert_eq!((code, stdout.as_str()), (66, ""), "{stderr}");
    let (code, stdout, stderr) =
        run(popf(&["image", "list", "--json"]).env("XDG_CACHE_HOME", files.path("cache")));
    assert_eq!((code, stdout.trim()), (0, "[]"), "{stderr}");
}

#[test]
fn help_teaches() {
    let (code, stdout, _) = run(&mut popf(&["--help"]));
    assert_eq!(code, 0);
    for word in ["popf run busybox -- uname -a", "125", "65 ", "Ctrl-]"] {
        assert!(stdout.contains(word), "{word}");
    }
    let (code, stdout, _) = run(&mut popf(&["run", "--help"]));
    assert_eq!(code, 0);
    assert!(stdout.contains("--debug-exit") && stdout.contains("Examples:"));
}

#[test]
fn doctor_names_the_engine() {
    let (code, stdout, stderr) = run(&mut popf(&["doctor", "--json"]));
    assert_eq!(code, 0, "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["engine"]["name"], "translator");
}
