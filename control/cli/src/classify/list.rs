//! The table, filtered.

use std::fmt::Write as _;

use serde::Serialize;
use x86::classify::{Named, instructions};
use x86::{Cr4, Mode};

use super::{class, traps};
use crate::args::{Class, ClassifyArgs};
use crate::error::CliError;
use crate::exit::Failure;
use crate::image::{print, print_json};

/// An instruction in `--json`.
#[derive(Serialize)]
struct Line {
    name: String,
    class: &'static str,
    privileged: bool,
    traps: &'static str,
    offends: bool,
    reason: &'static str,
    manual: &'static str,
    /// The interpreter's routine, if the instruction has one.
    routine: Option<String>,
    extensions: Vec<String>,
    /// Each form of it, as the manual writes it.
    forms: Vec<&'static str>,
}

/// Prints the instructions that are asked for.
pub fn run(args: &ClassifyArgs) -> Result<(), CliError> {
    let class = args.class.unwrap_or(if args.text.is_none() && args.extension.is_none() {
        Class::Offender
    } else {
        Class::Any
    });
    let lines: Vec<_> = instructions(Mode::from(args.mode))
        .iter()
        .filter(|named| class.holds(&named.row))
        .map(line)
        .filter(|line| asked_for(line, args))
        .collect();
    if lines.is_empty() {
        let hint = "`popf classify --class any` lists every instruction of the mode";
        return Err(CliError::new(Failure::NoInput, "no instruction is like that").hint(hint));
    }
    if args.json { print_json(&lines) } else { print(format_args!("{}", text(&lines, args.text.is_some()))) }
}

fn line(named: &Named) -> Line {
    let row = &named.row;
    let features = named.codes.iter().flat_map(|code| code.cpuid_features());
    let mut extensions: Vec<_> = features.map(|feature| format!("{feature:?}")).collect();
    extensions.sort();
    extensions.dedup();
    Line {
        name: format!("{:?}", named.mnemonic).to_uppercase(),
        class: class(row),
        privileged: row.privileged,
        traps: traps(row),
        offends: row.is_offender(Cr4::empty()),
        reason: row.reason,
        manual: row.manual,
        routine: named.routine.map(|routine| format!("{routine:?}")),
        extensions,
        forms: named.codes.iter().map(|code| code.op_code().instruction_string()).collect(),
    }
}

fn asked_for(line: &Line, args: &ClassifyArgs) -> bool {
    let contains = |text: &str| {
        let text = text.to_lowercase();
        [&line.name, line.reason, line.manual].iter().any(|place| place.to_lowercase().contains(&text))
    };
    let of = |extension: &String| line.extensions.iter().any(|have| have.eq_ignore_ascii_case(extension));
    args.text.as_deref().is_none_or(contains) && args.extension.as_ref().is_none_or(of)
}

/// A table; with the forms of each instruction, if somebody asks for some by name.
fn text(lines: &[Line], with_forms: bool) -> String {
    let mut text = format!("{:<14} {:<10} {:<10} why\n", "instruction", "sensitive", "traps");
    for line in lines {
        let why = match (line.reason, line.manual) {
            ("", _) => String::new(),
            (reason, manual) => format!("{reason} ({manual})"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<14} {:<10} {:<10} {why}", line.name, line.class, line.traps);
        if with_forms {
            for form in &line.forms {
                let _ = writeln!(text, "    {form}");
            }
        }
    }
    let offenders = lines.iter().filter(|line| line.offends).count();
    let _ = writeln!(text, "{} instructions, {offenders} of them sensitive and not privileged", lines.len());
    text
}
