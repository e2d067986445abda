//! The loop.

use std::sync::Arc;

use interpreter::{Effects, Outcome, deliver, execute};
use thiserror::Error;
use vcpu::{
    Activity, CpuState, DebugEvent, Delivery, Engine, EngineError, Entry, Environment, Event, Exit, Insn,
    Mmio, Shadow, Signal,
};
use x86::classify::Routine;
use x86::debug::dr6;
use x86::{Exception, Rflags, Vector};

use crate::debug::Single;
use crate::desk::Desk;
use crate::report::Report;
use crate::startup;
use crate::statistics::{Cause, Statistics};
use crate::trace::{Tracer, about};

/// Why a vCPU stopped running.
#[derive(Debug)]
pub enum Stop {
    /// [`Environment::stop_requested`]: the state is between two instructions.
    Requested,
    /// A debugger is to be told: the state is between two instructions.
    Debug(DebugEvent),
    /// The guest's processor shut itself down.
    TripleFault(Report),
    /// The VM cannot go on.
    Failed(Failure),
}

/// Why the VM cannot go on. The host is unharmed.
#[derive(Debug, Error)]
pub enum Failure {
    /// The engine gave up.
    #[error("the {engine} engine cannot go on")]
    Engine {
        /// Its name.
        engine: &'static str,
        /// Why.
        #[source]
        source: EngineError,
    },
    /// The engine cannot run the vCPU in its present state, and there is no other.
    #[error("the {engine} engine does not run code in this mode: {report}")]
    NotAdmitted {
        /// Its name.
        engine: &'static str,
        /// The state.
        report: Report,
    },
}

/// Drives one vCPU.
pub struct Dispatcher {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) cpu: CpuState,
    pub(crate) effects: Effects,
    pub(crate) statistics: Statistics,
    /// When the monitor's last work was over, if nothing that may take long has come since. Then it is entering the
    /// engine, and the counter, which takes its time to be read, need not be.
    pub(crate) over: Option<u64>,
    /// What the engine was last told by `request_interrupt_window`.
    window: bool,
    /// The exception delivered last and where, for the message about a triple fault.
    last_exception: Option<(Exception, u64)>,
    /// Breakpoints that a load of SS has hit: bits B0 to B3 of DR6, for the trap behind the instruction after it.
    held_trap: u64,
    /// An exception for the next entry, where the engine delivers. It goes before any interrupt.
    pending: Option<Event>,
    pub(crate) desk: Arc<Desk>,
    /// Counts by place, while somebody watches.
    pub(crate) tracer: Option<Box<Tracer>>,
    /// One instruction is to run alone.
    pub(crate) single: Option<Single>,
    /// Where a debugger was last told to be.
    pub(crate) reported: Option<u64>,
}

impl Dispatcher {
    /// A dispatcher for this state on this engine.
    pub fn new(engine: Box<dyn Engine>, cpu: CpuState) -> Self {
        Self {
            engine,
            cpu,
            effects: Effects::default(),
            statistics: Statistics::default(),
            over: None,
            window: false,
            last_exception: None,
            held_trap: 0,
            pending: None,
            desk: Arc::default(),
            tracer: None,
            single: None,
            reported: None,
        }
    }

    /// The state of the vCPU, complete between two calls of [`Self::run`].
    pub fn cpu(&self) -> &CpuState {
        &self.cpu
    }

    /// The state, to be changed between two calls of [`Self::run`]; everything the engine has derived from the
    /// old one is to be invalidated by the caller.
    pub fn cpu_mut(&mut self) -> &mut CpuState {
        &mut self.cpu
    }

    /// The engine.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// The engine, for invalidations.
    pub fn engine_mut(&mut self) -> &mut dyn Engine {
        &mut *self.engine
    }

    /// What was counted so far, the engine's own counters among it.
    pub fn statistics(&self) -> Statistics {
        let mut statistics = self.statistics.clone();
        statistics.engine = self.engine.counters();
        statistics
    }

    /// The loop.
    pub(crate) fn drive(&mut self, env: &mut dyn Environment) -> Stop {
        self.over = None;
        let mut began = env.tsc();
        loop {
            let entry = match self.prepare(env) {
                Ok(Some(entry)) => entry,
                Ok(None) => return Stop::Requested,
                Err(stop) => return stop,
            };
            let mut entry = entry;
            loop {
                let entered = self.over.take().unwrap_or_else(|| env.tsc());
                self.statistics.monitor_cycles += entered.wrapping_sub(began);
                let exit = self.engine.run(&mut self.cpu, entry);
                began = env.tsc();
                self.statistics.engine_cycles += began.wrapping_sub(entered);
                // An access in the midst of an instruction is completed before anything else may happen.
                entry = match self.complete(&exit, env, began) {
                    Some(entry) => entry,
                    None => match self.advance(exit, env, began) {
                        Ok(()) => break,
                        Err(stop) => return stop,
                    },
                };
            }
        }
    }

    /// Gets the vCPU ready to run guest code: signals, waiting, events. `None`: a stop is requested.
    fn prepare(&mut self, env: &mut dyn Environment) -> Result<Option<Entry>, Stop> {
        // Before any stop: a state saved now would not have it.
        if let Some(event) = self.pending.take() {
            return Ok(Some(Entry::Inject(event)));
        }
        if self.held_trap != 0 && self.cpu.shadow != Shadow::MovSs {
            self.raise_trap(0, env)?;
        }
        let mut woken = false;
        loop {
            if self.desk.waits() {
                self.receive(env);
            }
            // Nor would it have what an instruction's shadow holds off.
            if self.held_trap == 0 && env.stop_requested() {
                return Ok(None);
            }
            while let Some(signal) = env.take_signal() {
                match signal {
                    Signal::Nmi => {
                        self.cpu.nmi_pending = true;
                        // One that comes behind it waits for the end of its handler.
                        if self.takes_nmi() {
                            break;
                        }
                    }
                    other => startup::signal(&mut self.cpu, &mut *self.engine, other, env),
                }
            }
            match self.cpu.activity {
                Activity::Running => break,
                Activity::Shutdown => return Err(Stop::TripleFault(self.report())),
                Activity::Halted if self.wakes(env) => {
                    self.cpu.activity = Activity::Running;
                    woken = true;
                }
                // With IF clear an interrupt that waits must not keep this thread from sleeping.
                Activity::Halted if self.cpu.rflags.contains(Rflags::IF) => self.idle(env, |env| env.wait()),
                Activity::Halted | Activity::WaitForStartUp => self.idle(env, |env| env.wait_masked()),
            }
        }
        if self.single.is_some() && !woken {
            self.set_window(false);
            return Ok(Some(Entry::Step));
        }
        if self.takes_nmi() {
            self.cpu.nmi_pending = false;
            let entry = self.inject(Event::Nmi, env)?;
            return self.end_single().map(|()| Some(entry));
        }
        let waits = env.interrupt_waits();
        if waits
            && self.takes_interrupt()
            && let Some(vector) = env.acknowledge_interrupt()
        {
            let entry = self.inject(Event::Interrupt(vector), env)?;
            // Another may wait behind it.
            self.set_window(env.interrupt_waits());
            return self.end_single().map(|()| Some(entry));
        }
        self.set_window(waits);
        Ok(Some(Entry::Resume))
    }

    /// Some work of the monitor's is over, at this time.
    fn is_over(&mut self, env: &dyn Environment) -> u64 {
        *self.over.insert(env.tsc())
    }

    fn wakes(&self, env: &mut dyn Environment) -> bool {
        self.takes_nmi() || (self.takes_interrupt() && env.interrupt_waits())
    }

    fn takes_nmi(&self) -> bool {
        self.cpu.nmi_pending && !self.cpu.nmi_blocked && self.cpu.shadow == Shadow::None
    }

    fn takes_interrupt(&self) -> bool {
        self.cpu.rflags.contains(Rflags::IF) && self.cpu.shadow == Shadow::None
    }

    fn set_window(&mut self, wanted: bool) {
        if self.window != wanted {
            self.window = wanted;
            self.engine.request_interrupt_window(wanted);
        }
    }

    /// Delivers an event, here or by the engine.
    fn inject(&mut self, event: Event, env: &mut dyn Environment) -> Result<Entry, Stop> {
        let began = env.tsc();
        let rip = self.cpu.rip;
        if let Event::Exception(exception) = event {
            self.last_exception = Some((exception, rip));
        }
        if self.engine.delivery() == Delivery::Engine {
            self.cpu.activity = Activity::Running;
            return Ok(Entry::Inject(event));
        }
        self.effects.debug_trap = 0;
        deliver(&mut self.cpu, event, env, &mut self.effects);
        self.apply_effects();
        if self.cpu.activity == Activity::Shutdown {
            return Err(Stop::TripleFault(self.report()));
        }
        let cycles = self.is_over(env).wrapping_sub(began);
        self.statistics.count_event(event, cycles);
        if let Some(tracer) = &mut self.tracer {
            tracer.event(event, rip, cycles);
        }
        if self.effects.debug_trap & dr6::BT == 0 {
            return Ok(Entry::Resume);
        }
        // To a task that wants one. It is busy now, so a second one by the same gate would be another fault.
        self.inject(Event::Exception(debug_trap(dr6::BT)), env)
    }

    /// Carries out the access that an exit asks for in the midst of an instruction.
    fn complete(&mut self, exit: &Exit, env: &mut dyn Environment, began: u64) -> Option<Entry> {
        let (cause, value) = match *exit {
            Exit::Mmio(mmio) => (Cause::Mmio, access(env, mmio)),
            Exit::PortIo { port, size, write } => (Cause::PortIo, access_port(env, port, size, write)),
            _ => return None,
        };
        let cycles = self.is_over(env).wrapping_sub(began);
        self.statistics.count(cause, cycles);
        if let Some(tracer) = &mut self.tracer {
            match *exit {
                Exit::Mmio(mmio) => tracer.mmio(self.cpu.rip, mmio.gpa, cycles),
                Exit::PortIo { port, .. } => tracer.port(self.cpu.rip, port, cycles),
                _ => {}
            }
        }
        // It may have asked for the machine's end, or raised what is to be taken behind this very instruction.
        let waits = env.interrupt_waits();
        if env.stop_requested() || env.signal_waits() || (waits && self.takes_interrupt()) {
            self.engine.kicker().kick();
        }
        if self.single.is_none() {
            self.set_window(waits);
        }
        Some(Entry::Complete(value))
    }

    /// Delivers an exception, or leaves it for the next entry if the engine delivers.
    fn raise(&mut self, exception: Exception, env: &mut dyn Environment) -> Result<(), Stop> {
        match self.inject(Event::Exception(exception), env)? {
            Entry::Inject(event) => self.pending = Some(event),
            Entry::Resume | Entry::Step | Entry::Complete(_) => {}
        }
        Ok(())
    }

    /// Sends on an exit that needs no completion, and ends a step that it completes.
    fn advance(&mut self, exit: Exit, env: &mut dyn Environment, began: u64) -> Result<(), Stop> {
        let nothing_ran = matches!(exit, Exit::Kicked);
        self.dispatch(exit, env, began)?;
        if nothing_ran { Ok(()) } else { self.end_single() }
    }

    /// Sends on an exit that needs no completion.
    fn dispatch(&mut self, exit: Exit, env: &mut dyn Environment, began: u64) -> Result<(), Stop> {
        match exit {
            Exit::Sensitive(insn) => self.interpret(&insn, env, began),
            Exit::Exception(exception) => {
                self.statistics.count(Cause::Exception, 0);
                let held = std::mem::take(&mut self.held_trap);
                match exception.vector {
                    Vector::Debug => self.raise_trap(exception.detail | held, env),
                    _ => self.raise(exception, env),
                }
            }
            Exit::Halt => {
                self.cpu.activity = Activity::Halted;
                self.statistics.count(Cause::Halt, 0);
                Ok(())
            }
            Exit::Kicked => {
                self.statistics.count(Cause::Kicked, 0);
                Ok(())
            }
            Exit::Debug { event, owed } => {
                self.statistics.count(Cause::Debug, 0);
                if owed != 0 {
                    self.raise_trap(owed, env)?;
                }
                // What a step has led to, its end tells.
                if event == DebugEvent::Stepped { Ok(()) } else { Err(Stop::Debug(event)) }
            }
            Exit::NotAdmitted => {
                Err(Stop::Failed(Failure::NotAdmitted { engine: self.engine.name(), report: self.report() }))
            }
            Exit::Fatal(source) => Err(Stop::Failed(Failure::Engine { engine: self.engine.name(), source })),
            // Completed by the caller.
            Exit::Mmio(_) | Exit::PortIo { .. } => Ok(()),
        }
    }

    fn interpret(&mut self, insn: &Insn, env: &mut dyn Environment, began: u64) -> Result<(), Stop> {
        let held = std::mem::take(&mut self.held_trap);
        let about = self.tracer.as_ref().and_then(|_| about(insn, &self.cpu));
        let result = execute(&mut self.cpu, insn, env, &mut self.effects);
        self.apply_effects();
        let cycles = self.is_over(env).wrapping_sub(began);
        self.statistics.count_routine(insn.routine, cycles);
        if let Some(tracer) = &mut self.tracer {
            tracer.routine(insn, about, cycles);
        }
        let watched = self.effects.watched.take().filter(|_| result.is_ok());
        self.follow_up(insn, result, held, env)?;
        watched.map_or(Ok(()), |point| Err(Stop::Debug(DebugEvent::Watchpoint(point))))
    }

    /// What comes behind an instruction that was interpreted.
    fn follow_up(
        &mut self,
        insn: &Insn,
        result: Result<Outcome, Exception>,
        held: u64,
        env: &mut dyn Environment,
    ) -> Result<(), Stop> {
        match result {
            // A load of SS: its own step is lost, what else it owes comes behind the next instruction.
            Ok(_) if self.cpu.shadow == Shadow::MovSs => {
                self.held_trap = held | self.effects.debug_trap & dr6::BREAKPOINTS;
                Ok(())
            }
            // INT1 has made the exception that would have come.
            Ok(_) if insn.routine == Routine::Int1 => Ok(()),
            // HLT is woken by it, and a string instruction is stepped by its elements.
            Ok(Outcome::Done | Outcome::Repeat | Outcome::Halt) => {
                self.held_trap = held;
                self.raise_trap(self.effects.debug_trap, env)
            }
            Err(exception) => self.raise(exception, env),
        }
    }

    /// Raises a debug trap for these bits of DR6 and those held off, if there are any.
    fn raise_trap(&mut self, detail: u64, env: &mut dyn Environment) -> Result<(), Stop> {
        match detail | std::mem::take(&mut self.held_trap) {
            0 => Ok(()),
            detail => self.raise(debug_trap(detail), env),
        }
    }

    fn apply_effects(&mut self) {
        if !self.effects.invalidations.is_empty() {
            for what in self.effects.invalidations.drain() {
                self.engine.invalidate(what);
            }
        }
    }

    fn report(&self) -> Report {
        Report::new(&self.cpu, self.last_exception)
    }
}

/// A debug exception with these bits of DR6.
fn debug_trap(detail: u64) -> Exception {
    Exception { detail, ..Exception::new(Vector::Debug) }
}

/// Carries out a memory access that RAM does not answer; answers the value read.
fn access(env: &mut dyn Environment, mmio: Mmio) -> u64 {
    let mut data = [0; 8];
    let size = usize::from(mmio.size).min(data.len());
    if let Some(value) = mmio.write {
        env.write_memory(mmio.gpa, &value.to_le_bytes()[..size]);
        return 0;
    }
    env.read_memory(mmio.gpa, &mut data[..size]);
    u64::from_le_bytes(data)
}

fn access_port(env: &mut dyn Environment, port: u16, size: u8, write: Option<u32>) -> u64 {
    if let Some(value) = write {
        env.write_port(port, size, value);
        return 0;
    }
    env.read_port(port, size).into()
}
