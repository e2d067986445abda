//! `--stats`, SIGUSR1 and `popf stats`: what made the guest leave guest code, what that cost, and what the engine did
//! meanwhile.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use board::insight::{Answer, AskError, Question, Snapshot};
use board::machine::Control;
use serde::Serialize;

use crate::args::StatsArgs;
use crate::error::CliError;
use crate::image::{print, print_json};
use crate::trace::session::Session;

/// What `--json` prints.
#[derive(Serialize)]
struct Counted {
    vm: String,
    vcpus: Vec<Snapshot>,
}

/// `popf stats`.
pub fn stats(args: &StatsArgs) -> Result<u8, CliError> {
    let mut session = Session::open(&args.name)?;
    let vcpus = session.all_counters().map_err(|error| session.failed(error))?;
    if args.json {
        print_json(&Counted { vm: args.name.to_string(), vcpus })?;
    } else {
        print(format_args!("{}", table(&vcpus)))?;
    }
    Ok(0)
}

/// Prints the list of a VM of this process's that runs to standard error, or why there is none.
pub fn print_now(control: &Control) {
    match of(control) {
        Ok(vcpus) => print_to_stderr(&vcpus),
        Err(error) => tracing::warn!("{error}"),
    }
}

fn of(control: &Control) -> Result<Vec<Snapshot>, AskError> {
    let counters = |vcpu| match control.ask(&Question::Counters { vcpu })? {
        Answer::Counters(snapshot) => Ok(*snapshot),
        other => unreachable!("counters are asked for, not {other:?}"),
    };
    let first = counters(0)?;
    let rest = (1..first.vcpus).map(counters).collect::<Result<Vec<_>, _>>()?;
    Ok([vec![first], rest].concat())
}

/// Prints the vCPUs' lists to standard error.
pub fn print_to_stderr(vcpus: &[Snapshot]) {
    let mut text = table(vcpus);
    if io::stderr().is_terminal() {
        // The guest may have the terminal, on which no newline is a return then.
        text = text.replace('\n', "\r\n");
    }
    // With standard error closed there is nobody to tell.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The vCPUs' lists. A VM's process may be the guest's that has broken out, whose words are not for a terminal.
fn table(vcpus: &[Snapshot]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for vcpu in vcpus {
        let million = |cycles: u64| cycles / 1_000_000;
        let _ = writeln!(
            text,
            "vCPU {}: {} M cycles in guest code and the engine, {} M outside, {} M of them asleep\n\
             {:>12} {:>12} {:>8}  cause",
            vcpu.vcpu,
            million(vcpu.engine_cycles),
            million(vcpu.monitor_cycles),
            million(vcpu.idle_cycles),
            "count",
            "k cycles",
            "each",
        );
        for row in &vcpu.rows {
            let (count, cycles) = (row.counter.count, row.counter.cycles);
            let (each, cause) = (cycles / count.max(1), row.cause.escape_debug());
            let _ = writeln!(text, "{count:>12} {:>12} {each:>8}  {cause}", cycles / 1000);
        }
        for (title, list) in [("of the engine's own", &vcpu.counters), ("in the engine now", &vcpu.contents)]
        {
            if !list.is_empty() {
                let _ = writeln!(text, "{title}:");
            }
            for (what, count) in list {
                let _ = writeln!(text, "{count:>12}  {}", what.escape_debug());
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use board::insight::{Counter, Row};

    use super::*;

    #[test]
    fn a_table_has_a_line_for_each() {
        let row = |cause: &str, count, cycles| Row {
            cause: cause.into(),
            sensitive: true,
            counter: Counter { count, cycles },
        };
        let snapshot = Snapshot {
            engine_cycles: 7_000_001,
            monitor_cycles: 3_000_000,
            idle_cycles: 2_000_000,
            rows: vec![row("In", 10, 12_345), row("\u{1b}[2J", 0, 0)],
            counters: vec![("blocks translated".into(), 3)],
            contents: vec![("blocks in the cache".into(), 2)],
            ..Snapshot::default()
        };
        let text = table(&[snapshot.clone(), Snapshot { vcpu: 1, ..snapshot }]);
        let expected = "\
vCPU 0: 7 M cycles in guest code and the engine, 3 M outside, 2 M of them asleep
       count     k cycles     each  cause
          10           12     1234  In
           0            0        0  \\u{1b}[2J
of the engine's own:
           3  blocks translated
in the engine now:
           2  blocks in the cache
";
        assert_eq!(text, format!("{expected}{}", expected.replace("vCPU 0", "vCPU 1")));
    }
}
