//! Single ports: system control port A, the reset control register, the POST code display, and two that only
//! virtual machines have, debug exit and debug console.

use crate::wiring::{Notify, PortDevice, SerialSink};

/// System control port A (PS/2 Technical Reference): fast A20 gate and fast processor reset. The A20 gate has
/// no effect, as in [`super::i8042`].
pub struct SystemControlA {
    // Wiring.
    reset: Notify,
    // Volatile state.
    value: u8,
}

impl SystemControlA {
    const INIT_NOW: u8 = 0x01;
    const A20: u8 = 0x02;

    /// The port, with A20 open. `reset` is called when the processor is to be reset.
    pub fn new(reset: Notify) -> Self {
        Self { reset, value: Self::A20 }
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.value = Self::A20;
    }
}

impl PortDevice for SystemControlA {
    fn width(&self) -> u8 {
        1
    }

    fn read(&mut self, _offset: u16, _size: u8) -> u32 {
        self.value.into()
    }

    fn write(&mut self, _offset: u16, _size: u8, value: u32) {
        let rises = value as u8 & !self.value;
        self.value = value as u8;
        if rises & Self::INIT_NOW != 0 {
            (self.reset)();
        }
    }
}

/// The reset control register (Intel 82371SB PIIX3 datasheet, 2.5.6.1). Every kind of reset is a hard one.
pub struct ResetControl {
    // Wiring.
    reset: Notify,
    // Volatile state.
    value: u8,
}

impl ResetControl {
    /// Which kind: hard.
    const SRST: u8 = 0x02;
    /// Resets when it rises.
    const RCPU: u8 = 0x04;
    const FULL: u8 = 0x08;
    const KEPT: u8 = Self::SRST | Self::RCPU | Self::FULL;

    /// The register. `reset` is called when the machine is to be reset.
    pub fn new(reset: Notify) -> Self {
        Self { reset, value: 0 }
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.value = 0;
    }
}

impl PortDevice for ResetControl {
    fn width(&self) -> u8 {
        1
    }

    fn read(&mut self, _offset: u16, _size: u8) -> u32 {
        self.value.into()
    }

    fn write(&mut self, _offset: u16, _size: u8, value: u32) {
        let rises = value as u8 & !self.value;
        self.value = value as u8 & Self::KEPT;
        if rises & Self::RCPU != 0 {
            (self.reset)();
        }
    }
}

/// The port where firmware shows its progress, and which kernels write for a short delay.
#[derive(Default)]
pub struct PostCode {
    // Volatile state.
    code: u8,
}

impl PostCode {
    /// The display, dark.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is shown.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl PortDevice for PostCode {
    fn width(&self) -> u8 {
        1
    }

    fn read(&mut self, _offset: u16, _size: u8) -> u32 {
        self.code.into()
    }

    fn write(&mut self, _offset: u16, _size: u8, value: u32) {
        self.code = value as u8;
    }
}

/// A port by which a guest ends its VM with a status. It keeps nothing.
pub struct DebugExit {
    // Wiring.
    exit: Box<dyn Fn(u32) + Send>,
}

impl DebugExit {
    /// `exit` is called with what is written; the chip is locked meanwhile.
    pub fn new(exit: Box<dyn Fn(u32) + Send>) -> Self {
        Self { exit }
    }
}

impl PortDevice for DebugExit {
    fn width(&self) -> u8 {
        4
    }

    fn read(&mut self, _offset: u16, _size: u8) -> u32 {
        0
    }

    fn write(&mut self, _offset: u16, _size: u8, value: u32) {
        (self.exit)(value);
    }
}

/// The debug console of Bochs: what is written comes out, and a read says that it is there. It keeps nothing,
/// and what its sink has no room for is lost.
pub struct DebugConsole {
    // Wiring.
    sink: Box<dyn SerialSink>,
}

impl DebugConsole {
    const PRESENT: u32 = 0xe9;

    /// A console that writes to `sink`.
    pub fn new(sink: Box<dyn SerialSink>) -> Self {
        Self { sink }
    }
}

impl PortDevice for DebugConsole {
    fn width(&self) -> u8 {
        1
    }

    fn read(&mut self, _offset: u16, _size: u8) -> u32 {
        Self::PRESENT
    }

    fn write(&mut self, _offset: u16, _size: u8, value: u32) {
        self.sink.write(&[value as u8]);
    }
}

mod saved;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::testing::Calls;

    /// Writes each value; what reads back, and how many resets there were.
    fn course(port: &mut dyn PortDevice, calls: &Calls, values: &[u32]) -> Vec<(u32, u64)> {
        values
            .iter()
            .map(|value| {
                port.write(0, 1, *value);
                (port.read(0, 1), calls.take())
            })
            .collect()
    }

    #[test]
    fn port_a_resets_on_the_rise() {
        let calls = Calls::default();
        let mut port = SystemControlA::new(calls.notify());
        assert_eq!(port.read(0, 1), 2);
        assert_eq!(
            course(&mut port, &calls, &[0x02, 0x01, 0x03, 0x00, 0x01]),
            [(2, 0), (1, 1), (3, 0), (0, 0), (1, 1)]
        );
        port.reset();
        assert_eq!(port.read(0, 1), 2);
    }

    #[test]
    fn reset_control_resets_on_the_rise() {
        let calls = Calls::default();
        let mut port = ResetControl::new(calls.notify());
        assert_eq!(
            course(&mut port, &calls, &[0x02, 0xf6, 0x0e, 0x02, 0x04]),
            [(2, 0), (6, 1), (0xe, 0), (2, 0), (4, 1)]
        );
        port.reset();
        assert_eq!(port.read(0, 1), 0);
    }

    #[test]
    fn post_code_shows() {
        let mut port = PostCode::new();
        port.write(0, 1, 0xa7);
        assert_eq!((port.read(0, 1), port.code()), (0xa7, 0xa7));
    }

    #[test]
    fn debug_ports_pass_on() {
        let (sender, exits) = mpsc::channel();
        let mut exit = DebugExit::new(Box::new(move |value| sender.send(value).unwrap()));
        exit.write(0, 4, 0x1234_5678);
        exit.write(0, 1, 7);
        assert_eq!(exits.try_iter().collect::<Vec<_>>(), [0x1234_5678, 7]);
        assert_eq!(exit.read(0, 4), 0);

        struct Sink(mpsc::Sender<Vec<u8>>);
        impl SerialSink for Sink {
            fn write(&mut self, bytes: &[u8]) -> usize {
                self.0.send(bytes.to_vec()).unwrap();
                bytes.len()
            }
        }
        let (sender, bytes) = mpsc::channel();
        let mut console = DebugConsole::new(Box::new(Sink(sender)));
        console.write(0, 1, b'x'.into());
        assert_eq!((console.read(0, 1), bytes.try_recv()), (0xe9, Ok(vec![b'x'])));
    }
}
