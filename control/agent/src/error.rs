//! Why there is no answer from a guest.

use std::io;
use std::path::PathBuf;

use crate::protocol::Refusal;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong between host and agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The VM's socket cannot be reached.
    #[error("cannot reach the guest through {}", path.display())]
    Connect {
        /// The VM's vsock socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The VM is there, its agent is not.
    #[error("the guest's agent does not answer; it may still be booting, or have no popf-agent.service")]
    NoAnswer,
    /// The connection broke before the program had ended.
    #[error("the connection to the guest was lost")]
    Lost(#[source] io::Error),
    /// The guest sends what no agent does.
    #[error("the guest's agent does not keep to the protocol: {0}")]
    Protocol(&'static str),
    /// A program that cannot be asked for.
    #[error("the guest cannot be given this command: {0}")]
    Program(&'static str),
    /// The agent did not start the program.
    #[error("{}", reason(*.0))]
    Refused(Refusal),
}

fn reason(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Request => "the guest's agent is of another version of popf; restart the guest",
        Refusal::Directory => "the guest has no such working directory",
        Refusal::NotFound => "the guest has no such program",
        Refusal::NotExecutable => "the guest cannot execute this program",
        Refusal::Resources => "the guest has no process, terminal or memory left for the program",
    }
}
