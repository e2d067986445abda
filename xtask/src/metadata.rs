//! What `cargo metadata` says about the workspace's own crates. Only the fields the rule needs.

use std::path::PathBuf;
use std::process::Stdio;

use serde::Deserialize;

use crate::cargo;

/// The workspace.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    /// Its members (`--no-deps` leaves others' crates out).
    pub packages: Vec<Package>,
    /// Where cargo builds.
    pub target_directory: PathBuf,
}

/// One of our crates.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Where its Cargo.toml is.
    pub manifest_path: String,
    /// What it depends on, of whatever kind and for whatever target; optional ones too.
    pub dependencies: Vec<Dependency>,
}

/// A row of a `[dependencies]` table.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// The package's name, not what it is renamed to.
    pub name: String,
    /// Normal (null), `dev` or `build`.
    pub kind: Option<String>,
    /// The folder, if it is no registry's: then it is ours.
    pub path: Option<String>,
}

/// Asks cargo.
pub fn read() -> Result<Metadata, String> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata failed ({})", output.status));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cannot read what cargo metadata says: {error}"))
}
