//! `--stats`: what made the guest leave guest code, what that cost, and what the engine did meanwhile.

use std::io::{self, Write};

use board::Statistics;

/// Prints the vCPUs' lists to standard error.
pub fn print(processors: &[Statistics]) {
    let mut text = String::new();
    for (index, statistics) in processors.iter().enumerate() {
        text.push_str(&format!(
            "vCPU {index}: {} M cycles in guest code, {} M outside (sleep included)\n\
             {:>12} {:>12} {:>8}  cause\n",
            statistics.engine_cycles / 1_000_000,
            statistics.monitor_cycles / 1_000_000,
            "count",
            "k cycles",
            "each",
        ));
        for row in statistics.rows() {
            let counter = row.counter;
            text.push_str(&format!(
                "{:>12} {:>12} {:>8}  {}\n",
                counter.count,
                counter.cycles / 1000,
                // Rows have happened.
                counter.cycles / counter.count.max(1),
                row.cause,
            ));
        }
        if !statistics.engine.is_empty() {
            text.push_str("of the engine's own:\n");
        }
        for (what, count) in &statistics.engine {
            text.push_str(&format!("{count:>12}  {what}\n"));
        }
    }
    // With standard error closed there is nobody to tell.
    let _ = io::stderr().write_all(text.as_bytes());
}
