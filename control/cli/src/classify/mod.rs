//! `popf classify`: x86's table of instructions, the theorem applied to it, and an experiment.

mod experiment;
mod list;
mod theorem;

use x86::classify::{Row, Sensitivity, TrapSwitch};

use crate::args::ClassifyArgs;
use crate::error::CliError;

/// Prints what is asked for; popf's exit status.
pub fn run(args: &ClassifyArgs) -> Result<u8, CliError> {
    if args.experiment {
        experiment::run(args.json)
    } else if args.theorem {
        theorem::run(args)
    } else {
        list::run(args)
    }
    .map(|()| 0)
}

/// How an instruction is sensitive, in a word.
pub fn class(row: &Row) -> &'static str {
    match row.sensitivity {
        Sensitivity::None => "innocuous",
        Sensitivity::Behaviour => "behaviour",
        Sensitivity::Control => "control",
        Sensitivity::Both => "both",
    }
}

/// Whether it traps in user mode, in a word.
pub fn traps(row: &Row) -> &'static str {
    match (row.privileged, row.switch) {
        (true, _) => "yes",
        (false, Some(TrapSwitch::Umip)) => "with UMIP",
        (false, Some(TrapSwitch::Tsd)) => "with TSD",
        (false, None) => "no",
    }
}
