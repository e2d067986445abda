//! Guest-physical memory.
//!
//! [`GuestRam`] is the guest's RAM: a memfd, mapped into this process, shared by vCPU threads, devices and
//! loaders. Every write made by Rust code passes through it (or through vm-memory's types, which report to the
//! same [`WriteLog`]), so that two observers miss nothing:
//!
//! - the **dirty log**, one bit per page while it is switched on: what changed since the last harvest;
//! - the **write watch**, one bit per page and [`Watcher`]: pages an engine has translated code from. A write to
//!   a watched page calls the watcher's [`WatchSink`], and the engine drops its stale blocks.
//!
//! An engine that writes through a host address tells them with [`GuestRam::mark_written`].
//!
//! Not modelled: ROM, MMIO and anything else that is not RAM (the board's bus decides what an address is);
//! memory that comes and goes while the machine runs.
//!
//! # Aliasing
//! Guest memory changes under our hands: other vCPUs and device threads write it, translated code too. So no
//! Rust reference to it is ever made. It is touched through raw pointers only, by atomic accesses where the
//! address is aligned, by volatile ones and vm-memory's volatile copies otherwise. Data races on guest data are
//! the guest's business, as on the real machine; what was read once is a private copy and is not read twice.

mod access;
mod dma;
mod error;
mod ram;
mod tracking;

pub use dma::Dma;
pub use error::{AllocateError, DiscardError, OutOfRange, WatchError};
pub use ram::{GuestRam, RamOptions, Region};
pub use tracking::{DirtyPages, WatchSink, Watcher, WriteLog};

/// The page size of tracking: that of the guest's smallest page.
pub const PAGE_SIZE: u64 = 4096;

/// RAM above this address would collide with the 32-bit MMIO hole.
pub const LOW_RAM_END: u64 = 3 << 30;

/// RAM that did not fit below the MMIO hole goes on here.
pub const HIGH_RAM_START: u64 = 4 << 30;

/// What vm-memory's consumers (kernel loader, virtqueues) take.
pub type GuestMemory = vm_memory::GuestMemoryMmap<WriteLog>;
