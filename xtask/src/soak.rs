//! `cargo xtask soak`: what takes too long for a test. Boots one guest after the other, each to its shell and on to
//! its power-off, then measures one that does nothing: processor time, and memory beside the guest's own.
//!
//! A boot that fails is told with the guest's last words, and the others go on; the runner fails at the end.

mod process;

use std::process::Command;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::bench::boot::{self, IMAGE};
use crate::bench::console;
use crate::bench::median;
use process::{Memory, Usage};

/// `cargo xtask soak`.
#[derive(Args)]
pub struct SoakArgs {
    /// How many guests to boot, one after the other.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    boots: u32,
    /// How long to watch the idle guest.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    idle: u64,
    /// Give up on a boot after so many seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    /// Print the figures as JSON, on standard output.
    #[arg(long)]
    json: bool,
}

/// How long a guest that has reached its shell still tidies up.
const SETTLING: Duration = Duration::from_secs(5);

/// The whole result.
#[derive(Serialize)]
struct Report {
    boots: u32,
    failures: Vec<Failure>,
    prompt_seconds: Spread,
    exit_seconds: Spread,
    idle: Idle,
}

#[derive(Serialize)]
struct Failure {
    boot: u32,
    what: String,
}

/// Times of many boots, in seconds.
#[derive(Serialize)]
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

/// A guest that waits for somebody to type.
#[derive(Serialize)]
struct Idle {
    seconds: f64,
    /// Of one core.
    processor_percent: f64,
    memory: Memory,
}

/// Boots, measures and prints.
pub fn run(args: &SoakArgs) -> Result<(), String> {
    let popf = boot::build()?;
    boot::find_image(&popf, IMAGE)?;
    let command = || {
        let mut command = Command::new(&popf);
        command.args(["run", IMAGE]);
        command
    };
    let limit = Duration::from_secs(args.timeout);
    let (mut prompts, mut exits, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=args.boots {
        match console::boot(&mut command(), limit) {
            Ok(times) => {
                let (prompt, exit) = (times.reached.as_secs_f64(), times.exit.as_secs_f64());
                eprintln!("boot {number}: prompt {prompt:5.2} s, powered off {exit:5.2} s");
                prompts.push(times.reached);
                exits.push(times.exit);
            }
            Err(what) => {
                eprintln!("boot {number}: {what}");
                failures.push(Failure { boot: number, what });
            }
        }
    }
    let watched = Duration::from_secs(args.idle);
    let idle = console::boot_and(&mut command(), limit + SETTLING + watched, |pid| idle(pid, watched))?;
    let report = Report {
        boots: args.boots,
        failures,
        prompt_seconds: spread(&prompts),
        exit_seconds: spread(&exits),
        idle,
    };
    print(&report, args.json)?;
    match report.failures.len() {
        0 => Ok(()),
        failed => Err(format!("{failed} of {} boots failed", report.boots)),
    }
}

/// Measures a guest that is left alone.
fn idle(pid: u32, watched: Duration) -> Result<Idle, String> {
    thread::sleep(SETTLING);
    let before = Usage::of(pid)?;
    thread::sleep(watched);
    let after = Usage::of(pid)?;
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    let busy = after.processor.saturating_sub(before.processor).as_secs_f64();
    Ok(Idle { seconds, processor_percent: 100.0 * busy / seconds, memory: Memory::of(pid)? })
}

fn spread(times: &[Duration]) -> Spread {
    let seconds = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64);
    Spread {
        least: seconds(times.iter().min()),
        median: median(&times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>()),
        most: seconds(times.iter().max()),
    }
}

fn print(report: &Report, json: bool) -> Result<(), String> {
    if json {
        let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        println!("{text}");
        return Ok(());
    }
    println!("{} of {} boots ended well", report.boots as usize - report.failures.len(), report.boots);
    for (what, times) in [("prompt", &report.prompt_seconds), ("powered off", &report.exit_seconds)] {
        println!("  {what:<12} median {:5.2} s   ({:.2} to {:.2})", times.median, times.least, times.most);
    }
    let idle = &report.idle;
    println!("idle for {:.1} s: {:.2} % of a core", idle.seconds, idle.processor_percent);
    let mib = |kib: u64| kib as f64 / 1024.0;
    let Memory { guest_kib, translation_kib, private_kib, files_kib } = idle.memory;
    println!("  resident: {:6.1} MiB of the guest's memory, and beside it", mib(guest_kib));
    println!("            {:6.1} MiB translated code", mib(translation_kib));
    println!("            {:6.1} MiB heap, stacks and tables", mib(private_kib));
    println!("            {:6.1} MiB of popf's file and libraries", mib(files_kib));
    Ok(())
}
