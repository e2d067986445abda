//! Builds the nanobenchmarks (`guest/nano`), which the bench embeds: the guest, and what of it runs on the host.

#[path = "../control/images/guest/compile.rs"]
mod compile;

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=guest/nano");
    for shared in ["../control/images/guest/bare.rs", "../control/images/guest/compile.rs"] {
        println!("cargo::rerun-if-changed={shared}");
    }
    println!("cargo::rerun-if-changed=../tests/hostile/program");
    compile::compile("nano", Path::new("guest/nano/main.rs"));
    compile::compile("nano_native", Path::new("guest/nano/native.rs"));
}
