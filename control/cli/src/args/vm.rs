//! The grammar of what is done with VMs that are there.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use vms::Name;

use crate::size::Size;

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

/// `popf shell`.
#[derive(Args, Debug)]
#[command(after_help = SHELL_HELP)]
pub struct ShellArgs {
    /// The VM.
    pub name: Name,
    /// Seconds to wait for a guest that is still starting.
    #[arg(long, short, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub timeout: Duration,
    /// Run just this; its output and exit status are popf's.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

const SHELL_HELP: &str = "\
The guest's agent runs the command as root; the guest's serial console has no part in it. On a terminal the command gets
one of its own, and Ctrl-] q lets go of it.

Examples:
  popf shell web
  popf shell web -- systemctl is-system-running
  popf shell web -- tar -c -C /etc . > etc.tar
";

/// `popf cp`.
#[derive(Args, Debug)]
#[command(after_help = CP_HELP)]
pub struct CpArgs {
    /// What is copied: PATH, or NAME:PATH in a VM.
    #[arg(value_name = "SRC")]
    pub source: Place,
    /// Where to: a folder that is there, or a new name.
    #[arg(value_name = "DST")]
    pub target: Place,
}

const CP_HELP: &str = "\
One of the two is in a VM; its path there is seen from /root. Folders are copied with what is in them. In the guest
everything belongs to root, on the host to you.

Examples:
  popf cp site web:/var/www
  popf cp web:/var/log/journal .
  popf cp ./odd:name web:
";

/// A path here or in a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The VM.
    pub vm: Option<Name>,
    /// The path.
    pub path: PathBuf,
}

impl FromStr for Place {
    type Err = std::convert::Infallible;

    /// A colon behind what could be a name makes it one; a path with a colon can be written as `./odd:name`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let in_vm = text.split_once(':').and_then(|(name, path)| Some((name.parse().ok()?, path)));
        Ok(match in_vm {
            Some((name, path)) => Self { vm: Some(name), path: path.into() },
            None => Self { vm: None, path: text.into() },
        })
    }
}

/// `popf memory`.
#[derive(Args, Debug)]
#[command(after_help = MEMORY_HELP)]
pub struct MemoryArgs {
    /// The VM.
    pub name: Name,
    /// How much of it the guest is to have: bytes, or with K, M, G; at most what it was started with.
    #[arg(value_name = "SIZE")]
    pub size: Option<Size>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

const MEMORY_HELP: &str = "\
A guest gives memory up by its balloon driver (virtio-balloon), as much as it can spare and in its own time, and the host
has it back; asked for less, it takes it again. What is not known is left out.

Examples:
  popf memory web
  popf memory web 512M
  popf memory web --json | jq .guest.available
";

/// `popf stats`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  popf stats web\n  popf stats web --json | jq '.vcpus[0].rows[:3]'")]
pub struct StatsArgs {
    /// The VM.
    pub name: Name,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_behind_a_name_leads_into_a_vm() {
        let place = |text: &str| text.parse::<Place>().unwrap();
        let in_vm = |name: &str, path: &str| Place { vm: Some(name.parse().unwrap()), path: path.into() };
        assert_eq!(place("web:/etc/passwd"), in_vm("web", "/etc/passwd"));
        assert_eq!(place("web:"), in_vm("web", ""));
        assert_eq!(place("web:a:b"), in_vm("web", "a:b"));
        for path in ["/etc/passwd", "a", "./odd:name", "/a:b", ":x"] {
            assert_eq!(place(path), Place { vm: None, path: path.into() }, "{path}");
        }
    }
}
