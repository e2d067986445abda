//! The chips a guest sees, each after its datasheet.
//!
//! A chip knows no bus address, thread or wall clock. It is given what it stands on: an interrupt line
//! ([`wiring::IrqLine`]), the VM's clock ([`wiring::VmClock`]), a one-shot alarm ([`wiring::Timer`]); the
//! board maps its registers onto the buses of [`bus`]. What the guest does wrong is answered as the chip
//! answers it (all ones, an ignored write, a status bit), never with an error.
//!
//! # Order of locks
//! A chip lives in a `Mutex` of its own and may raise an interrupt line while locked. Lines lead from
//! devices to the interrupt controllers ([`legacy`] 8259 pair, I/O APIC), and from those to the local APICs,
//! whose receiving side ([`apic`]) takes no lock at all. So the order is device, then interrupt controller,
//! and nothing is ever locked the other way round.

pub mod acpi_pm;
pub mod apic;
pub mod bus;
pub mod legacy;
pub mod pci;
pub mod virtio;
pub mod wiring;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod testing;
