//! What can be made of a running guest's memory and of samples of its vCPUs: the symbols of its kernel
//! ([`kallsyms`]), call stacks ([`unwind`]), and pictures of where time goes ([`flame`]).
//!
//! All of it comes from the guest, which may lie: tables are bounded and checked, and what does not fit together is
//! an error or a name less.

pub mod flame;
pub mod kallsyms;
pub mod unwind;

pub use scan::Symbols;

/// No function is longer; what is further behind a name has none that is known.
const LONGEST_FUNCTION: u64 = 1 << 18;

/// The function that holds an address, and how far behind its beginning that is.
pub fn function(symbols: &Symbols, address: u64) -> Option<(&str, u64)> {
    symbols.find(address).filter(|(_, distance)| *distance < LONGEST_FUNCTION)
}
