//! D: every exit arrives here and is sent on.
//!
//! A [`Dispatcher`] drives one vCPU on one thread: it takes signals and interrupts, lets the engine run, and
//! sends each exit to whom it belongs: sensitive instructions to the interpreter, memory and ports to the
//! machine, events into the guest's interrupt table. It knows engines and devices only by their traits.

mod debug;
mod desk;
mod dispatcher;
mod report;
mod stack;
mod startup;
mod statistics;
#[cfg(test)]
mod tests;
mod trace;
mod visits;

pub use desk::{Desk, Visit};
pub use dispatcher::{Dispatcher, Failure, Stop};
pub use report::Report;
pub use stack::{Frame, paging};
pub use statistics::{Cause, Counter, Row, Statistics};
pub use trace::{Place, Sample, Tracer};
