//! Compiles a program that runs inside a guest into a static ELF file of a few KiB. Build scripts include this file.
//!
//! The compiler is called directly, not through cargo: such a program has no dependencies, needs flags of its own
//! (no C library, fixed address), and must not inherit those meant for the host's programs.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `source` to the file `name` in cargo's OUT_DIR.
pub fn compile(name: &str, source: &Path) {
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let target = variable("TARGET");
    assert!(
        target.starts_with("x86_64-") && target.contains("-linux-"),
        "popf runs on x86-64 Linux; {target} is something else"
    );
    let output = PathBuf::from(variable("OUT_DIR")).join(name);
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", name, "--crate-type", "bin", "--target", &target]);
    for option in [
        "opt-level=s",
        "panic=abort",
        // Drops what of the core library is not called, unwinding tables included.
        "lto=fat",
        "relocation-model=static",
        "strip=symbols",
        // A guest's processor may be older than the host's.
        "target-cpu=x86-64",
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
        "link-arg=-no-pie",
        // The link is the same wherever it is made, so that images are.
        "link-arg=-Wl,--build-id=none",
    ] {
        rustc.args(["-C", option]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    if target.ends_with("musl") {
        // That target brings start files of its own, which would define `_start` a second time.
        rustc.args(["-C", "link-self-contained=no"]);
    }
    rustc.arg("-o").arg(&output).arg(source);
    let status = rustc.status().expect("the Rust compiler that runs this script can be started");
    assert!(status.success(), "the guest's program {name} does not compile ({status}): {rustc:?}");
}
