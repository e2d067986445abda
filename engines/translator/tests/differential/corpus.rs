//! The cases of `tests/equivalence/instructions.txt`: found once, or known to be edges, and run for ever after.

use crate::case::{Width, initial_data};
use crate::native::Native;
use crate::run::{Bench, SEED};
use crate::{compare, line};

const CORPUS: &str = include_str!("../../../../tests/equivalence/instructions.txt");

/// Runs each line on both sides, and holds what it says of the outcome against the processor.
pub fn replay() {
    let data: &'static [u8] = Vec::leak(initial_data(SEED));
    let native = Native::start(data).expect("a native process");
    let segments = native.segments;
    let mut bench = Bench::new(native, data);
    let vendor = host::cpu::vendor();
    // Whose outcomes the lines tell.
    let mut told = String::new();
    let (mut wrong, mut run, mut skipped) = (Vec::new(), 0, 0);
    for (n, text) in CORPUS.lines().enumerate() {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if let Some(name) = text.strip_prefix("processor ") {
            name.clone_into(&mut told);
            continue;
        }
        let line = line::parse(text).unwrap_or_else(|error| panic!("line {}: {error}", n + 1));
        if line.case.width != Width::Bits64 && !segments {
            skipped += 1;
            continue;
        }
        let whole = bench.line(&line.case);
        let says = whole.rsplit('|').next().expect("a column").trim();
        // An instruction that this processor lacks.
        if says.starts_with("rip=+0x0 vector=6") && says != line.after {
            skipped += 1;
            continue;
        }
        run += 1;
        if told == vendor && says != line.after {
            wrong.push(format!("line {}: the processor says: {whole}", n + 1));
        }
        match bench.check(&line.case) {
            Some(found) if found.is_empty() => {}
            Some(found) => {
                let described = compare::describe(&line.case);
                wrong.push(format!("line {}: {described}: native / translated: {}", n + 1, found.join("; ")));
            }
            None => wrong.push(format!("line {}: it does not end", n + 1)),
        }
    }
    println!("{run} cases replayed, {skipped} left out");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(run > 0, "nothing was run");
}
