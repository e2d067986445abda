//! `cargo xtask guide`: docs/guide as a book of HTML pages, by mdBook.

use std::process::Command;

/// Where docs/guide/book.toml has it built.
const BUILT: &str = "target/guide/index.html";

/// Whether mdBook is there.
pub fn available() -> bool {
    Command::new("mdbook").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Builds it.
pub fn run() -> Result<(), String> {
    if !available() {
        return Err("mdbook is not installed: cargo install mdbook --locked".into());
    }
    let status = Command::new("mdbook").args(["build", "docs/guide"]).status();
    match status {
        Ok(status) if status.success() => {
            println!("{BUILT}");
            Ok(())
        }
        Ok(status) => Err(format!("mdbook ended with {status}")),
        Err(error) => Err(format!("cannot start mdbook: {error}")),
    }
}
