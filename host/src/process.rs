//! This process among others.
#![allow(unsafe_code)] // System calls.

use std::os::fd::{AsFd, AsRawFd};

use crate::HostError;

/// The user on whose behalf files are opened.
pub fn user_id() -> u32 {
    // SAFETY: a plain call that cannot fail.
    unsafe { libc::geteuid() }
}

/// Leaves the terminal and its signals: this process becomes the leader of a session of its own. It must not be
/// the leader of a process group, which one just started by another is not.
pub fn new_session() -> Result<(), HostError> {
    // SAFETY: a plain call.
    match unsafe { libc::setsid() } {
        -1 => Err(HostError::last("setsid")),
        _ => Ok(()),
    }
}

/// Sends what is written to standard error from now on elsewhere: a panic's message and a log's lines too.
pub fn redirect_stderr(to: impl AsFd) -> Result<(), HostError> {
    // SAFETY: descriptor 2 is open for good, and what it leads to is nobody's secret.
    match unsafe { libc::dup2(to.as_fd().as_raw_fd(), libc::STDERR_FILENO) } {
        -1 => Err(HostError::last("dup2")),
        _ => Ok(()),
    }
}
