//! The stack: its pointer's width, push and pop (SDM vol. 1 ch. 6.2).
//!
//! A routine that pushes several values lays them out in a [`Frame`] and writes it in one go, so that a fault
//! on any of them leaves nothing behind.

use vcpu::{CpuState, Environment};
use x86::register::gpr;
use x86::{Exception, Mode, Segment, SegmentRegister};

use crate::Context;
use crate::memory::{Access, Level};
use crate::operand::mask;

/// Bytes of the longest frame that is read: IRETQ's, five of eight. (IRET's to virtual-8086 mode has nine of four.)
const LONGEST_READ: usize = 40;

/// Bytes of the stack pointer in use: 2, 4 or 8.
pub(crate) fn pointer_size(mode: Mode, ss: &Segment) -> usize {
    match mode {
        Mode::Long64 => 8,
        _ if ss.has(Segment::BIG) => 4,
        _ => 2,
    }
}

/// Replaces the part of RSP that is in use.
pub(crate) fn set_pointer(cpu: &mut CpuState, size: usize, value: u64) {
    let keep = if size == 2 { cpu.gpr[gpr::RSP] & !mask(2) } else { 0 };
    cpu.gpr[gpr::RSP] = keep | (value & mask(size));
}

/// Values about to be pushed, in order of pushing, all of one size.
pub(crate) struct Frame {
    bytes: [u8; Self::SIZE],
    /// Bytes of a value.
    unit: usize,
    /// Index of the lowest byte used; the frame is filled downwards, as the stack is.
    start: usize,
}

impl Frame {
    /// The longest has 140: 31 parameters of 4 bytes, SS, ESP, CS and EIP of a call through a gate.
    const SIZE: usize = 256;

    pub(crate) fn new() -> Self {
        Self { bytes: [0; Self::SIZE], unit: 0, start: Self::SIZE }
    }

    /// Adds a value of 2, 4 or 8 bytes.
    pub(crate) fn push(&mut self, size: usize, value: u64) {
        self.unit = size;
        self.start -= size;
        self.bytes[self.start..self.start + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl<E: Environment + ?Sized> Context<'_, E> {
    /// Bytes of the stack pointer in use now.
    pub(crate) fn stack_size(&self) -> usize {
        pointer_size(self.mode(), self.cpu.segment(SegmentRegister::Ss))
    }

    /// Pushes a frame on the present stack and moves the stack pointer.
    pub(crate) fn push_frame(&mut self, frame: &Frame) -> Result<(), Exception> {
        let size = self.stack_size();
        let top = self.cpu.gpr[gpr::RSP].wrapping_sub(frame.bytes().len() as u64) & mask(size);
        self.write_frame(frame, top)?;
        set_pointer(self.cpu, size, top);
        Ok(())
    }

    /// Writes a frame to the present stack, its last value at `top`: in one go, unless the stack wraps around.
    fn write_frame(&mut self, frame: &Frame, top: u64) -> Result<(), Exception> {
        let bytes = frame.bytes();
        let room = (mask(self.stack_size()) - top).saturating_add(1);
        if bytes.len() as u64 <= room {
            let linear = self.linear(SegmentRegister::Ss, top, bytes.len(), Access::Write)?;
            self.check_alignment(linear, frame.unit, self.level())?;
            return self.write_bytes(linear, bytes, self.level());
        }
        // A value across the end of the segment is an error, and one behind it begins at 0.
        for (index, value) in bytes.chunks(frame.unit).enumerate().rev() {
            let offset = top.wrapping_add((index * frame.unit) as u64) & mask(self.stack_size());
            let linear = self.linear(SegmentRegister::Ss, offset, value.len(), Access::Write)?;
            self.check_alignment(linear, frame.unit, self.level())?;
            self.write_bytes(linear, value, self.level())?;
        }
        Ok(())
    }

    /// Pushes one value.
    pub(crate) fn push(&mut self, size: usize, value: u64) -> Result<(), Exception> {
        let stack = self.stack_size();
        let top = self.cpu.gpr[gpr::RSP].wrapping_sub(size as u64) & mask(stack);
        let linear = self.linear(SegmentRegister::Ss, top, size, Access::Write)?;
        self.write_value(linear, size, value, self.level())?;
        set_pointer(self.cpu, stack, top);
        Ok(())
    }

    /// Reads a value `skip` bytes above the stack pointer, which stays.
    pub(crate) fn peek(&mut self, skip: u64, size: usize) -> Result<u64, Exception> {
        let stack = self.stack_size();
        let offset = self.cpu.gpr[gpr::RSP].wrapping_add(skip) & mask(stack);
        let linear = self.linear(SegmentRegister::Ss, offset, size, Access::Read)?;
        self.read_value(linear, size, self.level())
    }

    /// Reads the values above the stack pointer, which stays, into `values`: one access where that is the same as
    /// one for each, which it is unless the stack wraps around.
    pub(crate) fn peek_frame(&mut self, size: usize, values: &mut [u64]) -> Result<(), Exception> {
        let stack = self.stack_size();
        let offset = self.cpu.gpr[gpr::RSP] & mask(stack);
        let len = size * values.len();
        if mask(stack) - offset < len as u64 {
            for (index, value) in values.iter_mut().enumerate() {
                *value = self.peek((index * size) as u64, size)?;
            }
            return Ok(());
        }
        let linear = self.linear(SegmentRegister::Ss, offset, len, Access::Read)?;
        let mut bytes = [0; LONGEST_READ];
        let bytes = &mut bytes[..len];
        self.check_alignment(linear, size, self.level())?;
        self.read_bytes(linear, bytes, self.level())?;
        for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(size)) {
            let mut wide = [0; 8];
            wide[..size].copy_from_slice(bytes);
            *value = u64::from_le_bytes(wide);
        }
        Ok(())
    }

    /// Moves the stack pointer up.
    pub(crate) fn release(&mut self, bytes: u64) {
        let size = self.stack_size();
        set_pointer(self.cpu, size, self.cpu.gpr[gpr::RSP].wrapping_add(bytes));
    }

    /// The level at which the present code accesses memory.
    pub(crate) fn level(&self) -> Level {
        Level::of(self.cpu.cpl())
    }
}
