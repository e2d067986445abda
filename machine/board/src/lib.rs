//! From a configuration to a machine: wiring, lifecycle, kernel loading.

pub mod acpi;
pub mod isa;
pub mod load;
pub mod map;
