//! A guest that does to virtio devices whatever a driver must not, and what a test needs to run it.
//!
//! `program/main.rs` says what it does. It has no kernel under it.

/// The guest: an ELF file with a PVH note, for `popf run --kernel`, which wants `--debug-exit` and at least
/// [`MEMORY`].
pub const GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hostile"));

/// As `--memory` takes it.
pub const MEMORY: &str = "32M";

/// What it ends with if every device still works after all of it.
pub const DONE: i32 = 0;
