//! How a running VM is spoken to: lines of JSON over a Unix socket.
//!
//! Each line is an object with the protocol's `version` and a `body`. A client sends a [`Request`], the VM answers
//! with one [`Reply`], and so on until one of them hangs up. To [`Request::Wait`] the answer comes when the VM has
//! ended, and a connection that closes without one says that its process was killed.
//!
//! ```text
//! > {"version":1,"body":"power-button"}
//! < {"version":1,"body":{"pressed":{"listening":true}}}
//! > {"version":1,"body":"wait"}
//! < {"version":1,"body":{"ended":{"at":1785000000,"how":"powered off","status":0}}}
//! ```
//!
//! The socket lies in a directory that is its user's alone, so whoever speaks may; but a VM must not suffer from what
//! is said. A line has a limit, so has the number of connections, nothing waits for a client to read or write, and
//! what cannot be understood is answered with an error.

mod client;
mod server;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use client::{Client, ClientError, Waiting};
pub use server::{Handler, Server, ServerError};

use crate::{End, Memory, Record};

/// The protocol's version. It changes when an old client would misunderstand an answer.
pub const VERSION: u32 = 1;
/// The longest line with its end, in either direction.
pub const LINE: usize = 64 << 10;

/// What a VM can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// What are you?
    Status,
    /// Press the power button: the guest may turn itself off.
    PowerButton,
    /// End now, whatever the guest does.
    Kill,
    /// Tell me when you have ended.
    Wait,
    /// How is your memory?
    Memory,
    /// Have the guest give up so many bytes of its memory, or give back what is more.
    TakeMemory(u64),
    /// What is in you? What can be asked is the machine's affair.
    Inspect(Value),
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Record>),
    /// To [`Request::PowerButton`].
    Pressed {
        /// Whether the guest has a driver that listens.
        listening: bool,
    },
    /// To [`Request::Kill`].
    Ending,
    /// To [`Request::Wait`].
    Ended(End),
    /// To [`Request::Memory`] and [`Request::TakeMemory`].
    Memory(Memory),
    /// To [`Request::Inspect`].
    Inspected(Value),
    /// To what cannot be understood.
    Error(String),
}

/// A line.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    body: T,
}

fn encode(body: impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(&Envelope { version: VERSION, body }).expect("plain data");
    line.push(b'\n');
    line
}

/// The version is looked at before the body, which another version may have changed.
fn decode<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Result<T, String> {
    let Envelope { version, body } = serde_json::from_slice::<Envelope<Value>>(line)
        .map_err(|error| format!("not a line of this protocol: {error}"))?;
    if version != VERSION {
        return Err(format!("version {version} of the protocol; version {VERSION} is spoken here"));
    }
    serde_json::from_value(body).map_err(|error| format!("not understood: {error}"))
}

#[cfg(test)]
mod tests;
