//! A VM while the monitor works on it: its processor, and its memory as the allocator has it.

use crate::machine::{CAUSE, Console, NEW_PSW, OLD_PSW};
use crate::semantics::Processor;
use crate::{Cause, Machine, Psw, Relocation, Shape, Word};

use super::{Allocator, Monitor, Vm, VmId};

/// Borrowed from a monitor.
pub(super) struct Guest<'a, M> {
    pub(super) below: &'a mut M,
    pub(super) allocator: &'a mut Allocator,
    pub(super) vm: &'a mut Vm,
    pub(super) id: VmId,
}

impl<M: Machine> Monitor<M> {
    pub(super) fn guest(&mut self, id: VmId) -> Guest<'_, M> {
        let Self { below, allocator, vms, .. } = self;
        Guest { below, allocator, vm: &mut vms[id.0], id }
    }
}

impl<M: Machine> Guest<'_, M> {
    /// Loads a PSW into the VM's processor.
    pub(super) fn enter(&mut self, psw: Psw) {
        self.vm.psw = psw;
        self.relocate(psw.r);
    }

    /// Sets R of the VM's processor.
    pub(super) fn relocate(&mut self, r: Relocation) {
        self.vm.psw.r = r;
        self.allocator.relocate(self.id, r);
    }

    /// The console that the VM finds.
    pub(super) fn console(&mut self) -> &mut Console {
        if self.allocator.has_console(self.id) { self.below.console() } else { &mut self.vm.console }
    }

    /// Has the VM's processor take a trap: the exchange that a real one does by itself.
    pub(super) fn trap(&mut self, cause: Cause) {
        let shape = self.vm.shape;
        let old = shape.pack(self.vm.psw);
        self.write(OLD_PSW, old);
        self.write(CAUSE, cause.encode());
        let new = self.read(NEW_PSW);
        self.enter(shape.unpack(new));
    }
}

impl<M: Machine> Processor for Guest<'_, M> {
    fn shape(&self) -> Shape {
        self.vm.shape
    }

    fn psw(&self) -> Psw {
        self.vm.psw
    }

    fn jump(&mut self, p: Word) {
        self.vm.psw.p = p;
    }

    fn read(&mut self, real: Word) -> Word {
        self.below.read(self.allocator.locate(self.id, real))
    }

    fn write(&mut self, real: Word, value: Word) {
        self.below.write(self.allocator.locate(self.id, real), value);
    }
}
