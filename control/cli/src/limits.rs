//! Limits of this process and of the host's kernel.

use std::fs;

/// What popf's own mappings take beside the guest's memory: the translation cache, tables over guest memory,
/// threads' stacks and allocator arenas. Measured 515 MiB; the rest is for what a longer run adds.
const OWN_ADDRESS_SPACE: u64 = 768 << 20;

/// The limit on address space (`ulimit -v`), from the table of proc(5): name, soft limit, hard limit, unit.
pub fn address_space() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let row = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    row.split_whitespace().next()?.parse().ok()
}

/// How many mappings a process may have.
pub fn max_map_count() -> Option<u64> {
    fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

/// Address space that a guest with so much memory needs.
pub fn needed_address_space(memory: u64) -> u64 {
    memory.saturating_add(OWN_ADDRESS_SPACE)
}
