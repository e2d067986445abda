//! The only door to Linux.
//!
//! Everything popf asks of the kernel or of the bare processor passes through here: mappings, signals,
//! terminals, clocks, CPUID, a look at `/dev/kvm`. The other crates stay free of `libc` and, but for the
//! engines and guest memory, of `unsafe`.
//!
//! | module | gives |
//! | --- | --- |
//! | [`mapping`], [`memfd`], [`reservation`] | memory: RAII mappings, regions composed below 2 GiB, W^X pairs |
//! | [`fault`] | faults of guest code as signals, alternate stacks |
//! | [`terminal`] | raw mode, restored on every way out |
//! | [`mod@file`], [`tree`] | locks and holes of files; files below a folder, for somebody who may not leave it |
//! | [`event`], [`epoll`], [`signals`] | waiting, being woken, signals from outside |
//! | [`socket`] | what the standard library's sockets cannot do |
//! | [`tap`], [`interface`] | network interfaces whose other end is here; bridges |
//! | [`seqpacket`] | packets between processes of one host |
//! | [`clock`], [`timer`], [`cpu`], [`system`], [`entropy`] | time, the processor, memory, randomness |
//! | [`process`], [`watch`] | users and sessions, files that change |
//! | [`sampling`] | where a thread is when it is interrupted |
//! | [`sandbox`] | what this process may still do once a guest runs |
//! | [`stub`] | processes that run ring 3 of a guest, until a signal stops them |
//! | [`kvm`] | whether KVM is any good, by trying |
//! | [`trial`] | what becomes of a few instructions in ring 3 |
//!
//! Not modelled: any host but Linux on x86-64.

pub mod affinity;
pub mod clock;
pub mod cpu;
pub mod entropy;
pub mod epoll;
pub mod error;
pub mod event;
pub mod fault;
pub mod file;
pub mod interface;
pub mod kvm;
pub mod mapping;
pub mod memfd;
pub mod process;
pub mod reservation;
pub mod sampling;
pub mod sandbox;
pub mod seqpacket;
pub mod signals;
pub mod socket;
pub mod stub;
pub mod system;
pub mod tap;
pub mod terminal;
pub mod timer;
pub mod tree;
pub mod trial;
pub mod watch;

pub use affinity::Affinity;
pub use epoll::Epoll;
pub use error::HostError;
pub use event::EventFd;
pub use fault::{AltStack, FaultContext, FaultHandler, FaultSignal, install_fault_handler};
pub use file::FileLock;
pub use mapping::{Advice, HUGE_PAGE, Mapping, Protection};
pub use memfd::Memfd;
pub use reservation::{DualMapping, Reservation};
pub use sandbox::Sandbox;
pub use signals::{Signal, Signals};
pub use stub::Stubs;
pub use terminal::RawMode;
pub use timer::TimerFd;

/// The size of a page: fixed on x86-64.
pub const PAGE_SIZE: usize = 4096;
