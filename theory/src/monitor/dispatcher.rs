//! D, the dispatcher: every trap of the machine below arrives here and is sent on, to an interpreter routine or
//! into the VM.

use crate::machine::{CAUSE, OLD_PSW};
use crate::semantics::{Flow, Processor, tick};
use crate::{Cause, Machine, Mode, Psw, Stop};

use super::interpreter::interpret;
use super::{Event, Kind, Monitor, VmId};

impl<M: Machine> Monitor<M> {
    /// [`Machine::run`] of a VM.
    pub(super) fn run(&mut self, id: VmId, fuel: &mut u64) -> Stop {
        loop {
            let vm = &self.vms[id.0];
            if vm.halted {
                return Stop::Halted;
            }
            let done = if self.kind == Kind::Hybrid && vm.psw.m == Mode::Supervisor {
                if *fuel == 0 {
                    return Stop::Exhausted;
                }
                *fuel -= 1;
                self.interpret_next(id)
            } else {
                match self.run_below(id, fuel) {
                    Stop::Trap(_) => self.dispatch(id),
                    stop => return stop,
                }
            };
            if let Err(cause) = done {
                self.reflect(id, cause);
                return Stop::Trap(cause);
            }
        }
    }

    /// Lets the processor below run the VM's own code, until it traps, and takes over what that code did to the
    /// VM's processor: it moved P, and the timer.
    fn run_below(&mut self, id: VmId, fuel: &mut u64) -> Stop {
        let vm = &mut self.vms[id.0];
        self.below.set_psw(Psw { m: Mode::User, p: vm.psw.p, r: self.allocator.granted(id) });
        self.below.set_timer(vm.timer);
        let stop = self.below.run(fuel);
        vm.timer = self.below.timer();
        vm.psw.p = match stop {
            Stop::Trap(_) => self.below.shape().unpack(self.below.read(OLD_PSW)).p,
            Stop::Halted | Stop::Exhausted => self.below.psw().p,
        };
        stop
    }

    /// The machine below has trapped. `Err` is a trap that is the VM's own.
    fn dispatch(&mut self, id: VmId) -> Result<(), Cause> {
        self.counts.traps += 1;
        // A trap has just written it.
        let cause = Cause::decode(self.below.read(CAUSE)).unwrap_or(Cause::Illegal);
        self.tell(Event::Trapped(cause, self.below.shape().unpack(self.below.read(OLD_PSW))));
        match cause {
            // Privileged to the machine below, not to the VM, which believes itself in supervisor mode.
            Cause::Privileged if self.vms[id.0].psw.m == Mode::Supervisor => self.interpret_next(id),
            // Memory: the allocator's R refuses exactly what the VM's own would.
            cause => Err(cause),
        }
    }

    /// Carries out the instruction at the VM's P for it.
    fn interpret_next(&mut self, id: VmId) -> Result<(), Cause> {
        let before = self.vms[id.0].psw;
        let granted = self.allocator.granted(id);
        let mut guest = self.guest(id);
        let instruction = guest.fetch()?;
        let flow = interpret(instruction, &mut guest)?;
        self.counts.interpreted += 1;
        self.tell(Event::Interpreted(instruction, before));
        if self.allocator.granted(id) != granted {
            self.tell(Event::Relocated(self.vms[id.0].psw.r, self.allocator.granted(id)));
        }
        if flow == Flow::Halt {
            self.vms[id.0].halted = true;
            return Ok(());
        }
        let (timer, trap) = tick(self.vms[id.0].timer);
        self.vms[id.0].timer = timer;
        if trap { Err(Cause::Timer) } else { Ok(()) }
    }

    fn reflect(&mut self, id: VmId, cause: Cause) {
        self.counts.reflected += 1;
        self.guest(id).trap(cause);
        self.tell(Event::Reflected(cause, self.vms[id.0].psw));
    }
}
