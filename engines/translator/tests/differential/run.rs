//! The test itself: batches of cases through both sides, and reports of what differed.

use std::collections::{BTreeMap, HashSet};

use iced_x86::{Code, FlowControl};

use crate::case::{Case, ENDLESS, NO_EXCEPTION, Outcome, Width, initial_data};
use crate::compare;
use crate::generate::Generator;
use crate::guest::Guest;
use crate::native::{BATCH, Native};
use crate::random::Random;

/// Differences told at most.
const MOST_REPORTS: usize = 200;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs `cases` cases, or as the environment says.
pub fn run(cases: usize) {
    let cases = variable("POPF_CASES").map_or(cases, |n| n.parse().expect("a number"));
    let seed = variable("POPF_SEED").map_or(1974, |n| n.parse().expect("a number"));
    let data: &'static [u64] = Vec::leak(initial_data(seed));
    let native = Native::start(data).expect("a native process");
    let widths: &[Width] = match variable("POPF_WIDTH").as_deref() {
        Some("16") => &[Width::Bits16],
        Some("32") => &[Width::Bits32],
        Some("64") => &[Width::Bits64],
        _ if native.segments => &[Width::Bits64, Width::Bits32, Width::Bits16],
        _ => &[Width::Bits64],
    };
    let generator = Generator::new(widths, variable("POPF_CODE"));
    let mut bench = Bench {
        native,
        guest: Guest::new(data, 1 << 20),
        outcome: Box::new(empty_outcome()),
        coverage: Coverage::default(),
        failures: BTreeMap::new(),
    };
    let only = variable("POPF_ONLY").map(|n| n.parse().expect("a number"));
    if let Some(n) = only {
        bench.batch(n, &[generator.case(n, &mut Random::new(seed << 32 ^ n as u64))]);
    }
    let mut done = if only.is_some() { cases } else { 0 };
    while done < cases {
        let batch: Vec<Case> = (done..(done + BATCH).min(cases))
            .map(|n| generator.case(n, &mut Random::new(seed << 32 ^ n as u64)))
            .collect();
        bench.batch(done, &batch);
        done += batch.len();
    }
    bench.coverage.report(cases, generator.wide_codes());
    let reports: Vec<_> = bench.failures.values().collect();
    for report in reports.iter().take(MOST_REPORTS) {
        println!("{report}");
    }
    assert!(
        reports.is_empty(),
        "{} kinds of difference between the translator and the processor",
        reports.len()
    );
}

fn empty_outcome() -> Outcome {
    // The big arrays are written before they are read.
    Outcome {
        gpr: [0; 16],
        rip: 0,
        rflags: 0,
        vector: NO_EXCEPTION,
        error_code: 0,
        address: 0,
        fpu: [0; crate::case::FPU_BYTES],
        change_count: 0,
        changes: [(0, 0); crate::case::MOST_CHANGES],
    }
}

struct Bench {
    native: Native,
    guest: Guest,
    outcome: Box<Outcome>,
    coverage: Coverage,
    /// One report for each kind of difference.
    failures: BTreeMap<String, String>,
}

impl Bench {
    fn batch(&mut self, first: usize, batch: &[Case]) {
        let outcomes = self.native.run(batch).expect("the native process answers");
        let mut failed = Vec::new();
        for (n, (case, native)) in batch.iter().zip(outcomes).enumerate() {
            if native.vector == ENDLESS {
                continue;
            }
            self.coverage.count(case, native);
            let remark = self.guest.run(case, &mut self.outcome);
            let found = differences(case, native, &self.outcome, remark);
            if !found.is_empty() {
                failed.push((n, *case, found));
            }
        }
        for (n, case, found) in failed {
            let (case, found) = self.minimise(case, found);
            let code = compare::decode(&case).last().map_or(String::new(), |i| format!("{:?}", i.code()));
            let what = found[0].split(' ').next().unwrap_or("");
            self.failures.entry(format!("{code} {what}")).or_insert_with(|| {
                format!(
                    "case {}: {}: native / translated: {}",
                    first + n,
                    compare::describe(&case),
                    found.join("; ")
                )
            });
        }
    }

    /// Leaves out instructions for as long as something differs.
    fn minimise(&mut self, case: Case, found: Vec<String>) -> (Case, Vec<String>) {
        let (mut case, mut found) = (case, found);
        let mut n = 0;
        while n < compare::decode(&case).len() && compare::decode(&case).len() > 1 {
            let list = compare::decode(&case);
            let mut shorter = case;
            let (start, len) = ((list[n].ip() - case.start) as usize, list[n].len());
            let end = case.code_len as usize;
            shorter.code.copy_within(start + len..end, start);
            shorter.code_len -= len as u32;
            match self.check(&shorter) {
                Some(still) if !still.is_empty() => (case, found) = (shorter, still),
                _ => n += 1,
            }
        }
        (case, found)
    }

    fn check(&mut self, case: &Case) -> Option<Vec<String>> {
        let outcomes = self.native.run(std::slice::from_ref(case)).ok()?;
        if outcomes[0].vector == ENDLESS {
            return None;
        }
        let remark = self.guest.run(case, &mut self.outcome);
        Some(differences(case, &outcomes[0], &self.outcome, remark))
    }
}

/// Which codes cases have put to the processor.
#[derive(Default)]
struct Coverage {
    /// Those that ran to their end.
    done: HashSet<Code>,
    /// Those that raised #UD.
    refused: HashSet<Code>,
}

impl Coverage {
    /// Counts the instructions of a case, as far as their fate is plain: up to the first jump.
    fn count(&mut self, case: &Case, native: &Outcome) {
        for i in compare::decode(case) {
            let jumps = i.flow_control() != FlowControl::Next;
            if native.rip == i.ip() && native.vector == 6 {
                self.refused.insert(i.code());
            }
            if i.ip() < native.rip && !jumps || jumps && native.vector == 6 && native.rip != i.ip() {
                self.done.insert(i.code());
            }
            if jumps {
                return;
            }
        }
    }

    fn report(&self, cases: usize, codes: &[Code]) {
        let count = |wanted: &dyn Fn(&Code) -> bool| codes.iter().filter(|code| wanted(code)).count();
        let done = count(&|code| self.done.contains(code));
        let refused = count(&|code| !self.done.contains(code) && self.refused.contains(code));
        println!(
            "{cases} cases; of {} codes in 64-bit mode {done} were executed, {refused} this processor lacks",
            codes.len()
        );
        if variable("POPF_MISSING").is_some() {
            let missing = codes.iter().filter(|c| !self.done.contains(c) && !self.refused.contains(c));
            println!("not reached: {:?}", missing.collect::<Vec<_>>());
        }
    }
}

fn differences(case: &Case, native: &Outcome, translated: &Outcome, remark: Option<String>) -> Vec<String> {
    match remark {
        Some(_) if !compare::is_boundary(case, translated.rip) => Vec::new(),
        Some(remark) => vec![remark],
        None => compare::differences(case, native, translated),
    }
}
