//! What was found, and what becomes of it.

use std::collections::BTreeMap;

use iced_x86::{Code, Formatter as _, Instruction, NasmFormatter};
use x86::classify::{PROCESSORS, Routine, Row, Standing, classify, routine};
use x86::{Cr4, Mode};

use crate::Image;
use crate::decode::{Coverage, decode};

/// How an instruction was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Control was seen to reach it.
    Descent,
    /// It stands in an executable section, and may be data.
    Sweep,
}

/// A sensitive instruction.
#[derive(Clone, Debug)]
pub struct Finding {
    /// It, with its address.
    pub instruction: Instruction,
    /// What is known of it.
    pub row: Row,
    /// How it was found.
    pub way: Way,
}

impl Finding {
    /// It as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        NasmFormatter::new().format(&self.instruction, &mut text);
        text
    }

    /// What carries it out where the processor must not.
    pub fn routine(&self, mode: Mode) -> Option<Routine> {
        routine(self.instruction.code(), mode)
    }
}

/// A kind of instruction, and how often it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// Its code.
    pub code: Code,
    /// What is known of it.
    pub row: Row,
    /// How often by descent.
    pub descent: usize,
    /// How often by sweep.
    pub sweep: usize,
}

impl Occurrence {
    /// How it stands to a monitor that runs it in ring 3 and waits for a trap.
    pub fn under_trap_and_emulate(&self, mode: Mode) -> Standing {
        PROCESSORS[0].standing(self.code, mode)
    }

    /// How it stands to a monitor on VMX and on SVM.
    pub fn under_hardware_assist(&self, mode: Mode) -> [Standing; 2] {
        [&PROCESSORS[4], &PROCESSORS[5]].map(|processor| processor.standing(self.code, mode))
    }

    /// Whether it is sensitive and does not trap.
    pub fn offends(&self) -> bool {
        self.row.is_offender(Cr4::empty())
    }
}

/// Everything that was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Instructions, whatever they are.
    pub instructions: usize,
    /// How much of the code is what.
    pub coverage: Coverage,
    /// Sensitive instructions in the order of addresses.
    pub findings: Vec<Finding>,
}

/// Finds the sensitive instructions of an image.
pub fn scan(image: &Image) -> Report {
    let mut findings = Vec::new();
    let mut instructions = 0;
    let coverage = decode(image, |instruction, way| {
        instructions += 1;
        let row = classify(instruction.code(), image.mode);
        if row.is_sensitive() {
            findings.push(Finding { instruction: *instruction, row, way });
        }
    });
    findings.sort_by_key(|finding| finding.instruction.ip());
    Report { instructions, coverage, findings }
}

impl Report {
    /// How often each kind was found, those that were found most often first.
    pub fn histogram(&self) -> Vec<Occurrence> {
        let mut kinds: BTreeMap<u32, Occurrence> = BTreeMap::new();
        for Finding { instruction, row, way } in &self.findings {
            let code = instruction.code();
            let fresh = Occurrence { code, row: *row, descent: 0, sweep: 0 };
            let kind = kinds.entry(code as u32).or_insert(fresh);
            match way {
                Way::Descent => kind.descent += 1,
                Way::Sweep => kind.sweep += 1,
            }
        }
        let mut kinds: Vec<_> = kinds.into_values().collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.descent + kind.sweep));
        kinds
    }
}
