//! `cargo xtask check`: everything CI holds the project to, the same at home.
//!
//! Every step runs even if one before it failed, so that one round shows all there is to mend.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::{cargo, deps, exceptions, guide, links};

/// A step, in the order they run: what is quick to fail comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// Formatting, of the fuzz targets too.
    Fmt,
    /// The dependency rule.
    Deps,
    /// Lints, warnings denied.
    Clippy,
    /// Unit, integration and documentation tests.
    Test,
    /// Documentation builds, warnings denied; its links lead somewhere; exceptions have tests; the guide is a book (if
    /// mdbook is there).
    Docs,
    /// Each fuzz target for a short while (needs cargo-fuzz).
    Fuzz,
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped(&'static str),
    Failed(String),
}

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 10;

/// Runs the steps named, or all.
pub fn run(steps: &[Step]) -> Result<(), String> {
    let started = Instant::now();
    let mut results = Vec::new();
    for step in Step::value_variants() {
        if !steps.is_empty() && !steps.contains(step) {
            continue;
        }
        eprintln!("\n=== {} ===", step.name());
        let begun = Instant::now();
        let outcome = perform(*step).unwrap_or_else(Outcome::Failed);
        if let Outcome::Failed(message) = &outcome {
            eprintln!("{}: {message}", step.name());
        }
        results.push((step.name(), outcome, begun.elapsed()));
    }
    eprintln!("\n=== summary ===\n{}", summary(&results, started.elapsed()));
    let failed = results.iter().filter(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_)));
    match failed.map(|(name, ..)| name.as_str()).collect::<Vec<_>>() {
        failed if failed.is_empty() => Ok(()),
        failed => Err(format!("not clean: {}", failed.join(", "))),
    }
}

fn summary(results: &[(String, Outcome, Duration)], total: Duration) -> String {
    let mut text = String::new();
    for (name, outcome, took) in results {
        let (word, note) = match outcome {
            Outcome::Passed => ("ok", String::new()),
            Outcome::Skipped(why) => ("skipped", format!("  {why}")),
            Outcome::Failed(_) => ("FAILED", String::new()),
        };
        text += &format!("{name:<8} {word:<8} {:>7.1} s{note}\n", took.as_secs_f64());
    }
    text + &format!("{:<8} {:<8} {:>7.1} s", "total", "", total.as_secs_f64())
}

/// One step; `Err` says what failed.
fn perform(step: Step) -> Result<Outcome, String> {
    match step {
        Step::Fmt => all(&mut [
            cargo().args(["fmt", "--all", "--check"]),
            cargo().args(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]),
        ])?,
        Step::Deps => deps::run()?,
        Step::Clippy => {
            execute(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
        }
        Step::Test => {
            // A process per test where there is nextest: signal handlers and terminals are the process's own.
            let runner: &[&str] =
                if available("nextest") { &["nextest", "run"] } else { &["test", "--tests"] };
            all(&mut [
                cargo().args(runner).arg("--workspace").arg("--no-fail-fast"),
                cargo().args(["test", "--workspace", "--doc", "--no-fail-fast"]),
            ])?;
        }
        Step::Docs => {
            // Private items too: the readers of these pages work on the inside.
            let mut docs = cargo();
            docs.args(["doc", "--workspace", "--no-deps", "--document-private-items"])
                .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
            execute(&mut docs)?;
            links::check()?;
            exceptions::check()?;
            if guide::available() {
                guide::run()?;
            }
        }
        Step::Fuzz => return fuzz(),
    }
    Ok(Outcome::Passed)
}

fn fuzz() -> Result<Outcome, String> {
    if !available("fuzz") {
        let why = "cargo-fuzz is not installed: cargo install cargo-fuzz --locked";
        return if std::env::var_os("CI").is_some() { Err(why.into()) } else { Ok(Outcome::Skipped(why)) };
    }
    let listed = fuzz_command("list").stderr(Stdio::inherit()).output();
    let listed = listed.map_err(|error| format!("cannot start cargo fuzz: {error}"))?;
    let targets = String::from_utf8_lossy(&listed.stdout);
    let mut targets = targets.lines().peekable();
    if targets.peek().is_none() {
        return Err("cargo fuzz lists no targets".into());
    }
    let mut runs: Vec<_> = targets.map(fuzz_run).collect();
    all(&mut runs.iter_mut().collect::<Vec<_>>())?;
    Ok(Outcome::Passed)
}

fn fuzz_run(target: &str) -> Command {
    let mut command = fuzz_command("run");
    // The address sanitizer looks for what safe Rust cannot do, and hides the address space that the translator
    // reserves; libFuzzer's memory limit counts reservations that are never touched.
    command.args(["--sanitizer", "none", target, "--"]);
    command.args([&format!("-max_total_time={FUZZ_SECONDS}"), "-rss_limit_mb=0", "-timeout=20"]);
    // Lengths from the start: libFuzzer would take minutes to get from short inputs to long ones.
    command.args(["-len_control=0", "-max_len=1024", "-verbosity=0"]);
    command
}

/// libFuzzer needs compiler options that stable calls unstable.
fn fuzz_command(action: &str) -> Command {
    let mut command = cargo();
    command.args(["fuzz", action]).env("RUSTC_BOOTSTRAP", "1");
    command
}

/// Whether cargo has this subcommand.
fn available(subcommand: &str) -> bool {
    cargo()
        .args([subcommand, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs all of them, even if one fails.
fn all(commands: &mut [&mut Command]) -> Result<(), String> {
    let failed: Vec<_> = commands.iter_mut().filter_map(|command| execute(command).err()).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

/// Shows a command and runs it.
fn execute(command: &mut Command) -> Result<(), String> {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    let shown = format!("cargo {}", words.join(" "));
    eprintln!("$ {shown}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{shown}` failed ({status})")),
        Err(error) => Err(format!("`{shown}` cannot be started: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_tells_skipped_from_passed() {
        let second = Duration::from_millis(1500);
        let results = [
            ("fmt".into(), Outcome::Passed, second),
            ("fuzz".into(), Outcome::Skipped("no tool"), second),
            ("docs".into(), Outcome::Failed("broken".into()), second),
        ];
        let lines = summary(&results, 3 * second);
        assert_eq!(
            lines.lines().collect::<Vec<_>>(),
            [
                "fmt      ok           1.5 s",
                "fuzz     skipped      1.5 s  no tool",
                "docs     FAILED       1.5 s",
                "total                 4.5 s",
            ]
        );
    }

    #[test]
    fn a_command_that_fails_is_told() {
        assert!(execute(&mut Command::new("true")).is_ok());
        assert!(execute(&mut Command::new("false")).unwrap_err().contains("exit status: 1"));
        let error =
            all(&mut [&mut Command::new("false"), &mut Command::new("true"), &mut Command::new("false")]);
        assert_eq!(error.unwrap_err().matches("exit status: 1").count(), 2);
        assert!(execute(&mut Command::new("/nowhere/at/all")).unwrap_err().contains("cannot be started"));
    }
}
