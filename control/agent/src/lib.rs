//! Runs programs in a guest, through the agent in it: the host's side of `popf shell`, `popf cp` and
//! `popf run IMAGE -- COMMAND`.
//!
//! [`connect()`] reaches the agent through the VM's vsock socket; [`Session::start`] has it run a [`Program`]. What the
//! guest sends is not believed: frames are bounded, and one that makes no sense ends the session.
//!
//! [`protocol`] is what both sides say. The agent itself is in `control/images/guest`, as it comes with an image.
//!
//! Not modelled: more than one program on a connection.

mod connect;
mod error;
pub mod protocol;
mod session;

pub use connect::connect;
pub use error::{Error, Result};
pub use session::{Event, Program, Receiver, Sender, Session};
