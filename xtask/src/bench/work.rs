//! `cargo xtask bench`: one list of workloads on the host, in popf's guest and in QEMU's.
//!
//! All three have the same binaries: the guests as a disk, the host as a root folder of its own. They take turns, and the
//! host's clock times all of them. What a workload writes is compared, so that a fast wrong answer does not count.

mod list;
mod report;
mod root;
mod run;

use std::process::Command;
use std::time::Duration;

use clap::Args;

use self::list::WORKLOADS;
use self::report::Report;
use self::root::Root;
use self::run::Pass;
use super::boot::{self, Image};

/// The three, in the order of figures.
pub const PEERS: [&str; 3] = ["native", "popf", "qemu"];
const MEMORY_MIB: u32 = 1536;
const SCRIPT: &str = "/bench/run.sh";

/// `cargo xtask bench`.
#[derive(Args)]
pub struct WorkArgs {
    /// Only this workload; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Leave one of the three out: native, popf or qemu.
    #[arg(long, value_name = "PEER", value_parser = PEERS)]
    without: Vec<String>,
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Give up on a workload after so many seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    /// Print the figures as JSON, on standard output.
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub fn run(args: &WorkArgs) -> Result<(), String> {
    if let Some(unknown) = args.only.iter().find(|name| WORKLOADS.iter().all(|work| work.name != **name)) {
        let names: Vec<_> = WORKLOADS.iter().map(|work| work.name).collect();
        return Err(format!("there is no workload {unknown}; there are {}", names.join(", ")));
    }
    let popf = boot::build()?;
    let image = boot::find_image(&popf, "debian")?;
    let root = root::make()?;
    let only = args.only.join(",");
    let mut passes: [Vec<Pass>; 3] = Default::default();
    for round in 0..args.rounds as usize {
        for turn in 0..PEERS.len() {
            // Who goes first changes, so that nobody always finds the others' cold or hot machine.
            let peer = (turn + round) % PEERS.len();
            if args.without.iter().any(|left_out| left_out == PEERS[peer]) {
                continue;
            }
            let mut command = match peer {
                0 => native(&root, &only, &first_processor()?),
                _ => guest(&popf, &image, &root, &only, peer),
            };
            let pass = run::run(&mut command, Duration::from_secs(args.timeout))
                .map_err(|error| format!("{}: {error}", PEERS[peer]))?;
            let total: f64 = pass.workloads.values().map(|measured| measured.seconds).sum();
            eprintln!(
                "round {}: {:<6} {total:7.2} s, ready after {:.2} s",
                round + 1,
                PEERS[peer],
                pass.ready
            );
            passes[peer].push(pass);
        }
    }
    let report = Report::of(args.rounds, &passes)?;
    report.print(args.json)
}

/// The number of the first processor that this process may use.
fn first_processor() -> Result<String, String> {
    const STATUS: &str = "/proc/self/status";
    let status = std::fs::read_to_string(STATUS).map_err(|error| format!("cannot read {STATUS}: {error}"))?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = list.and_then(|list| list.trim().split(['-', ',']).next());
    first.map(str::to_owned).ok_or_else(|| format!("{STATUS} does not say which processors may be used"))
}

/// On the host, with processes and mounts of its own, and on one processor, since that is what the guests have.
fn native(root: &Root, only: &str, processor: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", processor, "unshare", "--mount", "--pid", "--fork", "--kill-child"]);
    command.arg(format!("--root={}", root.folder.display())).arg(SCRIPT);
    command.env("BENCH_ONLY", only);
    command
}

fn guest(popf: &std::path::Path, image: &Image, root: &Root, only: &str, peer: usize) -> Command {
    let image = Image { disk: Some(root.disk.clone()), ..image.clone() };
    let mut cmdline = crate::guest::cmdline(SCRIPT);
    if !only.is_empty() {
        cmdline = format!("{cmdline} bench.only={only}");
    }
    match PEERS[peer] {
        "popf" => boot::popf_command(popf, &image, &cmdline, MEMORY_MIB),
        _ => boot::qemu_command(&image, &cmdline, MEMORY_MIB),
    }
}
