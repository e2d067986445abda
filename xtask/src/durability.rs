//! `cargo xtask durability`: whether what a guest was told is on its disk is there after popf is killed.
//!
//! A guest writes records to an ext4 file system on a qcow2 overlay, has each on stable storage (fsync) and
//! acknowledges it on its console. In the midst of that popf is killed (SIGKILL). Then QEMU's tools look at the
//! image, and the next guest at its records: every one that was acknowledged has to be there. At the end the file
//! system has to be clean.

use std::fmt;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::bench::boot;
use crate::guest::Guest;

/// `cargo xtask durability`.
#[derive(Args)]
pub struct DurabilityArgs {
    /// How often popf is killed.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Give up on a guest after so many seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    /// Which moments popf is killed at; the same number, the same counts of records.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the figures as JSON, on standard output.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    guest: Guest,
}

/// Records that a guest acknowledges before it is killed, at most.
const MOST_RECORDS: u64 = 400;

/// The whole result.
#[derive(Default, Serialize)]
struct Report {
    rounds: u32,
    acknowledged: u64,
    /// Acknowledged, and not found by the next guest.
    lost: u64,
    /// How `qemu-img check` found the image after each kill.
    sound: u32,
    leaking: u32,
    inconsistent: u32,
    /// At the end, after popf has opened and closed the image once more.
    image_sound_at_the_end: bool,
    file_system_clean_at_the_end: bool,
}

/// Kills, looks and prints.
pub fn run(args: &DurabilityArgs) -> Result<(), String> {
    let popf = boot::build()?;
    let workshop = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let base = workshop.path().join("base.raw");
    args.guest.make_root(&base, "256M")?;
    let image = workshop.path().join("disk.qcow2");
    let mut create = Command::new(&popf);
    create
        .args(["image", "create"])
        .arg(&image)
        .arg("--backing")
        .arg(&base)
        .args(["--backing-format", "raw"]);
    boot::output(&mut create)?;

    let limit = Duration::from_secs(args.timeout);
    let start = |init: &str| {
        let mut command = args.guest.popf(&popf, init)?;
        command.arg("--disk").arg(&image);
        Machine::start(command, limit)
    };
    let mut report = Report { rounds: args.rounds, ..Report::default() };
    let mut random = args.seed;
    let mut last = 0;
    for round in 1..=args.rounds {
        let mut machine = start("/writer")?;
        report.lost += machine.found(last)?;
        // Xorshift; any moment will do, so long as it is not always the same.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let before = last;
        last = machine.kill_after(1 + random % MOST_RECORDS)?.unwrap_or(last);
        report.acknowledged += last - before;
        let found = check(&image)?;
        match found {
            Check::Sound => report.sound += 1,
            Check::Leaks => report.leaking += 1,
            Check::Errors => report.inconsistent += 1,
        }
        eprintln!("round {round}: killed after record {last}, the image {found}");
    }
    let mut machine = start("/verify")?;
    report.lost += machine.found(last)?;
    machine.end()?;
    report.image_sound_at_the_end = check(&image)? == Check::Sound;
    report.file_system_clean_at_the_end = file_system_is_clean(&image, &workshop.path().join("end.raw"))?;
    print(&report, args.json)
}

/// A guest that is running.
struct Machine {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Dropped when it has ended in time.
    _watched: Sender<()>,
}

impl Machine {
    fn start(mut command: Command, limit: Duration) -> Result<Self, String> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("cannot start popf: {error}"))?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let (watched, ended) = mpsc::channel::<()>();
        let pid = child.id().to_string();
        thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                eprintln!("the guest has taken too long");
                let _ = Command::new("kill").args(["-9", &pid]).status();
            }
        });
        Ok(Self { child, lines, _watched: watched })
    }

    fn line(&mut self) -> Result<Option<String>, String> {
        self.lines.next().transpose().map_err(|error| format!("cannot read the guest's console: {error}"))
    }

    /// Waits for the guest to say what it has found; how many records are lost if `acknowledged` was the last.
    fn found(&mut self, acknowledged: u64) -> Result<u64, String> {
        let mut seen = String::new();
        while let Some(line) = self.line()? {
            let words: Vec<_> = line.split_whitespace().collect();
            if let ["found", last, "lost", lost] = words[..] {
                let number = |text: &str| text.parse::<u64>().map_err(|_| format!("the guest says {line:?}"));
                return Ok(number(lost)? + acknowledged.saturating_sub(number(last)?));
            }
            seen += &line;
            seen.push('\n');
        }
        Err(format!("the guest ended before it had looked at its records:\n{seen}"))
    }

    /// Kills popf after so many records; the last that was acknowledged, if any.
    fn kill_after(&mut self, records: u64) -> Result<Option<u64>, String> {
        let mut last = None;
        let mut counted = 0;
        while let Some(line) = self.line()? {
            if let Some(number) = line.trim().strip_prefix("ack ") {
                // A line that the kill has cut short was not acknowledged.
                last = number.parse().ok().or(last);
                counted += 1;
                if counted == records {
                    self.child.kill().map_err(|error| format!("cannot kill popf: {error}"))?;
                }
            } else if line.starts_with("failed") {
                return Err(format!("the guest: {line}"));
            }
        }
        self.child.wait().map_err(|error| format!("cannot wait for popf: {error}"))?;
        if counted < records { Err("the guest ended by itself".into()) } else { Ok(last) }
    }

    /// Waits for its end, which has to be a good one.
    fn end(mut self) -> Result<(), String> {
        while self.line()?.is_some() {}
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("popf ended badly: {other:?}")),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    Sound,
    Leaks,
    Errors,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Sound => "is sound",
            Self::Leaks => "has leaked clusters",
            Self::Errors => "has wrong counts",
        })
    }
}

fn check(image: &Path) -> Result<Check, String> {
    let status = Command::new("qemu-img").args(["check", "-q"]).arg(image).stderr(Stdio::null()).status();
    let status =
        status.map_err(|error| format!("cannot start qemu-img (apt-get install qemu-utils): {error}"))?;
    match status.code() {
        Some(0) => Ok(Check::Sound),
        Some(2) => Ok(Check::Errors),
        Some(3) => Ok(Check::Leaks),
        _ => Err(format!("qemu-img check {} failed ({status})", image.display())),
    }
}

fn file_system_is_clean(image: &Path, raw: &PathBuf) -> Result<bool, String> {
    boot::output(Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(image).arg(raw))?;
    let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(raw).output();
    let checked =
        checked.map_err(|error| format!("cannot start e2fsck (apt-get install e2fsprogs): {error}"))?;
    if !checked.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&checked.stdout));
    }
    Ok(checked.status.success())
}

fn print(report: &Report, json: bool) -> Result<(), String> {
    if json {
        let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        println!("{text}");
    } else {
        let yes = |yes| if yes { "yes" } else { "NO" };
        println!(
            "killed {} times, {} records acknowledged, {} lost",
            report.rounds, report.acknowledged, report.lost
        );
        println!(
            "  after a kill the image was sound {} times, had leaked clusters {} times, wrong counts {} times",
            report.sound, report.leaking, report.inconsistent
        );
        println!(
            "  at the end: image sound: {}; file system clean: {}",
            yes(report.image_sound_at_the_end),
            yes(report.file_system_clean_at_the_end)
        );
    }
    match report.lost == 0 && report.image_sound_at_the_end && report.file_system_clean_at_the_end {
        true => Ok(()),
        false => Err("what was acknowledged has not outlived the kills".into()),
    }
}
