//! A machine as `gdbstub` sees one: vCPUs are threads of one process.
//!
//! `gdbstub_arch` has no system registers and no segment bases, and one shape an architecture; so the registers are
//! described [here](crate::description).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;

use board::yard::{Halted, Order, Yard};
use gdbstub::arch::{Arch, RegId, Registers};
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::breakpoints::{BreakpointsOps, WatchKind};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};
use vcpu::{DebugEvent, DebugPoints, Watchpoint};

use crate::memory::Space;
use crate::registers::Shape;
use crate::{description, monitor};

mod base;
mod points;
mod resume;

/// x86, in either shape.
pub enum X86 {}

/// All registers, as a `g` packet has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AllRegisters {
    pub(crate) bytes: Vec<u8>,
}

/// A register's number; which it is depends on the shape.
#[derive(Clone, Copy, Debug)]
pub struct Number(pub(crate) usize);

impl RegId for Number {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        Some((Self(id), None))
    }
}

impl Registers for AllRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        // Asked of by nobody: it would be told of by the shape.
        0
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.bytes.iter().for_each(|byte| write_byte(Some(*byte)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.bytes = bytes.to_vec();
        Ok(())
    }
}

impl Arch for X86 {
    type Usize = u64;
    type Registers = AllRegisters;
    type BreakpointKind = usize;
    type RegId = Number;
}

/// One session's view of the machine.
pub struct Machine {
    pub(crate) yard: Arc<Yard>,
    pub(crate) shape: Shape,
    /// The XML that says so.
    description: String,
    /// What addresses in memory packets are.
    pub(crate) space: Space,
    software: BTreeSet<u64>,
    hardware: BTreeSet<u64>,
    watchpoints: Vec<(Watchpoint, WatchKind)>,
    /// What each vCPU is to do next, as far as it is said.
    orders: Vec<Option<Order>>,
}

impl Machine {
    /// A view of the machine whose vCPUs stand in this yard, in the shape that is said or that it is in.
    pub fn new(yard: Arc<Yard>, shape: Option<Shape>) -> Self {
        let found = || yard.with(0, |halted| Shape::of(halted.cpu())).unwrap_or(Shape::Wide);
        let shape = shape.unwrap_or_else(found);
        Self {
            yard,
            shape,
            description: description::xml(shape),
            space: Space::Linear,
            software: BTreeSet::new(),
            hardware: BTreeSet::new(),
            watchpoints: Vec::new(),
            orders: Vec::new(),
        }
    }

    /// Looks at the vCPU that a thread is.
    pub(crate) fn with<R>(&self, tid: Tid, look: impl FnOnce(&mut Halted) -> R) -> TargetResult<R, Self> {
        self.yard.with(tid.get() - 1, look).ok_or(TargetError::NonFatal)
    }

    /// What to tell of a stop.
    pub fn reason(&self, event: Option<(usize, DebugEvent)>) -> MultiThreadStopReason<u64> {
        let Some((n, event)) = event else {
            return MultiThreadStopReason::SignalWithThread { tid: Tid::MIN, signal: Signal::SIGINT };
        };
        let tid = Tid::MIN.saturating_add(n);
        let trap = MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGTRAP };
        match event {
            DebugEvent::Stepped => trap,
            DebugEvent::Breakpoint => match self.yard.with(n, |halted| halted.cpu().linear_rip()) {
                Some(linear) if self.hardware.contains(&linear) => MultiThreadStopReason::HwBreak(tid),
                Some(linear) if self.software.contains(&linear) => MultiThreadStopReason::SwBreak(tid),
                _ => trap,
            },
            DebugEvent::Watchpoint(hit) => {
                let known = self.watchpoints.iter().find(|(point, _)| *point == hit);
                known.map_or(trap, |(point, kind)| MultiThreadStopReason::Watch {
                    tid,
                    kind: *kind,
                    addr: point.linear,
                })
            }
        }
    }

    /// Hands the points over, to be in force when the yard opens.
    fn hand_over(&self) {
        let breakpoints = self.software.union(&self.hardware).copied();
        let watchpoints = self.watchpoints.iter().map(|(point, _)| *point).collect();
        self.yard.set_points(DebugPoints::new(breakpoints, watchpoints));
    }
}

impl Target for Machine {
    type Arch = X86;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, X86, Infallible> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl TargetDescriptionXmlOverride for Machine {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::NonFatal);
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| self.description.as_bytes().get(offset..));
        let part = rest.unwrap_or_default();
        let count = part.len().min(length).min(buf.len());
        buf[..count].copy_from_slice(&part[..count]);
        Ok(count)
    }
}

impl MonitorCmd for Machine {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Infallible> {
        let answer = monitor::answer(self, &String::from_utf8_lossy(command));
        out.write_raw(answer.as_bytes());
        Ok(())
    }
}
