//! The theorems of the paper as checks (sections 3 and 4).
//!
//! [`analyse`] computes from the definitions what each instruction is, by counting out the states of a tiny
//! machine with that instruction set; [`Analysis::verdict`] is what the theorems then say. Nothing here knows
//! which instructions are meant to be sensitive.

mod lazy;
mod sensitivity;
mod witness;

pub use sensitivity::Report;
pub use witness::{Outcome, Snapshot, Witness};

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::isa::OPS;
use crate::{Isa, Op, Shape};

/// What the definitions say of an instruction set.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// Of which.
    pub isa: &'static Isa,
    /// The machine whose states were counted out.
    pub shape: Shape,
    /// One for each instruction.
    pub reports: Vec<Report>,
}

/// What the theorems say of an instruction set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Theorem 1: sensitive instructions that are not privileged. If there are none, a monitor can be built.
    pub offenders: Vec<Op>,
    /// Theorem 3: those among them that are sensitive in user mode. If there are none, a hybrid monitor can be.
    pub user_offenders: Vec<Op>,
}

impl Verdict {
    /// Theorem 1.
    pub fn virtualizable(&self) -> bool {
        self.offenders.is_empty()
    }

    /// Theorem 2. It asks besides for a monitor without timing dependencies, and [`crate::monitor`] is one:
    /// nothing it does depends on a clock.
    pub fn recursively(&self) -> bool {
        self.virtualizable()
    }

    /// Theorem 3.
    pub fn hybrid(&self) -> bool {
        self.user_offenders.is_empty()
    }
}

/// Counts out the states of a machine of `size` words, for every instruction.
///
/// # Panics
/// If it has no words, or more than 16. With 3 it takes a second or two, with more minutes.
pub fn analyse(isa: &'static Isa, size: u64) -> Analysis {
    let shape = Shape::tiny(size);
    // Instructions differ a hundredfold in how many states they tell apart, so each thread takes the next one.
    let next = AtomicUsize::new(0);
    let work = || {
        let rows = std::iter::from_fn(|| OPS.get(next.fetch_add(1, Ordering::Relaxed)));
        rows.map(|row| sensitivity::report(isa, shape, row)).collect::<Vec<_>>()
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut reports: Vec<Report> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no check panics")).collect()
    });
    reports.sort_by_key(|report| report.op);
    Analysis { isa, shape, reports }
}

/// The same for one instruction.
///
/// # Panics
/// As [`analyse`].
pub fn report(isa: &Isa, op: Op, size: u64) -> Report {
    sensitivity::report(isa, Shape::tiny(size), op.row())
}

impl Analysis {
    /// What the theorems say.
    pub fn verdict(&self) -> Verdict {
        let those = |wanted: fn(&Report) -> bool| {
            self.reports
                .iter()
                .filter(move |report| !report.privileged() && wanted(report))
                .map(|report| report.op)
        };
        Verdict {
            offenders: those(Report::sensitive).collect(),
            user_offenders: those(Report::user_sensitive).collect(),
        }
    }
}
