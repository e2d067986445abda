//! Answers, made on a vCPU's thread, or by whoever has the vCPU once that has ended.

use dispatcher::{Dispatcher, Tracer, paging};
use vcpu::{CpuState, Environment};
use x86::paging::{Access, AccessKind, PagingContext, PagingMode, probe};

use super::{
    Answer, AskError, MOST_BYTES, MOST_MAPPED, MOST_PARTS, MOST_PLACES, Mapped, Question, Samples, Snapshot,
    Traced, Whole,
};

/// Vectors in one answer.
const DELIVERED: usize = 48;
/// Samples in one answer, for the same reason as [`MOST_PLACES`].
const SAMPLES: usize = 40;
/// Ranges of pages in one answer.
const RANGES: usize = 512;

const PAGE: u64 = 4096;

/// Answers a question about this vCPU.
pub fn to(
    question: &Question,
    whole: Whole,
    dispatcher: &mut Dispatcher,
    env: &mut dyn Environment,
) -> Result<Answer, AskError> {
    let Whole { vcpus, tsc_hz } = whole;
    Ok(match *question {
        Question::Counters { vcpu } => {
            let snapshot = Snapshot { vcpu, vcpus, tsc_hz, ..counters(dispatcher, env) };
            Answer::Counters(Box::new(snapshot))
        }
        Question::Trace { vcpu, .. } => {
            let traced = Some(traced(dispatcher.trace()));
            let snapshot = Snapshot { vcpu, vcpus, tsc_hz, traced, ..counters(dispatcher, env) };
            Answer::Counters(Box::new(snapshot))
        }
        Question::Samples { from, .. } => {
            let (from, list) = dispatcher.trace().samples_from(from, SAMPLES);
            Answer::Samples(Samples { from, list })
        }
        Question::Blocks { rip, .. } => Answer::Blocks(dispatcher.engine_mut().blocks_at(rip)),
        Question::HostCode { from, .. } => Answer::HostCode(dispatcher.engine().host_code(from, MOST_PARTS)),
        Question::Mappings { from, to, .. } => {
            if to <= from || to - from > MOST_MAPPED {
                return Err(AskError::Range("mappings are told of 64 MiB at most at once, and of some"));
            }
            Answer::Mappings(mappings(dispatcher.cpu(), env, from, to))
        }
        Question::Read { linear, len, .. } => {
            if len == 0 || len > MOST_BYTES {
                return Err(AskError::Range("memory is read by 24 KiB at most, and by one byte at least"));
            }
            Answer::Bytes(read(dispatcher.cpu(), env, linear, len))
        }
    })
}

/// What has been counted; who it is about is the caller's to fill in.
fn counters(dispatcher: &mut Dispatcher, env: &dyn Environment) -> Snapshot {
    let statistics = dispatcher.statistics();
    let named =
        |list: Vec<(&str, u64)>| list.into_iter().map(|(what, count)| (what.to_owned(), count)).collect();
    Snapshot {
        engine: dispatcher.engine().name().to_owned(),
        rip: dispatcher.cpu().rip,
        tsc: env.tsc(),
        engine_cycles: statistics.engine_cycles,
        monitor_cycles: statistics.monitor_cycles,
        idle_cycles: statistics.idle_cycles,
        rows: statistics.rows(),
        counters: named(statistics.engine),
        contents: named(dispatcher.engine_mut().contents()),
        ..Snapshot::default()
    }
}

/// What has been counted by place.
fn traced(tracer: &Tracer) -> Traced {
    let mut delivered = tracer.delivered();
    delivered.truncate(DELIVERED);
    Traced {
        places: tracer.places(MOST_PLACES),
        known: tracer.len() as u64,
        beyond: tracer.beyond,
        delivered,
    }
}

/// Translates an address as a debugger does: whoever may use the page, and without a mark in the tables.
fn translate(
    context: &PagingContext,
    env: &dyn Environment,
    linear: u64,
) -> Option<x86::paging::Translation> {
    let long = matches!(context.mode, PagingMode::FourLevel | PagingMode::FiveLevel);
    // Below long mode there is nothing above 4 GiB, and a walk would wrap.
    let there = if long { context.is_canonical(linear) } else { linear >> 32 == 0 };
    if !there {
        return None;
    }
    // SMAP and SMEP keep the supervisor from user pages, not us.
    let context = PagingContext { smap: false, smep: false, ..*context };
    probe(&context, env, linear, Access::explicit(AccessKind::Read, false)).ok()
}

/// The pages that are there, in ranges of equal rights.
fn mappings(cpu: &CpuState, env: &dyn Environment, from: u64, to: u64) -> Vec<Mapped> {
    let context = paging(cpu, env);
    let mut ranges: Vec<Mapped> = Vec::new();
    let mut linear = from & !(PAGE - 1);
    while linear < to && ranges.len() < RANGES {
        let Some(found) = translate(&context, env, linear) else {
            let Some(next) = linear.checked_add(PAGE) else { break };
            linear = next;
            continue;
        };
        let page = found.size.bytes();
        let end = (linear & !(page - 1)).saturating_add(page).min(to);
        let range = Mapped { linear, len: end - linear, executable: found.executable, user: found.user };
        match ranges.last_mut() {
            Some(last)
                if last.linear + last.len == linear
                    && (last.executable, last.user) == (range.executable, range.user) =>
            {
                last.len += range.len;
            }
            _ => ranges.push(range),
        }
        linear = end;
    }
    ranges
}

/// Bytes of linear memory as hexadecimal digits, up to the first that is not there. RAM only: to read a device's
/// registers would change it.
fn read(cpu: &CpuState, env: &dyn Environment, linear: u64, len: u32) -> String {
    let context = paging(cpu, env);
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 * len as usize);
    let mut page = None;
    let mut word = [0; 8];
    for n in 0..u64::from(len) {
        let Some(at) = linear.checked_add(n) else { break };
        if page.is_none() || at % PAGE == 0 {
            page = translate(&context, env, at & !(PAGE - 1)).map(|found| found.physical);
        }
        let Some(physical) = page else { break };
        let offset = at % PAGE;
        if n == 0 || offset.is_multiple_of(8) {
            word = env.read_u64(physical + (offset & !7)).to_le_bytes();
        }
        let byte = word[offset as usize % 8];
        text.extend([byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)])));
    }
    text
}
