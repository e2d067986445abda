//! The grammar of `popf classify`.

use clap::{Args, ValueEnum};
use x86::classify::{Row, Sensitivity};
use x86::{Cr4, Mode};

const HELP: &str = "\
Examples:
  popf classify                          what is sensitive and does not trap: x86's offenders
  popf classify popf                     all that is known of one instruction
  popf classify --class privileged --mode protected32
  popf classify --class any --extension xsave
  popf classify --theorem                which processors a monitor can trap and emulate on
  popf classify --experiment             run the offenders on this processor, in user mode
";

/// `popf classify`.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct ClassifyArgs {
    /// Instructions whose name, reason or manual contains this.
    pub text: Option<String>,
    /// Instructions of this class. Offenders, if neither this nor a text is given; any with a text.
    #[arg(long, value_name = "CLASS")]
    pub class: Option<Class>,
    /// In this mode of the processor.
    #[arg(long, value_name = "MODE", default_value = "long64")]
    pub mode: ModeArg,
    /// Instructions of this extension, by iced-x86's name of its CPUID flag, such as SMAP.
    #[arg(long, value_name = "NAME")]
    pub extension: Option<String>,
    /// Apply the theorem to x86 and to what has been added to it.
    #[arg(long, conflicts_with_all = ["text", "class", "extension", "experiment"])]
    pub theorem: bool,
    /// Run the offenders, and some others, on this host's processor, in a process that may do nothing else.
    #[arg(long, conflicts_with_all = ["text", "class", "extension", "mode"])]
    pub experiment: bool,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// Popek and Goldberg's classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Class {
    /// Sensitive and not privileged.
    Offender,
    /// Sensitive in either way.
    Sensitive,
    /// Tries to change the configuration of resources, or the mode.
    Control,
    /// Its result depends on that configuration, or on the mode.
    Behaviour,
    /// Traps in user mode, and not in supervisor mode.
    Privileged,
    /// Not sensitive.
    Innocuous,
    /// Whatever it is.
    Any,
}

impl Class {
    /// Whether an instruction with this row is of it.
    pub fn holds(self, row: &Row) -> bool {
        let either = |one| [one, Sensitivity::Both].contains(&row.sensitivity);
        match self {
            Self::Offender => row.is_offender(Cr4::empty()),
            Self::Sensitive => row.is_sensitive(),
            Self::Control => either(Sensitivity::Control),
            Self::Behaviour => either(Sensitivity::Behaviour),
            Self::Privileged => row.privileged,
            Self::Innocuous => !row.is_sensitive(),
            Self::Any => true,
        }
    }
}

/// A mode of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// Real mode.
    Real,
    /// Virtual-8086 mode.
    Virtual8086,
    /// Protected mode, 16-bit code.
    Protected16,
    /// Protected mode, 32-bit code.
    Protected32,
    /// 64-bit mode.
    Long64,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Real => Self::Real,
            ModeArg::Virtual8086 => Self::Virtual8086,
            ModeArg::Protected16 => Self::Protected16,
            ModeArg::Protected32 => Self::Protected32,
            ModeArg::Long64 => Self::Long64,
        }
    }
}
