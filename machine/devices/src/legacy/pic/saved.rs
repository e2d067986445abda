//! The 8259A pair's saved state.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::{Expected, I8259, Pic};

/// One chip; see [`I8259`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8259StateV1 {
    inputs: u8,
    irr: u8,
    isr: u8,
    imr: u8,
    elcr: u8,
    /// 0 is OCW1, 2 to 4 are ICW2 to ICW4.
    expected: u8,
    ltim: bool,
    single: bool,
    icw4_follows: bool,
    base: u8,
    icw3: u8,
    aeoi: bool,
    sfnm: bool,
    rotate_on_aeoi: bool,
    smm: bool,
    poll: bool,
    ris: bool,
    lowest: u8,
}

/// Both chips.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicStateV1 {
    pub(super) master: I8259StateV1,
    pub(super) slave: I8259StateV1,
}

impl Saved for PicStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl I8259 {
    fn save(&self) -> I8259StateV1 {
        let &Self {
            inputs,
            irr,
            isr,
            imr,
            elcr,
            elcr_mask: _,
            expected,
            ltim,
            single,
            icw4_follows,
            base,
            icw3,
            aeoi,
            sfnm,
            rotate_on_aeoi,
            smm,
            poll,
            ris,
            lowest,
        } = self;
        let expected = match expected {
            Expected::Ocw1 => 0,
            Expected::Icw2 => 2,
            Expected::Icw3 => 3,
            Expected::Icw4 => 4,
        };
        I8259StateV1 {
            inputs,
            irr,
            isr,
            imr,
            elcr,
            expected,
            ltim,
            single,
            icw4_follows,
            base,
            icw3,
            aeoi,
            sfnm,
            rotate_on_aeoi,
            smm,
            poll,
            ris,
            lowest,
        }
    }

    fn check(&self, state: &I8259StateV1) -> Result<(), Invalid> {
        require(state.irr & !state.inputs == 0, "irr has requests that nobody makes")?;
        require(state.elcr & !self.elcr_mask == 0, "elcr has reserved bits")?;
        require(matches!(state.expected, 0 | 2..=4), "expected is no control word")?;
        require(state.base & 7 == 0, "base is not a multiple of 8")?;
        require(state.lowest < 8, "lowest is no input")
    }

    fn commit(&mut self, state: I8259StateV1) {
        let I8259StateV1 {
            inputs,
            irr,
            isr,
            imr,
            elcr,
            expected,
            ltim,
            single,
            icw4_follows,
            base,
            icw3,
            aeoi,
            sfnm,
            rotate_on_aeoi,
            smm,
            poll,
            ris,
            lowest,
        } = state;
        let expected = match expected {
            2 => Expected::Icw2,
            3 => Expected::Icw3,
            4 => Expected::Icw4,
            _ => Expected::Ocw1,
        };
        *self = Self {
            inputs,
            irr,
            isr,
            imr,
            elcr,
            elcr_mask: self.elcr_mask,
            expected,
            ltim,
            single,
            icw4_follows,
            base,
            icw3,
            aeoi,
            sfnm,
            rotate_on_aeoi,
            smm,
            poll,
            ris,
            lowest,
        };
    }
}

impl Persist for Pic {
    const KIND: &'static str = "i8259";
    type State = PicStateV1;

    fn save(&self) -> PicStateV1 {
        let Self { intr: _, master, slave } = self;
        PicStateV1 { master: master.save(), slave: slave.save() }
    }

    fn check(&self, state: &PicStateV1) -> Result<(), Invalid> {
        self.master.check(&state.master)?;
        self.slave.check(&state.slave)
    }

    fn commit(&mut self, state: PicStateV1) {
        let PicStateV1 { master, slave } = state;
        self.master.commit(master);
        self.slave.commit(slave);
        self.drive();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Probe, refuses, transplant};
    use crate::wiring::{IrqInputs, IrqLine, PortDevice};

    #[test]
    fn saved_in_mid_initialisation() {
        let mut pic = Pic::new(IrqLine::unconnected());
        for (register, value) in [(0, 0x11), (1, 0x20), (1, 4), (1, 0x13), (2, 0x11), (3, 0x28), (5, 0x20)] {
            pic.write(register, 1, value);
        }
        pic.set_input(1, true);
        pic.set_input(3, true);
        pic.set_input(13, true);
        pic.acknowledge();
        pic.write(0, 1, 0xc3);
        pic.write(0, 1, 0x6f);

        let intr = Probe::default();
        let mut other = Pic::new(intr.line());
        transplant(&pic, &mut other);
        assert_eq!((other.master, other.slave), (pic.master, pic.slave));
        assert!(intr.level());
        // The slave still waits for ICW3, and the master polls.
        other.write(3, 1, 2);
        other.write(3, 1, 1);
        other.write(3, 1, 0xa5);
        assert_eq!((other.read(3, 1), other.read(0, 1)), (0xa5, 0x83));
    }

    #[test]
    fn hostile_states_are_refused() {
        let pic = Pic::new(IrqLine::unconnected());
        assert!(refuses(
            &pic,
            &[
                |state| state.master.irr = 1,
                |state| state.master.elcr = 1,
                |state| state.slave.elcr = 1,
                |state| state.slave.expected = 1,
                |state| state.slave.expected = 5,
                |state| state.master.base = 0x21,
                |state| state.slave.lowest = 8,
            ]
        ));
    }
}
