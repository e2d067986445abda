//! The theorem, applied.

use std::fmt::Write as _;

use serde::Serialize;
use x86::Mode;
use x86::classify::{Named, PROCESSORS, Processor, Standing};

use crate::args::ClassifyArgs;
use crate::error::CliError;
use crate::image::{print, print_json};

/// A processor in `--json`.
#[derive(Serialize)]
struct Verdict {
    processor: &'static str,
    /// Whether a monitor can let this mode's code run and is told of everything.
    virtualizable: bool,
    /// Sensitive instructions that trap.
    traps: Vec<String>,
    /// Those that leave the guest for the monitor, where hardware has such a thing.
    exits: Vec<String>,
    /// Those that act on state of the guest's own.
    own_state: Vec<String>,
    /// Those that such a guest is not offered.
    hidden: Vec<String>,
    /// Those that do neither.
    offenders: Vec<Offender>,
}

#[derive(Serialize)]
struct Offender {
    name: String,
    reason: &'static str,
    manual: &'static str,
}

/// Prints what the theorem says of each processor.
pub fn run(args: &ClassifyArgs) -> Result<(), CliError> {
    let verdicts: Vec<_> = PROCESSORS.iter().map(|processor| verdict(processor, args.mode.into())).collect();
    if args.json {
        return print_json(&verdicts);
    }
    print(format_args!("{}", text(&verdicts)))
}

fn verdict(processor: &Processor, mode: Mode) -> Verdict {
    let names = |standing| {
        let mut names: Vec<_> = processor.those(mode, standing).iter().map(name).collect();
        names.dedup();
        names
    };
    let offender =
        |named: &Named| Offender { name: name(named), reason: named.row.reason, manual: named.row.manual };
    Verdict {
        processor: processor.name,
        virtualizable: processor.is_virtualizable(mode),
        traps: names(Standing::Traps),
        exits: names(Standing::Exits),
        own_state: names(Standing::OwnState),
        hidden: names(Standing::Hidden),
        offenders: processor.those(mode, Standing::Offends).iter().map(offender).collect(),
    }
}

fn name(named: &Named) -> String {
    format!("{:?}", named.mnemonic).to_uppercase()
}

/// What stands in the way on the first, then what each of the others changes.
fn text(verdicts: &[Verdict]) -> String {
    let mut text = String::from(
        "Theorem 1 (Popek and Goldberg, 1974): a monitor can be built if the sensitive instructions are\n\
         a subset of the privileged ones.\n",
    );
    let mut before: Vec<&str> = Vec::new();
    for verdict in verdicts {
        let Verdict { processor, virtualizable, traps, exits, own_state, hidden, offenders } = verdict;
        let names: Vec<_> = offenders.iter().map(|offender| offender.name.as_str()).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n{processor}: {}virtualizable", if *virtualizable { "" } else { "not " });
        if !exits.is_empty() {
            text += "  The guest has rings of its own; the question is what it reaches from there.\n";
            let _ = writeln!(text, "  {} exit, or do where the monitor asks for it;", exits.len());
            let _ = writeln!(
                text,
                "  {} it is not offered; {} act on its own state:",
                hidden.len(),
                own_state.len()
            );
            wrap(&mut text, own_state);
            continue;
        }
        let _ = writeln!(text, "  {} sensitive instructions trap, {} do not", traps.len(), names.len());
        if before.is_empty() {
            by_reason(&mut text, offenders);
        } else {
            let gone: Vec<_> = before.iter().filter(|name| !names.contains(name)).collect();
            text += "  These trap now:\n";
            wrap(&mut text, &gone);
        }
        before = names;
    }
    text
}

/// Offenders that offend in the same way together.
fn by_reason(text: &mut String, offenders: &[Offender]) {
    let mut reasons: Vec<&str> = offenders.iter().map(|offender| offender.reason).collect();
    reasons.sort_unstable();
    reasons.dedup();
    for reason in reasons {
        let those: Vec<_> = offenders.iter().filter(|offender| offender.reason == reason).collect();
        let _ = writeln!(text, "  {reason} ({}):", those[0].manual);
        wrap(text, &those.iter().map(|offender| &offender.name).collect::<Vec<_>>());
    }
}

/// Names in lines that are not too long.
fn wrap(text: &mut String, names: &[impl AsRef<str>]) {
    let mut line = String::from("   ");
    for name in names {
        if line.len() + name.as_ref().len() > 100 {
            let _ = writeln!(text, "{line}");
            line = String::from("   ");
        }
        let _ = write!(line, " {}", name.as_ref());
    }
    let _ = writeln!(text, "{line}");
}
