//! Files of cases, a line each: those of `tests/equivalence/instructions.txt`, found once or known to be edges, and run
//! for ever after; and those of `exceptions.txt`, which differ and are known to.

use std::collections::BTreeSet;

use crate::case::{Case, Width, initial_data};
use crate::native::Native;
use crate::rules::RULES;
use crate::run::{Bench, SEED};
use crate::{compare, line, processor};

const INSTRUCTIONS: &str = include_str!("../../../../tests/equivalence/instructions.txt");
/// Whose first table has a row for each rule.
const PAGE: &str = include_str!("../../../../docs/equivalence.md");
const EXCEPTIONS: &str = include_str!("../../../../tests/equivalence/exceptions.txt");

/// A line of a file.
struct Entry<'a> {
    number: usize,
    /// The processor it stands under; none if it stands before the first.
    processor: &'a str,
    case: Case,
    /// Its last column.
    says: String,
}

fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    let mut processor = "";
    (1..).zip(text.lines()).filter_map(move |(number, text)| {
        if text.is_empty() || text.starts_with('#') {
            return None;
        }
        if let Some(name) = text.strip_prefix("processor ") {
            processor = name;
            return None;
        }
        let line = line::parse(text).unwrap_or_else(|error| panic!("line {number}: {error}"));
        Some(Entry { number, processor, case: line.case, says: line.after })
    })
}

/// Both sides, and whether segments can be had.
fn bench() -> (Bench, bool) {
    let data: &'static [u8] = Vec::leak(initial_data(SEED));
    let native = Native::start(data).expect("a native process");
    let segments = native.segments;
    (Bench::new(native, data), segments)
}

/// Runs each line on both sides, and holds what it says of the outcome against the processor.
pub fn replay() {
    let (mut bench, segments) = bench();
    let (mut wrong, mut run, mut skipped) = (Vec::new(), 0, 0);
    for Entry { number, processor, case, says: told } in entries(INSTRUCTIONS) {
        if case.width != Width::Bits64 && !segments {
            skipped += 1;
            continue;
        }
        let whole = bench.line(&case);
        let says = whole.rsplit('|').next().expect("a column").trim();
        // An instruction that this processor lacks.
        if says.starts_with("rip=+0x0 vector=6") && says != told {
            skipped += 1;
            continue;
        }
        run += 1;
        if processor::is_named(processor) && says != told {
            wrong.push(format!("line {number}: the processor says: {whole}"));
        }
        match bench.check(&case, RULES) {
            Some(found) if found.is_empty() => {}
            Some(found) => {
                let described = compare::describe(&case);
                wrong.push(format!("line {number}: {described}: native / translated: {}", found.join("; ")));
            }
            None => wrong.push(format!("line {number}: it does not end")),
        }
    }
    println!("{run} cases replayed, {skipped} left out");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(run > 0, "nothing was run");
}

/// Each line differs, as it says by which rule; each rule has a line, and a place in the documentation.
pub fn exceptions() {
    let (mut bench, segments) = bench();
    let (mut wrong, mut run, mut skipped) = (Vec::new(), 0, 0);
    let mut without: BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
    for Entry { number, processor, case, says } in entries(EXCEPTIONS) {
        if !RULES.iter().any(|rule| rule.name == says) {
            wrong.push(format!("line {number}: there is no rule {says}"));
        }
        without.remove(says.as_str());
        if case.width != Width::Bits64 && !segments {
            skipped += 1;
            continue;
        }
        let here = processor.is_empty() || processor::is_named(processor);
        if !here {
            // It may differ, or not. How is news, and no mistake of whoever has this processor.
            skipped += 1;
            if let Some(found) = bench.check(&case, RULES).filter(|found| !found.is_empty()) {
                println!("line {number}: differs in a way that no rule knows: {}", found.join("; "));
            }
            continue;
        }
        run += 1;
        match bench.accepting(&case).as_deref() {
            Some([rule]) if *rule == says => {}
            Some(rules) => {
                let found = bench.check(&case, &[]).unwrap_or_default().join("; ");
                wrong.push(format!("line {number}: accepted by {rules:?}: {found}"));
            }
            None => wrong.push(format!("line {number}: nothing differs any more: {}", bench.line(&case))),
        }
    }
    println!("{run} cases differ as they are known to, {skipped} are other processors'");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(without.is_empty(), "rules without a line: {without:?}");
    let untold = RULES.iter().find(|rule| !PAGE.contains(&format!("`{}`", rule.name)));
    assert!(untold.is_none(), "docs/equivalence.md does not tell of {}", untold.expect("one").name);
    assert!(run > 0, "nothing was run");
}
