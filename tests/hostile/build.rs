//! Builds the guest (`program/main.rs`), which the crate embeds.

#[path = "../../control/images/guest/compile.rs"]
mod compile;

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=program");
    for shared in ["bare.rs", "compile.rs"] {
        println!("cargo::rerun-if-changed=../../control/images/guest/{shared}");
    }
    compile::compile("hostile", Path::new("program/main.rs"));
}
