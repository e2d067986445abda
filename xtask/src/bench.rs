//! `cargo xtask bench`: popf beside a peer, in the same run.
//!
//! The two take turns, so that whatever else the machine does meets both, and medians are compared, so that one
//! bad round moves nothing. docs/performance.md says what is measured and keeps the figures.

pub mod boot;
pub mod console;
pub mod disk;
mod growth;
mod nano;
pub mod net;
mod work;

use clap::{Args, Subcommand};

/// `cargo xtask bench`: without a command, a list of workloads.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    #[command(flatten)]
    work: work::WorkArgs,
}

/// What else can be measured.
#[derive(Subcommand)]
enum BenchCommand {
    /// From nothing to a guest's shell, or to its multi-user.target, and on until it has powered off: popf beside
    /// QEMU's TCG.
    Boot(boot::BootArgs),
    /// Blocks read and written per second, in sequence and at random: popf beside QEMU's TCG.
    Disk(disk::DiskArgs),
    /// Single events, such as a system call, a page fault or an interrupt, in cycles: popf beside QEMU's TCG, and the
    /// processor itself where a program can do it.
    Nano(nano::NanoArgs),
    /// How the cost of one more grows with how many there are: functions, processes, pages; popf beside QEMU's TCG.
    Growth(growth::GrowthArgs),
    /// TCP between guests and with the host: popf's networks beside QEMU's. Takes root.
    Net(net::NetArgs),
}

/// Measures.
pub fn run(args: &BenchArgs) -> Result<(), String> {
    match &args.command {
        None => work::run(&args.work),
        Some(BenchCommand::Boot(args)) => boot::run(args),
        Some(BenchCommand::Disk(args)) => disk::run(args),
        Some(BenchCommand::Nano(args)) => nano::run(args),
        Some(BenchCommand::Growth(args)) => growth::run(args),
        Some(BenchCommand::Net(args)) => net::run(args),
    }
}

/// The middle of the values; of an even number, the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        for (values, middle) in [(&[9.0, 1.0, 2.0][..], 2.0), (&[9.0, 1.0, 2.0, 4.0], 3.0), (&[], 0.0)] {
            assert!((median(values) - middle).abs() < 1e-12, "{values:?}");
        }
    }
}
