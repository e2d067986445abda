//! Blocks of 4 KiB read and written in a guest, past its page cache: the same kernel, program, images and memory under
//! popf and under QEMU.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::boot::{self, QEMU, output, version};
use super::median;
use crate::guest::{self, Guest};

/// `cargo xtask bench disk`.
#[derive(Args)]
pub struct DiskArgs {
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The format of the disk that is measured.
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    format: Format,
    /// Print the figures as JSON, on standard output.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    guest: Guest,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Raw,
    Qcow2,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

const PEERS: [&str; 2] = ["popf", "qemu"];
const DISK_MIB: usize = 512;

/// Requests per second, by what was done.
type Rates = BTreeMap<String, f64>;

/// The whole result.
#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    rounds: u32,
    format: Format,
    versions: [String; 2],
    /// Medians of popf, then of QEMU.
    requests_per_second: [Rates; 2],
    /// popf's over QEMU's: above 1, popf is faster.
    ratio: Rates,
}

/// Measures and prints.
pub fn run(args: &DiskArgs) -> Result<(), String> {
    let popf = boot::build()?;
    let workshop = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let root = workshop.path().join("root.raw");
    args.guest.make_root(&root, "64M")?;
    let data = make_data(workshop.path(), args.format)?;
    let mut rates: [Vec<Rates>; 2] = Default::default();
    for round in 1..=args.rounds {
        let order = if round % 2 == 1 { [0, 1] } else { [1, 0] };
        for peer in order {
            let mut command = match peer {
                0 => popf_command(args, &popf, &root, &data)?,
                _ => qemu_command(args, &popf, &root, &data)?,
            };
            let measured = measure(&mut command)?;
            let shown: Vec<_> = measured.iter().map(|(what, rate)| format!("{what} {rate:.0}")).collect();
            eprintln!("round {round}: {:<5} {}", PEERS[peer], shown.join(", "));
            rates[peer].push(measured);
        }
    }
    let medians = rates.each_ref().map(|rounds| medians(rounds));
    let ratio = medians[0].iter().map(|(what, rate)| (what.clone(), rate / medians[1][what])).collect();
    let report = Report {
        benchmark: "disk",
        rounds: args.rounds,
        format: args.format,
        versions: [version(Command::new(&popf))?, version(Command::new(QEMU))?],
        requests_per_second: medians,
        ratio,
    };
    print(&report, args.json)
}

/// A disk without holes: every block has been written.
fn make_data(folder: &Path, format: Format) -> Result<PathBuf, String> {
    let raw = folder.join("data.raw");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&raw)?;
        for mib in 0..DISK_MIB {
            file.write_all(&vec![mib as u8 | 1; 1 << 20])?;
        }
        file.sync_all()
    };
    write().map_err(|error| format!("cannot make a disk: {error}"))?;
    if format == Format::Raw {
        return Ok(raw);
    }
    let qcow2 = folder.join("data.qcow2");
    output(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(&raw).arg(&qcow2))?;
    Ok(qcow2)
}

fn popf_command(args: &DiskArgs, popf: &Path, root: &Path, data: &Path) -> Result<Command, String> {
    let mut command = args.guest.popf(popf, "/bench")?;
    command.args(["--disk", &format!("{},format=raw,snapshot", root.display())]);
    command.args(["--disk", &format!("{},format={}", data.display(), args.format.name())]);
    Ok(command)
}

fn qemu_command(args: &DiskArgs, popf: &Path, root: &Path, data: &Path) -> Result<Command, String> {
    let guest::Files { kernel, initrd } = args.guest.files(popf)?;
    let mut command = Command::new(QEMU);
    command.args(["-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none", "-serial", "stdio"]);
    command.args(["-no-reboot", "-m", &guest::MEMORY_MIB.to_string(), "-append", &guest::cmdline("/bench")]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    for (name, path, format, snapshot) in
        [("root", root, "raw", "on"), ("data", data, args.format.name(), "off")]
    {
        let drive = format!("if=none,id={name},file={},format={format},snapshot={snapshot}", path.display());
        command.args([
            "-drive",
            &drive,
            "-device",
            &format!("virtio-blk-pci,drive={name},disable-legacy=on"),
        ]);
    }
    Ok(command)
}

fn measure(command: &mut Command) -> Result<Rates, String> {
    let text = output(command.stdin(Stdio::null()))?;
    let rates: Rates = text.lines().filter_map(result).collect();
    if rates.is_empty() { Err(format!("the guest measured nothing:\n{text}")) } else { Ok(rates) }
}

/// `result WHAT RATE`
fn result(line: &str) -> Option<(String, f64)> {
    let (what, rate) = line.trim().strip_prefix("result ")?.split_once(' ')?;
    Some((what.into(), rate.parse().ok()?))
}

fn medians(rounds: &[Rates]) -> Rates {
    let mut by_name: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (what, rate) in rounds.iter().flatten() {
        by_name.entry(what.clone()).or_default().push(*rate);
    }
    by_name.into_iter().map(|(what, rates)| (what, median(&rates))).collect()
}

fn print(report: &Report, json: bool) -> Result<(), String> {
    if json {
        let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        println!("{text}");
        return Ok(());
    }
    println!("disk ({}), 4 KiB requests per second, median of {}:", report.format.name(), report.rounds);
    let [popf, qemu] = &report.requests_per_second;
    for (what, rate) in popf {
        println!("  {what:<14} popf {rate:8.0}   qemu {:8.0}   {:5.2} times", qemu[what], report.ratio[what]);
    }
    println!("  ({}; {})", report.versions[0], report.versions[1]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_the_console() {
        assert_eq!(result("result rand-read-32 1234\r"), Some(("rand-read-32".into(), 1234.0)));
        for line in ["result", "result x", "result x y", "[ 0.1] result x 1"] {
            assert_eq!(result(line), None, "{line}");
        }
    }

    #[test]
    fn medians_are_by_name() {
        let round = |a: f64| Rates::from([("a".into(), a), ("b".into(), 1.0)]);
        let rounds = [round(9.0), round(1.0), round(2.0)];
        assert_eq!(medians(&rounds), Rates::from([("a".into(), 2.0), ("b".into(), 1.0)]));
    }
}
