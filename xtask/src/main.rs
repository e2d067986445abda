//! The project's own chores: `cargo xtask check`, `deps`, `bench`, `soak`, `durability`, `units` and `guide`.

mod bench;
mod check;
mod deps;
mod durability;
mod exceptions;
mod guest;
mod guide;
mod links;
mod metadata;
mod soak;
mod units;

use std::path::Path;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

use crate::bench::BenchArgs;
use crate::check::Step;
use crate::durability::DurabilityArgs;
use crate::soak::SoakArgs;
use crate::units::UnitsArgs;

const EXAMPLES: &str = "\
Examples:
  cargo xtask check                 everything CI holds the project to
  cargo xtask check fmt clippy      just these steps
  cargo xtask deps                  who may depend on whom
  cargo xtask bench                 workloads natively, under popf and under QEMU's TCG
  cargo xtask bench boot            popf's boot beside QEMU's, interleaved
  cargo xtask bench disk            reads and writes per second beside QEMU's
  cargo xtask bench nano            cycles of single events, such as a page fault
  cargo xtask bench growth          the cost of one as there are more of them, as a picture
  cargo xtask soak                  a hundred boots in a row, and an idle guest's cost
  cargo xtask durability            kill popf while its guest writes, fifty times
  cargo xtask units DIR --qemu      kvm-unit-tests built in DIR, under popf and QEMU
  cargo xtask guide                 docs/guide as a book, in target/guide
";

/// popf's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask", after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run the checks; all of them when none is named.
    Check {
        /// What to run.
        #[arg(value_enum, value_name = "STEP")]
        steps: Vec<Step>,
    },
    /// Hold the crates' dependencies against the rule of docs/ARCHITECTURE.md.
    Deps,
    /// Measure, beside a peer, in the same run.
    Bench(BenchArgs),
    /// Boot many guests in a row, then measure an idle one.
    Soak(SoakArgs),
    /// Kill popf while its guest writes, and see whether what was acknowledged is there.
    Durability(DurabilityArgs),
    /// Run the programs of kvm-unit-tests, and hold the results against what is known.
    Units(UnitsArgs),
    /// Build the guide as a book of HTML pages (needs mdbook).
    Guide,
}

fn main() -> ExitCode {
    // Every path below is relative to the workspace.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    if let Err(error) = std::env::set_current_dir(root) {
        eprintln!("error: cannot enter {}: {error}", root.display());
        return ExitCode::FAILURE;
    }
    let result = match Cli::parse().chore {
        Chore::Check { steps } => check::run(&steps),
        Chore::Deps => deps::run(),
        Chore::Bench(args) => bench::run(&args),
        Chore::Soak(args) => soak::run(&args),
        Chore::Durability(args) => durability::run(&args),
        Chore::Units(args) => units::run(&args),
        Chore::Guide => guide::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The cargo that runs this.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
