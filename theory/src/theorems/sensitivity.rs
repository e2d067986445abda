//! The definitions of section 3, taken at their word and tried on every state.
//!
//! Two readings. An execution that traps makes no instruction sensitive: the trap is the monitor's to see.
//! (The paper says so of memory traps; of others it must be meant, or whatever traps would be control-sensitive.)
//! And a halt, the console and the timer are resources that R does not cover, so whoever reaches them is
//! control-sensitive.

use std::cell::RefCell;
use std::ops::ControlFlow;

use crate::isa::{Operand, Row};
use crate::machine::Console;
use crate::semantics::{State, execute};
use crate::{Cause, Instruction, Isa, Mode, Op, Psw, Relocation, Shape, Word};

use super::lazy::{Choices, Lazy, Side};
use super::witness::{Run, Witness};

/// What an instruction is. Each witness is the first there is; `None` if there is none.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which instruction.
    pub op: Op,
    /// A pair of states that differ in M alone, where it traps in user mode and not in supervisor mode.
    pub traps: Option<Witness>,
    /// A pair of such states where that is not so.
    pub fails_to_trap: Option<Witness>,
    /// A state in which it changes M, R or another resource.
    pub control: Option<Witness>,
    /// Such a state in user mode.
    pub user_control: Option<Witness>,
    /// A pair of states that differ in where the program's memory lies, which the program can tell afterwards.
    pub location: Option<Witness>,
    /// Such a pair in user mode.
    pub user_location: Option<Witness>,
    /// A pair of states that differ in M, which the program can tell afterwards.
    pub mode: Option<Witness>,
}

impl Report {
    /// It traps in user mode and not in supervisor mode, in all pairs of states without a memory trap.
    pub fn privileged(&self) -> bool {
        self.traps.is_some() && self.fails_to_trap.is_none()
    }

    /// Control- or behaviour-sensitive.
    pub fn sensitive(&self) -> bool {
        self.control.is_some() || self.location.is_some() || self.mode.is_some()
    }

    /// Sensitive in user mode: theorem 3. Mode sensitivity is none of it, as it takes two modes.
    pub fn user_sensitive(&self) -> bool {
        self.user_control.is_some() || self.user_location.is_some()
    }

    /// Sensitive and not privileged.
    pub fn offends(&self) -> bool {
        self.sensitive() && !self.privileged()
    }
}

/// Tries an instruction, with all its operands, on every state.
pub(super) fn report(isa: &Isa, shape: Shape, row: &Row) -> Report {
    let mut report = Report {
        op: row.op,
        traps: None,
        fails_to_trap: None,
        control: None,
        user_control: None,
        location: None,
        user_location: None,
        mode: None,
    };
    let values = |operand: Option<&Operand>| match operand {
        None => 0..=0,
        Some(Operand::Address | Operand::Target) => 0..=shape.addresses() - 1,
        Some(Operand::Number) => 0..=shape.max_word(),
    };
    for a in values(row.operands.first()) {
        for b in values(row.operands.get(1)) {
            Trial { isa, shape, instruction: Instruction { op: row.op, a, b } }.complete(&mut report);
        }
    }
    report
}

/// An instruction on a machine.
struct Trial<'a> {
    isa: &'a Isa,
    shape: Shape,
    instruction: Instruction,
}

impl Trial<'_> {
    fn complete(&self, report: &mut Report) {
        for p in 0..self.shape.addresses() {
            for l in 0..self.shape.addresses() {
                for b in 0..self.shape.bounds() {
                    let psw = |m, l| Psw { m, p, r: Relocation { l, b } };
                    self.privilege(psw(Mode::Supervisor, l), psw(Mode::User, l), report);
                    self.control(psw(Mode::Supervisor, l), &mut report.control);
                    self.control(psw(Mode::User, l), &mut report.user_control);
                    self.behaviour(psw(Mode::Supervisor, l), psw(Mode::User, l), &mut report.mode);
                    // Looking the same from everywhere is looking the same as from 0, where memory traps come last.
                    if l != 0 {
                        for (m, found) in [
                            (Mode::Supervisor, &mut report.location),
                            (Mode::User, &mut report.user_location),
                        ] {
                            self.behaviour(psw(m, 0), psw(m, l), found);
                        }
                    }
                }
            }
        }
        // What is found in user mode is found.
        report.control = report.control.take().or_else(|| report.user_control.clone());
        report.location = report.location.take().or_else(|| report.user_location.clone());
    }

    /// "An instruction i is privileged if and only if for any pair of states ⟨e, s, p, r⟩ and ⟨e, u, p, r⟩ in
    /// which i does not memory trap, i traps in the second and not in the first."
    fn privilege(&self, supervisor: Psw, user: Psw, report: &mut Report) {
        if report.fails_to_trap.is_some() {
            return;
        }
        self.explore(supervisor, Side::First, user, Side::First, |first, second| {
            if [first.result, second.result].contains(&Err(Cause::Memory)) {
                return ControlFlow::Continue(());
            }
            let privileged = first.result.is_ok() && second.result.is_err();
            let found = if privileged { &mut report.traps } else { &mut report.fails_to_trap };
            if found.is_none() {
                *found = Some(Witness::new(self.instruction, &[first, second], self.shape));
            }
            if privileged { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }

    /// "... control sensitive if there exists a state S1 = ⟨e1, m1, p1, r1⟩, and i(S1) = ⟨e2, m2, p2, r2⟩ such
    /// that i(S1) does not memory trap, and r1 ≠ r2, or m1 ≠ m2, or both."
    fn control(&self, psw: Psw, found: &mut Option<Witness>) {
        if found.is_some() {
            return;
        }
        self.each(psw, |run| {
            if run.result.is_ok() && (!run.keeps_configuration() || run.reached().is_some()) {
                *found = Some(Witness::new(self.instruction, &[run], self.shape));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
    }

    /// "... behavior sensitive if there exists an integer x and states S1 = ⟨e | r, m1, p, r⟩ and S2 = ⟨e | r ⊕ x,
    /// m2, p, r ⊕ x⟩, where i(S1) = ⟨e1 | r, m1, p1, r⟩, i(S2) = ⟨e2 | r ⊕ x, m2, p2, r ⊕ x⟩", neither memory
    /// traps, and "e1 | r ≠ e2 | r ⊕ x, or p1 ≠ p2, or both". The states agree on the program's own memory and on
    /// nothing else.
    fn behaviour(&self, first: Psw, second: Psw, found: &mut Option<Witness>) {
        if found.is_some() {
            return;
        }
        self.explore(first, Side::First, second, Side::Second, |first, second| {
            let both = first.result.is_ok() && second.result.is_ok();
            if both && first.keeps_configuration() && second.keeps_configuration() && differ(first, second) {
                *found = Some(Witness::new(self.instruction, &[first, second], self.shape));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
    }

    /// Runs the instruction on all states with this PSW.
    fn each(&self, psw: Psw, mut visit: impl FnMut(&mut Run) -> ControlFlow<()>) {
        let choices = RefCell::default();
        loop {
            let mut run = self.run(&choices, Side::First, psw);
            if visit(&mut run).is_break() || !choices.borrow_mut().advance(self.shape.max_word()) {
                return;
            }
        }
    }

    /// Runs the instruction on all pairs of states with these PSWs and the same memory of the program; with the
    /// same memory altogether, if their sides are the same.
    fn explore(
        &self,
        first: Psw,
        first_side: Side,
        second: Psw,
        second_side: Side,
        mut visit: impl FnMut(&mut Run, &mut Run) -> ControlFlow<()>,
    ) {
        let choices = RefCell::default();
        loop {
            let mut first = self.run(&choices, first_side, first);
            let mut second = self.run(&choices, second_side, second);
            let visited = visit(&mut first, &mut second);
            if visited.is_break() || !choices.borrow_mut().advance(self.shape.max_word()) {
                return;
            }
        }
    }

    fn run<'c>(&self, choices: &'c RefCell<Choices>, side: Side, start: Psw) -> Run<'c> {
        let e = Lazy::new(choices, side, start.r, self.shape.size());
        let mut state = State { shape: self.shape, e, psw: start, timer: 0, console: Console::default() };
        let result = execute(self.isa, self.instruction, &mut state);
        Run { start, state, result }
    }
}

/// Whether the program can tell the two apart afterwards, by its memory or by where it goes on.
fn differ(first: &mut Run, second: &mut Run) -> bool {
    if first.state.psw.p != second.state.psw.p {
        return true;
    }
    let (first, second) = (&mut first.state.e, &mut second.state.e);
    let unlike = |a: Word, first: &mut Lazy, second: &mut Lazy| first.at(a) != second.at(a);
    (0..first.writes()).any(|n| unlike(first.written(n), first, second))
        || (0..second.writes()).any(|n| unlike(second.written(n), first, second))
}
