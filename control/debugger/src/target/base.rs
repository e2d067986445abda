//! Registers, memory and threads.

use std::convert::Infallible;

use gdbstub::common::Tid;
use gdbstub::target::ext::base::multithread::{MultiThreadBase, MultiThreadResumeOps};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{TargetError, TargetResult};

use super::{AllRegisters, Machine, Number};
use crate::registers::{self, Refused, Register};
use crate::{memory, monitor};

/// Of a request that cannot be carried out; GDB shows the number, as EINVAL and EFAULT.
const INVALID: u8 = 22;
const FAULT: u8 = 14;

impl Machine {
    fn register(&self, number: Number) -> TargetResult<Register, Self> {
        registers::all(self.shape).nth(number.0).ok_or(TargetError::Errno(INVALID))
    }
}

impl MultiThreadBase for Machine {
    fn read_registers(&mut self, all: &mut AllRegisters, tid: Tid) -> TargetResult<(), Self> {
        let shape = self.shape;
        self.with(tid, |halted| {
            for register in registers::all(shape) {
                all.bytes.extend_from_slice(&register.read(halted)[..register.size(shape)]);
            }
        })
    }

    fn write_registers(&mut self, all: &AllRegisters, tid: Tid) -> TargetResult<(), Self> {
        let shape = self.shape;
        let size: usize = registers::all(shape).map(|register| register.size(shape)).sum();
        if all.bytes.len() != size {
            return Err(TargetError::Errno(INVALID));
        }
        let written = self.with(tid, |halted| {
            let mut rest = all.bytes.as_slice();
            registers::all(shape).try_for_each(|register| {
                let (bytes, behind) = rest.split_at(register.size(shape));
                rest = behind;
                register.write(halted, shape, bytes)
            })
        })?;
        written.map_err(|_: Refused| TargetError::Errno(INVALID))
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        // What follows the last address there is would begin at 0.
        start.checked_add(data.len() as u64).ok_or(TargetError::Errno(FAULT))?;
        let space = self.space;
        match self.with(tid, |halted| memory::read(halted, space, start, data))? {
            0 if !data.is_empty() => Err(TargetError::Errno(FAULT)),
            count => Ok(count),
        }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let space = self.space;
        let written = self.with(tid, |halted| memory::write(halted, space, start, data))?;
        if written { Ok(()) } else { Err(TargetError::Errno(FAULT)) }
    }

    fn list_active_threads(&mut self, active: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        // Between two lives of the machine too there is one to be asked for.
        (0..self.yard.processors().max(1)).for_each(|n| active(Tid::MIN.saturating_add(n)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Machine {
    fn read_register(&mut self, tid: Tid, number: Number, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let register = self.register(number)?;
        let value = self.with(tid, |halted| register.read(halted))?;
        let size = register.size(self.shape);
        buf.get_mut(..size).ok_or(TargetError::NonFatal)?.copy_from_slice(&value[..size]);
        Ok(size)
    }

    fn write_register(&mut self, tid: Tid, number: Number, value: &[u8]) -> TargetResult<(), Self> {
        let (register, shape) = (self.register(number)?, self.shape);
        let written = self.with(tid, |halted| register.write(halted, shape, value))?;
        written.map_err(|_: Refused| TargetError::Errno(INVALID))
    }
}

impl ThreadExtraInfo for Machine {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Infallible> {
        let text = self.with(tid, |halted| monitor::summary(tid.get() - 1, halted)).unwrap_or_default();
        let count = text.len().min(buf.len());
        buf[..count].copy_from_slice(&text.as_bytes()[..count]);
        Ok(count)
    }
}
