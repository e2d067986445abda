//! The grammar of `popf trace` and `popf top`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use vms::Name;

const TRACE_HELP: &str = "\
Examples:
  popf trace web                         five seconds: what made the guest leave guest code, and where
  popf trace web --flame out.svg         and where its time goes, as a flame graph
  popf trace web --block 0xffffffff81a00080
  popf trace web --block do_syscall_64+0x20
                                         the translation of the code there, beside the code
  popf run -d --name b busybox; popf trace b --total --for 3
                                         a boot: since the machine's start
  popf trace web --record web.trace      for later: popf trace --replay web.trace
  popf trace web --perf-map              names for `perf report` of `perf record -p PID`
  popf trace web --json

Names come from the guest kernel's own table of symbols, read out of its memory; --symbols overrules that. What is
counted by place, and samples, are of the time of the trace; counts by cause are too, but with --total.
";

const TOP_HELP: &str = "\
Examples:
  popf top                               all VMs
  popf top web                           one: exits by cause and by place, the engine, where time goes
  popf top web --once                    one screen as text
  popf top --replay web.trace            what `popf trace --record` or `popf top --record` wrote

Keys: q quits; space stops the screen and lets it go on; left and right go through a recording.
";

/// Where names and numbers come from, and go to.
#[derive(Args, Debug)]
pub struct Recording {
    /// Names of the guest's functions: System.map, or what /proc/kallsyms says in the guest.
    #[arg(long, value_name = "FILE")]
    pub symbols: Option<PathBuf>,
    /// Write what is seen to a file, too.
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    pub record: Option<PathBuf>,
    /// Show what was recorded, of no VM that need be there any more.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "symbols"])]
    pub replay: Option<PathBuf>,
}

/// `popf trace`.
#[derive(Args, Debug)]
#[command(after_help = TRACE_HELP)]
pub struct TraceArgs {
    /// The VM.
    #[arg(required_unless_present = "replay")]
    pub name: Option<Name>,
    /// For how many seconds.
    #[arg(long = "for", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub duration: Duration,
    /// Show counts by cause since the machine's start.
    #[arg(long)]
    pub total: bool,
    /// Lines of each list.
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub lines: usize,
    /// Look this often per second where each vCPU is. 0 is never; with --flame it is 97.
    #[arg(long, value_name = "HERTZ", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub hertz: Option<u32>,
    /// Write a flame graph of where vCPUs were, as an SVG.
    #[arg(long, value_name = "FILE")]
    pub flame: Option<PathBuf>,
    /// Write the map by which Linux' perf names the VM's guest code, and print where it is.
    #[arg(long, conflicts_with_all = ["replay", "record", "flame", "block"])]
    pub perf_map: bool,
    /// Show what the engine has made of the guest code at an address, or at a NAME+0xOFFSET.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["replay", "record", "flame"])]
    pub block: Option<String>,
    /// With --block: whose translation cache.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "block")]
    pub vcpu: u8,
    /// Files.
    #[command(flatten)]
    pub files: Recording,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `popf top`.
#[derive(Args, Debug)]
#[command(after_help = TOP_HELP)]
pub struct TopArgs {
    /// The VM; all of them if there is no name.
    pub name: Option<Name>,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: Duration,
    /// Look this often per second where each vCPU is; 0 is never.
    #[arg(long, value_name = "HERTZ", default_value_t = 97, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub hertz: u32,
    /// Print one screen and end.
    #[arg(long)]
    pub once: bool,
    /// Files.
    #[command(flatten)]
    pub files: Recording,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is a number of seconds from 0.1 to 86400, such as 2.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if (0.1..=86_400.0).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}
