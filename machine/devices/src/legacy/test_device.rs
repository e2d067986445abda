//! The device that the tests of virtual machine monitors expect: QEMU's `pc-testdev`, known from kvm-unit-tests,
//! whose programs are its only documentation. A port that remembers, a window of memory that is no RAM, and a port
//! for each interrupt line, by which a guest drives the line itself.
//!
//! Not modelled: the ports at E4, which took pages from the guest, and at E8.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use crate::wiring::{IrqLine, MmioDevice, PortDevice};

/// How many interrupt lines it can drive.
pub const LINES: usize = 24;
/// Bytes of its memory.
pub const MEMORY_LEN: usize = 0x1_0000;

/// The device.
pub struct TestDevice {
    // Wiring.
    lines: [IrqLine; LINES],
    // Volatile state.
    data: [u8; 4],
    asserted: u32,
    memory: Box<[u8]>,
}

impl TestDevice {
    /// First register of the port that remembers, which is four bytes wide.
    pub const DATA: u16 = 0;
    /// Register of line 0; one byte each, of which any bit asserts the line.
    pub const LINE: u16 = 4;

    /// A device with its lines low and its memory zero.
    pub fn new(lines: [IrqLine; LINES]) -> Self {
        Self { lines, data: [0; 4], asserted: 0, memory: vec![0; MEMORY_LEN].into() }
    }

    /// The bytes of the port that an access reaches.
    fn data(&mut self, offset: u16, size: u8) -> &mut [u8] {
        let first = usize::from(offset - Self::DATA).min(self.data.len());
        let end = (first + usize::from(size)).min(self.data.len());
        &mut self.data[first..end]
    }
}

impl PortDevice for TestDevice {
    fn width(&self) -> u8 {
        4
    }

    fn read(&mut self, offset: u16, size: u8) -> u32 {
        if offset >= Self::LINE {
            return u32::MAX;
        }
        let bytes = self.data(offset, size);
        let mut value = [0; 4];
        value[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(value)
    }

    fn write(&mut self, offset: u16, size: u8, value: u32) {
        let Some(line) = offset.checked_sub(Self::LINE) else {
            let bytes = self.data(offset, size);
            let len = bytes.len();
            bytes.copy_from_slice(&value.to_le_bytes()[..len]);
            return;
        };
        if let Some(output) = self.lines.get(usize::from(line)) {
            let asserted = value != 0;
            self.asserted = self.asserted & !(1 << line) | u32::from(asserted) << line;
            output.set(asserted);
        }
    }
}

impl MmioDevice for TestDevice {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let first = offset as usize;
        match self.memory.get(first..first + data.len()) {
            Some(bytes) => data.copy_from_slice(bytes),
            None => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let first = offset as usize;
        if let Some(bytes) = self.memory.get_mut(first..first + data.len()) {
            bytes.copy_from_slice(data);
        }
    }
}

/// What it keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestDeviceStateV1 {
    data: [u8; 4],
    asserted: u32,
    memory: Vec<u8>,
}

impl Saved for TestDeviceStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for TestDevice {
    const KIND: &'static str = "test-device";
    type State = TestDeviceStateV1;

    fn save(&self) -> TestDeviceStateV1 {
        let Self { lines: _, data, asserted, memory } = self;
        TestDeviceStateV1 { data: *data, asserted: *asserted, memory: memory.to_vec() }
    }

    fn check(&self, state: &TestDeviceStateV1) -> Result<(), Invalid> {
        require(state.asserted >> LINES == 0, "asserts lines that are not there")?;
        require(state.memory.len() == MEMORY_LEN, "has another size of memory")
    }

    fn commit(&mut self, state: TestDeviceStateV1) {
        let TestDeviceStateV1 { data, asserted, memory } = state;
        self.data = data;
        self.asserted = asserted;
        self.memory = memory.into();
        for (number, line) in self.lines.iter().enumerate() {
            line.set(asserted >> number & 1 != 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Probe, refuses, transplant};

    fn device() -> (TestDevice, [Probe; LINES]) {
        let probes: [Probe; LINES] = std::array::from_fn(|_| Probe::default());
        (TestDevice::new(std::array::from_fn(|line| probes[line].line())), probes)
    }

    #[test]
    fn the_port_remembers_bytes_and_words_and_double_words() {
        let (mut device, _) = device();
        let port: &mut dyn PortDevice = &mut device;
        port.write(0, 4, 0x4433_2211);
        port.write(2, 2, 0xbeef);
        port.write(1, 1, 0x77);
        assert_eq!((port.read(0, 4), port.read(0, 2), port.read(3, 1)), (0xbeef_7711, 0x7711, 0xbe));
    }

    #[test]
    fn lines_follow_their_ports() {
        let (mut device, probes) = device();
        let port: &mut dyn PortDevice = &mut device;
        port.write(TestDevice::LINE + 14, 1, 1);
        port.write(TestDevice::LINE + 23, 1, 0x80);
        // A line that is not there.
        port.write(TestDevice::LINE + 24, 1, 1);
        let up: Vec<_> = (0..LINES).filter(|line| probes[*line].level()).collect();
        assert_eq!(up, [14, 23]);
        port.write(TestDevice::LINE + 14, 1, 0);
        assert!(!probes[14].level());
    }

    #[test]
    fn memory_is_there_to_its_end_and_no_further() {
        let (mut device, _) = device();
        let memory: &mut dyn MmioDevice = &mut device;
        memory.write(0xfff8, &[1, 2, 3, 4, 5, 6, 7, 8]);
        memory.write(0xfffc, &[9; 8]);
        let mut data = [0; 4];
        memory.read(0xfffc, &mut data);
        assert_eq!(data, [5, 6, 7, 8]);
        let mut data = [0; 8];
        memory.read(0xfffc, &mut data);
        assert_eq!(data, [0xff; 8]);
    }

    #[test]
    fn saved() {
        let (mut from, _) = device();
        PortDevice::write(&mut from, 0, 4, 0x1234_5678);
        PortDevice::write(&mut from, TestDevice::LINE + 5, 1, 1);
        MmioDevice::write(&mut from, 0x100, &[7]);
        let (mut to, probes) = device();
        transplant(&from, &mut to);
        assert_eq!(PortDevice::read(&mut to, 0, 4), 0x1234_5678);
        assert_eq!((0..LINES).filter(|line| probes[*line].level()).collect::<Vec<_>>(), [5]);
        let mut byte = [0];
        MmioDevice::read(&mut to, 0x100, &mut byte);
        assert_eq!(byte, [7]);
        assert!(refuses(&from, &[|state| state.asserted = 1 << 24, |state| state.memory.truncate(1)]));
    }
}
