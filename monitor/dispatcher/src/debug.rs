//! For a debugger outside the guest: where a run begins and ends.
//!
//! A step is one instruction, or the delivery of what the instruction raises. No interrupt is taken for it: a timer's
//! would wait at every step, and nobody would get past its handler. A processor that halts waits for one all the same.

use std::sync::Arc;

use vcpu::{DebugEvent, DebugPoints, Environment};

use crate::dispatcher::{Dispatcher, Stop};

/// A run that begins with one instruction, whatever breakpoint it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Single {
    /// And ends with it.
    Step,
    /// And goes on: the breakpoint has been told of.
    Pass,
}

impl Dispatcher {
    /// Where guest code is to be left for a debugger, from the next run on.
    pub fn set_debug_points(&mut self, points: &Arc<DebugPoints>) {
        self.engine.set_debug_points(points);
        self.effects.points = points.clone();
    }

    /// Runs the vCPU until it stops. A breakpoint that the last run has stopped at is passed.
    pub fn run(&mut self, env: &mut dyn Environment) -> Stop {
        let known = self.reported == Some(self.cpu.rip);
        let pass = known && self.effects.points.breaks_at(self.cpu.linear_rip());
        self.drive_for(pass.then_some(Single::Pass), env)
    }

    /// Runs one instruction; [`Stop::Debug`] if nothing else stops it.
    pub fn step(&mut self, env: &mut dyn Environment) -> Stop {
        self.drive_for(Some(Single::Step), env)
    }

    fn drive_for(&mut self, single: Option<Single>, env: &mut dyn Environment) -> Stop {
        self.single = single;
        let stop = self.drive(env);
        self.single = None;
        self.reported = match stop {
            Stop::Debug(_) => Some(self.cpu.rip),
            _ => self.reported.filter(|rip| *rip == self.cpu.rip),
        };
        stop
    }

    /// The instruction that was to run alone has run, or led to an event that was delivered.
    pub(crate) fn end_single(&mut self) -> Result<(), Stop> {
        match self.single.take() {
            Some(Single::Step) => Err(Stop::Debug(DebugEvent::Stepped)),
            Some(Single::Pass) | None => Ok(()),
        }
    }
}
