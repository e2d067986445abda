//! The offenders on the real processor, in user mode: do they trap, do they silently do less, or do they tell the
//! truth about the host?
//!
//! Each runs in a [trial](mod@trial) of its own. The time-stamp counter around it shows whether somebody carried
//! it out for us: a kernel that answers for UMIP takes a thousand cycles and more, and so does a hypervisor below.

mod assemble;
mod probes;
mod tell;

use std::fmt::Write as _;

use host::HostError;
use host::trial::{self, End};
use iced_x86::{Decoder, DecoderOptions, Formatter as _, NasmFormatter};
use serde::Serialize;
use x86::Mode;
use x86::classify::{Row, TrapSwitch, classify};

use self::assemble::Assembled;
use self::probes::{PROBES, Probe, Width};
use self::tell::{Seen, Told};
use super::{class, traps};
use crate::error::CliError;
use crate::exit::Failure;
use crate::image::{print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    processor: String,
    vendor: String,
    /// Whether the processor has UMIP, which Linux then turns on.
    umip: bool,
    /// Whether this host is itself a virtual machine, as CPUID says.
    hypervisor: bool,
    trials: Vec<Trial>,
}

/// What happened to one instruction.
#[derive(Serialize)]
struct Trial {
    instruction: String,
    bytes: String,
    class: &'static str,
    privileged: bool,
    traps: &'static str,
    happened: Happened,
    /// What it told, did or left undone; the exception, if there was one.
    detail: String,
    /// By the time-stamp counter, its own cost included; none where it did not go on behind the instruction.
    cycles: Option<u64>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Happened {
    /// An exception: a monitor would hear of it.
    Trapped,
    /// This processor has no such instruction, or the kernel has turned it off.
    Absent,
    /// It entered the kernel by a gate made for it.
    EnteredKernel,
    /// Part of what it would do in ring 0 was left undone, and nobody was told.
    SilentlyIgnored,
    /// It told the truth about the host.
    ToldTheTruth,
    /// The kernel answered for it, with something made up.
    MadeUp,
    /// It worked as it would have in ring 0.
    Done,
}

/// A sensitive instruction that takes longer than this has been carried out by somebody else.
const BY_SOMEBODY_ELSE: u64 = 600;

/// Runs the experiment and prints what happened.
pub fn run(json: bool) -> Result<(), CliError> {
    let report = report().map_err(|error| {
        let hint = "it needs fork, seccomp and memory below 2 GiB that may be executed; see `popf doctor`";
        CliError::new(Failure::Host, "the experiment cannot be made here").because(error).hint(hint)
    })?;
    if json { print_json(&report) } else { print(format_args!("{}", text(&report))) }
}

fn report() -> Result<Report, HostError> {
    let umip = host::cpu::cpuid_checked(7, 0).ecx & 1 << 2 != 0;
    let trials = PROBES.iter().map(|probe| trial(probe, umip)).collect::<Result<_, _>>()?;
    Ok(Report {
        processor: host::cpu::brand(),
        vendor: host::cpu::vendor(),
        umip,
        hypervisor: host::cpu::cpuid(1, 0).ecx & 1 << 31 != 0,
        trials,
    })
}

fn trial(probe: &Probe, umip: bool) -> Result<Trial, HostError> {
    let (instruction, row) = decode(probe);
    let Assembled { code, gpr, timed } = Assembled::of(probe);
    let outcome = trial::run(&code, gpr)?;
    let seen = Seen::new(&outcome, timed);
    let (happened, detail) = match outcome.end {
        End::Exception { vector: 6, .. } => (Happened::Absent, "#UD".into()),
        End::Exception { vector, error_code } => (Happened::Trapped, exception(vector, error_code)),
        End::SystemCall => (Happened::EnteredKernel, "by a gate that is open to users".into()),
        End::Endless => (Happened::Done, "it did not come to an end".into()),
        End::Done => match (probe.tell)(&seen) {
            Told::Truth(text) if umip && row.switch == Some(TrapSwitch::Umip) && seen.is_slow() => {
                (Happened::MadeUp, text)
            }
            Told::Truth(text) => (Happened::ToldTheTruth, text),
            Told::Ignored(text) => (Happened::SilentlyIgnored, text),
            Told::Did(text) => (Happened::Done, text),
        },
    };
    Ok(Trial {
        instruction,
        bytes: probe.code.iter().map(|byte| format!("{byte:02x}")).collect(),
        class: class(&row),
        privileged: row.privileged,
        traps: traps(&row),
        happened,
        detail,
        cycles: (outcome.end == End::Done).then_some(seen.cycles).flatten(),
    })
}

/// The instruction that is tried, as text, and its row.
fn decode(probe: &Probe) -> (String, Row) {
    let (bits, mode) = match probe.width {
        Width::Bits64 => (64, Mode::Long64),
        Width::Bits32 => (32, Mode::Protected32),
    };
    let instruction = Decoder::new(bits, probe.code, DecoderOptions::NONE).decode();
    let mut text = String::new();
    NasmFormatter::new().format(&instruction, &mut text);
    (text, classify(instruction.code(), mode))
}

fn exception(vector: u8, error_code: u64) -> String {
    let name = match vector {
        0 => "#DE",
        1 => "#DB",
        3 => "#BP",
        4 => "#OF",
        11 => "#NP",
        12 => "#SS",
        13 => "#GP",
        14 => "#PF",
        _ => return format!("vector {vector}"),
    };
    if error_code == 0 { name.into() } else { format!("{name}({error_code:x}h)") }
}

fn text(report: &Report) -> String {
    let Report { processor, vendor, umip, hypervisor, trials } = report;
    let mut text = format!("{processor} ({vendor}), ring 3\n");
    text += if *umip {
        "UMIP: yes. Linux turns it on, takes the trap, and answers for the instruction.\n"
    } else {
        "UMIP: no.\n"
    };
    if *hypervisor {
        text += "This host is a virtual machine: what traps to its hypervisor takes long, and what it tells of the \
                 processor is the hypervisor's word.\n";
    }
    let _ = writeln!(
        text,
        "\n{:<20} {:<10} {:<10} {:>8}  what happened",
        "instruction", "sensitive", "traps", "cycles"
    );
    for trial in trials {
        let Trial { instruction, class, traps, happened, detail, cycles, .. } = trial;
        let cycles = cycles.map_or_else(|| "-".into(), |cycles| cycles.to_string());
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{instruction:<20} {class:<10} {traps:<10} {cycles:>8}  {}: {detail}",
            happened.words()
        );
    }
    let count = |wanted| trials.iter().filter(|trial| trial.happened == wanted).count();
    text.push('\n');
    for happened in [
        Happened::Trapped,
        Happened::EnteredKernel,
        Happened::SilentlyIgnored,
        Happened::ToldTheTruth,
        Happened::MadeUp,
        Happened::Done,
        Happened::Absent,
    ] {
        let _ = writeln!(text, "{:>4}  {}", count(happened), happened.words());
    }
    text
}

impl Happened {
    fn words(self) -> &'static str {
        match self {
            Self::Trapped => "trapped",
            Self::Absent => "not on this processor",
            Self::EnteredKernel => "entered the kernel",
            Self::SilentlyIgnored => "silently ignored",
            Self::ToldTheTruth => "told the truth about the host",
            Self::MadeUp => "answered by the kernel with something made up",
            Self::Done => "done, and nobody was told",
        }
    }
}
