//! Builds the programs that run inside guests, which the crate embeds: the images' first processes and the agent.

#[path = "guest/compile.rs"]
mod compile;

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=guest");
    // The agent's protocol, which the host's side shares.
    println!("cargo::rerun-if-changed=../agent/src/protocol.rs");
    for name in ["init", "debian", "agent"] {
        compile::compile(name, &Path::new("guest").join(name).with_extension("rs"));
    }
}
