//! What a chip is wired to: interrupt lines, the VM's clock, alarms, and the two kinds of register access.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};

/// Where interrupt lines end: an interrupt controller, or something that passes them on.
pub trait IrqSink: Send + Sync {
    /// The line is now asserted or not. Called on every change, and possibly without one.
    fn set_irq(&self, line: u32, asserted: bool);
}

/// One end of an interrupt line, to be driven by a device. *Asserted* is a matter of logic, not of voltage:
/// an active-low line is asserted when it is low.
#[derive(Clone)]
pub struct IrqLine {
    sink: Option<Arc<dyn IrqSink>>,
    line: u32,
}

impl IrqLine {
    /// Input `line` of `sink`.
    pub fn new(sink: Arc<dyn IrqSink>, line: u32) -> Self {
        Self { sink: Some(sink), line }
    }

    /// A line that leads nowhere.
    pub fn unconnected() -> Self {
        Self { sink: None, line: 0 }
    }

    /// Drives the line.
    pub fn set(&self, asserted: bool) {
        if let Some(sink) = &self.sink {
            sink.set_irq(self.line, asserted);
        }
    }

    /// One edge. Only for receivers that latch edges: an 8259 forgets a request that is withdrawn.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }

    /// One line that drives several, such as an ISA interrupt that leads to the 8259 and to the I/O APIC.
    pub fn split(outputs: Vec<IrqLine>) -> Self {
        Self::new(Arc::new(Splitter { outputs }), 0)
    }

    /// Up to 64 lines that drive `self` together, as PCI interrupts share a pin: it is asserted while any of
    /// them is.
    pub fn share(self, inputs: u32) -> Vec<IrqLine> {
        assert!(inputs <= 64, "a shared line has at most 64 inputs");
        let joint: Arc<dyn IrqSink> = Arc::new(WiredOr { output: self, asserted: Mutex::new(0) });
        (0..inputs).map(|input| Self::new(joint.clone(), input)).collect()
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sink {
            Some(_) => write!(f, "IrqLine({})", self.line),
            None => f.write_str("IrqLine(unconnected)"),
        }
    }
}

struct Splitter {
    outputs: Vec<IrqLine>,
}

impl IrqSink for Splitter {
    fn set_irq(&self, _line: u32, asserted: bool) {
        for output in &self.outputs {
            output.set(asserted);
        }
    }
}

struct WiredOr {
    output: IrqLine,
    asserted: Mutex<u64>,
}

impl IrqSink for WiredOr {
    fn set_irq(&self, line: u32, asserted: bool) {
        // Held while the output is driven, or two inputs could reach it in the wrong order.
        let mut inputs = lock(&self.asserted);
        let before = *inputs != 0;
        if asserted {
            *inputs |= 1 << line;
        } else {
            *inputs &= !(1 << line);
        }
        let after = *inputs != 0;
        if before != after {
            self.output.set(after);
        }
    }
}

/// An interrupt controller's inputs in the hands of its `Mutex`.
impl<T: IrqInputs + Send> IrqSink for Mutex<T> {
    fn set_irq(&self, line: u32, asserted: bool) {
        lock(self).set_input(line, asserted);
    }
}

/// An interrupt controller as its interrupt lines see it. `Mutex<T>` of it is an [`IrqSink`].
pub trait IrqInputs {
    /// Input pin `line` is now asserted or not; a pin the chip does not have is ignored.
    fn set_input(&mut self, line: u32, asserted: bool);
}

/// The time of the virtual machine: nanoseconds since its power-on, standing still while it is paused, and
/// never going back.
pub trait VmClock: Send + Sync {
    /// Now.
    fn now(&self) -> u64;
}

/// The time of day outside, for the battery-backed clock.
pub trait WallClock: Send + Sync {
    /// Nanoseconds since 1970-01-01 00:00:00 UTC (or local time, if the guest is to see that).
    fn unix_ns(&self) -> i64;
}

/// A one-shot alarm on the VM's clock. When it goes off its owner calls the device's `fire` method, from any
/// thread and without holding a lock of its own (devices re-arm while locked, see [`crate`]). A device takes
/// a call of `fire` that it did not ask for, or that comes early or late, by looking at the clock.
pub trait Timer: Send + Sync {
    /// Go off when [`VmClock::now`] reaches `deadline`, instead of at any earlier arrangement.
    fn arm(&self, deadline: u64);

    /// Do not go off.
    fn cancel(&self);
}

/// A chip in the port space. `offset` is a register number, counted from what the board gave when it
/// claimed the ports; `size` is 1, 2 or 4 and at most [`PortDevice::width`].
pub trait PortDevice: Send {
    /// The widest access, in bytes, that its bus interface takes in one; the bus splits wider ones.
    fn width(&self) -> u8;

    /// Reads; bits beyond `size` bytes are ignored.
    fn read(&mut self, offset: u16, size: u8) -> u32;

    /// Writes; bits beyond `size` bytes are zero.
    fn write(&mut self, offset: u16, size: u8, value: u32);
}

/// A chip in the memory space. `offset` counts from the start of the claimed range, and an access never
/// crosses its end; it has 1 to 8 bytes, little-endian.
pub trait MmioDevice: Send {
    /// Fills all of `data`.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Takes all of `data`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Called by a chip for what concerns more than itself: a reset, power-off, room in a FIFO. The chip is locked
/// meanwhile, so the callee only takes note.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

/// Where a serial port's output goes.
pub trait SerialSink: Send {
    /// Takes as many of `bytes` as it has room for, and says how many. Never blocks; when it has taken less
    /// than it was given, it lets the chip know once there is room.
    fn write(&mut self, bytes: &[u8]) -> usize;
}

/// A `Mutex` without poisoning: a panic in a chip is a bug of ours and ends the VM wherever it shows first.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a chip panicked while it was being accessed")
}

/// An inclusive range of `count` ports, for the board's table.
pub fn ports(first: u16, count: u16) -> RangeInclusive<u16> {
    first..=first.saturating_add(count.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Recorder(Mutex<Vec<(u32, bool)>>);

    impl IrqSink for Recorder {
        fn set_irq(&self, line: u32, asserted: bool) {
            lock(&self.0).push((line, asserted));
        }
    }

    #[test]
    fn shared_line_follows_the_or_of_its_inputs() {
        let recorder = Arc::new(Recorder(Mutex::new(Vec::new())));
        let inputs = IrqLine::new(recorder.clone(), 11).share(3);
        inputs[0].set(true);
        inputs[2].set(true);
        inputs[0].set(false);
        inputs[1].set(false);
        inputs[2].set(false);
        inputs[1].pulse();
        assert_eq!(*lock(&recorder.0), [(11, true), (11, false), (11, true), (11, false)]);
    }

    #[test]
    fn split_line_reaches_all() {
        let recorder = Arc::new(Recorder(Mutex::new(Vec::new())));
        let line = IrqLine::split(vec![
            IrqLine::new(recorder.clone(), 0),
            IrqLine::unconnected(),
            IrqLine::new(recorder.clone(), 2),
        ]);
        line.set(true);
        assert_eq!(*lock(&recorder.0), [(0, true), (2, true)]);
    }
}
