//! Instructions under the translator against the real processor: random encodings in random surroundings run on
//! both, and everything a program could see must come out the same.
//!
//! A *case* is one program in one state, run on both sides and compared whole. A program is run in eight states
//! ([`generate::STATES`]) one after the other: other registers, flags, operands and vectors each time, the same bytes. So
//! it is made, placed and translated once, and runs with hints and tables as its last run left them. Vector states are
//! chosen from 128 that change as the run goes on ([`fpu::KEPT`]), so that each comes back about eight times, under other
//! programs.
//!
//! `POPF_CASES` and `POPF_SEED` make longer or other runs, by `POPF_JOBS` processors if not by all; `POPF_WIDTH=16`,
//! `32` or `64` and `POPF_CODE` (part of an instruction's name in iced-x86) narrow them, `POPF_ONLY` runs one case by
//! its number, `POPF_MISSING` lists codes that no case reached.
//!
//! A case that differs is made as small as it gets and told as one line. Such lines are kept, with others that are
//! known to be edges, in `tests/equivalence/instructions.txt`, and run before anything else is tried.
//!
//! What is known to differ stands in [`rules`], with its reasons, and in `tests/equivalence/exceptions.txt`, with cases;
//! `POPF_ACCEPTED=1` has a run print such lines. Not compared: x87's own pointers to its last instruction and operand.

mod case;
mod child;
mod compare;
mod corpus;
mod encode;
#[path = "../common/flags.rs"]
mod flags;
mod fpu;
mod generate;
mod guest;
mod line;
mod monitor;
mod native;
#[path = "../common/plain.rs"]
mod plain;
mod processor;
mod program;
mod random;
mod rules;
mod run;
mod surround;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: a native process is forked before there are engines, which may lie where its window goes.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn agrees_with_the_processor() {
    let _alone = alone();
    run::run(1_000_000);
}

#[test]
fn agrees_on_what_is_kept() {
    let _alone = alone();
    corpus::replay();
}

#[test]
fn differs_only_as_is_known() {
    let _alone = alone();
    corpus::exceptions();
}
