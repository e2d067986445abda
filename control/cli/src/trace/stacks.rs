//! Samples of vCPUs as stacks of names.

use board::insight::{Sample, Sighting};
use insight::Symbols;
use insight::flame::Flames;
use insight::unwind::{Candidate, stack};

use super::frame::Frame;

/// All samples of some moments.
pub fn flames<'a>(frames: impl IntoIterator<Item = &'a Frame>, symbols: &Symbols) -> Flames {
    let mut flames = Flames::default();
    for frame in frames {
        for sample in frame.samples.iter().flatten() {
            flames.add(&names(sample, symbols), sample.ticks.into());
        }
    }
    flames
}

/// The outermost first. What popf itself did stands on top of the guest's function it was done for.
fn names(sample: &Sample, symbols: &Symbols) -> Vec<String> {
    let (rip, own) = match sample.at {
        Sighting::Guest(rip) => (rip, None),
        Sighting::Engine => (sample.rip, Some("[popf: engine]")),
        Sighting::Monitor => (sample.rip, Some("[popf: monitor and devices]")),
    };
    let mut names = if sample.user {
        vec!["[ring 3]".to_owned(), format!("[page {:#x}]", rip & !0xfff)]
    } else {
        let candidates: Vec<_> = sample
            .stack
            .iter()
            .map(|frame| Candidate { returns_to: frame.returns_to, called: frame.called })
            .collect();
        let mut names = vec!["[kernel]".to_owned()];
        let stack = stack(symbols, rip, sample.rip, &candidates);
        if stack.is_empty() {
            names.push(format!("[page {:#x}]", rip & !0xfff));
        }
        names.extend(stack);
        names
    };
    names.extend(own.map(str::to_owned));
    names
}
