//! What devices stand on: the far ends of serial lines, networks, disks, and shared folders.
//!
//! A device never waits for the host. [`Serial`] does: a thread writes what the guest sent, in order and to the
//! last byte, another reads what the user types or pipes in and keeps what the device has no room for yet. The
//! board joins the two with the [`Handlers`] it gives to [`Serial::start`]. Networks are the same with frames
//! instead of bytes, see [`net`]; disks and folders have requests that are answered, see [`disk`] and [`share`]; a
//! guest's sockets are sockets, see [`vsock`].
//!
//! Not modelled: pseudo-terminals, several machines on one terminal.

pub mod disk;
mod error;
pub mod escape;
mod handlers;
mod input;
mod listen;
mod log;
pub mod net;
mod output;
mod port;
mod serial;
pub mod share;
pub mod vsock;
mod worker;

pub use error::SerialError;
pub use handlers::{Handlers, Receive, SerialEvent};
pub use input::InputWaker;
pub use listen::listen_privately;
pub use log::{LOG_LIMIT, earlier};
pub use output::SerialOutput;
pub use port::{PortError, PortHandlers, PortKind, PortOutput, PortSocket};
pub use serial::{MemoryPeer, Serial, SerialKind};
pub use worker::{Bell, Worker};
