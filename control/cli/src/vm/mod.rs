//! What is done with VMs that are there: `popf ps`, `shell`, `cp`, `memory`, `stop`, `kill`, `rm`, `logs`.
//!
//! How VMs are found and spoken to is the crate `vms`'s; this says it to people.

pub mod attach;
mod cp;
mod end;
mod logs;
mod memory;
mod ps;
mod shell;

pub use cp::cp;
pub use end::{kill, rm, stop};
pub use logs::logs;
pub use memory::memory;
pub use ps::ps;
pub use shell::shell;
