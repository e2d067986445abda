//! The dependency rule of docs/ARCHITECTURE.md: which of our crates may use which.
//!
//! The table below is the rule; it is held against `cargo metadata`. Others' crates are not its business. Normal
//! and build dependencies are held to `uses`; tests may use `tests_use` as well, which is where a test harness
//! that joins parts goes. Rows stand from the ground up and name only rows above them, so no cycle can be
//! written down, and a crate without a row is an error: whoever adds one says where it stands.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use crate::metadata::{self, Metadata};

/// What one crate may depend on.
#[derive(Clone, Copy, Debug)]
struct Row {
    krate: &'static str,
    /// Its folder in the repository.
    folder: &'static str,
    uses: &'static [&'static str],
    /// Only for its tests, examples and benches, beyond `uses`.
    tests_use: &'static [&'static str],
    /// Why not more.
    why: &'static str,
}

const GROUND: &str = "it is part of the ground that everything else stands on";
const ENGINE: &str = "engines meet the rest in `vcpu` alone: never each other, the interpreter or a device; \
                      what they cannot run they return as an exit";
const DISPATCHER: &str =
    "the dispatcher sees engines and devices through the traits `Engine` and `Environment` only";
const CHIPS: &str = "a device knows no board, engine, thread or wall clock: it is given its wiring";
const CONTROL: &str = "control drives machines through `board` and does not reach into their parts";
const APART: &str = "it stands apart from the machine";

#[rustfmt::skip]
const RULE: &[Row] = &[
    Row { krate: "x86",         folder: "arch/x86",            uses: &[],                                    tests_use: &[],            why: GROUND },
    Row { krate: "savestate",   folder: "state/savestate",     uses: &[],                                    tests_use: &[],            why: GROUND },
    Row { krate: "host",        folder: "host",                uses: &[],                                    tests_use: &[],            why: GROUND },
    Row { krate: "memory",      folder: "machine/memory",      uses: &["host", "savestate"],                 tests_use: &[],            why: "guest memory serves engines and devices and knows neither" },
    Row { krate: "vcpu",        folder: "engines/vcpu",        uses: &["savestate", "x86"],                  tests_use: &[],            why: "it is what all engines agree on, and so knows none" },
    Row { krate: "interpreter", folder: "monitor/interpreter", uses: &["vcpu", "x86"],                       tests_use: &[],            why: "a routine sees the CPU state and an `Environment`, whoever runs it" },
    Row { krate: "translator",  folder: "engines/translator",  uses: &["host", "memory", "vcpu", "x86"],     tests_use: &["interpreter"], why: ENGINE },
    Row { krate: "dispatcher",  folder: "monitor/dispatcher",  uses: &["interpreter", "vcpu", "x86"],        tests_use: &[],            why: DISPATCHER },
    Row { krate: "devices",     folder: "machine/devices",     uses: &["memory", "savestate"],               tests_use: &[],            why: CHIPS },
    Row { krate: "backends",    folder: "machine/backends",    uses: &["host"],                              tests_use: &[],            why: "a back-end serves any device and knows none" },
    Row { krate: "board",       folder: "machine/board",       uses: &["backends", "devices", "dispatcher", "host", "interpreter", "memory", "savestate", "translator", "vcpu", "x86"], tests_use: &[], why: "the board joins machines; control drives them" },
    Row { krate: "images",      folder: "control/images",      uses: &["host"],                              tests_use: &[],            why: "images are files; they need no machine to be made" },
    Row { krate: "agent",       folder: "control/agent",       uses: &[],                                    tests_use: &["images"],    why: "it talks to a socket, whatever machine is behind it" },
    Row { krate: "vms",         folder: "control/vms",         uses: &["host"],                              tests_use: &[],            why: "it knows which VMs there are, not what one is made of" },
    Row { krate: "hostile",     folder: "tests/hostile",       uses: &[],                                    tests_use: &[],            why: "it runs in a guest, without even a kernel" },
    Row { krate: "selfcheck",   folder: "tests/selfcheck",     uses: &[],                                    tests_use: &[],            why: "it runs in guests and on the host alike, so it may know neither" },
    Row { krate: "theory",      folder: "theory",              uses: &[],                                    tests_use: &[],            why: "it is the paper's machine, not the PC's, and to be read alone" },
    Row { krate: "scan",        folder: "control/scan",        uses: &["x86"],                               tests_use: &[],            why: "it reads files; what an engine makes of an instruction it is told" },
    Row { krate: "debugger",    folder: "control/debugger",    uses: &["board", "host", "vcpu", "x86"],      tests_use: &[],            why: CONTROL },
    Row { krate: "insight",     folder: "control/insight",     uses: &["scan"],                              tests_use: &[],            why: "it reads what a guest has in memory, and is told it; it knows no machine" },
    Row { krate: "popf",        folder: "control/cli",         uses: &["agent", "backends", "board", "debugger", "host", "images", "insight", "scan", "theory", "vms", "x86"], tests_use: &["hostile", "selfcheck"], why: CONTROL },
    Row { krate: "xtask",       folder: "xtask",               uses: &[],                                    tests_use: &[],            why: APART },
];

/// One way in which the crates differ from the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Violation {
    /// A dependency the table does not have.
    Forbidden { from: String, to: String, kind: Kind, why: &'static str },
    /// A crate without a row.
    Unknown { krate: String },
    /// A row without a crate.
    Stale { krate: &'static str },
    /// A crate somewhere else than its row says.
    Moved { krate: String, folder: &'static str, found: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Build,
    Tests,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Forbidden { from, to, kind, why } => {
                let kind = match kind {
                    Kind::Normal => "depends on",
                    Kind::Build => "depends (in its build script) on",
                    Kind::Tests => "depends (in its tests) on",
                };
                write!(f, "forbidden edge: {from} -> {to}: {from} {kind} {to}, but {why}")
            }
            Self::Unknown { krate } => {
                write!(f, "{krate} has no row in the rule: add it to RULE in xtask/src/deps.rs")
            }
            Self::Stale { krate } => {
                write!(f, "the rule has a row for {krate}, which is not in the workspace")
            }
            Self::Moved { krate, folder, found } => {
                write!(f, "{krate} belongs in {folder}, not in {found}")
            }
        }
    }
}

/// `cargo xtask deps`.
pub fn run() -> Result<(), String> {
    let metadata = metadata::read()?;
    let violations = violations(RULE, &metadata);
    if violations.is_empty() {
        println!("{} crates keep the dependency rule", metadata.packages.len());
        return Ok(());
    }
    for violation in &violations {
        eprintln!("{violation}");
    }
    Err(format!(
        "{} against the dependency rule (RULE in xtask/src/deps.rs, docs/ARCHITECTURE.md)",
        violations.len()
    ))
}

fn violations(rule: &[Row], metadata: &Metadata) -> Vec<Violation> {
    let mut found = Vec::new();
    let members: HashSet<_> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    for package in &metadata.packages {
        let Some(row) = rule.iter().find(|row| row.krate == package.name) else {
            found.push(Violation::Unknown { krate: package.name.clone() });
            continue;
        };
        if !Path::new(&package.manifest_path).ends_with(Path::new(row.folder).join("Cargo.toml")) {
            found.push(Violation::Moved {
                krate: package.name.clone(),
                folder: row.folder,
                found: package.manifest_path.clone(),
            });
        }
        // What has a folder is ours even if it is no member.
        let ours = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.path.is_some() || members.contains(dependency.name.as_str()));
        for dependency in ours {
            let kind = match dependency.kind.as_deref() {
                None => Kind::Normal,
                Some("build") => Kind::Build,
                Some(_) => Kind::Tests,
            };
            let allowed = row.uses.contains(&dependency.name.as_str())
                || kind == Kind::Tests && row.tests_use.contains(&dependency.name.as_str());
            if !allowed {
                found.push(Violation::Forbidden {
                    from: package.name.clone(),
                    to: dependency.name.clone(),
                    kind,
                    why: row.why,
                });
            }
        }
    }
    let stale = rule.iter().filter(|row| !members.contains(row.krate));
    found.extend(stale.map(|row| Violation::Stale { krate: row.krate }));
    found
}

#[cfg(test)]
mod tests;
