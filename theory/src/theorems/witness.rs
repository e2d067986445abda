//! What shows that an instruction is as it is said to be: states before and after it.

use std::fmt;

use crate::semantics::{Flow, State};
use crate::{Cause, Instruction, Psw, Shape, Word};

use super::lazy::Lazy;

/// A state ⟨E, M, P, R⟩.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// E; `None` is a word that does not matter.
    pub e: Vec<Option<Word>>,
    /// ⟨M, P, R⟩.
    pub psw: Psw,
}

/// What an instruction made of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It trapped.
    Trapped(Cause),
    /// It made another state, and reached a resource outside of it, if this says which.
    Became(Snapshot, Option<&'static str>),
}

/// An instruction, and one state or a pair of states with what it makes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The instruction.
    pub instruction: Instruction,
    /// Each state and what became of it.
    pub runs: Vec<(Snapshot, Outcome)>,
}

/// An instruction carried out on a state.
pub(super) struct Run<'a> {
    pub(super) start: Psw,
    pub(super) state: State<Lazy<'a>>,
    pub(super) result: Result<Flow, Cause>,
}

impl Run<'_> {
    /// The resource beyond M and R that it reached.
    pub(super) fn reached(&self) -> Option<&'static str> {
        match self.result {
            Ok(Flow::Halt) => Some("the processor stops"),
            Ok(Flow::Next) if self.state.console.uses != 0 => Some("the console is used"),
            Ok(Flow::Next) if self.state.timer != 0 => Some("the timer is set"),
            _ => None,
        }
    }

    /// Whether R and M are what they were.
    pub(super) fn keeps_configuration(&self) -> bool {
        self.state.psw.m == self.start.m && self.state.psw.r == self.start.r
    }

    fn snapshots(&self, shape: Shape) -> (Snapshot, Outcome) {
        let words = 0..shape.size();
        let before = words.clone().map(|real| self.state.e.before(real)).collect();
        let after =
            || Snapshot { e: words.map(|real| self.state.e.after(real)).collect(), psw: self.state.psw };
        let outcome = match self.result {
            Err(cause) => Outcome::Trapped(cause),
            Ok(_) => Outcome::Became(after(), self.reached()),
        };
        (Snapshot { e: before, psw: self.start }, outcome)
    }
}

impl Witness {
    pub(super) fn new(instruction: Instruction, runs: &[&Run], shape: Shape) -> Self {
        Self { instruction, runs: runs.iter().map(|run| run.snapshots(shape)).collect() }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("⟨E=[")?;
        for (real, word) in self.e.iter().enumerate() {
            let space = if real == 0 { "" } else { " " };
            match word {
                Some(word) => write!(f, "{space}{word}")?,
                None => write!(f, "{space}·")?,
            }
        }
        write!(f, "], {}⟩", self.psw)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Trapped(cause) => write!(f, "trap ({cause})"),
            Self::Became(state, None) => state.fmt(f),
            Self::Became(state, Some(reached)) => write!(f, "{state}, {reached}"),
        }
    }
}

/// One line per state.
impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (n, (before, after)) in self.runs.iter().enumerate() {
            let line = if n == 0 { "" } else { "\n" };
            write!(f, "{line}{}: {before} → {after}", self.instruction)?;
        }
        Ok(())
    }
}
