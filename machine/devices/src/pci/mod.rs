//! PCI: the root with its configuration mechanism, devices' configuration spaces (PCI Local Bus Specification
//! 3.0), and the host bridge.
//!
//! One bus, no bridges to others, and no memory-mapped configuration (ECAM) yet.

pub mod config;
pub mod host_bridge;
pub mod mapping;
pub mod msix;
pub mod root;
mod saved;

pub use config::{Bar, BarKind, ConfigSpace};
pub use host_bridge::HostBridge;
pub use mapping::{Mapped, MemoryFunction};
pub use msix::{MsiSink, Msix};
pub use root::{PciRoot, SharedPciDevice};
pub use saved::ConfigSpaceV1;

/// A function on the bus, as configuration accesses see it. `offset` is below 256; an access is of 1, 2 or 4
/// bytes and aligned.
pub trait PciDevice: Send {
    /// Reads; bits beyond `size` bytes are ignored.
    fn read_config(&mut self, offset: u8, size: u8) -> u32;

    /// Writes; bits beyond `size` bytes are zero.
    fn write_config(&mut self, offset: u8, size: u8, value: u32);
}
