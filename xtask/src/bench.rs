//! `cargo xtask bench`: popf beside a peer, in the same run.
//!
//! The two take turns, so that whatever else the machine does meets both, and medians are compared, so that one
//! bad round moves nothing. docs/performance.md says what is measured and keeps the figures.

pub mod boot;
pub mod console;
pub mod disk;
pub mod net;

use std::time::Duration;

use clap::Subcommand;

/// What can be measured.
#[derive(Subcommand)]
pub enum BenchCommand {
    /// From nothing to a guest's shell, or to its multi-user.target, and on until it has powered off: popf beside
    /// QEMU's TCG.
    Boot(boot::BootArgs),
    /// Blocks read and written per second, in sequence and at random: popf beside QEMU's TCG.
    Disk(disk::DiskArgs),
    /// TCP between guests and with the host: popf's networks beside QEMU's. Takes root.
    Net(net::NetArgs),
}

/// Measures.
pub fn run(command: &BenchCommand) -> Result<(), String> {
    match command {
        BenchCommand::Boot(args) => boot::run(args),
        BenchCommand::Disk(args) => disk::run(args),
        BenchCommand::Net(args) => net::run(args),
    }
}

/// The middle of the values; of an even number, the mean of the two in the middle.
pub fn median(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => Duration::ZERO,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let seconds = |values: &[u64]| values.iter().map(|s| Duration::from_secs(*s)).collect::<Vec<_>>();
        assert_eq!(median(&seconds(&[9, 1, 2])), Duration::from_secs(2));
        assert_eq!(median(&seconds(&[9, 1, 2, 4])), Duration::from_secs(3));
        assert_eq!(median(&[]), Duration::ZERO);
    }
}
