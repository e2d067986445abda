//! The command line's grammar, and the help that teaches it.

mod classify;
mod scan;
mod theory;
mod trace;
mod vm;

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use classify::{Class, ClassifyArgs};
pub use scan::ScanArgs;
pub use theory::{CheckArgs, ProgramArgs, TheoryCommand};
pub use trace::{Recording, TopArgs, TraceArgs};
pub use vm::{CpArgs, LogsArgs, MemoryArgs, NameArg, Place, PsArgs, RmArgs, ShellArgs, StatsArgs, StopArgs};

use crate::definition::Definition;
use crate::disk::CreateArgs;
use crate::exit;

const EXAMPLES: &str = "\
Examples:
  popf run busybox                       a shell in a virtual machine
  popf run busybox -- uname -a           one command; its output and exit status are popf's
  popf run --kernel bzImage --initrd initrd.gz --cmdline 'console=ttyS0' --memory 1G
                                         a kernel of your own
  popf run -d --name web debian          a machine that runs on, and keeps its disk
  popf ps; popf logs web; popf stop web  what runs; what it said; turn it off
  popf doctor                            what this host offers, and which engine will run guests
  popf classify; popf scan vmlinuz       what stands in a hypervisor's way: on x86, in a kernel
  popf theory check                      and why, by the theorems of 1974
";

/// A hypervisor for x86 PCs that needs no help from the CPU.
#[derive(Debug, Parser)]
#[command(name = "popf", version, after_help = EXAMPLES, after_long_help = after_long_help())]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The grammar without what is not for people, which a shell would complete all the same.
pub fn shown() -> clap::Command {
    let full = Cli::command();
    let shown = full.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    clap::Command::new("popf").version(env!("CARGO_PKG_VERSION")).subcommands(shown)
}

fn after_long_help() -> String {
    format!("{EXAMPLES}\n{}", exit::HELP)
}

/// popf's subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot an image or a kernel of your own.
    Run(Box<RunArgs>),
    /// The process behind `popf run --detach`.
    #[command(hide = true)]
    RunDetached,
    /// List VMs.
    Ps(PsArgs),
    /// Run a command, or a shell, in a VM that runs.
    Shell(ShellArgs),
    /// Copy files and folders between the host and a VM that runs.
    Cp(CpArgs),
    /// Show what makes a VM's guest leave guest code, where, and at what cost; what becomes of its code.
    Trace(TraceArgs),
    /// Show the same live, on a screen; of one VM or all.
    Top(TopArgs),
    /// Show what made a VM's guest leave guest code since its start, at what cost, and what the engine did.
    Stats(StatsArgs),
    /// Show how a VM uses its memory, or have its guest give some of it up.
    Memory(MemoryArgs),
    /// Have a VM's guest shut down, by its power button.
    Stop(StopArgs),
    /// End a VM at once, as by pulling its plug.
    #[command(after_help = "Example:\n  popf kill web")]
    Kill(NameArg),
    /// Remove what is kept of a VM: its disk, its log, its definition.
    Rm(RmArgs),
    /// Show what a detached VM's console said.
    Logs(LogsArgs),
    /// Build, list and remove images.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Show what this host offers and which engine will be used, and why.
    Doctor(DoctorArgs),
    /// Show what each x86 instruction is to a hypervisor, and why; try it on this processor.
    Classify(ClassifyArgs),
    /// Find the sensitive instructions of a program, a kernel or a raw image.
    Scan(ScanArgs),
    /// Run and check the theory that popf is built on: Popek and Goldberg's machine and theorems.
    #[command(subcommand, after_help = theory::HELP)]
    Theory(TheoryCommand),
    /// Print a script that teaches a shell to complete popf's words.
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

const COMPLETIONS_HELP: &str = "\
Examples:
  popf completions bash > ~/.local/share/bash-completion/completions/popf
  popf completions zsh > ~/.zfunc/_popf
  popf completions fish > ~/.config/fish/completions/popf.fish
";

const RUN_HELP: &str = "\
Examples:
  popf run busybox                          a shell; leave with `poweroff`, or Ctrl-] q
  popf run busybox -- sh -c 'exit 7'        exits with 7
  echo hello | popf run -i busybox -- md5sum
                                            standard input, read to its end, goes to the command
  popf run --kernel bzImage --initrd initrd.gz --cmdline 'console=ttyS0 quiet'
  popf run --kernel test.elf --debug-exit   a multiboot or PVH kernel that reports by port 0xf4
  popf run -d --name web debian             runs on when popf returns; its disk is kept
  popf run --name web                       the same VM again, with the same disk
  popf run --memory 2G vm.toml              a definition, and a flag that overrules it
  popf run --memory 2G debian --print-definition > vm.toml

A definition is TOML. Its keys are the long flags, `image` and `command`:
  image = \"debian\"
  name = \"web\"
  memory = \"2G\"
Flags overrule its fields; a list given by flags replaces the definition's. Paths in it are seen from where it lies.

On the terminal, Ctrl-] is the escape key: Ctrl-] q quits, Ctrl-] Ctrl-] sends one Ctrl-].
";

fn run_after_help() -> String {
    format!("{RUN_HELP}\n{}", exit::HELP)
}

/// `popf run`.
#[derive(Args, Debug)]
#[command(after_help = run_after_help())]
#[command(override_usage = "popf run [OPTIONS] IMAGE [-- COMMAND ...]\n       \
                            popf run [OPTIONS] FILE.toml [-- COMMAND ...]\n       \
                            popf run [OPTIONS] --kernel FILE [--initrd FILE] [--cmdline STRING]\n       \
                            popf run [OPTIONS] --name NAME")]
pub struct RunArgs {
    /// The VM.
    #[command(flatten)]
    pub definition: Definition,

    /// Run nothing; print what would be run, as a definition.
    #[arg(long)]
    pub print_definition: bool,
}

/// `popf image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make an image from Debian packages, fetched with the host's apt (no root needed).
    #[command(after_help = "Example:\n  popf image build busybox")]
    Build {
        /// Its name, such as busybox.
        name: String,
        /// Fetch and build anew even if it is there.
        #[arg(long)]
        refresh: bool,
    },
    /// Make an empty disk image, or one that keeps what changes of another.
    Create(CreateArgs),
    /// List the images that have been built.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove an image.
    Rm {
        /// Its name.
        name: String,
    },
}

/// `popf doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar_is_sound() {
        Cli::command().debug_assert();
    }

    /// Whether a subcommand is run as popf runs itself.
    #[test]
    fn the_hidden_subcommand_is_called_what_popf_calls() {
        let cli = Cli::try_parse_from(["popf", crate::run::SUBCOMMAND]).unwrap();
        assert!(matches!(cli.command, Command::RunDetached));
    }
}
