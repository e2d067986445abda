//! How a build tells what it is doing: a small trait, bars for a terminal, lines for anything else.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};

/// Is told the stages of a build, one after the other.
pub trait Progress {
    /// A stage begins, of `total` bytes if that is known.
    fn begin(&mut self, stage: &str, total: Option<u64>);
    /// So many bytes of the stage are done.
    fn reached(&mut self, bytes: u64);
    /// The stage is done.
    fn end(&mut self);
}

/// Tells nobody.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &str, _: Option<u64>) {}
    fn reached(&mut self, _: u64) {}
    fn end(&mut self) {}
}

/// Tells the user on standard error: with bars on a terminal, else with a line per stage.
#[derive(Debug)]
pub struct Display {
    bars: bool,
    bar: ProgressBar,
}

impl Display {
    /// Bars if standard error is a terminal.
    pub fn new() -> Self {
        Self { bars: io::stderr().is_terminal(), bar: ProgressBar::hidden() }
    }
}

impl Default for Display {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Display {
    fn begin(&mut self, stage: &str, total: Option<u64>) {
        if !self.bars {
            // A closed standard error is no reason to stop a build.
            _ = writeln!(io::stderr(), "{stage}");
            return;
        }
        let template = match total {
            Some(_) => "{msg:<44} {bar:24} {bytes:>10}/{total_bytes:<10} {eta}",
            None => "{msg:<44} {spinner}",
        };
        // The bar hides itself if the terminal goes away.
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(stage.to_owned());
        if total.is_none() {
            bar.enable_steady_tick(std::time::Duration::from_millis(100));
        }
        self.bar = bar;
    }

    fn reached(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    fn end(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        // A build that fails in the middle of a stage leaves no half bar above its error.
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Remembers what it was told.
    #[derive(Debug, Default)]
    pub(crate) struct Recorded {
        pub(crate) stages: Vec<String>,
        pub(crate) open: bool,
        pub(crate) most: u64,
    }

    impl Progress for Recorded {
        fn begin(&mut self, stage: &str, _: Option<u64>) {
            assert!(!self.open, "{stage} begins before the last stage's end");
            self.open = true;
            self.stages.push(stage.to_owned());
        }

        fn reached(&mut self, bytes: u64) {
            assert!(self.open);
            self.most = self.most.max(bytes);
        }

        fn end(&mut self) {
            assert!(self.open);
            self.open = false;
        }
    }
}
