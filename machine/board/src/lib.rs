//! From a configuration to a machine: wiring, lifecycle, kernel loading.
//!
//! [`machine::run`] takes a [`machine::Config`] and runs the machine to its end. What it stands on: [`load`] puts
//! a kernel into memory, [`acpi`] describes the board to it, [`wiring`] builds the chips and gives them their
//! addresses, [`processor`] is the machine as a vCPU sees it, [`timers`] and [`clock`] keep time, [`stop`] ends
//! it all, and [`yard`] holds it for a debugger.
//!
//! Not modelled: firmware (a kernel is entered directly), a reset that keeps memory, sleep states but S5.

pub mod acpi;
pub mod clock;
pub mod engine;
mod firmware;
pub mod insight;
pub mod isa;
pub mod load;
pub mod machine;
pub mod map;
mod masked;
pub mod processor;
mod saved;
pub mod serial;
pub mod stop;
pub mod timers;
mod vcpu_thread;
pub mod virtio;
pub mod waker;
pub mod wiring;
pub mod yard;

pub use backends::{Serial, SerialError, SerialEvent, SerialKind};
pub use host::sandbox;
