//! TCP between two guests and between a guest and the host, by iperf3: popf beside QEMU's TCG, each with its own
//! switch, user network and tap. Everything happens in a network namespace of its own.

mod guest;
mod peer;

use std::env;
use std::process::Command;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::guest::Guest;
use self::peer::{Measured, Monitor, Running};
use super::{boot, median};

/// Set in the process that is in its own namespace.
const INSIDE: &str = "POPF_BENCH_NAMESPACE";
/// The host's end of the tap, and the guest's address there.
const HOST: &str = "10.77.0.1";
const GUEST: &str = "10.77.0.2/24";
const TAP: &str = "popfbench";

/// `cargo xtask bench net`.
#[derive(Args)]
pub struct NetArgs {
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each transfer takes.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    seconds: u32,
    /// Measure only this; may be repeated.
    #[arg(long, value_enum, value_name = "PATH")]
    only: Vec<Path>,
    /// Print the figures as JSON, on standard output.
    #[arg(long)]
    json: bool,
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Path {
    /// Two guests on a switch; QEMU's are joined by a stream socket.
    GuestToGuest,
    /// A guest and the host, over the user network.
    User,
    /// A guest and the host, over a tap interface.
    Tap,
}

/// What was measured of one monitor on one path.
#[derive(Serialize)]
struct Row {
    path: Path,
    monitor: Monitor,
    /// Megabits per second that arrived, from the guest and to it.
    sent: Vec<f64>,
    received: Vec<f64>,
    sent_median: f64,
    received_median: f64,
    /// Segments that TCP sent twice, in all.
    retransmits: u64,
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    rounds: u32,
    seconds: u32,
    rows: Vec<Row>,
}

/// Measures and prints.
pub fn run(args: &NetArgs) -> Result<(), String> {
    if env::var_os(INSIDE).is_none() {
        return again_in_namespace();
    }
    let popf = boot::build()?;
    let guest = Guest::make(&popf)?;
    for command in [
        "ip link set lo up".to_owned(),
        format!("ip tuntap add {TAP} mode tap"),
        format!("ip addr add {HOST}/24 dev {TAP}"),
        format!("ip link set {TAP} up"),
    ] {
        sh(&command)?;
    }
    let server = Running::server()?;
    let mut measured: Vec<(Path, Monitor, Measured)> = Vec::new();
    let paths = if args.only.is_empty() { Path::value_variants() } else { &args.only };
    for round in 1..=args.rounds {
        // Who goes first changes, so that neither always finds the other's cold or hot machine.
        let order =
            if round % 2 == 1 { [Monitor::Popf, Monitor::Qemu] } else { [Monitor::Qemu, Monitor::Popf] };
        for &path in paths {
            for monitor in order {
                let result = measure(path, monitor, &popf, &guest, args.seconds)?;
                eprintln!(
                    "round {round}: {path:?} {monitor:?}: sent {:.0} Mbit/s, received {:.0} Mbit/s, {} sent twice",
                    result.sent, result.received, result.retransmits
                );
                measured.push((path, monitor, result));
            }
        }
    }
    drop(server);
    let rows = paths
        .iter()
        .flat_map(|&path| [Monitor::Popf, Monitor::Qemu].map(|monitor| row(path, monitor, &measured)));
    let report =
        Report { benchmark: "net", rounds: args.rounds, seconds: args.seconds, rows: rows.collect() };
    print(&report, args.json)
}

/// One boot of one guest, or of two, with a transfer in each direction.
fn measure(
    path: Path,
    monitor: Monitor,
    popf: &std::path::Path,
    guest: &Guest,
    seconds: u32,
) -> Result<Measured, String> {
    let limit = Duration::from_secs(120 + 4 * u64::from(seconds));
    let socket = env::temp_dir().join(format!("popf-bench-{}", std::process::id()));
    let start = |number: u8, network: String, words: String| {
        let mut command = monitor.command(popf, guest, number, &network);
        command.arg(monitor.cmdline_flag()).arg(format!("console=ttyS0 quiet panic=-1 {words}"));
        Running::start(command, limit)
    };
    let seconds = format!("net.seconds={seconds}");
    match path {
        Path::GuestToGuest => {
            let stream = |end: &str| format!("stream,{end},addr.type=unix,addr.path={}", socket.display());
            let network = |number| match (monitor, number) {
                (Monitor::Popf, _) => format!("switch:bench-{}", std::process::id()),
                (Monitor::Qemu, 1) => stream("server=on"),
                (Monitor::Qemu, _) => stream("server=off"),
            };
            let mut server = start(1, network(1), "net.address=10.78.0.1/24".into())?;
            server.wait_for("net: serving")?;
            let words = format!("net.address=10.78.0.2/24 net.peer=10.78.0.1 {seconds}");
            start(2, network(2), words)?.result()
        }
        Path::User => {
            let words = format!("net.address=10.0.2.15/24 net.peer=10.0.2.2 {seconds}");
            start(1, "user".into(), words)?.result()
        }
        Path::Tap => {
            let network = match monitor {
                Monitor::Popf => format!("tap:{TAP}"),
                Monitor::Qemu => format!("tap,ifname={TAP},script=no,downscript=no"),
            };
            start(1, network, format!("net.address={GUEST} net.peer={HOST} {seconds}"))?.result()
        }
    }
}

/// The same command in a network namespace in which nobody else is.
fn again_in_namespace() -> Result<(), String> {
    // What has to be fetched is not reached from there.
    Guest::make(&boot::build()?)?;
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("unshare");
    command.arg("-n").arg(program).args(env::args_os().skip(1)).env(INSIDE, "1");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            Err(format!("the measurement failed ({status}); a network namespace and a tap take root"))
        }
        Err(error) => Err(format!("cannot start unshare: {error}")),
    }
}

fn sh(command: &str) -> Result<(), String> {
    let status = Command::new("sh").args(["-c", command]).status();
    if status.is_ok_and(|status| status.success()) { Ok(()) } else { Err(format!("`{command}` failed")) }
}

fn row(path: Path, monitor: Monitor, measured: &[(Path, Monitor, Measured)]) -> Row {
    let own: Vec<_> =
        measured.iter().filter(|(p, m, _)| (*p, *m) == (path, monitor)).map(|row| &row.2).collect();
    let sent: Vec<_> = own.iter().map(|one| one.sent).collect();
    let received: Vec<_> = own.iter().map(|one| one.received).collect();
    let retransmits = own.iter().map(|one| one.retransmits).sum();
    Row {
        path,
        monitor,
        sent_median: median(&sent),
        received_median: median(&received),
        sent,
        received,
        retransmits,
    }
}

fn print(report: &Report, json: bool) -> Result<(), String> {
    if json {
        let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        println!("{text}");
        return Ok(());
    }
    println!("TCP, Mbit/s, median of {} times {} s:", report.rounds, report.seconds);
    for row in &report.rows {
        println!(
            "  {:<14} {:<5} sent {:8.0}   received {:8.0}   sent twice {}",
            format!("{:?}", row.path),
            format!("{:?}", row.monitor),
            row.sent_median,
            row.received_median,
            row.retransmits
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_take_the_middle_of_their_own() {
        let one = |sent, retransmits| Measured { sent, received: 2.0 * sent, retransmits };
        let measured = [
            (Path::User, Monitor::Popf, one(5.0, 1)),
            (Path::User, Monitor::Qemu, one(50.0, 0)),
            (Path::User, Monitor::Popf, one(1.0, 2)),
            (Path::Tap, Monitor::Popf, one(70.0, 0)),
            (Path::User, Monitor::Popf, one(3.0, 0)),
        ];
        let row = row(Path::User, Monitor::Popf, &measured);
        assert_eq!((row.sent_median, row.received_median, row.retransmits), (3.0, 6.0, 3));
    }
}
