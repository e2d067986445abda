//! Each family against a small machine: flat memory with real page and descriptor tables, ports and MSRs that
//! keep a log. Every test compares the whole state.

mod control;
mod delivery;
mod five_levels;
mod flags;
mod io;
mod iret;
mod legacy;
mod machine;
mod msr;
mod random;
mod segments;
mod system_call;
mod tables;
mod task;
mod transfer;
mod xsave;

pub(crate) use machine::{Bench, layout};
