//! Checks of a 32-bit machine, by comparison.
//!
//! The program of `program/` is for 64-bit kernels. Here a small one for 32-bit kernels does what it is told on its
//! standard input: system calls, and code with given registers, which ends in a signal. It is told the same in a guest and on
//! the host, whose processor and kernel run 32-bit programs, too; and what it answers has to be the same. What a check expects
//! to end in which exception it says itself.

mod answer;
mod computing;
mod faults;
mod pages;
mod program;
mod script;
mod segments;

pub use answer::{Answer, Frame};
pub use program::program;
pub use script::Script;

use script::{ALL, BYTES, CODE, DATA, READ_WRITE};

/// All checks.
pub fn checks() -> Script {
    let mut script = Script::default();
    script.check("memory");
    script.map(CODE, BYTES, ALL);
    script.map(DATA, BYTES, READ_WRITE);
    for check in [faults::checks, pages::checks, segments::checks, computing::checks] {
        check(&mut script);
    }
    script
}
