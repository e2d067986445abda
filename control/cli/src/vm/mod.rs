//! What is done with VMs that are there: `popf ps`, `stop`, `kill`, `rm`, `logs`.
//!
//! How VMs are found and spoken to is the crate `vms`'s; this says it to people.

mod end;
mod logs;
mod ps;

pub use end::{kill, rm, stop};
pub use logs::logs;
pub use ps::ps;
