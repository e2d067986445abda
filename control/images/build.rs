//! Builds the guest's first process (`guest/init.rs`), which the crate embeds.

#[path = "guest/compile.rs"]
mod compile;

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=guest");
    compile::compile("init", Path::new("guest/init.rs"));
}
