//! From a configuration to a machine: wiring, lifecycle, kernel loading.

pub mod load;
pub mod map;
