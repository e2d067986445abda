//! The only door to Linux.
//!
//! Everything popf asks of the kernel or of the bare processor passes through here: mappings, signals,
//! terminals, clocks, CPUID, a look at `/dev/kvm`. The other crates stay free of `libc` and, but for the
//! engines and guest memory, of `unsafe`.
//!
//! | module | gives |
//! | --- | --- |
//! | [`mapping`], [`memfd`], [`reservation`] | memory: RAII mappings, regions composed below 2 GiB, W^X pairs |
//!
//! Not modelled: any host but Linux on x86-64.

pub mod error;
pub mod mapping;
pub mod memfd;
pub mod reservation;

pub use error::HostError;
pub use mapping::{Advice, Mapping, Protection};
pub use memfd::Memfd;
pub use reservation::{DualMapping, Reservation};

/// The size of a page: fixed on x86-64.
pub const PAGE_SIZE: usize = 4096;
