//! Exits by guest address, and where the vCPU was when it was looked at: counted while a tracer is attached only.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use vcpu::{CpuState, Environment, Event, Insn, Sighting};
use x86::Vector;
use x86::classify::Routine;
use x86::paging::error_code;
use x86::register::gpr;

use crate::Counter;
use crate::stack::{Frame, callers};

/// As many places are kept apart. A guest decides how many there are.
const PLACES: usize = 8192;
/// As many samples wait to be fetched.
const SAMPLES: usize = 2048;

/// A place in guest code that made the monitor work, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Guest rip.
    pub rip: u64,
    /// What happened there: a routine, or an exception by vector.
    pub cause: String,
    /// The instruction if it is a sensitive one, else what is known of the event.
    pub what: String,
    /// What it was about the last time: a port, an MSR, the address of a page fault or of a device's register.
    pub last: Option<u64>,
    /// How often, at what cost.
    #[serde(flatten)]
    pub counter: Counter,
}

/// What the vCPU was seen at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Ticks of the sampling clock that it stands for.
    pub ticks: u32,
    /// Where its thread was.
    pub at: Sighting,
    /// The guest's rip when it came out of guest code, a few instructions later.
    pub rip: u64,
    /// In ring 3.
    pub user: bool,
    /// What may be return addresses, from the top of the stack down.
    pub stack: Vec<Frame>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Routine(Routine, u64),
    Mmio(u64),
    PortIo(u64),
    Exception(Vector, u32, u64),
}

struct Entry {
    what: String,
    last: Option<u64>,
    counter: Counter,
}

/// What is counted for whoever watches a vCPU.
#[derive(Default)]
pub struct Tracer {
    places: HashMap<Key, Entry>,
    /// Events at places beyond those that are kept.
    pub beyond: u64,
    samples: VecDeque<Sample>,
    /// The number of the first sample that is kept: how many have been dropped.
    first: u64,
    /// Exceptions delivered, by vector.
    vectors: HashMap<Vector, u64>,
    /// Maskable interrupts delivered, by vector.
    interrupts: HashMap<u8, u64>,
}

impl Tracer {
    fn count(&mut self, key: Key, last: Option<u64>, cycles: u64, what: impl FnOnce() -> String) {
        if self.places.len() >= PLACES && !self.places.contains_key(&key) {
            self.beyond += 1;
            return;
        }
        let fresh = || Entry { what: what(), last, counter: Counter::default() };
        let entry = self.places.entry(key).or_insert_with(fresh);
        entry.last = last;
        entry.counter.add(cycles);
    }

    /// A sensitive instruction has been interpreted; `about` is what [`about`] said before.
    pub(crate) fn routine(&mut self, insn: &Insn, about: Option<u64>, cycles: u64) {
        let key = Key::Routine(insn.routine, insn.instruction.ip());
        self.count(key, about, cycles, || insn.instruction.to_string());
    }

    /// A device's register has been accessed.
    pub(crate) fn mmio(&mut self, rip: u64, gpa: u64, cycles: u64) {
        self.count(Key::Mmio(rip), Some(gpa), cycles, String::new);
    }

    /// A port has been accessed on an engine that decodes for itself.
    pub(crate) fn port(&mut self, rip: u64, port: u16, cycles: u64) {
        self.count(Key::PortIo(rip), Some(port.into()), cycles, String::new);
    }

    /// An event has been delivered to the guest, which was at `rip`.
    pub(crate) fn event(&mut self, event: Event, rip: u64, cycles: u64) {
        match event {
            Event::Exception(exception) => {
                let vector = exception.vector;
                *self.vectors.entry(vector).or_default() += 1;
                let code = exception.error_code.unwrap_or(0);
                let fault = vector == Vector::PageFault;
                let about = fault.then_some(exception.detail);
                let code = if fault { code } else { 0 };
                self.count(Key::Exception(vector, code, rip), about, cycles, || {
                    if fault { page_fault(code) } else { String::new() }
                });
            }
            Event::Interrupt(vector) => *self.interrupts.entry(vector).or_default() += 1,
            Event::Nmi | Event::Software { .. } => {}
        }
    }

    /// Looks where the vCPU is.
    pub(crate) fn sample(&mut self, ticks: u32, at: Sighting, cpu: &CpuState, env: &dyn Environment) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
            self.first += 1;
        }
        let user = cpu.cpl() == 3;
        let stack = callers(cpu, env);
        self.samples.push_back(Sample { ticks, at, rip: cpu.rip, user, stack });
    }

    /// The samples from this number on, as many as `room`, and the number of the first of them: the one asked for,
    /// or a later one if it has been dropped.
    pub fn samples_from(&self, number: u64, room: usize) -> (u64, Vec<Sample>) {
        let from = number.clamp(self.first, self.first + self.samples.len() as u64);
        let skip = (from - self.first) as usize;
        (from, self.samples.iter().skip(skip).take(room).cloned().collect())
    }

    /// The costliest places.
    pub fn places(&self, most: usize) -> Vec<Place> {
        let mut places: Vec<_> = self.places.iter().collect();
        places.sort_by_key(|(_, entry)| std::cmp::Reverse((entry.counter.cycles, entry.counter.count)));
        places.truncate(most);
        let place = |(key, entry): (&Key, &Entry)| {
            let (rip, cause) = match *key {
                Key::Routine(routine, rip) => (rip, format!("{routine:?}")),
                Key::Mmio(rip) => (rip, "Mmio".into()),
                Key::PortIo(rip) => (rip, "PortIo".into()),
                Key::Exception(vector, _, rip) => (rip, format!("{vector:?}")),
            };
            Place { rip, cause, what: entry.what.clone(), last: entry.last, counter: entry.counter }
        };
        places.into_iter().map(place).collect()
    }

    /// How many places are kept.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Exceptions and interrupts delivered, each with its name, the most frequent first.
    pub fn delivered(&self) -> Vec<(String, u64)> {
        let exceptions = self.vectors.iter().map(|(vector, count)| (format!("{vector:?}"), *count));
        let interrupts =
            self.interrupts.iter().map(|(vector, count)| (format!("interrupt {vector:#x}"), *count));
        let mut all: Vec<_> = exceptions.chain(interrupts).collect();
        all.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
        all
    }
}

/// What a page fault's error code says.
fn page_fault(code: u32) -> String {
    let has = |bit| code & bit != 0;
    let who = if has(error_code::USER) { "user" } else { "kernel" };
    let access = match code {
        _ if has(error_code::FETCH) => "fetch",
        _ if has(error_code::WRITE) => "write",
        _ => "read",
    };
    let why = if has(error_code::PRESENT) { "not permitted" } else { "not present" };
    format!("{who} {access}, {why}")
}

/// What an instruction that is about to be interpreted is about: a port or an MSR.
pub(crate) fn about(insn: &Insn, cpu: &CpuState) -> Option<u64> {
    let port = || {
        let i = &insn.instruction;
        let immediate = (0..i.op_count()).find_map(|n| i.try_immediate(n).ok());
        immediate.unwrap_or(cpu.gpr[gpr::RDX] & 0xffff)
    };
    match insn.routine {
        Routine::In | Routine::Out | Routine::Ins | Routine::Outs => Some(port()),
        Routine::Rdmsr | Routine::Wrmsr => Some(cpu.gpr[gpr::RCX] & 0xffff_ffff),
        Routine::Cpuid => Some(cpu.gpr[gpr::RAX] & 0xffff_ffff),
        _ => None,
    }
}
