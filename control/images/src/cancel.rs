//! Ending a build from outside, as by Ctrl-C: the program that runs is asked to end, cleans up after itself, and the
//! build then removes what it has made.

use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ends the build that was given a clone of it.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    cancelled: bool,
    /// A program that runs and has not been waited for, so that its number is no other's.
    running: Option<u32>,
}

impl Cancel {
    /// The build ends soon, with [`Error::Cancelled`].
    pub fn cancel(&self) {
        let mut state = self.state();
        state.cancelled = true;
        if let Some(pid) = state.running {
            terminate(pid);
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.state().cancelled { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// From its start on.
    pub(crate) fn runs(&self, pid: u32) {
        let mut state = self.state();
        state.running = Some(pid);
        if state.cancelled {
            terminate(pid);
        }
    }

    /// Before it is waited for.
    pub(crate) fn ends(&self) {
        self.state().running = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn terminate(pid: u32) {
    if let Err(error) = host::signals::send(pid, host::Signal::Terminate) {
        tracing::warn!("the program {pid} cannot be ended: {error}");
    }
}
