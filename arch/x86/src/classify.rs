//! What each instruction is to a virtual machine monitor: the classification of Popek and Goldberg, "Formal
//! Requirements for Virtualizable Third Generation Architectures" (1974), for every instruction iced-x86
//! knows, and the routine that carries it out where the host processor must not.
//!
//! An instruction is *privileged* if it traps in user mode and does not in supervisor mode;
//! *control-sensitive* if it tries to change what resources the program has, or its mode;
//! *behaviour-sensitive* if its result depends on that configuration or mode; else *innocuous*. On x86 there
//! are sensitive instructions that do not trap ([`Row::is_offender`]), the seventeen of Robin and Irvine
//! (2000) among them, so trap-and-emulate alone does not virtualize it.
//!
//! The rows stand in the submodules, one per family of instructions. Whatever has no row is innocuous and may
//! be copied as it is; the tests hold that default against everything iced-x86 tells about each code.
//!
//! Not here: near branches, calls and returns, stack and string instructions. They are innocuous; that a
//! translator must rewrite them is the translator's own affair.

use iced_x86::Code;

use crate::{Cr4, Mode};

mod absent;
mod historic;
mod innocuous;
mod io;
mod routine;
mod segment;
mod shape;
mod system;
#[cfg(test)]
mod tests;
mod theorem;

pub use routine::Routine;
use shape::{Family, Scope};
pub use theorem::{Assist, Named, PROCESSORS, Processor, Standing, instructions};

/// In which way an instruction is sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sensitivity {
    /// Not at all.
    None,
    /// Its result depends on the configuration of resources, or on the mode.
    Behaviour,
    /// It tries to change the configuration of resources, or the mode.
    Control,
    /// Both.
    Both,
}

/// A bit of CR4 with which an operating system makes an instruction privileged that otherwise is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrapSwitch {
    /// CR4.UMIP.
    Umip,
    /// CR4.TSD.
    Tsd,
}

/// What is known of an instruction in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// It traps in user mode and not in supervisor mode. User mode is CPL 3 with IOPL below 3; real mode has
    /// no user mode, so there nothing is privileged.
    pub privileged: bool,
    /// Which CR4 bit makes it privileged, if [`Self::privileged`] does not hold.
    pub switch: Option<TrapSwitch>,
    /// How it is sensitive.
    pub sensitivity: Sensitivity,
    /// Why it is classed so; empty for an innocuous instruction.
    pub reason: &'static str,
    /// Where the manuals say it.
    pub manual: &'static str,
}

impl Row {
    const INNOCUOUS: Self =
        Self { privileged: false, switch: None, sensitivity: Sensitivity::None, reason: "", manual: "" };

    /// Whether it is sensitive in either way.
    pub fn is_sensitive(&self) -> bool {
        self.sensitivity != Sensitivity::None
    }

    /// Whether it is privileged while CR4 is this.
    pub fn is_privileged_under(&self, cr4: Cr4) -> bool {
        self.privileged
            || match self.switch {
                Some(TrapSwitch::Umip) => cr4.contains(Cr4::UMIP),
                Some(TrapSwitch::Tsd) => cr4.contains(Cr4::TSD),
                None => false,
            }
    }

    /// Sensitive but not privileged while CR4 is this: what the theorem forbids.
    pub fn is_offender(&self, cr4: Cr4) -> bool {
        self.is_sensitive() && !self.is_privileged_under(cr4)
    }
}

/// The row of an instruction in a mode.
pub fn classify(code: Code, mode: Mode) -> Row {
    let Some(family) = find(code) else { return Row::INNOCUOUS };
    let mut row = family.row;
    match (family.scope, mode) {
        (Scope::Protected, Mode::Real | Mode::Virtual8086) => {
            // Without descriptors a segment is sixteen times its selector, whoever asks: nothing of the
            // configuration is seen. (Those that raise #UD here see nothing either.)
            return Row { reason: row.reason, manual: row.manual, ..Row::INNOCUOUS };
        }
        (Scope::Traps8086, Mode::Virtual8086) => row.privileged = true,
        (Scope::All | Scope::Protected | Scope::Traps8086, _) => {}
    }
    if mode == Mode::Real {
        row.privileged = false;
        row.switch = None;
    }
    row
}

/// The routine that carries an instruction out, or `None` if a 64-bit host may run it in ring 3, with its
/// memory operands and branch targets rewritten. The same in all modes: a mode that changes what an
/// instruction does is known to its routine.
#[inline]
pub fn routine(code: Code, _mode: Mode) -> Option<Routine> {
    ROUTINES[code as usize]
}

/// Every family of instructions with a row: the routine, the row as in protected mode, and its codes. For
/// tools that print the table.
pub fn families() -> impl Iterator<Item = (Routine, Row, &'static [Code])> {
    TABLES.iter().flat_map(|table| table.iter()).map(|family| (family.routine, family.row, family.codes))
}

fn find(code: Code) -> Option<&'static Family> {
    let place = usize::from(PLACES[code as usize]);
    // Zero is no family; the others count through the tables in order.
    let mut left = place.checked_sub(1)?;
    for table in TABLES {
        if left < table.len() {
            return Some(&table[left]);
        }
        left -= table.len();
    }
    None
}

const TABLES: [&[Family]; 6] = [
    io::FAMILIES,
    segment::FAMILIES,
    system::FAMILIES,
    absent::FAMILIES,
    historic::FAMILIES,
    innocuous::FAMILIES,
];

/// How many codes iced-x86 has. A test holds it; one too few does not compile, as the tables are indexed.
const CODES: usize = 4936;

/// For each code one more than its family's place in [`TABLES`], or zero.
static PLACES: [u8; CODES] = places();

/// For each code its routine: [`PLACES`] resolved, since the translator asks for every instruction.
static ROUTINES: [Option<Routine>; CODES] = routines();

const fn places() -> [u8; CODES] {
    let mut places = [0; CODES];
    let mut place = 0_u8;
    let mut table = 0;
    while table < TABLES.len() {
        let mut row = 0;
        while row < TABLES[table].len() {
            place += 1;
            let codes = TABLES[table][row].codes;
            let mut i = 0;
            while i < codes.len() {
                assert!(places[codes[i] as usize] == 0, "a code stands in two families");
                places[codes[i] as usize] = place;
                i += 1;
            }
            row += 1;
        }
        table += 1;
    }
    places
}

const fn routines() -> [Option<Routine>; CODES] {
    let mut routines = [None; CODES];
    let mut table = 0;
    while table < TABLES.len() {
        let mut row = 0;
        while row < TABLES[table].len() {
            let family = &TABLES[table][row];
            let mut i = 0;
            while i < family.codes.len() {
                routines[family.codes[i] as usize] = Some(family.routine);
                i += 1;
            }
            row += 1;
        }
        table += 1;
    }
    routines
}
