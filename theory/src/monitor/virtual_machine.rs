//! A VM as a machine, so that whatever runs on a machine, a monitor too, runs on it.

use std::borrow::BorrowMut;
use std::marker::PhantomData;

use crate::machine::Console;
use crate::{Machine, Psw, Shape, Stop, Word};

use super::{Monitor, VmId};

/// A VM of a monitor `O`, which is owned or borrowed, on a machine `M`.
pub struct VirtualMachine<O, M> {
    monitor: O,
    id: VmId,
    below: PhantomData<M>,
}

impl<O: BorrowMut<Monitor<M>>, M: Machine> VirtualMachine<O, M> {
    pub(super) fn new(monitor: O, id: VmId) -> Self {
        Self { monitor, id, below: PhantomData }
    }

    /// Its monitor.
    pub fn monitor(&mut self) -> &mut Monitor<M> {
        self.monitor.borrow_mut()
    }
}

impl<O: BorrowMut<Monitor<M>>, M: Machine> Machine for VirtualMachine<O, M> {
    fn shape(&self) -> Shape {
        self.monitor.borrow().vms[self.id.0].shape
    }

    fn read(&self, real: Word) -> Word {
        let monitor = self.monitor.borrow();
        monitor.below.read(monitor.allocator.locate(self.id, real))
    }

    fn write(&mut self, real: Word, value: Word) {
        let Monitor { below, allocator, .. } = self.monitor.borrow_mut();
        below.write(allocator.locate(self.id, real), value);
    }

    fn psw(&self) -> Psw {
        self.monitor.borrow().vms[self.id.0].psw
    }

    fn set_psw(&mut self, psw: Psw) {
        self.monitor.borrow_mut().guest(self.id).enter(psw);
    }

    fn timer(&self) -> Word {
        self.monitor.borrow().vms[self.id.0].timer
    }

    fn set_timer(&mut self, instructions: Word) {
        self.monitor.borrow_mut().vms[self.id.0].timer = instructions;
    }

    fn console(&mut self) -> &mut Console {
        let Monitor { below, allocator, vms, .. } = self.monitor.borrow_mut();
        if allocator.has_console(self.id) { below.console() } else { &mut vms[self.id.0].console }
    }

    fn run(&mut self, fuel: &mut u64) -> Stop {
        let id = self.id;
        self.monitor.borrow_mut().run(id, fuel)
    }
}
