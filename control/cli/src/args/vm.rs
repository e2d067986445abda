//! The grammar of what is done with VMs that are there.

use std::time::Duration;

use clap::Args;
use vms::Name;

/// A subcommand about one VM.
#[derive(Args, Debug)]
pub struct NameArg {
    /// The VM.
    pub name: Name,
}

/// `popf ps`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  popf ps\n  popf ps --all --json | jq -r '.[].name'")]
pub struct PsArgs {
    /// Also those that are stopped and kept.
    #[arg(long, short)]
    pub all: bool,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

const STOP_HELP: &str = "\
The guest is asked by its power button and, if it does not listen to that or takes long, by the agent in it. popf comes back when the VM has ended; if that takes longer than the timeout,
the guest goes on shutting down, or does whatever it does, and popf says so.

Examples:
  popf stop web
  popf stop --timeout 5 web || popf kill web
";

/// `popf stop`.
#[derive(Args, Debug)]
#[command(after_help = STOP_HELP)]
pub struct StopArgs {
    /// The VM.
    pub name: Name,
    /// Seconds to wait for the guest to shut down.
    #[arg(long, short, value_name = "SECONDS", default_value = "90", value_parser = seconds)]
    pub timeout: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = |_| "expected a number of seconds".to_owned();
    text.parse().map_err(wrong).and_then(|seconds| {
        // NaN, negative and endless ones too.
        Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
    })
}

/// `popf rm`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  popf rm web")]
pub struct RmArgs {
    /// The VM.
    pub name: Name,
    /// Kill it first if it runs.
    #[arg(long, short)]
    pub force: bool,
}

/// `popf logs`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  popf logs web | less\n  popf logs --follow web")]
pub struct LogsArgs {
    /// The VM.
    pub name: Name,
    /// Go on as the console says more, until the VM ends.
    #[arg(long, short)]
    pub follow: bool,
}
