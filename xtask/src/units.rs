//! `cargo xtask units`: the x86 programs of kvm-unit-tests, fetched and built elsewhere, as multiboot kernels under
//! popf and, if it is wanted, under QEMU's TCG, as their own list has it.
//!
//! Prints a table. Fails if an entry fails under popf that is not among those known to, or passes that is.

mod known;
mod list;
mod monitor;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::bench::boot;
use list::Entry;
use monitor::{Monitor, Outcome, Verdict};

/// `cargo xtask units`.
#[derive(Args)]
pub struct UnitsArgs {
    /// A configured and built tree of kvm-unit-tests, for x86_64 or i386.
    #[arg(value_name = "DIR")]
    tree: PathBuf,
    /// Just this entry; may be given several times, and names those too that are not run otherwise.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Run each under QEMU's TCG too.
    #[arg(long)]
    qemu: bool,
    /// Stop an entry after so many seconds, unless the list gives it more.
    #[arg(long, default_value_t = 90, value_name = "SECONDS")]
    timeout: u64,
    /// Print the table as JSON, on standard output.
    #[arg(long)]
    json: bool,
}

/// A row.
#[derive(Serialize)]
struct Row {
    entry: String,
    popf: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcg: Option<Outcome>,
    /// Why it fails under popf, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
}

#[derive(Serialize)]
struct Report {
    arch: String,
    rows: Vec<Row>,
}

/// Runs and prints.
pub fn run(args: &UnitsArgs) -> Result<(), String> {
    let arch = arch(&args.tree)?;
    let entries = list::parse(&read(&args.tree.join("x86/unittests.cfg"))?)?;
    if let Some(unknown) = args.only.iter().find(|name| entries.iter().all(|entry| entry.name != **name)) {
        return Err(format!("the list has no entry {unknown}"));
    }
    let popf = Monitor::Popf(boot::build()?);
    let mut rows = Vec::new();
    for entry in entries {
        if !args.only.is_empty() && !args.only.contains(&entry.name) {
            continue;
        }
        let kernel = args.tree.join("x86").join(&entry.file);
        let limit = Duration::from_secs(entry.timeout.map_or(args.timeout, |own| own.max(args.timeout)));
        let unfit = unfit(&entry, &arch, &kernel, args.only.contains(&entry.name));
        let under = |monitor: &Monitor| match &unfit {
            Some(why) => Ok(Outcome::skip(why)),
            None => monitor.run(&entry, &kernel, limit),
        };
        let ours = under(&popf)?;
        let tcg = if args.qemu { Some(under(&Monitor::Qemu)?) } else { None };
        eprintln!("{:<44} {}", entry.name, cell(&ours));
        rows.push(Row { why: known::why(&arch, &entry.name), entry: entry.name, popf: ours, tcg });
    }
    let report = Report { arch, rows };
    print(&report, args.json)?;
    report.verdict()
}

/// Why an entry is not run at all.
fn unfit(entry: &Entry, arch: &str, kernel: &Path, named: bool) -> Option<String> {
    if !entry.arch.is_empty() && entry.arch != arch {
        return Some(format!("{} only", entry.arch));
    }
    if !named && entry.groups.iter().any(|group| group == "nodefault") {
        return Some("run only when it is named".into());
    }
    let differs = |(path, value): &&(String, String)| {
        fs::read_to_string(path).map_or(true, |text| text.trim_end() != value)
    };
    if let Some((path, value)) = entry.check.iter().find(differs) {
        return Some(format!("wants {value} in {path}"));
    }
    (!kernel.is_file()).then(|| format!("{} is not built", entry.file))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}; is this a built tree?", path.display()))
}

/// What the tree is configured for.
fn arch(tree: &Path) -> Result<String, String> {
    let text = read(&tree.join("config.mak"))?;
    let arch = text.lines().find_map(|line| line.strip_prefix("ARCH="));
    arch.map(Into::into).ok_or_else(|| "the tree's config.mak names no ARCH".into())
}

impl Report {
    fn verdict(&self) -> Result<(), String> {
        let names = |wanted: fn(&&Row) -> bool| {
            let names: Vec<&str> = self.rows.iter().filter(wanted).map(|row| row.entry.as_str()).collect();
            names.join(", ")
        };
        let failed = names(|row| row.popf.verdict == Verdict::Fail && row.why.is_none());
        let passed = names(|row| row.popf.verdict == Verdict::Pass && row.why.is_some());
        match (failed.as_str(), passed.as_str()) {
            ("", "") => Ok(()),
            ("", passed) => Err(format!("known to fail, but pass: {passed}")),
            (failed, _) => Err(format!("failed: {failed}")),
        }
    }

    fn count(&self, of: impl Fn(&Row) -> Option<&Outcome>, verdict: Verdict) -> usize {
        self.rows.iter().filter_map(of).filter(|outcome| outcome.verdict == verdict).count()
    }
}

fn cell(outcome: &Outcome) -> String {
    let verdict = match outcome.verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::Skip => "skip",
    };
    match outcome.detail.replace('|', "/") {
        detail if detail.is_empty() => verdict.into(),
        detail => format!("{verdict} ({detail})"),
    }
}

fn print(report: &Report, json: bool) -> Result<(), String> {
    if json {
        let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        println!("{text}");
        return Ok(());
    }
    println!("| {} entry | popf | TCG | why |\n| --- | --- | --- | --- |", report.arch);
    for row in &report.rows {
        let tcg = row.tcg.as_ref().map_or_else(String::new, cell);
        let why = row.why.filter(|_| row.popf.verdict == Verdict::Fail).unwrap_or_default();
        println!("| {} | {} | {tcg} | {why} |", row.entry, cell(&row.popf));
    }
    let line = |name: &str, of: fn(&Row) -> Option<&Outcome>| {
        let [pass, fail, skip] =
            [Verdict::Pass, Verdict::Fail, Verdict::Skip].map(|verdict| report.count(of, verdict));
        println!("\n{name}: {pass} pass, {fail} fail, {skip} skipped");
    };
    line("popf", |row| Some(&row.popf));
    if report.rows.iter().any(|row| row.tcg.is_some()) {
        line("TCG", |row| row.tcg.as_ref());
    }
    Ok(())
}
