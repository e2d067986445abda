//! The command line's grammar, and the help that teaches it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::disk::CreateArgs;
use crate::exit;
use crate::size::Size;
use crate::spec::disk::DiskSpec;

const EXAMPLES: &str = "\
Examples:
  popf run busybox                       a shell in a virtual machine
  popf run busybox -- uname -a           one command; its output and exit status are popf's
  popf run --kernel bzImage --initrd initrd.gz --cmdline 'console=ttyS0' --memory 1G
                                         a kernel of your own
  popf doctor                            what this host offers, and which engine will run guests
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

fn after_long_help() -> String {
    format!("{EXAMPLES}\n{}", exit::HELP)
}

/// popf's subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot an image or a kernel of your own.
    Run(RunArgs),
    /// Build, list and remove images.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Show what this host offers and which engine will be used, and why.
    Doctor(DoctorArgs),
}

const RUN_HELP: &str = "\
Examples:
  popf run busybox                          a shell; leave with `poweroff`, or Ctrl-] q
  popf run busybox -- sh -c 'exit 7'        exits with 7
  echo hello | popf run -i busybox -- md5sum
                                            standard input, read to its end, goes to the command
  popf run --kernel bzImage --initrd initrd.gz --cmdline 'console=ttyS0 quiet'
  popf run --kernel test.elf --debug-exit   a multiboot or PVH kernel that reports by port 0xf4

On the terminal, Ctrl-] is the escape key: Ctrl-] q quits, Ctrl-] Ctrl-] sends one Ctrl-].
";

fn run_after_help() -> String {
    format!("{RUN_HELP}\n{}", exit::HELP)
}

/// `popf run`.
#[derive(Args, Debug)]
#[command(after_help = run_after_help())]
#[command(override_usage = "popf run [OPTIONS] IMAGE [-- COMMAND ...]\n       \
                            popf run [OPTIONS] --kernel FILE [--initrd FILE] [--cmdline STRING]")]
pub struct RunArgs {
    /// Name of an image; built first when it is missing.
    #[arg(value_name = "IMAGE", required_unless_present = "kernel", conflicts_with = "kernel")]
    pub image: Option<String>,

    /// A kernel: Linux bzImage, or ELF with a PVH note or a multiboot header.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Initial RAM disk, or multiboot module; given several times, Linux sees them as one.
    #[arg(long, value_name = "FILE", requires = "kernel", conflicts_with = "image")]
    pub initrd: Vec<PathBuf>,

    /// Kernel command line [default with --kernel: console=ttyS0; added to an image's own].
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub cmdline: Option<String>,

    /// The guest's memory: bytes, or with K, M, G.
    #[arg(long, short, value_name = "SIZE", default_value = "512M")]
    pub memory: Size,

    /// The guest's processors; only 1 for now.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_cpus)]
    pub cpus: u8,

    /// How guest code runs.
    #[arg(long, value_enum, default_value_t = EngineArg::Auto)]
    pub engine: EngineArg,

    /// Where the first serial port goes: stdio, null or file:PATH.
    #[arg(long, value_name = "WHERE", default_value = "stdio", conflicts_with = "command")]
    pub serial: SerialArg,

    /// A disk: an image or block device [,format=raw|qcow2|vmdk][,readonly][,snapshot][,serial=S][,queues=N].
    #[arg(long, value_name = "PATH[,OPTION...]")]
    pub disk: Vec<DiskSpec>,

    /// Let the guest end popf with an exit status by writing it to port 0xf4.
    #[arg(long)]
    pub debug_exit: bool,

    /// End when the guest resets instead of starting it again.
    #[arg(long)]
    pub no_reboot: bool,

    /// Give COMMAND popf's standard input, read to its end first; a terminal is given without this.
    #[arg(long, short = 'i', requires = "command")]
    pub stdin: bool,

    /// When the guest has ended, list what made it leave guest code, on standard error.
    #[arg(long)]
    pub stats: bool,

    /// Run just this in the guest; its output and exit status are popf's.
    #[arg(last = true, value_name = "COMMAND", requires = "image", conflicts_with = "kernel")]
    pub command: Vec<OsString>,
}

fn parse_cpus(text: &str) -> Result<u8, String> {
    match text.parse::<u32>() {
        Ok(1) => Ok(1),
        Ok(0) => Err("a machine needs a processor".into()),
        Ok(_) => Err("popf runs guests on one processor so far; leave --cpus out or give 1".into()),
        Err(_) => Err("expected a number".into()),
    }
}

/// `--engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineArg {
    /// The best that works on this host.
    Auto,
    /// Binary translation: needs nothing of the host.
    Translator,
}

/// `--serial`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialArg {
    /// Standard input and output.
    Stdio,
    /// Nowhere.
    Null,
    /// What the guest sends, to a file.
    File(PathBuf),
}

impl FromStr for SerialArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("file:")) {
            ("stdio", _) => Ok(Self::Stdio),
            ("null", _) => Ok(Self::Null),
            (_, Some(path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("expected stdio, null or file:PATH".into()),
        }
    }
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
    use clap::CommandFactory;

    fn run(line: &str) -> Result<RunArgs, clap::Error> {
        match Cli::try_parse_from(line.split(' '))?.command {
            Command::Run(args) => Ok(args),
            other => panic!("not run: {other:?}"),
        }
    }

    #[test]
    fn grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_follows_two_dashes() {
        let args = run("popf run busybox -- sh -c exit --help").unwrap();
        assert_eq!(args.image.as_deref(), Some("busybox"));
        assert_eq!(args.command, ["sh", "-c", "exit", "--help"]);
        assert_eq!((args.memory, args.cpus), (Size(512 << 20), 1));
    }

    #[test]
    fn kernels_come_with_their_files() {
        let args = run("popf run --kernel k --initrd a --initrd b --cmdline -x --memory 1G").unwrap();
        assert_eq!(args.initrd.len(), 2);
        assert_eq!((args.cmdline.as_deref(), args.memory), (Some("-x"), Size(1 << 30)));
        let args = run("popf run --kernel k --serial file:out --debug-exit --no-reboot").unwrap();
        assert_eq!(args.serial, SerialArg::File("out".into()));
        assert!(args.debug_exit && args.no_reboot);
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "popf run",
            "popf run busybox --kernel k",
            "popf run --kernel k -- ls",
            "popf run busybox --initrd i",
            "popf run busybox --cpus 2",
            "popf run busybox --cpus 0",
            "popf run busybox --memory lots",
            "popf run busybox --serial file:",
            "popf run busybox --serial tty",
            "popf run busybox --engine magic",
            "popf run busybox --serial null -- ls",
        ] {
            let error = run(line).unwrap_err();
            assert_eq!(error.exit_code(), i32::from(exit::Failure::Usage as u8), "{line}");
        }
    }
}
