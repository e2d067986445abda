//! `popf theory`: the crate of that name at the command line.

mod check;
mod program;

use crate::args::TheoryCommand;
use crate::error::CliError;

/// Carries out a subcommand; popf's exit status.
pub fn run(command: &TheoryCommand) -> Result<u8, CliError> {
    match command {
        TheoryCommand::Run(args) => program::run(args),
        TheoryCommand::Check(args) => check::run(args),
    }
}
