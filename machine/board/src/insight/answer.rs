//! Answers, made on a vCPU's thread.

use std::fmt::Write as _;

use dispatcher::{Dispatcher, Tracer, paging};
use vcpu::{CpuState, Environment};
use x86::paging::{Access, AccessKind, PagingContext, PagingMode, probe};

use super::{MOST_PLACES, Mapped, Snapshot, Traced};

/// Vectors in one answer.
const DELIVERED: usize = 48;
/// Samples in one answer, for the same reason as [`MOST_PLACES`].
pub const SAMPLES: usize = 40;
/// Ranges of pages in one answer.
const RANGES: usize = 512;

const PAGE: u64 = 4096;

/// What has been counted; who it is about is the caller's to fill in.
pub fn counters(dispatcher: &mut Dispatcher, env: &dyn Environment) -> Snapshot {
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
pub fn traced(tracer: &Tracer) -> Traced {
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
pub fn mappings(cpu: &CpuState, env: &dyn Environment, from: u64, to: u64) -> Vec<Mapped> {
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
pub fn read(cpu: &CpuState, env: &dyn Environment, linear: u64, len: u32) -> String {
    let context = paging(cpu, env);
    let mut text = String::with_capacity(2 * len as usize);
    let mut page = None;
    for n in 0..u64::from(len) {
        let Some(at) = linear.checked_add(n) else { break };
        if page.is_none() || at % PAGE == 0 {
            page = translate(&context, env, at & !(PAGE - 1)).map(|found| found.physical);
        }
        let Some(physical) = page else { break };
        let offset = at % PAGE;
        let word = env.read_u64(physical + (offset & !7));
        // Writing to a string cannot fail.
        let _ = write!(text, "{:02x}", (word >> (offset % 8 * 8)) as u8);
    }
    text
}
