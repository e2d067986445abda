//! The keyboard controller of the PC/AT and PS/2: Intel 8042 with IBM's program (PS/2 Hardware Interface
//! Technical Reference, "Keyboard and Auxiliary Device Controller").
//!
//! No keyboard and no mouse are attached yet. A byte sent to either is answered as the controller answers for
//! a device that does not respond: 0xfe with the time-out bit in the status register, so that a driver's
//! probe ends at once and not by waiting.
//!
//! Not modelled: the A20 gate's effect (bit 1 of the output port is kept; all addresses always are as they
//! are given), the internal RAM beyond the command byte, diagnostic commands.

use crate::wiring::{IrqLine, Notify, PortDevice};

/// Register numbers.
mod register {
    pub const DATA: u16 = 0;
    pub const STATUS_COMMAND: u16 = 4;
}

/// Status register.
mod status {
    pub const OBF: u8 = 0x01;
    pub const SYS: u8 = 0x04;
    /// The last write was a command.
    pub const COMMAND: u8 = 0x08;
    /// The keyboard is not locked.
    pub const UNLOCKED: u8 = 0x10;
    /// The output buffer holds a byte of the auxiliary device.
    pub const AUX_OBF: u8 = 0x20;
    pub const TIMEOUT: u8 = 0x40;
}

/// Command byte.
mod command_byte {
    pub const INT: u8 = 0x01;
    pub const INT2: u8 = 0x02;
    pub const SYS: u8 = 0x04;
    pub const DISABLE_KEYBOARD: u8 = 0x10;
    pub const DISABLE_AUX: u8 = 0x20;
    pub const WRITABLE: u8 = 0x77;
}

/// Output port.
mod output_port {
    pub const NOT_RESET: u8 = 0x01;
    pub const A20: u8 = 0x02;
    pub const IRQ1: u8 = 0x10;
    pub const IRQ12: u8 = 0x20;
    /// Lines that are high at rest.
    pub const IDLE: u8 = 0xc0;
}

/// What a device that is not there "says".
const RESEND: u8 = 0xfe;

/// What the next byte written to the data port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The keyboard.
    Keyboard,
    /// The command byte.
    CommandByte,
    /// The output port.
    OutputPort,
    /// The output buffer, as if from the keyboard.
    KeyboardBuffer,
    /// The output buffer, as if from the auxiliary device.
    AuxBuffer,
    /// The auxiliary device.
    Aux,
}

/// What the guest can change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Registers {
    command_byte: u8,
    /// A20 bit of the output port.
    a20: bool,
    expected: Expected,
    /// Last byte put out.
    output: u8,
    /// OBF, AUX_OBF and TIMEOUT, which go with it, and COMMAND.
    status: u8,
}

impl Registers {
    fn reset() -> Self {
        Self {
            command_byte: command_byte::DISABLE_KEYBOARD | command_byte::DISABLE_AUX,
            a20: true,
            expected: Expected::Keyboard,
            output: 0,
            status: 0,
        }
    }

    fn has(&self, status: u8) -> bool {
        self.status & status == status
    }
}

/// The chip. Its registers: 0 data, 4 status and command.
pub struct I8042 {
    // Wiring.
    irq1: IrqLine,
    irq12: IrqLine,
    reset: Notify,
    // Volatile state.
    regs: Registers,
}

impl I8042 {
    /// The controller after power-on. `reset` is called when it pulses the processor's reset line.
    pub fn new(irq1: IrqLine, irq12: IrqLine, reset: Notify) -> Self {
        Self { irq1, irq12, reset, regs: Registers::reset() }
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.regs = Registers::reset();
        self.drive();
    }

    fn drive(&self) {
        let regs = &self.regs;
        let full = regs.has(status::OBF);
        let aux = regs.has(status::AUX_OBF);
        let enabled = |bit| regs.command_byte & bit != 0;
        self.irq1.set(full && !aux && enabled(command_byte::INT));
        self.irq12.set(full && aux && enabled(command_byte::INT2));
    }

    /// Fills the output buffer; `flags` are AUX_OBF and TIMEOUT.
    fn put(&mut self, value: u8, flags: u8) {
        self.regs.output = value;
        self.regs.status = self.regs.status & status::COMMAND | status::OBF | flags;
    }

    fn read_data(&mut self) -> u8 {
        self.regs.status &= status::COMMAND;
        self.regs.output
    }

    fn read_status(&self) -> u8 {
        let sys = if self.regs.command_byte & command_byte::SYS != 0 { status::SYS } else { 0 };
        self.regs.status | sys | status::UNLOCKED
    }

    fn read_output_port(&self) -> u8 {
        let mut value = output_port::IDLE | output_port::NOT_RESET;
        if self.regs.a20 {
            value |= output_port::A20;
        }
        if self.regs.has(status::OBF) {
            value |= if self.regs.has(status::AUX_OBF) { output_port::IRQ12 } else { output_port::IRQ1 };
        }
        value
    }

    fn write_output_port(&mut self, value: u8) {
        self.regs.a20 = value & output_port::A20 != 0;
        if value & output_port::NOT_RESET == 0 {
            (self.reset)();
        }
    }

    fn write_data(&mut self, value: u8) {
        self.regs.status &= !status::COMMAND;
        match std::mem::replace(&mut self.regs.expected, Expected::Keyboard) {
            // Sending to a device enables its interface; none answers.
            Expected::Keyboard => {
                self.regs.command_byte &= !command_byte::DISABLE_KEYBOARD;
                self.put(RESEND, status::TIMEOUT);
            }
            Expected::Aux => {
                self.regs.command_byte &= !command_byte::DISABLE_AUX;
                self.put(RESEND, status::TIMEOUT | status::AUX_OBF);
            }
            Expected::CommandByte => self.regs.command_byte = value & command_byte::WRITABLE,
            Expected::OutputPort => self.write_output_port(value),
            Expected::KeyboardBuffer => self.put(value, 0),
            Expected::AuxBuffer => self.put(value, status::AUX_OBF),
        }
    }

    fn write_command(&mut self, command: u8) {
        self.regs.status |= status::COMMAND;
        self.regs.expected = Expected::Keyboard;
        match command {
            0x20 => self.put(self.regs.command_byte, 0),
            0x60 => self.regs.expected = Expected::CommandByte,
            0xa7 => self.regs.command_byte |= command_byte::DISABLE_AUX,
            0xa8 => self.regs.command_byte &= !command_byte::DISABLE_AUX,
            // Interface tests: no error.
            0xa9 | 0xab => self.put(0x00, 0),
            // Self-test passed.
            0xaa => {
                self.regs.command_byte |= command_byte::SYS;
                self.put(0x55, 0);
            }
            0xad => self.regs.command_byte |= command_byte::DISABLE_KEYBOARD,
            0xae => self.regs.command_byte &= !command_byte::DISABLE_KEYBOARD,
            // Input port: not locked, no manufacturing mode.
            0xc0 => self.put(0xa0, 0),
            0xd0 => self.put(self.read_output_port(), 0),
            0xd1 => self.regs.expected = Expected::OutputPort,
            0xd2 => self.regs.expected = Expected::KeyboardBuffer,
            0xd3 => self.regs.expected = Expected::AuxBuffer,
            0xd4 => self.regs.expected = Expected::Aux,
            // Test inputs: both clocks are low, for nothing pulls them up.
            0xe0 => self.put(0x00, 0),
            // Pulse the low lines of the output port whose bit is 0; the first is reset.
            0xf0..=0xff if command & output_port::NOT_RESET == 0 => (self.reset)(),
            _ => {}
        }
    }
}

impl PortDevice for I8042 {
    fn width(&self) -> u8 {
        1
    }

    fn read(&mut self, offset: u16, _size: u8) -> u32 {
        let value = match offset {
            register::DATA => {
                let value = self.read_data();
                self.drive();
                value
            }
            register::STATUS_COMMAND => self.read_status(),
            _ => 0xff,
        };
        value.into()
    }

    fn write(&mut self, offset: u16, _size: u8, value: u32) {
        match offset {
            register::DATA => self.write_data(value as u8),
            register::STATUS_COMMAND => self.write_command(value as u8),
            _ => {}
        }
        self.drive();
    }
}

mod saved;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Calls, Probe};

    pub(super) struct Bench {
        pub irq1: Probe,
        pub irq12: Probe,
        pub resets: Calls,
        pub chip: I8042,
    }

    impl Bench {
        pub fn new() -> Self {
            let (irq1, irq12, resets) = (Probe::default(), Probe::default(), Calls::default());
            let chip = I8042::new(irq1.line(), irq12.line(), resets.notify());
            Self { irq1, irq12, resets, chip }
        }

        pub fn data(&mut self, value: u8) {
            self.chip.write(0, 1, value.into());
        }

        pub fn command(&mut self, value: u8) {
            self.chip.write(4, 1, value.into());
        }

        /// Status, data, status.
        pub fn answer(&mut self) -> [u32; 3] {
            [self.chip.read(4, 1), self.chip.read(0, 1), self.chip.read(4, 1)]
        }

        pub fn irqs(&self) -> (bool, bool) {
            (self.irq1.level(), self.irq12.level())
        }
    }

    #[test]
    fn power_on_and_self_test() {
        let mut bench = Bench::new();
        assert_eq!(bench.answer(), [0x10, 0, 0x10]);
        bench.command(0xaa);
        assert_eq!(bench.answer(), [0x1d, 0x55, 0x1c]);
        for test in [0xa9, 0xab] {
            bench.command(test);
            assert_eq!(bench.answer(), [0x1d, 0x00, 0x1c]);
        }
    }

    #[test]
    fn command_byte_and_interface_enables() {
        let mut bench = Bench::new();
        for (command, expected) in [(0xa8, 0x10), (0xae, 0x00), (0xa7, 0x20), (0xad, 0x30), (0x99, 0x30)] {
            bench.command(command);
            bench.command(0x20);
            assert_eq!(bench.answer(), [0x19, expected, 0x18]);
        }
        bench.command(0x60);
        bench.data(0xff);
        bench.command(0x20);
        assert_eq!((bench.irqs(), bench.answer()), ((true, false), [0x1d, 0x77, 0x1c]));
    }

    #[test]
    fn nobody_at_the_other_end() {
        let mut bench = Bench::new();
        bench.command(0x60);
        bench.data(0x33);
        bench.data(0xf2);
        assert_eq!((bench.irqs(), bench.answer()), ((true, false), [0x51, 0xfe, 0x10]));
        bench.command(0xd4);
        bench.data(0xf2);
        assert_eq!((bench.irqs(), bench.answer()), ((false, true), [0x71, 0xfe, 0x10]));
        assert_eq!(bench.irqs(), (false, false));
        bench.command(0x20);
        assert_eq!(bench.answer(), [0x19, 0x03, 0x18], "sending has enabled both");
    }

    #[test]
    fn output_buffer_looped() {
        let mut bench = Bench::new();
        bench.command(0xd2);
        bench.data(0x5a);
        assert_eq!(bench.answer(), [0x11, 0x5a, 0x10]);
        bench.command(0xd3);
        bench.data(0xa5);
        assert_eq!((bench.irqs(), bench.answer()), ((false, false), [0x31, 0xa5, 0x10]));
        // A command between takes the place of the awaited byte.
        bench.command(0xd3);
        bench.command(0xc0);
        assert_eq!(bench.answer(), [0x19, 0xa0, 0x18]);
        bench.data(0xed);
        assert_eq!(bench.answer(), [0x51, 0xfe, 0x10]);
    }

    #[test]
    fn output_port_and_reset() {
        let mut bench = Bench::new();
        bench.command(0xd0);
        assert_eq!(bench.answer(), [0x19, 0xc3, 0x18]);
        bench.command(0xd1);
        bench.data(0xdd);
        bench.command(0xd0);
        bench.command(0xd0);
        assert_eq!(bench.answer()[1], 0xd1);
        assert_eq!(bench.resets.take(), 0);
        bench.command(0xd1);
        bench.data(0x02);
        assert_eq!(bench.resets.take(), 1);
        bench.command(0xff);
        bench.command(0xf1);
        assert_eq!(bench.resets.take(), 0);
        bench.command(0xfe);
        bench.command(0xf0);
        assert_eq!(bench.resets.take(), 2);
        bench.chip.reset();
        assert_eq!(bench.chip.regs, Registers::reset());
    }
}
