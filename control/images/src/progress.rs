//! How a build tells what it is doing: a small trait, bars for a terminal, lines for anything else.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};

/// How much there is to do in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// So many bytes.
    Bytes(u64),
    /// So many steps of a kind that the stage's name tells.
    Steps(u64),
}

/// Is told the stages of a build, one after the other.
pub trait Progress {
    /// A stage begins, with so much to do if that is known.
    fn begin(&mut self, stage: &str, total: Option<Total>);
    /// So much of the stage is done.
    fn reached(&mut self, position: u64);
    /// The stage is done.
    fn end(&mut self);
}

/// Tells nobody.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &str, _: Option<Total>) {}
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
    fn begin(&mut self, stage: &str, total: Option<Total>) {
        if !self.bars {
            // A closed standard error is no reason to stop a build.
            _ = writeln!(io::stderr(), "{stage}");
            return;
        }
        let (template, length) = match total {
            Some(Total::Bytes(bytes)) => {
                ("{msg:<44} {bar:24} {bytes:>10}/{total_bytes:<10} {eta}", Some(bytes))
            }
            Some(Total::Steps(steps)) => ("{msg:<44} {bar:24} {pos:>10}/{len:<10} {eta}", Some(steps)),
            None => ("{msg:<44} {spinner}", None),
        };
        // The bar hides itself if the terminal goes away.
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(stage.to_owned());
        if total.is_none() {
            bar.enable_steady_tick(std::time::Duration::from_millis(100));
        }
        self.bar = bar;
    }

    fn reached(&mut self, position: u64) {
        self.bar.set_position(position);
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
        pub(crate) totals: Vec<Option<Total>>,
        pub(crate) open: bool,
        pub(crate) most: u64,
    }

    impl Progress for Recorded {
        fn begin(&mut self, stage: &str, total: Option<Total>) {
            assert!(!self.open, "{stage} begins before the last stage's end");
            self.open = true;
            self.stages.push(stage.to_owned());
            self.totals.push(total);
        }

        fn reached(&mut self, position: u64) {
            assert!(self.open);
            self.most = self.most.max(position);
        }

        fn end(&mut self) {
            assert!(self.open);
            self.open = false;
        }
    }
}
