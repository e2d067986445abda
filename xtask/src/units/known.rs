//! Entries that fail under popf, and why: the list that `cargo xtask units` holds its results against.

/// Architecture (any if empty), entry, reason.
#[rustfmt::skip]
const KNOWN: &[(&str, &str, &str)] = &[
];

/// Why this entry fails; `None` if it ought not to.
pub fn why(arch: &str, entry: &str) -> Option<&'static str> {
    let here = |row: &&(&str, &str, &str)| (row.0.is_empty() || row.0 == arch) && row.1 == entry;
    KNOWN.iter().find(here).map(|row| row.2)
}
