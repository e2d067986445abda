//! `cargo xtask bench nano`: what single events cost, in cycles of the time-stamp counter: a guest of our own without a
//! kernel (`xtask/guest/nano`) under popf and under QEMU's TCG; what of it can be done in ring 3 alone on the host, too.
//!
//! The guest holds what happened against what had to, and ends with an error otherwise.

mod marks;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use clap::Args;
use serde::Serialize;

use self::marks::{EVENTS, Event};
use super::boot::{self, QEMU, version};
use super::median;

const GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nano"));
const NATIVE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nano_native"));
const PEERS: [&str; 3] = ["native", "popf", "qemu"];
const DONE: &str = "nano done";

/// `cargo xtask bench nano`.
#[derive(Args)]
pub struct NanoArgs {
    /// How often each is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Leave one out: native, popf or qemu; may be given several times.
    #[arg(long, value_name = "PEER", value_parser = PEERS)]
    without: Vec<String>,
    /// Print the figures as JSON, on standard output.
    #[arg(long)]
    json: bool,
}

/// Cycles for one, of each batch, by what was done.
type Cycles = BTreeMap<String, Vec<f64>>;

/// What one event takes somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Figure {
    minimum: f64,
    median: f64,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    event: &'static Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    native: Option<Figure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    popf: Option<Figure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qemu: Option<Figure>,
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    rounds: u32,
    versions: Vec<String>,
    /// Cycles of the time-stamp counter.
    rows: Vec<Row>,
}

/// Measures and prints.
pub fn run(args: &NanoArgs) -> Result<(), String> {
    let wanted: Vec<usize> =
        (0..PEERS.len()).filter(|peer| args.without.iter().all(|name| name != PEERS[*peer])).collect();
    let popf = if wanted.contains(&1) { boot::build()? } else { PathBuf::new() };
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let write = |name: &str, bytes: &[u8]| -> io::Result<PathBuf> {
        let path = folder.path().join(name);
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        Ok(path)
    };
    let failed = |error: io::Error| format!("cannot write the guest: {error}");
    let (guest, native) = (write("guest", GUEST).map_err(failed)?, write("native", NATIVE).map_err(failed)?);
    let mut cycles: [Cycles; 3] = Default::default();
    for round in 0..args.rounds as usize {
        for turn in 0..wanted.len() {
            // Who goes first changes, so that nobody always finds the others' cold or hot machine.
            let peer = wanted[(turn + round) % wanted.len()];
            let measured = match PEERS[peer] {
                "native" => measure(&mut Command::new(&native), 0),
                "popf" => measure(&mut popf_command(&popf, &guest), 0),
                // The debug-exit device makes a status of 0 odd.
                _ => measure(&mut qemu_command(&guest), 1),
            };
            let measured = measured.map_err(|error| format!("{}: {error}", PEERS[peer]))?;
            eprintln!("round {}: {}", round + 1, PEERS[peer]);
            for (name, batches) in measured {
                cycles[peer].entry(name).or_default().extend(batches);
            }
        }
    }
    let mut versions = Vec::new();
    for program in
        [popf.as_path(), Path::new(QEMU)].iter().zip([1, 2]).filter(|(_, peer)| wanted.contains(peer))
    {
        versions.push(version(Command::new(program.0))?);
    }
    let [native, popf, qemu] = cycles.each_ref().map(|cycles| move |name| figure(cycles.get(name)?));
    let rows = EVENTS.iter().map(|event| Row {
        event,
        native: native(event.name),
        popf: popf(event.name),
        qemu: qemu(event.name),
    });
    print(&Report { benchmark: "nano", rounds: args.rounds, versions, rows: rows.collect() }, args.json)
}

fn popf_command(popf: &Path, guest: &Path) -> Command {
    let mut command = Command::new(popf);
    command.args([
        "run",
        "--engine",
        "translator",
        "--memory",
        "64M",
        "--debug-exit",
        "--no-reboot",
        "--kernel",
    ]);
    command.arg(guest);
    command
}

fn qemu_command(guest: &Path) -> Command {
    let mut command = Command::new(QEMU);
    command.args(["-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none", "-serial", "stdio"]);
    command.args(["-no-reboot", "-m", "64", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-kernel"]);
    command.arg(guest);
    command
}

fn measure(command: &mut Command, status: i32) -> Result<Cycles, String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cannot start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.code() != Some(status) || !text.lines().any(|line| line.trim() == DONE) {
        return Err(format!("what was measured is not what had to happen ({})\n{text}", output.status));
    }
    Ok(text.lines().filter_map(line).collect())
}

/// `nano NAME ITERATIONS CYCLES...`
fn line(line: &str) -> Option<(String, Vec<f64>)> {
    let mut words = line.trim().strip_prefix("nano ")?.split(' ');
    let (name, iterations) = (words.next()?, words.next()?.parse::<f64>().ok()?);
    let batches: Option<Vec<f64>> =
        words.map(|cycles| Some(cycles.parse::<f64>().ok()? / iterations)).collect();
    batches.filter(|batches| !batches.is_empty()).map(|batches| (name.into(), batches))
}

fn figure(batches: &[f64]) -> Option<Figure> {
    let minimum = batches.iter().copied().min_by(f64::total_cmp)?;
    Some(Figure { minimum, median: median(batches) })
}

fn print(report: &Report, json: bool) -> Result<(), String> {
    if json {
        let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        println!("{text}");
        return Ok(());
    }
    println!(
        "Cycles, least and median of {} rounds of batches ({}):\n",
        report.rounds,
        report.versions.join("; ")
    );
    println!("| event | native | popf | TCG | TCG/popf | published: native, translated |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for row in &report.rows {
        let cell = |figure: Option<Figure>| figure.map_or_else(String::new, |figure| figure.to_string());
        let ratio = row
            .popf
            .zip(row.qemu)
            .map_or_else(String::new, |(popf, qemu)| format!("{:.2}", qemu.median / popf.median));
        println!(
            "| {} | {} | {} | {} | {ratio} | {} |",
            row.event.what,
            cell(row.native),
            cell(row.popf),
            cell(row.qemu),
            row.event.published
        );
    }
    Ok(())
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.median < 100.0 { 1 } else { 0 };
        write!(f, "{:.digits$}, {:.digits$}", self.minimum, self.median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_cycles_for_one() {
        assert_eq!(line("nano in 10 100 205\r"), Some(("in".into(), vec![10.0, 20.5])));
        for other in ["nano done", "nano in 10", "nano in 10 x", "[ 0.0] nano in 10 100"] {
            assert_eq!(line(other), None, "{other}");
        }
    }

    #[test]
    fn figures_are_of_all_batches() {
        assert_eq!(figure(&[3.0, 1.0, 2.0]), Some(Figure { minimum: 1.0, median: 2.0 }));
        assert_eq!(figure(&[]), None);
    }

    /// What the programs write is what the table shows.
    #[test]
    fn what_runs_on_the_host_has_rows() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("native");
        fs::write(&program, NATIVE).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let measured = measure(&mut Command::new(program), 0).unwrap();
        let names: Vec<_> = measured.keys().map(String::as_str).collect();
        assert_eq!(names, ["call-ret", "loop", "syscall"]);
        assert!(names.iter().all(|name| EVENTS.iter().any(|event| event.name == *name)), "{names:?}");
    }
}
