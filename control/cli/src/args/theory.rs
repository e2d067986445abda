//! The grammar of `popf theory`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use ::theory::Isa;

/// Examples under the help of `popf theory` and its subcommands.
pub const HELP: &str = "\
Examples:
  popf theory run theory/examples/hello.asm
  popf theory run theory/examples/tasks.asm --depth 2 --trace
                                         two monitors, one in the other's VM, and all that they do
  popf theory run theory/examples/jrst.asm --isa jrst --depth 1
                                         a program that finds out; --hybrid, and it does not
  popf theory check                      which instruction sets can be virtualized
  popf theory check --isa popf           why not: the states that show it

Instruction sets: third (virtualizable), jrst, popf, getm, lra, setr (each with one
instruction that fails to trap).
";

/// `popf theory`.
#[derive(Debug, Subcommand)]
pub enum TheoryCommand {
    /// Assemble a program and run it on a third-generation machine, or in a VM on it.
    #[command(after_help = HELP)]
    Run(ProgramArgs),
    /// Compute which instructions are sensitive, and what the theorems say of them.
    #[command(after_help = HELP)]
    Check(CheckArgs),
}

/// `popf theory run`.
#[derive(Args, Debug)]
pub struct ProgramArgs {
    /// The program's text.
    pub program: PathBuf,
    /// How many monitors are below it, one in the other's VM; 0 is the real machine.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=64))]
    pub depth: u32,
    /// Monitors are hybrid ones, which interpret all of a VM's supervisor mode (theorem 3).
    #[arg(long)]
    pub hybrid: bool,
    /// The instruction set.
    #[arg(long, value_name = "NAME", default_value = "third", value_parser = isa)]
    pub isa: &'static Isa,
    /// Words of memory that the program finds.
    #[arg(long, value_name = "WORDS", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(16..=1 << 19))]
    pub memory: u64,
    /// Instructions after which the program is stopped.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub limit: u64,
    /// Standard input, read to its end, is what the console has to read.
    #[arg(short, long)]
    pub interactive: bool,
    /// Tell on standard error each trap and what the monitors made of it.
    #[arg(long)]
    pub trace: bool,
    /// Tell how it ended as JSON, with the console's output in it.
    #[arg(long)]
    pub json: bool,
}

/// `popf theory check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// One instruction set, with witnesses; all of them in a table if none is named.
    #[arg(long, value_name = "NAME", value_parser = isa)]
    pub isa: Option<&'static Isa>,
    /// How large a machine's states are counted out. 2 words are too few for GETR to give itself away.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=3))]
    pub words: u64,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

fn isa(name: &str) -> Result<&'static Isa, String> {
    Isa::named(name).ok_or_else(|| {
        let names: Vec<_> = ::theory::isa::ISAS.iter().map(|isa| isa.name).collect();
        format!("there are {}", names.join(", "))
    })
}
