//! A program that checks the machine it runs on, and what the host's side of a test needs of it.
//!
//! `program/main.rs` says what is checked. The tests boot it in guests; `tests/native.rs` runs it on the host,
//! whose processor and kernel are what it is judged by.

#[path = "../program/generator.rs"]
mod generator;
pub mod narrow;

pub use generator::Generator;

/// The program: a static ELF file for Linux on x86-64. With names of checks as arguments it runs just those; with
/// `generate BYTES` it writes what [`Generator`] makes.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/selfcheck"));
