//! The test itself: batches of cases through both sides, and reports of what differed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::{slice, thread};

use iced_x86::{Code, FlowControl, Instruction};
use translator::Windowing;

use crate::case::{Case, ENDLESS, NO_EXCEPTION, Outcome, Width, initial_data};
use crate::compare;
use crate::generate::{Generator, STATES};
use crate::guest::Guest;
use crate::line;
use crate::native::{BATCH, Native};
use crate::rules::{RULES, Rule};

const ANSWERS: &str = "the native process answers";
/// Differences told at most.
const MOST_REPORTS: usize = 200;
/// Lines kept at most of what one rule accepts.
const MOST_ACCEPTED: usize = 4;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs `cases` cases, or as the environment says, on as many processors as there are.
pub fn run(cases: usize) {
    let number = |name: &str| variable(name).map(|n| n.parse().expect("a number"));
    let cases = number("POPF_CASES").unwrap_or(cases);
    let seed = number("POPF_SEED").unwrap_or(SEED as usize) as u64;
    let data: &'static [u8] = Vec::leak(initial_data(SEED));
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let workers = number("POPF_JOBS").unwrap_or(processors).clamp(1, cases.div_ceil(BATCH).max(1));
    // All of them before the first engine, and by the thread that outlives them.
    let natives: Vec<Native> = (0..workers).map(|_| Native::start(data).expect("a native process")).collect();
    let widths: &[Width] = match variable("POPF_WIDTH").as_deref() {
        Some("16") => &[Width::Bits16],
        Some("32") => &[Width::Bits32],
        Some("64") => &[Width::Bits64],
        _ if natives[0].segments => &[Width::Bits64, Width::Bits32, Width::Bits16],
        _ => &[Width::Bits64],
    };
    let generator = Generator::new(widths, variable("POPF_CODE"), seed);
    let only = number("POPF_ONLY");
    let part = |worker: usize, native: Native| {
        let mut bench = Bench::new(native, data);
        if let Some(n) = only {
            bench.batch(n, &[generator.cases(n / STATES)[n % STATES]]);
            return bench.found;
        }
        for first in (0..cases).step_by(BATCH).skip(worker).step_by(workers) {
            let wanted = BATCH.min(cases - first);
            let programs = first / STATES..(first + wanted).div_ceil(STATES);
            let batch: Vec<Case> = programs.flat_map(|n| generator.cases(n)).take(wanted).collect();
            bench.batch(first, &batch);
        }
        bench.found
    };
    let mut found = Found::default();
    thread::scope(|scope| {
        let part = &part;
        let workers: Vec<_> = natives
            .into_iter()
            .enumerate()
            .map(|(worker, native)| scope.spawn(move || part(worker, native)))
            .collect();
        for worker in workers {
            found.add(worker.join().expect("a worker"));
        }
    });
    found.coverage.report(cases, generator.wide_codes());
    for (rule, lines) in found.accepted.iter().flatten() {
        lines.iter().for_each(|line| println!("{line}{rule}"));
    }
    let reports: Vec<_> = found.failures.values().collect();
    for report in reports.iter().take(MOST_REPORTS) {
        println!("{report}");
    }
    assert!(
        reports.is_empty(),
        "{} kinds of difference between the translator and the processor",
        reports.len()
    );
}

/// Of the data pages, and of programs and states unless the environment says another.
pub const SEED: u64 = 1974;

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

/// What cases showed.
#[derive(Default)]
struct Found {
    coverage: Coverage,
    /// One report for each kind of difference.
    failures: BTreeMap<String, String>,
    /// Lines that one rule alone accepts, by its name, if they are wanted.
    accepted: Option<BTreeMap<&'static str, BTreeSet<String>>>,
}

impl Found {
    fn add(&mut self, other: Self) {
        self.coverage.done.extend(other.coverage.done);
        self.coverage.refused.extend(other.coverage.refused);
        for (kind, report) in other.failures {
            self.failures.entry(kind).or_insert(report);
        }
        for (rule, lines) in other.accepted.into_iter().flatten() {
            self.accepted.get_or_insert_default().entry(rule).or_default().extend(lines);
        }
    }
}

/// Both sides.
pub struct Bench {
    native: Native,
    /// With windows for what is hot, and with windows for everything.
    guests: [Guest; 2],
    outcome: Box<Outcome>,
    found: Found,
}

impl Bench {
    pub fn new(native: Native, data: &'static [u8]) -> Self {
        let guests = [Windowing::Hot, Windowing::All].map(|windows| Guest::new(data, 1 << 20, windows));
        let outcome = Box::new(empty_outcome());
        let accepted = variable("POPF_ACCEPTED").map(|_| BTreeMap::new());
        Self { native, guests, outcome, found: Found { accepted, ..Found::default() } }
    }

    fn batch(&mut self, first: usize, batch: &[Case]) {
        let (areas, outcomes) = self.native.run(batch).expect(ANSWERS);
        let (mut failed, mut accepted) = (Vec::new(), Vec::new());
        let mut list = Vec::new();
        for (n, (case, native)) in batch.iter().zip(outcomes).enumerate() {
            if n == 0 || !case.same_program(&batch[n - 1]) {
                list = compare::decode(case);
            }
            if native.vector == ENDLESS {
                continue;
            }
            self.found.coverage.count(&list, native);
            // Programs take turns.
            let guest = &mut self.guests[(first + n) / STATES % 2];
            let remark = guest.run(case, &areas[n], &mut self.outcome);
            let differ = |rules: &[Rule]| differences(case, native, &self.outcome, remark.as_deref(), rules);
            let found = differ(RULES);
            if !found.is_empty() {
                failed.push((n, *case, found));
            } else if self.found.accepted.is_some() && !differ(&[]).is_empty() {
                let rules = RULES.iter().filter(|rule| differ(slice::from_ref(rule)).is_empty());
                accepted.push((*case, rules.map(|rule| rule.name).collect::<Vec<_>>()));
            }
        }
        for (case, rules) in accepted {
            self.keep_accepted(&case, &rules);
        }
        let failing =
            |bench: &mut Self, case: &Case| bench.check(case, RULES).filter(|found| !found.is_empty());
        for (n, case, found) in failed {
            let (case, differing) = self.minimise(&case, found, failing);
            let code = compare::decode(&case).last().map_or(String::new(), |i| format!("{:?}", i.code()));
            let what = differing[0].split(' ').next().unwrap_or("");
            let kind = format!("{code} {what}");
            if self.found.failures.contains_key(&kind) {
                continue;
            }
            let line = self.line(&case);
            let report = format!(
                "case {}: {}: native / translated: {}\n  {line}",
                first + n,
                compare::describe(&case),
                differing.join("; ")
            );
            self.found.failures.insert(kind, report);
        }
    }

    /// Makes a line of a case that a rule alone accepts, unless there are enough.
    fn keep_accepted(&mut self, case: &Case, rules: &[&'static str]) {
        let ([rule], Some(accepted)) = (rules, &mut self.found.accepted) else { return };
        if accepted.entry(rule).or_default().len() >= MOST_ACCEPTED {
            return;
        }
        let alone =
            |bench: &mut Self, case: &Case| (bench.accepting(case).as_deref() == Some(rules)).then_some(());
        let (case, ()) = self.minimise(case, (), alone);
        let line = format!("{} | ", line::before(&case));
        if let Some(accepted) = &mut self.found.accepted {
            accepted.entry(rule).or_default().insert(line);
        }
    }

    /// Leaves out instructions, and then what surrounds them, for as long as the rest shows what is looked for.
    fn minimise<T>(
        &mut self,
        case: &Case,
        found: T,
        look: impl Fn(&mut Self, &Case) -> Option<T>,
    ) -> (Case, T) {
        let (mut case, mut found) = (*case, found);
        let mut n = 0;
        while n < compare::decode(&case).len() && compare::decode(&case).len() > 1 {
            let list = compare::decode(&case);
            let mut shorter = case;
            let (start, len) = ((list[n].ip() - case.start) as usize, list[n].len());
            let end = case.code_len as usize;
            shorter.code.copy_within(start + len..end, start);
            shorter.code_len -= len as u32;
            match look(self, &shorter) {
                Some(still) => (case, found) = (shorter, still),
                None => n += 1,
            }
        }
        for plainer in line::simplifications() {
            let mut tried = case;
            plainer(&mut tried);
            if let Some(still) = look(self, &tried) {
                (case, found) = (tried, still);
            }
        }
        (case, found)
    }

    /// The case and what the processor makes of it, as a line of the corpus.
    pub fn line(&mut self, case: &Case) -> String {
        let (_, outcomes) = self.native.run(slice::from_ref(case)).expect(ANSWERS);
        format!("{} | {}", line::before(case), line::after(case, &outcomes[0]))
    }

    /// The rules that accept, each by itself, what differs; nothing if nothing does.
    pub fn accepting(&mut self, case: &Case) -> Option<Vec<&'static str>> {
        if self.check(case, &[])?.is_empty() {
            return None;
        }
        let mut accepts = |rule: &Rule| self.check(case, slice::from_ref(rule)).is_some_and(|f| f.is_empty());
        Some(RULES.iter().filter(|rule| accepts(rule)).map(|rule| rule.name).collect())
    }

    /// What differs beyond these rules; nothing if the case does not end.
    pub fn check(&mut self, case: &Case, rules: &[Rule]) -> Option<Vec<String>> {
        let (areas, outcomes) = self.native.run(slice::from_ref(case)).expect(ANSWERS);
        if outcomes[0].vector == ENDLESS {
            return None;
        }
        let found = self.guests.each_mut().map(|guest| {
            let remark = guest.run(case, &areas[0], &mut self.outcome);
            differences(case, &outcomes[0], &self.outcome, remark.as_deref(), rules)
        });
        found.into_iter().find(|found| !found.is_empty()).or(Some(Vec::new()))
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
    /// Counts the instructions of a program, as far as their fate is plain: up to the first jump.
    fn count(&mut self, program: &[Instruction], native: &Outcome) {
        for i in program {
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
            "{cases} cases: of {} encodings in 64-bit mode this processor has {}, and executed {done}",
            codes.len(),
            codes.len() - refused
        );
        if variable("POPF_MISSING").is_some() {
            let missing = codes.iter().filter(|c| !self.done.contains(c) && !self.refused.contains(c));
            println!("not reached: {:?}", missing.collect::<Vec<_>>());
        }
    }
}

fn differences(
    case: &Case,
    native: &Outcome,
    translated: &Outcome,
    remark: Option<&str>,
    rules: &[Rule],
) -> Vec<String> {
    match remark {
        Some(_) if !compare::is_boundary(case, translated.rip) => Vec::new(),
        Some(remark) => vec![remark.to_owned()],
        // Into the middle of an instruction, where one stands that only ring 0 may run.
        None if case.ring0 && native.vector == 13 && !compare::is_boundary(case, native.rip) => Vec::new(),
        None => compare::differences(case, native, translated, rules),
    }
}
