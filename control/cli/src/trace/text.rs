//! `popf trace` as text.

use std::fmt::Write as _;

use board::insight::{Counter, Place};
use insight::Symbols;
use insight::flame::Flames;

use super::frame::Change;

/// An address as the guest's kernel names it; names come from the guest, which must not write to a terminal.
pub fn called(symbols: &Symbols, address: u64) -> String {
    match insight::function(symbols, address) {
        Some((name, 0)) => name.escape_debug().to_string(),
        Some((name, distance)) => format!("{}+{distance:#x}", name.escape_debug()),
        None => String::new(),
    }
}

/// A cause and what is known of the place: its instruction, or which event it was.
pub fn what(place: &Place) -> String {
    let what = if place.what.is_empty() { &place.cause } else { &place.what };
    let mut text = match place.cause.as_str() {
        "PageFault" => format!("#PF {what}"),
        _ => what.escape_debug().to_string(),
    };
    if let Some(last) = place.last {
        let of = match place.cause.as_str() {
            "In" | "Out" | "Ins" | "Outs" | "PortIo" => "port ",
            "Rdmsr" | "Wrmsr" => "MSR ",
            "Cpuid" => "leaf ",
            _ => "",
        };
        let _ = write!(text, " [{of}{last:#x}]");
    }
    text
}

/// Per second.
pub fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// The share of a vCPU's time that these cycles are, in percent.
pub fn share(cycles: u64, change: &Change) -> f64 {
    if change.tsc_hz == 0 { 0.0 } else { 100.0 * rate(cycles, change.seconds) / change.tsc_hz as f64 }
}

fn numbers(counter: Counter, change: &Change) -> String {
    let Counter { count, cycles } = counter;
    format!(
        "{count:>10} {:>10.0} {:>10} {:>8} {:>6.2}",
        rate(count, change.seconds),
        cycles / 1000,
        cycles / count.max(1),
        share(cycles, change)
    )
}

const NUMBERS: &str = "     count      per s   k cycles     each % time";

/// All that is known of one vCPU's work.
pub fn report(change: &Change, symbols: &Symbols, lines: usize) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        text,
        "vCPU {} ({}), {:.2} s: {:.1} % in guest code, {:.1} % in the monitor, {:.1} % waiting\n",
        change.vcpu,
        change.engine.escape_debug(),
        change.seconds,
        100.0 * change.guest,
        100.0 * change.monitor,
        100.0 * change.idle
    );
    let _ = writeln!(text, "{NUMBERS}  cause (* a sensitive instruction)");
    for row in change.rows.iter().take(lines) {
        let mark = if row.sensitive { "*" } else { "" };
        let _ = writeln!(text, "{}  {}{mark}", numbers(row.counter, change), row.cause.escape_debug());
    }
    if !change.places.is_empty() {
        let _ = writeln!(
            text,
            "\n{NUMBERS}  {:<18} {:<34} what, of {} places",
            "address", "function", change.known
        );
    }
    for place in change.places.iter().take(lines) {
        let _ = writeln!(
            text,
            "{}  {:<#18x} {:<34} {}",
            numbers(place.counter, change),
            place.rip,
            called(symbols, place.rip),
            what(place)
        );
    }
    if change.beyond > 0 {
        let _ = writeln!(text, "{:>10}  events at further places, which are not kept apart", change.beyond);
    }
    let counted = |title: &str, list: &[(String, u64)], seconds: Option<f64>| {
        let mut text = String::new();
        let some: Vec<_> = list.iter().filter(|(_, count)| *count > 0).take(lines).collect();
        if !some.is_empty() {
            let _ = writeln!(text, "\n{title}");
        }
        for (name, count) in some {
            let rate = seconds.map_or_else(String::new, |s| format!(" {:>10.0}", rate(*count, s)));
            let _ = writeln!(text, "{count:>10}{rate}  {}", name.escape_debug());
        }
        text
    };
    text +=
        &counted("     count      per s  delivered to the guest", &change.delivered, Some(change.seconds));
    text += &counted("     count      per s  the engine's own", &change.counters, Some(change.seconds));
    text += &counted("       now  in the engine", &change.contents, None);
    text
}

/// Where vCPUs were seen most.
pub fn tops(flames: &Flames, lines: usize) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "\n  % seen  on top, of {} ticks of the sampling clock", flames.weight());
    for (name, weight) in flames.tops().into_iter().take(lines) {
        let percent = 100.0 * weight as f64 / flames.weight().max(1) as f64;
        let _ = writeln!(text, "{percent:>8.2}  {}", name.escape_debug());
    }
    text
}
