//! popf: the command line.

mod args;
mod classify;
mod definition;
mod disk;
mod doctor;
mod error;
mod exit;
mod image;
mod limits;
mod log;
mod net;
mod run;
mod scan;
mod size;
// Read by the definition, which each device's type is a field of.
#[allow(dead_code)]
mod spec;
mod stats;
mod theory;
mod trace;
mod vm;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::{Cli, Command};
use crate::error::CliError;
use crate::exit::Failure;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    log::start();
    let result = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::RunDetached => run::run_detached(),
        Command::Ps(args) => vm::ps(args),
        Command::Shell(args) => vm::shell(args),
        Command::Cp(args) => vm::cp(args),
        Command::Trace(args) => trace::trace(args),
        Command::Top(args) => trace::top(args),
        Command::Stats(args) => stats::stats(args),
        Command::Memory(args) => vm::memory(args),
        Command::Stop(args) => vm::stop(args),
        Command::Kill(args) => vm::kill(args),
        Command::Rm(args) => vm::rm(args),
        Command::Logs(args) => vm::logs(args),
        Command::Image(command) => image::run(command).map(|()| 0),
        Command::Doctor(args) => doctor::run(args),
        Command::Classify(args) => classify::run(args),
        Command::Scan(args) => scan::run(args),
        Command::Theory(command) => theory::run(command),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut args::shown(), "popf", &mut std::io::stdout());
            Ok(0)
        }
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => fail(&error),
    }
}

fn fail(error: &CliError) -> ExitCode {
    // With standard error closed the status has to do.
    let _ = writeln!(std::io::stderr(), "{}", error.report());
    ExitCode::from(error.status())
}

/// Help and version are answers; everything else is wrong usage.
fn usage(error: &clap::Error) -> ExitCode {
    // A closed stream is the only thing that can go wrong.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => {
            let command_mode = std::env::args_os().any(|argument| argument == "--");
            ExitCode::from(Failure::Usage.status(command_mode))
        }
    }
}
