//! Which VMs a user has, and how to reach one that runs.
//!
//! A VM is a process. Nothing supervises these processes, so what is known of them lies in three directories per VM:
//!
//! ```text
//! $XDG_RUNTIME_DIR/popf/             or /tmp/popf-UID/
//!     .lock                          held for a moment by whoever adds or removes a VM here
//!     web/                           a VM that runs
//!         lock                       held by its process for as long as it runs
//!         vm.json                    what it is: `Record`
//!         control.sock               answers `control::Client`
//!         vsock.sock                 leads to the guest's vsock ports
//! $XDG_DATA_HOME/popf/vms/           or ~/.local/share/popf/vms/
//!     .lock
//!     web/                           what is kept of a VM
//!         lock                       held while it runs
//!         vm.json                    the same record, with how it ended
//!         disk.qcow2                 its disk, over its image's
//!         console.log                what a detached VM's console said, and console.log.1 before that
//!         popf.log                   what popf itself said
//! $XDG_DATA_HOME/popf/settings/      or ~/.local/share/popf/settings/
//!     web/                           what later runs believe: its own process, in its sandbox, cannot write here
//!         definition.toml            what it was started with
//!         disk.base, disk.json       a link to the image's disk, and what tells that from another
//! ```
//!
//! A process that dies by a signal cannot tidy up; its locks fall nevertheless, and that is how what it left is told
//! from what is in use. A process number would not do: it may be another process's by now. [`Registry`] tidies up
//! wherever it looks.
//!
//! This is a crate because more than one program has to know it: the command line now, whatever supervises VMs later.
//! It knows nothing of what a VM is made of; the definition is the command line's.

pub mod control;
mod error;
mod hold;
mod kept;
mod memory;
mod name;
mod record;
mod registry;

pub use error::{Error, Result};
pub use memory::{GuestMemory, Memory};
pub use name::{Name, NameError};
pub use record::{End, Record, now};
pub use registry::{Claim, Entry, Registry, Running};

/// The guest's vsock ports.
pub const VSOCK_SOCKET: &str = "vsock.sock";
/// Where [`control`] is spoken.
pub const CONTROL_SOCKET: &str = "control.sock";
/// What a VM was started with.
pub const DEFINITION: &str = "definition.toml";
/// A VM's own layer over its image's disk.
pub const DISK: &str = "disk.qcow2";
/// What a detached VM's console said.
pub const CONSOLE_LOG: &str = "console.log";
/// What a detached VM's popf said.
pub const POPF_LOG: &str = "popf.log";
