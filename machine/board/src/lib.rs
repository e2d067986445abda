//! From a configuration to a machine: wiring, lifecycle, kernel loading.

pub mod acpi;
pub mod clock;
pub mod isa;
pub mod load;
pub mod map;
pub mod stop;
pub mod timers;
pub mod waker;
