//! The keyboard controller's saved state.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::{Expected, I8042, Registers, command_byte, status};

/// See [`Registers`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042StateV1 {
    command_byte: u8,
    a20: bool,
    expected: ExpectedV1,
    output: u8,
    status: u8,
}

/// See [`Expected`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ExpectedV1 {
    Keyboard,
    CommandByte,
    OutputPort,
    KeyboardBuffer,
    AuxBuffer,
    Aux,
}

impl Saved for I8042StateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for I8042 {
    const KIND: &'static str = "i8042";
    type State = I8042StateV1;

    fn save(&self) -> I8042StateV1 {
        let Self { irq1: _, irq12: _, reset: _, regs } = self;
        let &Registers { command_byte, a20, expected, output, status } = regs;
        let expected = match expected {
            Expected::Keyboard => ExpectedV1::Keyboard,
            Expected::CommandByte => ExpectedV1::CommandByte,
            Expected::OutputPort => ExpectedV1::OutputPort,
            Expected::KeyboardBuffer => ExpectedV1::KeyboardBuffer,
            Expected::AuxBuffer => ExpectedV1::AuxBuffer,
            Expected::Aux => ExpectedV1::Aux,
        };
        I8042StateV1 { command_byte, a20, expected, output, status }
    }

    fn check(&self, state: &I8042StateV1) -> Result<(), Invalid> {
        const OUTPUT: u8 = status::AUX_OBF | status::TIMEOUT;
        let known = status::OBF | status::COMMAND | OUTPUT;
        require(state.command_byte & !command_byte::WRITABLE == 0, "command_byte has reserved bits")?;
        require(state.status & !known == 0, "status has reserved bits")?;
        let empty = state.status & status::OBF == 0;
        require(!empty || state.status & OUTPUT == 0, "status tells of a byte that is not there")
    }

    fn commit(&mut self, state: I8042StateV1) {
        let I8042StateV1 { command_byte, a20, expected, output, status } = state;
        let expected = match expected {
            ExpectedV1::Keyboard => Expected::Keyboard,
            ExpectedV1::CommandByte => Expected::CommandByte,
            ExpectedV1::OutputPort => Expected::OutputPort,
            ExpectedV1::KeyboardBuffer => Expected::KeyboardBuffer,
            ExpectedV1::AuxBuffer => Expected::AuxBuffer,
            ExpectedV1::Aux => Expected::Aux,
        };
        self.regs = Registers { command_byte, a20, expected, output, status };
        self.drive();
    }
}

#[cfg(test)]
mod tests {
    use crate::legacy::i8042::tests::Bench;
    use crate::testing::{refuses, transplant};

    #[test]
    fn saved_in_mid_command() {
        // Each command that awaits a byte, with the output buffer full or empty.
        for command in [0x60, 0xd1, 0xd2, 0xd3, 0xd4, 0xaa, 0xd0] {
            for first in [0xd3, 0x20, 0xae] {
                let mut bench = Bench::new();
                for (command, data) in [(0x60, 0x03), (first, 0x00)] {
                    bench.command(command);
                    bench.data(data);
                }
                bench.command(command);
                let mut other = Bench::new();
                transplant(&bench.chip, &mut other.chip);
                assert_eq!(other.chip.regs, bench.chip.regs);
                assert_eq!(other.irqs(), bench.irqs());
            }
        }
    }

    #[test]
    fn hostile_states_are_refused() {
        let chip = Bench::new().chip;
        assert!(refuses(
            &chip,
            &[
                |state| state.command_byte = 0x80,
                |state| state.status = 0x02,
                |state| state.status = 0x20,
                |state| state.status = 0x40,
            ]
        ));
    }
}
