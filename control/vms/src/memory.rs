//! How much memory a VM has, and how it uses it.

use serde::{Deserialize, Serialize};

/// A VM's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// What the machine has.
    pub total: u64,
    /// What its guest is asked to do without.
    pub asked: u64,
    /// What it does without.
    pub taken: u64,
    /// What it says of the rest; nothing as long as it has not said anything, or has no driver that would.
    pub guest: Option<GuestMemory>,
}

/// What a guest says of its memory, in bytes; it need not know all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestMemory {
    /// What its programs and its kernel have to share.
    pub total: Option<u64>,
    /// What is used for nothing.
    pub free: Option<u64>,
    /// What could be had without swapping.
    pub available: Option<u64>,
    /// What caches files and could be dropped.
    pub caches: Option<u64>,
}
