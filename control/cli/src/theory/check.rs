//! `popf theory check`.

use std::fmt::Write as _;

use ::theory::equivalence::search;
use ::theory::isa::ISAS;
use ::theory::theorems::{Analysis, Report, Verdict, Witness, analyse};
use ::theory::{Isa, Kind};
use serde::Serialize;

use crate::args::CheckArgs;
use crate::error::CliError;
use crate::image::{print, print_json};

/// Random programs that are tried at each depth.
const PROGRAMS: u64 = 2000;

/// An instruction set in `--json`.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    about: &'static str,
    /// Words of the machine whose states were counted out.
    words: u64,
    /// Theorem 1.
    virtualizable: bool,
    /// Theorem 2.
    recursively_virtualizable: bool,
    /// Theorem 3.
    hybrid_virtualizable: bool,
    instructions: Vec<Instruction>,
    experiments: Vec<Experiment>,
}

/// What an instruction is.
#[derive(Serialize)]
struct Instruction {
    name: String,
    privileged: bool,
    control_sensitive: bool,
    location_sensitive: bool,
    mode_sensitive: bool,
    user_sensitive: bool,
    /// Why it is sensitive, and why it is not privileged.
    witnesses: Vec<Shown>,
}

/// States, and what they show.
#[derive(Serialize)]
struct Shown {
    shows: &'static str,
    /// An instruction, the state before it and what came of it, in a line for each.
    states: Vec<String>,
}

/// What came of random programs on the real machine and in a VM.
#[derive(Serialize)]
struct Experiment {
    depth: u32,
    hybrid: bool,
    programs: u64,
    /// The smallest program found that can tell, and by what.
    told_apart: Option<Apart>,
}

#[derive(Serialize)]
struct Apart {
    program: Vec<String>,
    difference: String,
}

/// Analyses one instruction set or all, and prints what it found.
pub fn run(args: &CheckArgs) -> Result<u8, CliError> {
    let isas = args.isa.map_or_else(|| ISAS.iter().collect(), |isa| vec![isa]);
    let mut rows = Vec::new();
    for isa in isas {
        let analysis = analyse(isa, args.words);
        let row = row(&analysis, &analysis.verdict());
        if !args.json {
            let text = if args.isa.is_some() { long(&row) } else { short(&row, rows.is_empty()) };
            print(format_args!("{text}"))?;
        }
        rows.push(row);
    }
    if args.json {
        print_json(&rows)?;
    }
    Ok(0)
}

fn row(analysis: &Analysis, verdict: &Verdict) -> Row {
    let isa = analysis.isa;
    Row {
        name: isa.name,
        about: isa.about,
        words: analysis.shape.size(),
        virtualizable: verdict.virtualizable(),
        recursively_virtualizable: verdict.recursively(),
        hybrid_virtualizable: verdict.hybrid(),
        instructions: analysis.reports.iter().map(instruction).collect(),
        experiments: [(1, false), (2, false), (3, false), (1, true)]
            .map(|(depth, hybrid)| experiment(isa, depth, hybrid))
            .into(),
    }
}

fn instruction(report: &Report) -> Instruction {
    // The user's, where there is one: it is what a hybrid monitor fails by too.
    let control = report.user_control.as_ref().or(report.control.as_ref());
    let location = report.user_location.as_ref().or(report.location.as_ref());
    let not_privileged = report.fails_to_trap.as_ref().filter(|_| report.offends());
    let witnesses = [
        ("it changes what the program has", control),
        ("it tells where the program is", location),
        ("it tells the mode", report.mode.as_ref()),
        ("it does not trap", not_privileged),
    ];
    let shown = |(shows, witness): (&'static str, Option<&Witness>)| {
        Some(Shown { shows, states: witness?.to_string().lines().map(str::to_owned).collect() })
    };
    Instruction {
        name: report.op.to_string(),
        privileged: report.privileged(),
        control_sensitive: report.control.is_some(),
        location_sensitive: report.location.is_some(),
        mode_sensitive: report.mode.is_some(),
        user_sensitive: report.user_sensitive(),
        witnesses: witnesses.into_iter().filter_map(shown).collect(),
    }
}

fn experiment(isa: &'static Isa, depth: u32, hybrid: bool) -> Experiment {
    let kind = if hybrid { Kind::Hybrid } else { Kind::Full };
    let told_apart = search(isa, depth, kind, 0..PROGRAMS).map(|(case, difference)| Apart {
        program: case.to_string().lines().map(str::to_owned).collect(),
        difference: difference.to_string(),
    });
    Experiment { depth, hybrid, programs: PROGRAMS, told_apart }
}

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// One line.
fn short(row: &Row, first: bool) -> String {
    let mut text = String::new();
    if first {
        text += "set    theorem 1  theorem 2  theorem 3  told apart   because of\n";
    }
    let offenders: Vec<_> = offenders(row).map(|instruction| instruction.name.as_str()).collect();
    let because = if offenders.is_empty() { "-".into() } else { offenders.join(", ") };
    let apart = |hybrid| row.experiments.iter().any(|e| e.hybrid == hybrid && e.told_apart.is_some());
    let told = match (apart(false), apart(true)) {
        (false, _) => "never",
        (true, false) => "not hybrid",
        (true, true) => "always",
    };
    let theorems = [row.virtualizable, row.recursively_virtualizable, row.hybrid_virtualizable].map(yes);
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{:<6} {:<10} {:<10} {:<10} {told:<12} {because}: {}",
        row.name, theorems[0], theorems[1], theorems[2], row.about
    );
    text
}

fn offenders(row: &Row) -> impl Iterator<Item = &Instruction> {
    row.instructions.iter().filter(|i| !i.privileged && sensitive(i))
}

fn sensitive(i: &Instruction) -> bool {
    i.control_sensitive || i.location_sensitive || i.mode_sensitive
}

/// Everything.
fn long(row: &Row) -> String {
    let mut text = format!("{}: {}\n\n", row.name, row.about);
    text += &format!("From all states of a machine of {} words:\n", row.words);
    text += "  instruction  privileged  control  location  mode  in user mode\n";
    let (shown, innocuous): (Vec<_>, Vec<_>) =
        row.instructions.iter().partition(|i| i.privileged || sensitive(i));
    for i in shown {
        let cell = |is| if is { "yes" } else { "-" };
        let _ = writeln!(
            text,
            "  {:<12} {:<11} {:<8} {:<9} {:<5} {}{}",
            i.name,
            cell(i.privileged),
            cell(i.control_sensitive),
            cell(i.location_sensitive),
            cell(i.mode_sensitive),
            cell(i.user_sensitive),
            if sensitive(i) && !i.privileged { "   <- sensitive and not privileged" } else { "" }
        );
    }
    let _ = writeln!(text, "  and {} that are neither privileged nor sensitive", innocuous.len());
    for i in offenders(row) {
        for Shown { shows, states } in &i.witnesses {
            let _ = writeln!(text, "\n{}: {shows}", i.name);
            for state in states {
                let _ = writeln!(text, "  {state}");
            }
        }
    }
    let _ = writeln!(text, "\ntheorem 1  a monitor can be built             {}", yes(row.virtualizable));
    let _ = writeln!(
        text,
        "theorem 2  ... and again in its VM             {}",
        yes(row.recursively_virtualizable)
    );
    let _ =
        writeln!(text, "theorem 3  a hybrid monitor can be built       {}\n", yes(row.hybrid_virtualizable));
    for experiment in &row.experiments {
        let hybrid = if experiment.hybrid { "hybrid, " } else { "" };
        let _ = write!(text, "{} random programs, {hybrid}depth {}: ", experiment.programs, experiment.depth);
        match &experiment.told_apart {
            None => text += "nothing differs from the real machine\n",
            Some(Apart { program, difference }) => {
                let _ = writeln!(text, "{difference}, real and virtual, after");
                for line in program {
                    let _ = writeln!(text, "  {line}");
                }
            }
        }
    }
    text
}
